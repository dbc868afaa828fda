"""Bared teeth as photos show them and rendered people do not: bright up to the lips, and wide.

Rendered teeth lie in the shade of the lips, and few people of a shard bare them as far as a
laughing face does. An encoder that sees no others takes the upper half of bright teeth for lip,
and a smile then never closes. Here lips are drawn further apart by the analytic posing, and teeth
are painted between the lips' exact inner edges; the code and the keypoints say what is seen.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vivant import latent
from vivant.export.nets.pose import PERSPECTIVE, Poser, load_rig
from vivant.export.nets.warp import centres
from vivant.export.synth.people.classes import HIDING, MOUTH, SKIN

PARTED = 0.04
"""Gap between the lips that shows teeth, IPD."""
GRID = 64
"""Side of the flow that draws lips apart."""
FINE = 4
"""Teeth are painted in so many times the picture's resolution."""
WIDTHS = (0.13, 0.1, 0.11, 0.1, 0.08, 0.08)
"""Of the upper teeth from the middle outward, as seen from the front, IPD."""
PALE = np.array([1.03, 1.0, 0.96])
"""Colour of teeth in white light."""

Array = np.ndarray
_NAMES = load_rig().names
_INDEX = {name: k for k, name in enumerate(_NAMES)}
_EDGES = [
    [_INDEX[f"lipInner{part}"] for part in parts]
    for parts in (
        ("CornerRight", "UpperRight", "UpperMid", "UpperLeft", "CornerLeft"),
        ("CornerRight", "LowerRight", "LowerMid", "LowerLeft", "CornerLeft"),
    )
]
_PUPILS = [_INDEX["pupilRight"], _INDEX["pupilLeft"]]
_WIDENING = ("mouthUpperUp", "mouthLowerDown", "mouthSmile")
_POSER = Poser().requires_grad_(False)


def gap(points: Array) -> float:
    """How far the inner lips are apart at the middle, (K, 3) frame fractions -> IPD."""
    across = np.linalg.norm(points[_PUPILS[1], :2] - points[_PUPILS[0], :2])
    upper, lower = points[_EDGES[0][2], :2], points[_EDGES[1][2], :2]
    return float((lower - upper)[1] / max(across, 1e-3))


def drawn_apart(
    image: Array, segment: Array, code: Array, points: Array, change: Array
) -> tuple[Array, Array, Array, Array]:
    """A picture (256, 256, 3) u8, its classes (S, S), code (63,) and keypoints (K, 3) with
    ``change`` (63,) added to the code and what is seen warped to it."""
    driven = (code + change).astype(np.float32)
    own = torch.from_numpy(code)[None]
    line = centres(GRID, own).expand(1, -1)
    near = torch.full((1, 1), PERSPECTIVE)
    posed = _POSER(torch.from_numpy(points)[None], own, torch.from_numpy(driven)[None], near)
    maps, _ = _POSER.spread(posed, line, line, torch.zeros(1, len(_NAMES)))
    flow = _POSER.flow(posed, line, line, maps)[0][0].numpy()

    def warp(picture: Array, how: int) -> Array:
        side = picture.shape[0]
        step = cv2.resize(flow.transpose(1, 2, 0), (side, side)) * side
        rows, columns = np.mgrid[:side, :side].astype(np.float32)
        return cv2.remap(
            picture, columns + step[..., 0], rows + step[..., 1], how, None, cv2.BORDER_REPLICATE
        )

    moved = points.copy()
    moved[:, :2] = posed.points[0, :, :2].numpy()
    picture, classes = warp(image, cv2.INTER_LINEAR), warp(segment, cv2.INTER_NEAREST)
    return picture, classes, driven, moved


def _curve(points: Array) -> Array:
    """A smooth line (33, 2) through five points (5, 2)."""
    at = np.linspace(0, 4, 33)
    return np.stack([_smooth(at, points[:, k]) for k in (0, 1)], 1)


def _smooth(at: NDArray[np.float64], values: Array) -> Array:
    """Catmull-Rom through ``values`` at 0, 1, 2...; level beyond the ends."""
    v = np.concatenate([values[:1] * 2 - values[1:2], values, values[-1:] * 2 - values[-2:-1]])
    k = np.minimum(at.astype(int), len(values) - 2)
    t = at - k
    a, b, c, d = v[k], v[k + 1], v[k + 2], v[k + 3]
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3
    )


