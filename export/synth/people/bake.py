"""Textures of the asset pack, painted into the head's own texture space.

A texel belongs to a place on the mean head; whatever lies nearest there (a skin of another mesh,
a brow card, strands of hair, a region given by formula) is what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import splev, splprep
from scipy.spatial import cKDTree

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import raster
from vivant.export.synth.people.fit import face_normals, unit_rows
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.register import on_surface

Index = NDArray[np.int64]
Byte = NDArray[np.uint8]

FACE_SIZE, BACK_SIZE = 1024, 512
_TURN = 0.6
"""Centimetres that a normal's difference of 1 counts when the nearest skin is sought."""
_LIPS = (5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841)
_LIDS = (
    (1507, 1542, 1537, 1528, 1518, 1511),
    (3742, 3751, 3756, 3721, 3725, 3732),
)
"""Vertices around the lips and around each eye."""


@dataclass
class Card:
    """Textured triangles in space: hair, a brow, a skin."""

    points: Array  # (V, 3) cm
    faces: Index  # (T, 3)
    uv: Array  # (T, 3, 2)

    def scattered(self, count: int, seed: int = 1) -> tuple[Array, Array, Array]:
        """Random places (n, 3) on it, texture coordinates (n, 2), normals (n, 3)."""
        which, share = on_surface(self.points, self.faces, count, np.random.default_rng(seed))
        place = (self.points[self.faces[which]] * share[..., None]).sum(1)
        uv = (self.uv[which] * share[..., None]).sum(1)
        normal = unit_rows(face_normals(self.points, self.faces))[which]
        return place.astype(np.float32), uv.astype(np.float32), normal.astype(np.float32)


@dataclass
class Texels:
    """What every texel of one part of the head is."""

    used: NDArray[np.bool_]  # (S, S)
    place: Array  # (S, S, 3) cm
    normal: Array  # (S, S, 3)


def texels(points: Array, faces: Index, uv: Array, size: int) -> Texels:
    """Places of the texels of some triangles; ``uv`` (T, 3, 2), v up, may lie in any tile."""
    corner = uv.reshape(-1, 2) - np.floor(uv.reshape(-1, 2).min(0) + 1e-4)
    xy = torch.tensor(np.stack([corner[:, 0], 1 - corner[:, 1]], 1) * size, dtype=torch.float32)
    flat = torch.arange(len(xy)).reshape(-1, 3)
    found = raster.rasterize(xy, torch.ones(len(xy)), flat, size, size)
    triangle, share = found.triangle.numpy(), found.barycentric.numpy()
    at = triangle.clip(0)
    place = (points[faces[at]] * share[..., None]).sum(2)
    return Texels(triangle >= 0, place, unit_rows(face_normals(points, faces))[at])


class Skin:
    """Lookup from the head's texels into the texture space of another mesh's skin."""

    def __init__(self, body: Card, count: int = 3_000_000) -> None:
        place, self.uv, normal = body.scattered(count, 0)
        self.tree = cKDTree(np.concatenate([place, normal * _TURN], 1))

    def map(self, cells: Texels) -> Array:
        """Texture coordinates of the nearest skin that faces the same way, (S, S, 2)."""
        query = np.concatenate([cells.place[cells.used], cells.normal[cells.used] * _TURN], 1)
        out = np.zeros((*cells.used.shape, 2), np.float32)
        out[cells.used] = self.uv[self.tree.query(query)[1]]
        return out


def baked(picture: Byte, uv: Array, used: NDArray[np.bool_], border: int = 12) -> Byte:
    """A picture (H, W, 3) looked up at ``uv`` (S, S, 2), bled over the borders of the islands."""
    high, wide = picture.shape[:2]
    x, y = uv[..., 0] * wide - 0.5, (1 - uv[..., 1]) * high - 0.5
    out = cv2.remap(picture, x, y, cv2.INTER_LINEAR)
    out[~used] = 0
    known, kernel = used.copy(), np.ones((3, 3), np.uint8)
    for _ in range(border):
        grown = cv2.dilate(known.astype(np.uint8), kernel) > 0
        fresh = grown & ~known
        out[fresh] = cv2.dilate(out, kernel)[fresh]
        known = grown
    return np.asarray(out, np.uint8)


