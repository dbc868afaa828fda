"""``composite`` in torch: the differentiable twin of the run time's last stage, for training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def centres(size: int, like: Tensor) -> Tensor:
    """(1, size) pixel centres in frame fractions."""
    return ((torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size)[None]


def sample(image: Tensor, flow: Tensor, padding: str = "border") -> Tensor:
    """Sample ``image`` (B, C, h, w) at p + flow for every pixel p of ``flow`` (B, 2, H, W).

    Flow is in frame fractions, x then y; bilinear, pixel centres at (i + 0.5) / size.
    """
    xs, ys = centres(flow.shape[3], flow), centres(flow.shape[2], flow)
    x = (flow[:, 0] + xs[:, None, :]) * 2 - 1
    y = (flow[:, 1] + ys[:, :, None]) * 2 - 1
    grid = torch.stack([x, y], -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def resize(image: Tensor, size: int) -> Tensor:
    """Bilinear resize to ``size`` x ``size``, half-pixel centres."""
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def composite(photo: Tensor, flow: Tensor, occlusion: Tensor, paint: Tensor) -> Tensor:
    """Warp the photo and lay paint over it: the contract of the ``composite`` stage.

    photo (B, 3, S, S) 0..1, flow (B, 2, h, h) frame fractions, occlusion (B, 1, H, H) weight of
    the paint, paint (B, 3, H, H) 0..1 -> (B, 3, S, S).
    """
    size = photo.shape[-1]
    warped = sample(photo, resize(flow, size))
    weight = resize(occlusion, size)
    return warped * (1 - weight) + resize(paint, size) * weight
