"""Flow to the photo's outline that a turning head stretches below its ears is led inside it.

There a few pixels of the outline are spread over the side of a jaw that the photo does not show.
Half of them are background, and tear the jaw from the neck: skin a little further inside is what
the hidden side looks like.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant.export.nets.matte import narrowed
from vivant.export.nets.warp import sample

CELLS = 64
"""Side of the maps."""
REACH = 5
"""Side of the window about each cell, in cells, to the middle of whose person the step leads."""
STEEP = 1.5
"""The step shortens once more than 1 - 1 / STEEP of that window is the person: what lies deeper
is nearly right."""
SPREAD = (0.1, 0.4)
"""By how much of a distance a slope of the turning head brings two points of the photo together,
where leading sets in and where it is whole. Of 24 people it reaches .1 dB more than (.3, .7)."""
BELOW = (0.6, 0.93)
"""Height below the pupils, IPD, where it sets in and is whole: an ear lobe is at .94. Above, hair
and ears are thinner than the step."""
BEHIND = (0.2, 0.4)
"""The same for how far behind the pupils: lips end at .1, a jaw's side lies from .3 to 1."""


def rise(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """0 up to the first of ``bounds``, 1 from the second on."""
    low, high = bounds
    return torch.clamp((x - low) * (1 / (high - low)), 0, 1)


class Rim(nn.Module):
    """The step that leads stretched flow inside the outline. Nothing of it is learned."""

    window: Tensor
    middle: Tensor
    known: Tensor
    slope: Tensor
    mean: Tensor
    smooth_slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        away = (torch.arange(REACH) - REACH // 2).float().expand(REACH, REACH)
        window = torch.stack([away, away.t(), torch.ones(REACH, REACH)])[:, None] / REACH**2
        middle, known = self.sums(window, torch.ones(1, 1, CELLS, CELLS))
        slope = torch.zeros(CELLS, CELLS)
        for k in range(CELLS):
            before, after = max(k - 1, 0), min(k + 1, CELLS - 1)
            slope[k, after], slope[k, before] = (s * CELLS / (after - before) for s in (1, -1))
        near = (torch.arange(CELLS)[:, None] - torch.arange(CELLS)).abs() < 2
        mean = near / near.sum(1, keepdim=True)
        constants = {"window": window, "middle": middle / known, "known": known}
        constants |= {"slope": slope, "mean": mean, "smooth_slope": slope @ mean}
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def sums(self, window: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """Mean way to the person (B, 2, 64, 64), cells, and the person's share (B, 1, 64, 64)."""
        way, share = F.conv2d(person, window, padding=REACH // 2).split([2, 1], 1)
        return way, share

    def area(self, flow: Tensor) -> Tensor:
        """Area of the photo (B, 1, 64, 64) that a cell of the backward flow (B, 2, 64, 64), frame
        fractions, shows, in cells, smoothed and the least of 7x7: below 0 it folds. What stood in
        the photo and is seen once more lies up to three cells beside the fold."""
        across = self.mean @ flow @ self.smooth_slope.T
        down = self.smooth_slope @ flow @ self.mean.T
        one, two = across.split(1, 1)
        three, four = down.split(1, 1)
        return -F.max_pool2d(two * three - (1 + one) * (1 + four), 7, 1, 3)

    def forward(
        self, flow: Tensor, depth: Tensor, lean: Tensor, person: Tensor, place: Tensor
    ) -> Tensor:
        """The backward flow (B, 2, 64, 64) and the driven head's depth (B, 1, 64, 64), both in
        frame fractions, how far a unit of depth moves as the head turns back (B, 2, 1, 1), the
        person's logits in the photo (B, 1, 64, 64) and the place on the driven head (B, 3, 64, 64),
        IPD from the pupils -> what to add to the flow, (B, 2, 64, 64).
        """
        # The logits reach a cell further than the person does, see ``matte.widened``.
        solid = torch.sigmoid(2 * narrowed(person))
        way, share = self.sums(self.window, solid)
        way = way / (share + 1e-3) - self.middle
        way = way * torch.clamp(STEEP - STEEP / self.known * share, 0, 1)
        step, inside = sample(torch.cat([way, torch.sigmoid(2 * person)], 1), flow).split([2, 1], 1)
        # How much closer together a slope of the turning head brings what lies along the step.
        across, down = step.split(1, 1)
        rises = depth @ self.slope.T * across + self.slope @ depth * down
        along = (lean[:, :1] * across + lean[:, 1:] * down) * rises
        spread = -along / (across * across + down * down + 5e-3)
        _, below, front = place.split(1, 1)
        led = rise(spread, SPREAD) * rise(below, BELOW) * rise(-front, BEHIND) * inside
        return step * led * (1 / CELLS)