def brow(card: Card, alpha: Byte, cells: Texels) -> Byte:
    """Alpha of a brow card laid onto the skin, (S, S)."""
    box = card.points[card.faces].reshape(-1, 3)
    near = cells.used & (cells.place > box.min(0) - 0.3).all(-1)
    near &= (cells.place < box.max(0) + 0.3).all(-1)
    place, uv, _ = card.scattered(600_000)
    away, found = cKDTree(place).query(cells.place[near])
    high, wide = alpha.shape
    x = (uv[found, 0] * wide - 0.5).astype(np.float32)
    y = ((1 - uv[found, 1]) * high - 0.5).astype(np.float32)
    # OpenCV's remap takes no more than 32,767 rows at a time.
    part = range(0, len(x), 30_000)
    value = np.concatenate(
        [
            cv2.remap(alpha, x[k : k + 30_000, None], y[k : k + 30_000, None], cv2.INTER_LINEAR)
            for k in part
        ]
    )[:, 0]
    out = np.zeros(cells.used.shape, np.uint8)
    out[near] = np.where(away < 0.45, value, 0)
    return out


def scalp(card: Card, alpha: Byte, cells: Texels, face: bool) -> Byte:
    """Where hair of this style covers the skin, (S, S): painted in its colour underneath."""
    place, uv, _ = card.scattered(300_000)
    high, wide = alpha.shape
    column = (uv[:, 0] % 1 * (wide - 1)).astype(int)
    row = ((1 - uv[:, 1] % 1) * (high - 1)).astype(int)
    away, _ = cKDTree(place[alpha[row, column] > 150]).query(cells.place[cells.used])
    size = len(cells.used)
    cover = np.zeros((size, size), np.float32)
    cover[cells.used] = np.clip((1.25 - away) / 0.6, 0, 1)
    _, y, z = np.moveaxis(cells.place, -1, 0)
    cover *= np.clip((y + 1) / 2, 0, 1) * ~((z > 9.2) & (y < 9.5))
    if face:  # ears, temples and forehead stay skin
        v, u = np.mgrid[0:size, 0:size] / size
        ear = ((u < 0.125) | (u > 0.875)) & (v > 0.29) & (v < 0.62)
        cover *= 1 - cv2.GaussianBlur(ear.astype(np.float32), (0, 0), 4)
        cover *= 1 - np.clip(z - 7.2, 0, 1) * np.clip(8.6 - y, 0, 1)
    return (cv2.GaussianBlur(cover, (0, 0), 3 * size / 1024) * 255).astype(np.uint8)


