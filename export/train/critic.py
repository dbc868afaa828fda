"""A small critic of painted windows: it tells painted mouths and eyes from rendered ones.

Pixel losses paint the average of all teeth that could be there, a grey band; a critic of local
structure (Isola et al. 2017) wants one of them. Most of its pull comes from matching its inner
features (Wang et al. 2018), which is steadier than its verdict.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from vivant.export.nets.layers import SLOPE


class Critic(nn.Module):
    """Window and the photo warped rigidly into it, (B, 6, n, n) -> features of every layer and
    last a verdict per patch, (B, 1, n/4, n/4)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = (6, width, 2 * width, 2 * width)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4 if k < 2 else 3, 2 if k < 2 else 1, 1))
            for k, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.verdict = spectral_norm(nn.Conv2d(sizes[-1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        x = x * 2 - 1
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            found.append(x)
        return [*found, self.verdict(x)]


def critic_loss(critic: Critic, painted: Tensor, real: Tensor, given: Tensor) -> Tensor:
    """Hinge loss of the critic itself; ``given`` (B, 3, n, n) is what both were made from."""
    both = torch.cat([torch.cat([painted.detach(), real]), torch.cat([given, given])], 1)
    fake, true = critic(both)[-1].chunk(2, 0)
    return F.relu(1 + fake).mean() + F.relu(1 - true).mean()


def painter_loss(
    critic: Critic, painted: Tensor, real: Tensor, given: Tensor
) -> tuple[Tensor, Tensor]:
    """What the critic asks of the painter: its verdict, and the distance in its features."""
    fake = critic(torch.cat([painted, given], 1))
    with torch.no_grad():
        true = critic(torch.cat([real, given], 1))
    matched = torch.stack([F.l1_loss(a, b) for a, b in zip(fake[:-1], true[:-1], strict=True)])
    return -fake[-1].mean(), matched.mean()
