"""Small convolutional pieces shared by the face networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

SLOPE = 0.1
"""Negative slope of every LeakyReLU."""


class Conv(nn.Conv2d):
    """A convolution that training may run in bfloat16 while geometry around it stays float32."""

    reduced: ClassVar[bool] = False
    """Set by a trainer for the whole process; never set in an exported network."""
    rounding: ClassVar[Callable[[Conv, Tensor, Tensor], tuple[Tensor, Tensor]] | None] = None
    """What INT8 would make of input and weights; set by quantisation-aware training alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x, self.weight, self.bias)

    def of(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with other weights: some of its own, or some more."""
        if Conv.rounding is not None:
            x, weight = Conv.rounding(self, x, weight)
        if Conv.reduced:
            x, weight = x.bfloat16(), weight.bfloat16()
            bias = None if bias is None else bias.bfloat16()
        return self._conv_forward(x, weight, bias)

    def parts(self, *xs: Tensor) -> Tensor:
        """The convolution of a concatenation as the sum of convolutions of its parts: what is
        concatenated may be kept in different layouts and ranges."""
        start, total = xs[0].shape[1], self.of(xs[0], self.weight[:, : xs[0].shape[1]], self.bias)
        for x in xs[1:]:
            total = total + self.of(x, self.weight[:, start : start + x.shape[1]], None)
            start += x.shape[1]
        return total


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Conv:
    """A convolution with "same" padding and He initialisation for LeakyReLU."""
    layer = Conv(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def quiet(layer: nn.Conv2d | nn.Linear, gain: float = 0.0) -> nn.Conv2d | nn.Linear:
    """Scale a layer's initial weights, so that what it adds starts at (nearly) nothing."""
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


class Block(nn.Module):
    """Residual block: two 3x3 convolutions; starts as identity.  # (B, C, H, W) -> same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = conv(channels, channels)
        quiet(self.second, 0.2)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.second(self.act(self.first(x))))


class Steered(nn.Module):
    """Residual block whose inner features are scaled and shifted by a code (FiLM, Perez 2018)."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = conv(channels, channels)
        quiet(self.second, 0.2)
        self.film = nn.Linear(code, 2 * channels)
        quiet(self.film, 0.5)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor]) -> Tensor:
        """(B, C, H, W), scale and shift (B, C, 1, 1) of ``films`` -> (B, C, H, W)"""
        scale, shift = film
        return self.act(x + self.second(self.act(self.first(x) * (1 + scale) + shift)))


def films(code: Tensor, blocks: Sequence[Steered]) -> Iterator[tuple[Tensor, Tensor]]:
    """Scale and shift (B, C, 1, 1) that a code (B, code) asks of each block, by one product for all
    of them."""
    weights = torch.cat([block.film.weight for block in blocks])
    biases = torch.cat([block.film.bias for block in blocks])
    sizes = [block.film.out_features // 2 for block in blocks for _ in range(2)]
    told = nn.functional.linear(code, weights, biases)[:, :, None, None].split(sizes, 1)
    return zip(told[::2], told[1::2], strict=True)


def upsample(x: Tensor) -> Tensor:
    """Double height and width, bilinear, half-pixel centres."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def coarse(layer: nn.Conv2d, features: Tensor, spread: Tensor) -> Tensor:
    """What ``layer`` tells of ``features`` (B, C, h, h) in few cells, 0..1, spread by the weights
    ``spread`` (n, cells) of a bilinear resize: (B, E, n, n)."""
    told = layer(nn.functional.avg_pool2d(features, features.shape[3] // spread.shape[1])).float()
    return spread @ torch.sigmoid(told) @ spread.T


def fold(x: Tensor, step: int = 2) -> Tensor:
    """Space to depth by slices, rank 4 throughout: (B, C, H, W) -> (B, step^2 C, H/step, W/step).

    Channels are ordered by place within the cell, then by channel of ``x``.
    """
    return torch.cat([x[:, :, i::step, j::step] for i in range(step) for j in range(step)], 1)


def stacked(x: Tensor, size: int = 64) -> Tensor:
    """Maps of any size among maps of ``size``, without moving a number: (B, C, H, W) ->
    (B, C H W / size^2, size, size), each channel so many rows. ``reshape`` undoes it."""
    return x.reshape(x.shape[0], -1, size, size)


class Pack(nn.Module):
    """``fold`` as a convolution: (B, C, H, W) -> (B, 4 C, H / 2, W / 2)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        one = torch.eye(channels)[None, :, :, None] * torch.eye(4)[:, None, None]
        self.register_buffer("kernel", one.reshape(-1, channels, 2, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel, stride=2)
