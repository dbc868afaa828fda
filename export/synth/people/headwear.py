"""What is grown or put on the scalp procedurally: dense curls as fuzzy shells, knitted caps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.fit import Mesh, face_normals, unit_rows
from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.sample import SHELL_SCALP
from vivant.export.synth.people.textures import mask, smooth_noise

SHELLS = {"afro": 2.6, "curls": 1.3, "crop": 0.45}
"""Shell hair styles and their thickness on top of the head, cm."""
LAYERS = 9
_TILE = 512


def _flattened(points: Array) -> Array:
    """Azimuthal equidistant projection about the crown, (V, 2) in 0..1: no seam on the scalp."""
    offset = unit_rows(points - np.array([0.0, 4.5, 0.5], np.float32))
    angle = np.arccos(np.clip(offset[:, 1], -1, 1))
    around = np.arctan2(offset[:, 0], offset[:, 2])
    reach = angle / np.pi
    return np.stack([np.sin(around) * reach, np.cos(around) * reach], 1) * 0.5 + 0.5


def _region(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vertices of some triangles, and the triangles renumbered to them."""
    used, local = np.unique(faces, return_inverse=True)
    return used, local.reshape(-1, 3).astype(np.int64)


def _scalp(pack: Pack) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Vertices and triangles of the hairy scalp, and how far inside each vertex lies, cached."""
    if "scalp shell" not in pack.cache:
        cover = np.zeros(len(pack.mean), np.float32)
        for part, kind, size in (("face", asset.FACE, 512), ("back", asset.SCALP, 256)):
            area = mask(pack, f"scalp/{part}_{SHELL_SCALP}", size)
            at = pack.material == kind
            x = (pack.uv[at][..., 0] % 1 * size).astype(int).clip(0, size - 1)
            y = ((1 - pack.uv[at][..., 1] % 1) * size).astype(int).clip(0, size - 1)
            np.maximum.at(cover, pack.faces[at], area[y, x])
        skin = np.isin(pack.material, (asset.FACE, asset.SCALP))
        faces = pack.faces[skin]
        faces = faces[(cover[faces] > 0.3).all(1)]
        used, local = _region(faces)
        inside = np.clip((cover[used] - 0.3) / 0.6, 0, 1)
        pack.cache["scalp shell"] = (used, local, inside)
    return pack.cache["scalp shell"]  # type: ignore[no-any-return]


def _outward(points: Array, faces: NDArray[np.int64]) -> Array:
    total = np.zeros_like(points)
    normal = face_normals(points, faces)
    for k in range(3):
        np.add.at(total, faces[:, k], normal)
    return unit_rows(total)


def shell_hair(pack: Pack, style: str, head: Array) -> tuple[Array, NDArray[np.int64], Array]:
    """Layers over the scalp from skin to tips: vertices, triangles, (T, 3, 2) uv."""
    used, faces, inside = _scalp(pack)
    base = head[used]
    outward = _outward(base, faces)
    rise = np.clip((base[:, 1] - 2) / 8, 0.25, 1)
    flat = _flattened(base)
    points, triangles, uv = [], [], []
    for layer in range(LAYERS):
        height = 0.05 + SHELLS[style] * (layer / (LAYERS - 1)) * inside * rise
        points.append(base + outward * height[:, None])
        triangles.append(faces + layer * len(base))
        at = flat[faces].copy()
        at[..., 1] = (layer + np.clip(at[..., 1], 0.01, 0.99)) / LAYERS
        uv.append(at)
    return (
        np.concatenate(points).astype(np.float32),
        np.concatenate(triangles),
        np.concatenate(uv).astype(np.float32),
    )


def shell_texture(style: str, seed: int = 0) -> tuple[Array, Array]:
    """Relative lightness and alpha of the layers, (LAYERS * S, S): denser near the skin."""
    rng = np.random.default_rng(seed)
    scale = 2.2 if style == "crop" else 4.5
    curl = smooth_noise(rng, _TILE, scale) + 0.6 * smooth_noise(rng, _TILE, 2 * scale)
    clump = smooth_noise(rng, _TILE, 26)
    fine = cv2.GaussianBlur(rng.normal(0, 1, (_TILE, _TILE)).astype(np.float32), (0, 0), 0.8)
    light, alpha = [], []
    for layer in range(LAYERS):
        depth = layer / (LAYERS - 1)
        shade = (0.30 + 0.75 * depth) * np.exp(0.30 * curl + 0.25 * fine / fine.std())
        light.append(np.clip(shade, 0.05, 2.5))
        level = curl + 0.5 * clump - (2.6 * depth - 1.6)
        alpha.append(np.clip(level * 1.6 + 0.5, 0, 1))
    # Layer 0 lies at v = 0, the bottom row of the texture.
    return (
        np.concatenate(light[::-1]).astype(np.float32),
        np.concatenate(alpha[::-1]).astype(np.float32),
    )


def cap(pack: Pack, head: Array, thickness: float = 0.6) -> tuple[Mesh, Array]:
    """A knitted cap down to the brow line: mesh and its uv (T, 3, 2)."""
    if "cap" not in pack.cache:
        skin = pack.faces[np.isin(pack.material, (asset.FACE, asset.SCALP))]
        height = pack.mean[:, 1] - (7.6 - (9.0 - pack.mean[:, 2]) * 0.36)
        used, faces = _region(skin[(height[skin] > 0).all(1)])
        pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
        edges, count = np.unique(pairs, axis=0, return_counts=True)
        drop = np.zeros(len(used), np.float32)
        rim = np.unique(edges[count == 1])
        drop[rim] = np.clip(height[used[rim]], 0, 0.8)  # an even rim in spite of the triangles
        pack.cache["cap"] = (used, faces, edges, drop)
    used, faces, edges, drop = pack.cache["cap"]
    points = head[used].copy()
    points[:, 1] -= drop
    count = np.bincount(edges.reshape(-1), minlength=len(points))[:, None]
    for _ in range(12):  # wool spans the ears' roots and the temples
        mean = np.zeros_like(points)
        np.add.at(mean, edges[:, 0], points[edges[:, 1]])
        np.add.at(mean, edges[:, 1], points[edges[:, 0]])
        points = points * 0.5 + 0.5 * mean / count
    outward = unit_rows(points - np.array([0.0, 4.0, 1.0], np.float32))
    lack = np.clip(((head[used] - points) * outward).sum(1, keepdims=True), 0, None)
    points = points + outward * (thickness + lack)
    return (points.astype(np.float32), faces), _flattened(points)[faces].astype(np.float32)


def knitted(seed: int, colour: Array, size: int = 256) -> Array:
    """Wool in a colour, ribs running down from the crown, (S, S, 3) linear RGB."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    ribs = np.cos(np.arctan2(xx, yy) * int(rng.integers(24, 60)))
    rings = np.cos(np.hypot(xx, yy) * rng.uniform(60, 140))
    shade = np.exp(0.28 * ribs + 0.12 * rings)[..., None]
    return np.clip(colour * shade, 0.002, 0.9).astype(np.float32)