def with_teeth(
    image: Array, segment: Array, points: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """A picture (256, 256, 3) u8 and its classes with teeth painted all over the mouth's inside;
    both as they are where something hides the mouth or the frame ends."""
    side = image.shape[0]
    pupils = points[_PUPILS, :2]
    ipd = float(np.linalg.norm(pupils[1] - pupils[0])) * side
    upper, lower = (_curve(points[edge, :2] * side) for edge in _EDGES)
    outline = np.concatenate([upper, lower[::-1]])
    low, high = (
        np.floor(outline.min(0) - 3).astype(int),
        np.ceil(outline.max(0) + 3).astype(int),
    )
    if (low < 0).any() or (high >= side).any() or (lower[8:25, 1] <= upper[8:25, 1]).any():
        return image, segment
    mouth = np.zeros_like(segment)
    within = outline * (segment.shape[0] / side) - 0.5
    cv2.fillPoly(mouth, [np.round(within).astype(np.int32)], 1)
    if np.isin(segment[mouth > 0], HIDING).mean() > 0.1:
        return image, segment
    wide, tall = (int(v) for v in (high - low) * FINE)
    inside = np.zeros((tall, wide), np.float32)
    cv2.fillPoly(inside, [np.round((outline - low) * FINE).astype(np.int32)], 1.0)
    x = (np.arange(wide) + 0.5) / FINE + low[0]
    y = ((np.arange(tall) + 0.5) / FINE + low[1])[:, None]
    top, bottom = np.interp(x, *upper.T), np.interp(x, *lower.T)
    down = (y - top) / np.maximum(bottom - top, 1e-3)
    middle = (upper[16, 0] + lower[16, 0]) / 2 + rng.normal(0, 0.02) * ipd
    skin = image[cv2.resize((segment == SKIN).astype(np.uint8), (side, side)) > 0]
    tone = np.median(skin, 0) if len(skin) else np.full(3, 128.0)
    paint = _teeth(np.abs(x - middle) / ipd, down, tone, rng)
    small = (wide // FINE, tall // FINE)
    share = cv2.resize(inside, small, interpolation=cv2.INTER_AREA)[..., None]
    paint = cv2.resize(paint.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    out, classes = image.copy(), segment.copy()
    window = out[low[1] : high[1], low[0] : high[0]]
    window[:] = np.clip(window + share * (paint - window), 0, 255).astype(np.uint8)
    classes[mouth > 0] = MOUTH
    return out, classes


def _teeth(away: Array, down: Array, tone: Array, rng: np.random.Generator) -> Array:
    """Colours (H, W, 3), 0..255, of teeth ``away`` (W,) IPD from the middle and ``down`` (H, W) the
    mouth's opening, 0 at the upper lip and 1 at the lower, of someone whose skin is ``tone`` (3,).

    Hue and brightness, gums, seams and shade toward the corners are random.
    """
    level = max(float(tone @ (0.299, 0.587, 0.114)), 1.0)
    colour = PALE + rng.uniform(0, 0.7) * (tone / level - PALE)
    colour = colour * level * rng.uniform(0.75, 1.5)
    seams = np.concatenate([[0.0], np.cumsum(np.array(WIDTHS) * rng.uniform(0.85, 1.15))])
    near = np.exp(-(((away[:, None] - seams) / 0.012) ** 2)).sum(1)
    bright = 1 - rng.uniform(0, 0.6) * np.clip((away - rng.uniform(0.15, 0.35)) / 0.2, 0, 1)
    bright = bright * (1 - rng.uniform(0, 0.35) * near)
    bright = bright * (1 - rng.uniform(0, 0.3) * np.abs(down - 0.45))  # (H, W)
    edge = rng.uniform(0.55, 1.1)
    bright = bright * (1 - rng.uniform(0, 0.7) * np.exp(-(((down - edge) / 0.06) ** 2)))
    bright = np.where(down > edge, bright * rng.uniform(0.25, 0.95), bright)
    paint: Array = colour * bright[..., None]
    if rng.random() < 0.3:
        height = rng.uniform(0, 0.3) * (0.6 + 0.4 * np.cos(away / 0.12 * 2 * np.pi)) + 0.02
        gum = np.clip((height - down) / 0.05, 0, 1)[..., None]
        paint = paint + gum * (tone * (1.0, 0.72, 0.75) * rng.uniform(0.7, 1.1) - paint)
    return paint + rng.normal(0, 3, (*down.shape, 1))


def bared(
    image: Array, segment: Array, code: Array, points: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """A frame whose lips are parted, parted further and with other teeth; any other as it is."""
    if gap(points) < PARTED:
        return image, segment, code, points
    if rng.random() < 0.6:
        change = np.zeros(latent.SIZE, np.float32)
        for name in _WIDENING:
            more = rng.uniform(0, 0.6)
            for side in ("Left", "Right"):
                k = latent.INDEX[name + side]
                change[k] = np.clip(code[k] + more * rng.uniform(0.85, 1.15), 0, 1) - code[k]
        image, segment, code, points = drawn_apart(image, segment, code, points, change)
    if rng.random() < 0.7:
        image, segment = with_teeth(image, segment, points, rng)
    return image, segment, code, points
