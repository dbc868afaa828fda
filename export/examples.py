"""Inputs like those of real use, from fixed seeds: for golden tensors and the numeric gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from vivant.bundle import TENSORS
from vivant.errors import PhotoError
from vivant.export.to_onnx import reference
from vivant.latent import INDEX
from vivant.tensor import Array

TICKS = 12
"""Ticks that run before a motion example is taken, so that its past is not empty."""

MOTIONS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.4, "mouthFunnel": 0.3, "headYaw": 6.0, "gazeYaw": -8.0},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "headPitch": -5.0, "headX": 0.05},
    {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "browInnerUp": 0.6, "headRoll": 4.0},
)
"""Changes from the photo's own motion code, in the latent's units."""


def picture(seed: int, size: int = 256) -> Array:
    """A picture with large and small detail, (1, 3, size, size), 0..1 in steps of 1/255."""
    random = np.random.Generator(np.random.Philox(seed))
    total = np.zeros((3, size, size))
    for cells, weight in ((4, 0.5), (16, 0.25), (64, 0.15), (size, 0.1)):
        grid = random.random((3, cells, cells))
        at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
        low = np.minimum(at.astype(int), cells - 2)
        part = (at - low)[:, None]
        rows = grid[:, low] * (1 - part) + grid[:, low + 1] * part
        total += weight * (rows[..., low] * (1 - part.T) + rows[..., low + 1] * part.T)
    return (np.round(total * 255) / 255).astype(np.float32)[None]


def read_picture(path: Path, size: int = 256) -> Array:
    """An image file as (1, 3, size, size), 0..1; raises PhotoError when it cannot be read."""
    try:
        with Image.open(path) as photo:
            small = photo.convert("RGB").resize((size, size), Image.Resampling.BOX)
    except OSError as error:
        raise PhotoError(f"cannot read {path}", got=str(error)) from None
    return (np.asarray(small, np.float32) / np.float32(255)).transpose(2, 0, 1)[None].copy()


def face_examples(
    encode: nn.Module, pictures: Sequence[Array]
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Inputs of ``encode`` and of ``render`` for portraits (1, 3, 256, 256)."""
    photos = [{"portrait": picture} for picture in pictures]
    driven = []
    for number, change in enumerate(MOTIONS):
        coded = reference(encode, photos[number % len(photos)], list(TENSORS["encode"][1]))
        motion = coded["motion"].copy()
        for name, value in change.items():
            motion[0, INDEX[name]] += value
        driven.append(
            {
                "features": coded["features"],
                "keypoints": coded["keypoints"],
                "source": coded["motion"],
                "motion": motion,
            }
        )
    return photos, driven


def motion_examples(
    listen: nn.Module, denoise: nn.Module, sizes: dict[str, tuple[int, ...]]
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Inputs of ``listen`` and of ``denoise`` after TICKS ticks of made-up sound.

    ``sizes`` gives the shapes of ``mel``, ``state``, ``noisy``, ``conditions`` and ``cache``.
    """
    random = np.random.Generator(np.random.Philox(3))

    def normal(name: str) -> Array:
        return random.standard_normal(sizes[name]).astype(np.float32)

    state, cache = np.zeros(sizes["state"], np.float32), np.zeros(sizes["cache"], np.float32)
    previous = np.zeros(sizes["noisy"], np.float32)
    heard: list[dict[str, Array]] = []
    moved: list[dict[str, Array]] = []
    for tick in range(TICKS):
        heard.append({"mel": normal("mel"), "state": state})
        out = reference(listen, heard[-1], list(TENSORS["listen"][1]))
        state = out["state_out"]
        conditions = np.zeros(sizes["conditions"], np.float32)
        conditions[0, :3] = 0.3, -0.2, 1.0
        noise = normal("noisy")
        for time in ((1.0, 0.5), (0.5, 0.0)):
            moved.append(
                {
                    "noisy": noise,
                    "previous": previous,
                    "time": np.array([time], np.float32),
                    "audio": out["audio"],
                    "conditions": conditions if tick % 2 else np.zeros_like(conditions),
                    "cache": cache,
                    "history": np.full((1, 1), min(tick, cache.shape[2]), np.float32),
                }
            )
            step = reference(denoise, moved[-1], list(TENSORS["denoise"][1]))
            noise = noise + np.float32(time[1] - time[0]) * step["velocity"]
        previous, cache = noise.clip(-4, 4), step["cache_out"]
    return [heard[-1], heard[0]], [moved[-2], moved[-1], moved[0]]
