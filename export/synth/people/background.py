"""Defocused procedural backgrounds: walls, rooms, foliage, lights, gradients."""

from __future__ import annotations

import cv2
import numpy as np

from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.sample import hsv
from vivant.export.synth.people.textures import linear


def _wall(rng: np.random.Generator, image: Array, xx: Array, yy: Array) -> Array:
    cx, cy = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.7)
    spot = np.exp(-(((xx - cx) ** 2 + (yy - cy) ** 2) / (2 * rng.uniform(0.3, 0.7) ** 2)))
    image = image * (0.55 + 0.75 * spot[..., None])
    if rng.random() < 0.5:  # texture of paint or plaster
        n = int(rng.choice([12, 40, 120]))
        grain = cv2.resize(rng.normal(0, 1, (n, n)).astype(np.float32), image.shape[1::-1])
        image = image * (1 + rng.uniform(0.01, 0.06) * grain[..., None])
    return image


def _stripes(rng: np.random.Generator, image: Array, xx: Array, yy: Array) -> Array:
    """Blinds, shelves, panels: parallel bands."""
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    along = xx * np.cos(angle) + yy * np.sin(angle)
    wave = np.clip(np.sin(along * rng.uniform(10, 60)) * rng.uniform(1, 5), -1, 1)[..., None]
    other = hsv(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.1, 0.9))
    share = 0.5 + 0.5 * wave * rng.uniform(0.2, 1.0)
    return image * (1 - share) + other * share


def _clutter(rng: np.random.Generator, image: Array, palette: list[Array], leaves: bool) -> Array:
    size = len(image)
    for scale in (1.0, 0.5, 0.25):
        for _ in range(int(rng.integers(4, 9) / scale)):
            colour = palette[rng.integers(len(palette))].tolist()
            x, y = rng.uniform(-0.2, 1.1, 2) * size
            w, h = rng.uniform(0.1, 0.6) * size * scale, rng.uniform(0.15, 0.9) * size * scale
            shape = image.copy()
            if leaves:
                axes = (int(w * 0.5) + 1, int(h * 0.4) + 1)
                turn = float(rng.uniform(0, 180))
                cv2.ellipse(shape, (int(x), int(y)), axes, turn, 0, 360, colour, -1)
            else:
                corner = (int(x + w * rng.choice([0.25, 1])), int(y + h))
                cv2.rectangle(shape, (int(x), int(y)), corner, colour, -1)
            cover = rng.uniform(0.35, 1.0)
            image = image * (1 - cover) + shape * cover
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), size * 0.03 * scale)
    return image


def sample_background(rng: np.random.Generator, size: int) -> Array:
    """A background (size, size, 3), linear RGB before exposure."""
    kind = rng.choice(
        ["wall", "room", "bokeh", "outdoor", "stripes", "busy"],
        p=[0.30, 0.24, 0.12, 0.16, 0.09, 0.09],
    )
    small = max(64, size // 2)
    yy, xx = np.mgrid[0:small, 0:small].astype(np.float32) / small
    hue = rng.uniform(0, 360)
    palette = [
        hsv(hue + rng.normal(0, 25), rng.uniform(0.02, 0.4), rng.uniform(0.08, 0.85))
        for _ in range(5)
    ]
    palette.append(hsv(rng.uniform(0, 360), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.8)))
    image: Array = np.ones((small, small, 3), np.float32) * palette[0]
    if kind == "wall":
        image = _wall(rng, image, xx, yy)
    elif kind == "stripes":
        image = _stripes(rng, image, xx, yy)
    else:
        if kind == "outdoor":
            palette = [
                hsv(rng.uniform(70, 120), rng.uniform(0.15, 0.5), rng.uniform(0.08, 0.6))
                for _ in range(4)
            ]
            palette += [hsv(210, 0.15, 0.9), hsv(35, 0.2, 0.6)]
            sky, ground = np.array([0.62, 0.70, 0.80]), np.array([0.25, 0.27, 0.20])
            image = (sky * (1 - yy[..., None]) + ground * yy[..., None]).astype(np.float32)
        image = _clutter(rng, image, palette, kind == "outdoor")
    soften = rng.uniform(0.001, 0.01) if kind == "busy" else rng.uniform(0.008, 0.045)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), small * soften)
    if kind == "bokeh" or rng.random() < 0.1:
        for _ in range(int(rng.integers(5, 26))):
            disc = np.zeros_like(image)
            centre = (int(rng.uniform(0, 1) * small), int(rng.uniform(0, 0.9) * small))
            glow = np.array([1, rng.uniform(0.75, 1), rng.uniform(0.5, 1)]) * rng.uniform(0.05, 0.5)
            radius = max(1, int(rng.uniform(0.01, 0.035) * small))
            cv2.circle(disc, centre, radius, glow.tolist(), -1, cv2.LINE_AA)
            image = image + cv2.GaussianBlur(disc, (0, 0), max(0.5, small * 0.004))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return linear(np.clip(image, 0, 1.5).astype(np.float32)) * np.float32(0.8)


def window_room(size: int) -> Array:
    """A bright room out of focus behind a portrait, (size, size, 3) linear RGB."""
    rng = np.random.default_rng(2)
    small = 384
    yy, xx = np.mgrid[0:small, 0:small].astype(np.float32) / small
    spot = np.exp(-(((xx - 0.72) ** 2 + (yy - 0.30) ** 2) / (2 * 0.45**2)))[..., None]
    image: Array = np.array([0.66, 0.625, 0.57], np.float32) * (0.55 + 0.55 * spot)
    pane = ((xx > 0.80) & (xx < 1.1) & (yy < 0.60)).astype(np.float32)[..., None]
    image = image + pane * np.array([0.20, 0.21, 0.215], np.float32)
    for _ in range(14):  # books on a shelf
        x, y = rng.uniform(0, 0.24), rng.choice([0.16, 0.40, 0.64]) + rng.normal(0, 0.01)
        box = (np.abs(xx - x) < rng.uniform(0.01, 0.03)) & (
            np.abs(yy - y) < rng.uniform(0.05, 0.09)
        )
        colour = hsv(rng.uniform(10, 45), rng.uniform(0.1, 0.45), rng.uniform(0.2, 0.6))
        image = np.where(box[..., None], image * 0.45 + colour * 0.55, image)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), small * 0.035)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return linear(np.clip(image, 0, 1)).astype(np.float32)
