"""The generic head in a picture, by the generator's own formula."""

from __future__ import annotations

import numpy as np
import torch

from vivant import latent
from vivant.export.nets.pose import CAMERA
from vivant.export.synth.people import keypoints as generic

IPD = 0.165
EYES = (0.5, 0.42)
"""Where the picture's optical axis meets the frame: the eyes of the generic head at rest."""


def motion(**values: float) -> torch.Tensor:
    """A motion code (1, 63) of these values, else zero."""
    code = torch.zeros(1, latent.SIZE)
    for name, value in values.items():
        code[0, latent.INDEX[name]] = value
    return code


def seen(code: torch.Tensor) -> np.ndarray:
    """Keypoints (K, 3) of the head in a picture."""
    table = generic.keypoint_basis()
    points = generic.pose(table.neutral, code[0].numpy(), table) * np.array([1, -1, 1])
    scale = CAMERA / (CAMERA - points[:, 2:])
    plane = points[:, :2] * scale * IPD + np.array(EYES)
    return np.concatenate([plane, points[:, 2:] * IPD], 1).astype(np.float32)


def keypoints(code: torch.Tensor) -> torch.Tensor:
    """The same as the networks take them, (1, K, 3)."""
    return torch.from_numpy(seen(code))[None]
