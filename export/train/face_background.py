"""Folds, leaves and clutter in focus behind synthetic people, whose own backgrounds are soft.

A matte that has met soft backgrounds alone takes a curtain beside the head for hair, and then the
curtain moves with the head.
"""

from __future__ import annotations

import cv2
import numpy as np

from vivant.export.synth.people.pack import Array

SIDE = 256
"""Pixels of the pictures."""
CELLS = (4, 9, 20, 45, 100)
"""Cells across of the octaves of noise."""


def sample_texture(rng: np.random.Generator) -> Array:
    """Draw a sharp background, RGB 0..1, (256, 256, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    octaves = [
        cv2.resize(rng.standard_normal((n, n, 3)).astype(np.float32), (SIDE, SIDE)) / n**0.4
        for n in CELLS
    ]
    rough = np.sum(octaves, 0)
    kind = int(rng.integers(3))
    if kind == 0:  # folds of cloth
        turn, count = rng.normal(0, 0.5), rng.uniform(3, 25)
        phase = (x * np.cos(turn) + y * np.sin(turn)) * count
        phase = 2 * np.pi * (phase + rng.uniform(0.2, 1) * octaves[0][..., 0])
        relief = 0.35 * (np.sin(phase) + 0.4 * np.sin(2.85 * phase))[..., None] + 0.15 * rough
    elif kind == 1:  # leaves, gravel
        edges = np.tanh(rng.uniform(1, 6) * rough.mean(-1, keepdims=True))
        relief = 0.4 * edges + 0.15 * rough
    else:  # clutter
        relief = 0.1 * rough
        for _ in range(int(rng.integers(15, 90))):
            left, top = (int(n) for n in rng.integers(-20, SIDE, 2))
            wide, high = (int(n) for n in rng.lognormal(2.8, 0.8, 2) + 2)
            part = relief[max(top, 0) : max(top + high, 0), max(left, 0) : max(left + wide, 0)]
            part += rng.normal(0, 0.25, 3)
    # Most things are less colourful than their light is bright.
    grey = rng.uniform(0.2, 1)
    relief = relief + grey * (relief.mean(-1, keepdims=True) - relief)
    tint = rng.uniform(0.1, 0.8, 3)
    tint = (tint + grey * (tint.mean() - tint)) * rng.uniform(0.4, 1.2) + rng.uniform(0, 0.2)
    out: Array = np.clip(tint * (1 + rng.uniform(0.5, 1.5) * relief), 0, 1).astype(np.float32)
    return out


def with_background(image: Array, segment: Array, background: Array) -> Array:
    """A u8 image (256, 256, 3) of these classes (h, w) before another ``background``."""
    person = cv2.resize((segment > 0).astype(np.float32), (SIDE, SIDE))
    # Half a cell of the old background stays at the outline, as loose hair does.
    share = cv2.GaussianBlur(np.clip(1 - 2 * person, 0, 1), (0, 0), 0.8)[..., None]
    return (image + share * (background * 255 - image)).astype(np.uint8)
