"""What some persons wear besides hair and garments: headscarves, earrings, dark lenses."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.fit import Mesh, joined, tube, unit_rows
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.sample import Glasses
from vivant.export.synth.people.textures import smooth_noise

_CENTRE = np.array([0.0, 3.0, 0.0], np.float32)
_ROUND, _DEEP = 96, 40
"""Cells of a scarf around the face's opening and from the opening to the back."""


def _opening(around: Array, tight: float) -> Array:
    """Angle (radians) from the face's axis to the scarf's edge; ``around`` is 0 at the chin."""
    chin = (1 + np.cos(around)) / 2
    return np.deg2rad(46 + 5 * tight + 5 * chin**2).astype(np.float32)


def scarf(head: Array, seed: int) -> tuple[Mesh, Array]:
    """A headscarf that leaves the face free and falls onto the shoulders: mesh, (T, 3, 2) uv.

    Seen from inside the head, cloth lies on the farthest skin of every direction.
    """
    rng = np.random.default_rng(seed)
    skin = head[asset.SKIN] - _CENTRE
    far = np.linalg.norm(skin, axis=1)
    tree = cKDTree(skin / far[:, None])
    turn = np.arange(_ROUND, dtype=np.float32) * (2 * np.pi / _ROUND)
    edge = _opening(turn, rng.uniform(-1, 1))[:, None]
    share = (np.arange(_DEEP + 1, dtype=np.float32) / _DEEP)[None]
    angle = edge + (np.pi - edge) * share  # (R, D + 1)
    axis = unit_rows(np.array([[0.0, -0.10, 1.0]], np.float32))[0]
    side = np.array([1.0, 0.0, 0.0], np.float32)
    down = np.cross(side, axis)
    down = -down if down[1] > 0 else down
    ring = np.cos(turn)[:, None] * down + np.sin(turn)[:, None] * side  # (R, 3)
    ray = np.cos(angle)[..., None] * axis + np.sin(angle)[..., None] * ring[:, None]
    flat = unit_rows(ray.reshape(-1, 3)).astype(np.float32)
    reach: Array = np.empty(len(flat), np.float32)
    for k, near in enumerate(tree.query_ball_point(flat, 0.16)):
        reach[k] = min(float((skin[near] @ flat[k]).max()), 19.0) if near else 8.0
    reach = reach.reshape(_ROUND, _DEEP + 1)
    for _ in range(3):  # cloth spans hollows: it is the smoothed surface where that is farther
        wide = np.concatenate([reach[-3:], reach, reach[:3]])
        soft = cv2.GaussianBlur(wide, (0, 0), 1.6)[3:-3]
        reach = np.maximum(soft, reach - 0.4)
    folds = sum(
        gain * np.sin(count * turn[:, None] + 4 * share + rng.uniform(0, 6.28))
        for count, gain in ((7, 0.16), (13, 0.12), (23, 0.06))
    )
    loose = np.clip(share * 3, 0, 1) * (0.35 + 0.65 * (1 + np.cos(turn))[:, None] / 2)
    reach = reach + 0.55 + 0.5 * rng.random() + folds * loose
    points = _CENTRE + flat * reach.reshape(-1, 1)
    i, j = np.meshgrid(np.arange(_ROUND), np.arange(_DEEP), indexing="ij")
    a, b = i * (_DEEP + 1) + j, (i + 1) % _ROUND * (_DEEP + 1) + j
    faces = np.concatenate([np.stack([a, a + 1, b], -1), np.stack([b, a + 1, b + 1], -1)])
    faces = faces.reshape(-1, 3).astype(np.int64)
    plane = np.stack([flat[:, 0], flat[:, 1]], 1) * 0.49 + 0.5
    return (points.astype(np.float32), faces), plane[faces].astype(np.float32)


def woven(seed: int, colour: Array, size: int = 256) -> Array:
    """Plain or printed cloth, (S, S, 3) linear RGB."""
    rng = np.random.default_rng(seed)
    shade = 0.05 * smooth_noise(rng, size, 2.0) + 0.06 * smooth_noise(rng, size, 30)
    cloth = colour * np.exp(shade)[..., None]
    if rng.random() < 0.3:
        spots = smooth_noise(rng, size, rng.uniform(6, 20)) > rng.uniform(0.4, 1.2)
        cloth = np.where(spots[..., None], rng.uniform(0.02, 0.7, 3).astype(np.float32), cloth)
    return np.clip(cloth, 0.002, 0.9).astype(np.float32)


def earrings(radius: float, head: Array) -> Mesh:
    """Two hoops, or studs when ``radius`` (cm) is small, at the ear lobes."""
    parts = []
    turn = np.arange(16) * 2 * np.pi / 16
    skin = head[asset.SKIN]
    for sign in (-1, 1):
        lobe = skin[np.linalg.norm(skin - np.array([sign * 7.64, -1.9, 0.99]), axis=1).argmin()]
        hoop = np.stack([np.zeros_like(turn), np.cos(turn) - 0.8, np.sin(turn)], 1) * radius
        parts.append(tube(lobe + np.array([sign * 0.2, 0.0, 0.3]) + hoop, 0.1, True))
    return joined(parts)


def lenses(traits: Glasses, frame: Mesh) -> Mesh:
    """Opaque lenses that fill the two rims of ``fit.glasses``."""
    parts: list[Mesh] = []
    sides = 6
    count = 40
    for which in range(2):
        rim = frame[0][which * count * sides :][: count * sides].reshape(count, sides, 3).mean(1)
        middle = rim.mean(0, keepdims=True)
        middle[:, 2] += 0.15 * traits.half_width
        k = np.arange(count)
        faces: NDArray[np.int64] = np.stack([k, (k + 1) % count, np.full(count, count)], 1)
        parts.append((np.concatenate([rim, middle]).astype(np.float32), faces))
    return joined(parts)
