"""What a mirrored picture does to a motion code: sides exchanged, sideways signs flipped."""

from __future__ import annotations

import numpy as np

from vivant import latent

FLIPPED = ("gazeYaw", "headYaw", "headRoll", "headX")
"""Latents that only change sign."""


def _matrix() -> np.ndarray:
    """(63, 63) with code @ matrix = the mirrored code."""
    matrix = np.zeros((latent.SIZE, latent.SIZE), np.float32)
    for name, row in latent.INDEX.items():
        if name.endswith("Left"):
            other = name[:-4] + "Right"
        elif name.endswith("Right"):
            other = name[:-5] + "Left"
        else:
            other = name
        matrix[row, latent.INDEX[other]] = -1 if name in FLIPPED else 1
    return matrix


MOTION_MIRROR: np.ndarray = _matrix()
"""(63, 63): a row code times this is the code of the mirrored picture."""
