"""The network that finds faces and places twelve landmarks on each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POINTS = 12
"""Landmarks, in the order of ``vivant.portrait.LANDMARKS``."""
STRIDE = 8
"""Side of a cell, pixels of the input."""
REACH = 64.0
"""Pixels that one unit of the landmark head stands for."""

FRONTAL: tuple[tuple[float, float], ...] = (
    (-0.5, -0.55),
    (0.5, -0.55),
    (0.0, 0.05),
    (-0.38, 0.53),
    (0.38, 0.53),
    (0.0, 0.42),
    (0.0, 0.67),
    (0.0, 1.25),
    (-1.1, 0.1),
    (1.1, 0.1),
    (0.0, -1.45),
    (0.0, -0.75),
)
"""A frontal face about its centre, IPD: where the landmark head starts from."""


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation (folds into it on export) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity (He et al. 2016).  # (B, C, H, W) -> same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.norm(self.second(self.first(x))))


class Align(nn.Module):
    """Faces as centre points with landmark offsets (CenterNet, Zhou et al. 2019).

    A residual pyramid to stride 32, whose cells see the whole tile, and back up to stride 8.
    1.1 M parameters, 0.5 GFLOP.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 5, 2), conv(16, 32, 3, 2))
        self.fine = nn.Sequential(conv(32, 48, 3, 2), Residual(48))
        self.middle = nn.Sequential(conv(48, 96, 3, 2), Residual(96))
        self.coarse = nn.Sequential(conv(96, 128, 3, 2), Residual(128), Residual(128))
        self.from_coarse = conv(128, 96, 1)
        self.join_middle = conv(96, 96)
        self.from_middle = conv(96, 64, 1)
        self.from_fine = conv(48, 64, 1)
        self.join_fine = conv(64, 64)
        self.score = nn.Conv2d(64, 1, 1)
        self.landmarks = nn.Conv2d(64, 2 * POINTS, 1)
        # A face in one cell of a thousand, some 40 px from eye to eye.
        nn.init.constant_(self.score.bias, -5.0)  # type: ignore[arg-type]
        with torch.no_grad():
            self.landmarks.weight.mul_(0.5)
            frontal = torch.tensor(FRONTAL).T.reshape(-1)
            self.landmarks.bias.copy_(frontal * 40.0 / REACH)  # type: ignore[union-attr]

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score logits (B, 1, h, w) and landmark offsets (B, 2L, h, w) in pixels."""
        fine = self.fine(self.stem(image - 0.5))  # (B, 48, H/8, W/8)
        middle = self.middle(fine)  # (B, 96, H/16, W/16)
        coarse = self.from_coarse(self.coarse(middle))  # (B, 96, H/32, W/32)
        middle = self.join_middle(middle + _double(coarse))
        fine = self.join_fine(self.from_fine(fine) + _double(self.from_middle(middle)))
        return self.score(fine), self.landmarks(fine) * REACH

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB (B, 3, H, W), 0..1, to ``score`` (B, 1, H/8, W/8), a probability, and ``landmarks``.

        ``landmarks`` (B, 2L, H/8, W/8) are L x, then L y, pixels from the cell's centre.
        """
        score, landmarks = self.heads(image)
        return torch.sigmoid(score), landmarks


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
