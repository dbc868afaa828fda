"""Lines that years draw into a face, painted in the asset pack's texture space."""

from __future__ import annotations

import cv2
import numpy as np

from vivant.export.synth.people import keypoints
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.pack import Array, Pack


def places(pack: Pack) -> dict[str, Array]:
    """Texture coordinates of the keypoints on the skin, 0..1, y down, cached."""
    if "keypoint uv" not in pack.cache:
        at = pack.material == asset.FACE
        table = np.full((len(pack.mean), 2), np.nan, np.float32)
        table[pack.faces[at].reshape(-1)] = pack.uv[at].reshape(-1, 2)
        found = table[np.clip(keypoints.vertices_of(pack.mean), 0, None)]
        found[:, 1] = 1 - found[:, 1]
        pack.cache["keypoint uv"] = dict(zip(keypoints.NAMES, found, strict=True))
    return pack.cache["keypoint uv"]  # type: ignore[no-any-return]


def wrinkles(pack: Pack, amount: float, size: int, seed: int) -> Array:
    """Depth of forehead lines, crow's feet, nasolabial folds and bags, (S, S) 0..1."""
    at = places(pack)
    rng = np.random.default_rng(seed)
    depth = np.zeros((size, size), np.float32)
    outer = {side: at[f"lidOuter{side}"] for side in ("Left", "Right")}
    unit = float(np.linalg.norm(outer["Left"] - outer["Right"]))  # width across both eyes

    def line(path: Array, strength: float, width: float) -> None:
        wobble = rng.normal(0, 0.004 * unit, path.shape)
        points = ((path + wobble) * size * 16).round().astype(np.int32)
        layer = np.zeros_like(depth)
        thick = max(1, round(width * unit * size))
        cv2.polylines(layer, [points[:, None]], False, strength, thick, cv2.LINE_AA, 4)
        np.maximum(depth, layer, out=depth)

    s = np.linspace(0, 1, 9)[:, None]
    low, high = at["glabella"], at["hairline"]
    reach = abs(float(at["foreheadLeft"][0] - at["foreheadRight"][0])) * 0.5
    for share in (0.3, 0.46, 0.62):  # across the forehead
        middle = low + (high - low) * (share + rng.normal(0, 0.03))
        wide = reach * rng.uniform(0.6, 1.0)
        arch = np.concatenate([(2 * s - 1) * wide, 0.05 * unit * (2 * s - 1) ** 2], 1)
        line(middle + arch, amount * rng.uniform(0.3, 0.9), 0.012)
    for side in ("Left", "Right"):
        corner = outer[side]
        away = float(np.sign(corner[0] - low[0]))
        for tilt in (-0.5, -0.05, 0.45):  # crow's feet
            ray = np.array([away, tilt + rng.normal(0, 0.1)], np.float32)
            length = unit * rng.uniform(0.08, 0.2)
            line(corner + ray * (0.04 * unit + s * length), amount * rng.uniform(0.3, 0.9), 0.009)
        wing, fold = at[f"nostril0{side}"], at[f"nasolabial{side}"]
        corner = at[f"lipCorner{side}"] + np.array([0.10 * away * unit, -0.02 * unit], np.float32)
        bend = (1 - s) ** 2 * wing + 2 * s * (1 - s) * (0.6 * fold + 0.4 * corner) + s**2 * corner
        line(bend + np.array([0.03 * away * unit, 0.0]), amount * rng.uniform(0.5, 1.0), 0.016)
        inner, lower = at[f"lidInner{side}"], at[f"lidLower0{side}"]
        drop = np.array([0.0, 0.09 * unit], np.float32)
        bag = (1 - s) ** 2 * (inner + drop) + 2 * s * (1 - s) * (lower + 1.6 * drop)
        line(bag + s**2 * (outer[side] + drop), amount * rng.uniform(0.2, 0.7), 0.012)
    return cv2.GaussianBlur(depth, (0, 0), 0.008 * unit * size + 0.5)
