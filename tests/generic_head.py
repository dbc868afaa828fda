"""The generic head in a picture, by the generator's own formula."""

from __future__ import annotations

import numpy as np
import torch

from vivant import latent
from vivant.export.synth.people import keypoints as generic

IPD = 0.165
EYES = (0.5, 0.42)
"""Where the picture's optical axis meets the frame: the eyes of the generic head at rest."""
PERSPECTIVE = 1 / 16
"""Of the picture's camera, which stands at a metre, 1/IPD."""
NEAR = torch.full((1, 1), PERSPECTIVE)
"""The same as the networks take it."""


def motion(**values: float) -> torch.Tensor:
    """A motion code (1, 63) of these values, else zero."""
    code = torch.zeros(1, latent.SIZE)
    for name, value in values.items():
        code[0, latent.INDEX[name]] = value
    return code


def seen(code: torch.Tensor, perspective: float = PERSPECTIVE) -> np.ndarray:
    """Keypoints (K, 3) of the head in a picture of this perspective, 1/IPD."""
    table = generic.keypoint_basis()
    points = generic.pose(table.neutral, code[0].numpy(), table) * np.array([1, -1, 1])
    plane = points[:, :2] / (1 - points[:, 2:] * perspective) * IPD + np.array(EYES)
    return np.concatenate([plane, points[:, 2:] * IPD], 1).astype(np.float32)


def keypoints(code: torch.Tensor) -> torch.Tensor:
    """The same as the networks take them, (1, K, 3)."""
    return torch.from_numpy(seen(code))[None]