def _step(low: float, high: float, value: Array) -> Array:
    """Smooth step from 0 at ``low`` to 1 at ``high``, in either order."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(*terms: tuple[Array, float, float]) -> Array:
    """Gaussian of several (coordinate, centre, width)."""
    return np.exp(-sum(((x - centre) / width) ** 2 for x, centre, width in terms))


def _byte(image: Array) -> Byte:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _loop(places: Array) -> Array:
    """A closed smooth curve through points (n, 2), as (200, 2) sixteenths of a pixel."""
    curve, _ = splprep(np.concatenate([places, places[:1]]).T, s=0, per=1)
    return np.round(np.array(splev(np.linspace(0, 1, 200), curve)).T * 16).astype(np.int32)


def masks(cells: Texels, faces: Index, uv: Array) -> dict[str, Byte]:
    """Lips, beard, oily skin, blush and lid lines of the face texture; ``uv`` (T, 3, 2)."""
    size = len(cells.used)
    table = np.zeros((int(faces.max()) + 1, 2), np.float32)
    table[faces.reshape(-1)] = uv.reshape(-1, 2) - np.floor(uv.reshape(-1, 2).min(0) + 1e-4)
    table = table * (size, -size) + (0, size)
    x, y, z = np.moveaxis(cells.place, -1, 0)
    side = np.abs(x)
    lips: Array = np.zeros((size, size), np.float32)
    cv2.fillPoly(lips, [_loop(table[list(_LIPS)])], 1.0, cv2.LINE_AA, 4)
    lips = cv2.GaussianBlur(lips, (0, 0), 3)
    lids = np.zeros((size, size), np.float32)
    for ring in _LIDS:
        cv2.polylines(lids, [_loop(table[list(ring)])], True, 1.0, 3, cv2.LINE_AA, 4)
    chin = _step(-2.9, -4.4, y) * _step(-11.5, -9, y) * _step(2, 4.5, z)
    jaw = _step(0.2, -2.2, y + 0.1925 * (7.2 - side)) * _step(4.2, 6.2, side)
    jaw = jaw * _step(-11, -8.5, y) * _step(1.5, 3.5, z)
    burns = _step(6, 6.7, side) * _step(4.2, 5.2, z) * _step(-9, -6, y) * _step(4.5, 2.5, y)
    burns = burns * _step(8.2, 7.4, z)
    moustache = _step(3.2, 2.3, side) * _step(-1.35, -1.75, y) * _step(9.2, 9.8, z)
    moustache = moustache * _step(-3.6, -3.2, y)
    beard = np.maximum.reduce([chin, jaw, burns, moustache]) * (1 - lips) * cells.used
    beard = beard * (1 - _step(-1.2, -0.9, y) * _step(3, 2, side))
    oil = 0.7 * _bump((x, 0, 2.6), (y, 8, 2.6)) + _bump((x, 0, 1), (y, 1.2, 2.6)) * (z > 10)
    oil = oil + 0.5 * _bump((x, 0, 1.3), (y, -6.3, 1.2))
    oil = oil + 0.45 * _bump((side, 4.2, 1.4), (y, 1.6, 1.2))
    blush = _bump((side, 4.4, 1.7), (y, -0.2, 1.5)) * (z > 5)
    blush = blush + 0.8 * _bump((x, 0, 1.2), (y, 0.2, 1.2)) * (z > 10)
    blush = blush + 0.7 * _step(7.4, 8.2, side) * (y > -3) * (y < 6)
    return {
        "lips": _byte(lips),
        "beard": _byte(cv2.GaussianBlur(beard.astype(np.float32), (0, 0), 4)),
        "oil": _byte(oil * cells.used),
        "blush": _byte(cv2.GaussianBlur((blush * cells.used).astype(np.float32), (0, 0), 8)),
        "lid": _byte(cv2.GaussianBlur(lids, (0, 0), 2.5) * 2.2),
    }


_STRIPS = (
    (0.988, 0.848),
    (0.822, 0.682),
    (0.656, 0.516),
    (0.486, 0.346),
    (0.320, 0.180),
    (0.154, 0.014),
)
"""Root and tip of the head's six rows of lash strips, texture v."""


def lashes(size: int = 1024, seed: int = 3) -> Byte:
    """Alpha of the lash strips, single hairs from the roots at the top of each, (S, S)."""
    out = np.zeros((size, size), np.float32)
    rng = np.random.default_rng(seed)
    reach = np.linspace(0, 1, 10)
    for low, high in ((0.015, 0.49), (0.51, 0.988)):
        for row, (root, tip) in enumerate(_STRIPS):
            upper = row < 3
            count = 52 if upper else 26
            for k in range(count):
                start = low + (high - low) * (k + rng.uniform(-0.25, 0.25) + 0.5) / count
                long = (root - tip) * rng.uniform(0.6, 1.0) * (1.0 if upper else 0.75)
                x = start + rng.normal(0, 0.012) * reach**2
                path = np.stack([x, 1 - (root - long * reach)], 1) * size * 16
                path = np.round(path).astype(np.int32)
                for a in range(len(path) - 1):
                    thick = max(1, round((1 - a / 9) * (4.2 if upper else 2.6)))
                    strength = (1 - 0.45 * a / 9) * (1.0 if upper else 0.45)
                    ends = (tuple(map(int, path[a])), tuple(map(int, path[a + 1])))
                    cv2.line(out, *ends, strength, thick, cv2.LINE_AA, 4)
    return _byte(out)


def part(mean: Array, faces: Index, material: Index, uv: Array, kind: int) -> Texels:
    """Texels of the face (``asset.FACE``) or of the back of the head (``asset.SCALP``)."""
    at = material == kind
    return texels(mean, faces[at], uv[at], FACE_SIZE if kind == asset.FACE else BACK_SIZE)
