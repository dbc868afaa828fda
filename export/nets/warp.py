"""Sampling and resizing; ``composite`` in torch, the differentiable twin of the last stage."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def centres(size: int, like: Tensor) -> Tensor:
    """(1, size) pixel centres in frame fractions."""
    return ((torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size)[None]


def grid_at(xs: Tensor, ys: Tensor, flow: Tensor) -> Tensor:
    """Sampling positions -1..1 at ``xs`` (B, W) x ``ys`` (B, H) plus ``flow`` (B, 2, H, W) in frame
    fractions: (B, H, W, 2)."""
    across, down = flow.split(1, 1)
    x = 2 * across + (2 * xs - 1)[:, None, None, :]
    y = 2 * down + (2 * ys - 1)[:, None, :, None]
    return torch.cat([x, y], 1).permute(0, 2, 3, 1)


def sample_grid(image: Tensor, grid: Tensor, padding: str = "border") -> Tensor:
    """Bilinear samples at the positions of ``grid``, the outermost pixel's border at -1 and 1."""
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def sample(image: Tensor, flow: Tensor, padding: str = "border") -> Tensor:
    """Sample ``image`` (B, C, h, w) at p + flow for every pixel p of ``flow`` (B, 2, H, W).

    Flow is in frame fractions, x then y; bilinear, pixel centres at (i + 0.5) / size.
    """
    xs, ys = centres(flow.shape[3], flow), centres(flow.shape[2], flow)
    return sample_grid(image, grid_at(xs, ys, flow), padding)


def resize(image: Tensor, size: int) -> Tensor:
    """Bilinear resize to ``size`` x ``size``, half-pixel centres."""
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def hats(size: int, large: int) -> Tensor:
    """Weights (large, size) of a bilinear ``resize`` along one axis."""
    at = torch.clamp((torch.arange(large) + 0.5) / large * size - 0.5, 0, size - 1)
    return torch.relu(1 - torch.abs(at[:, None] - torch.arange(size)[None]))


def planes(x: Tensor, counts: list[int]) -> list[Tensor]:
    """Channels of (B, C, H, W) in groups of ``counts``.

    By way of rows, so that a backend whose convolutions keep channels innermost turns them out
    once, and what follows works on whole rows instead of on one channel of a few.
    """
    batch, channels, high, wide = x.shape
    parts = x.reshape(batch, channels * high, wide).split([n * high for n in counts], 1)
    return [part.reshape(batch, -1, high, wide) for part in parts]


def composite(photo: Tensor, flow: Tensor, occlusion: Tensor, paint: Tensor) -> Tensor:
    """Warp the photo and lay paint over it: the contract of the ``composite`` stage.

    photo (B, 3, S, S) 0..1, flow (B, 2, h, h) frame fractions, occlusion (B, 1, H, H) weight of
    the paint, paint (B, 3, H, H) 0..1 -> (B, 3, S, S).
    """
    size = photo.shape[-1]
    warped = sample(photo, resize(flow, size))
    weight = resize(occlusion, size)
    return warped * (1 - weight) + resize(paint, size) * weight
