"""What a turning head uncovers the photo does not show: flow to its outline is led inside it.

The sides of a head lie along the line of sight, so that all of a side that is uncovered lies in a
few pixels of the photo's outline. Spread over it, they are streaks, of half of them background.

Below the ears they tear the jaw from the neck: skin a little further inside is what the hidden side
looks like, and flow is led to it. Everywhere else behind the face the photo is mirrored at where it
begins to stretch: hair goes on as hair of the same grain, up to the outline that the flow itself
draws.
"""

from __future__ import annotations

from typing import NamedTuple

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
STRETCHED = (0.2, 0.4)
"""Area of the photo, to that shown of it, of flow that is stretched, and that is not."""
INSIDE = (0.1, 0.6)
"""Share of the person two cells inside the outline from which flow is believed: a little of what
lies beyond the stretch, and is nearer, would weigh more."""
NEAR = 1.0
"""Distance, in cells, over which flow that is not stretched is continued by a factor of e."""
SLACK = 1.0
"""By how much flow has to lag behind that continuation, in cells, before it is mirrored."""
MIRRORED = 1.1
"""Cells inward for each cell beyond that: 1 shows the drawn-out rim as short as it is in the photo,
and with it what lies as far inside the rim. At 1.7 hair has rings."""
FARTHEST = 5.0
"""Largest of these steps, in cells."""
INWARD = (0.0, 0.5)
"""Cosine of the angle from the way to the person at which flow lags: rims that a turn hides lag
outward."""
ASIDE = (0.2, 0.4)
"""Sine of the angle by which a photo looks aside from where its head turns, whose face would be
mirrored, not the side of its head."""
LED = 0.3
"""Cells from which on what is led there is shown without paint."""


def rise(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """0 up to the first of ``bounds``, 1 from the second on."""
    low, high = bounds
    return torch.clamp((x - low) * (1 / (high - low)), 0, 1)


class Led(NamedTuple):
    """Where flow to the outline is led, (B, C, 64, 64)."""

    step: Tensor
    """What to add to the flow, below the ears, frame fractions."""
    mirrored: Tensor
    """What to add to it then, as far as it shows the person."""
    shown: Tensor
    """Where what this shows needs no paint, 0..1."""
    least: Tensor
    """Least area of the photo that a cell about here shows, see ``Rim.least``."""


class Rim(nn.Module):
    """Steps that lead stretched flow inside the outline. Nothing of it is learned."""

    window: Tensor
    middle: Tensor
    known: Tensor
    slope: Tensor
    mean: Tensor
    smooth_slope: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        away = (torch.arange(REACH) - REACH // 2).float().expand(REACH, REACH)
        window = torch.stack([away, away.t(), torch.ones(REACH, REACH)])[:, None] / REACH**2
        middle, known = self.sums(window, torch.ones(1, 1, CELLS, CELLS))
        slope = torch.zeros(CELLS, CELLS)
        for k in range(CELLS):
            before, after = max(k - 1, 0), min(k + 1, CELLS - 1)
            slope[k, after], slope[k, before] = (s * CELLS / (after - before) for s in (1, -1))
        apart = (torch.arange(CELLS)[:, None] - torch.arange(CELLS)).abs()
        near = apart < 2
        mean = near / near.sum(1, keepdim=True)
        constants = {"window": window, "middle": middle / known, "known": known}
        constants |= {"slope": slope, "mean": mean, "smooth_slope": slope @ mean}
        constants["spread"] = torch.exp(-apart / NEAR)
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def sums(self, window: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """Mean way to the person (B, 2, 64, 64), cells, and the person's share (B, 1, 64, 64)."""
        way, share = F.conv2d(person, window, padding=REACH // 2).split([2, 1], 1)
        return way, share

    def area(self, flow: Tensor) -> Tensor:
        """Area of the photo (B, 1, 64, 64) that a cell of the backward flow (B, 2, 64, 64), frame
        fractions, shows, in cells, smoothed."""
        across = self.mean @ flow @ self.smooth_slope.T
        down = self.smooth_slope @ flow @ self.mean.T
        one, two = across.split(1, 1)
        three, four = down.split(1, 1)
        return (1 + one) * (1 + four) - two * three

    def least(self, area: Tensor) -> Tensor:
        """The least of 7x7: below 0 flow folds. What stood in the photo and is seen once more lies
        up to three cells beside the fold."""
        least = -F.max_pool2d(-area, (1, 7), 1, (0, 3))
        return -F.max_pool2d(-least, (7, 1), 1, (3, 0))

    def forward(
        self,
        flow: Tensor,
        depth: Tensor,
        lean: Tensor,
        person: Tensor,
        place: Tensor,
        aside: Tensor,
    ) -> Led:
        """The backward flow (B, 2, 64, 64) and the driven head's depth (B, 1, 64, 64), both in
        frame fractions, how far a unit of depth moves as the head turns back (B, 2, 1, 1), the
        person's logits in the photo (B, 1, 64, 64) and the place on the driven head (B, 3, 64, 64),
        IPD from the pupils; how far the photo's head looks ``aside`` (B, 1, 1), see ``Posed``.
        """
        # The logits reach a cell further than the person does, see ``matte.widened``.
        inner = narrowed(person)
        solid, deep = torch.sigmoid(2 * inner), torch.sigmoid(2 * narrowed(inner))
        way, share = self.sums(self.window, solid)
        way = way / (share + 1e-3) - self.middle
        way = way * torch.clamp(STEEP - STEEP / self.known * share, 0, 1)
        maps = sample(torch.cat([way, torch.sigmoid(2 * person), deep], 1), flow)
        way, inside, deep = maps.split([2, 1, 1], 1)
        # How much closer together a slope of the turning head brings what lies along the step.
        across, down = way.split(1, 1)
        rises = depth @ self.slope.T * across + self.slope @ depth * down
        along = (lean[:, :1] * across + lean[:, 1:] * down) * rises
        long = across * across + down * down
        spread = -along / (long + 5e-3)
        _, below, front = place.split(1, 1)
        behind = rise(-front, BEHIND)
        led = rise(spread, SPREAD) * rise(below, BELOW) * behind * inside
        area = self.area(flow)
        least = self.least(area)
        # The flow that is not stretched, continued to where it is.
        known = rise(deep, INSIDE) * rise(area, STRETCHED)
        sums = self.spread @ torch.cat([flow * known, known], 1) @ self.spread
        near, weight = sums.split([2, 1], 1)
        lag = (flow * weight - near) / (weight + 2e-3) * CELLS
        cells = torch.sqrt((lag * lag).sum(1, keepdim=True) + 1e-4)
        inward = (lag * way).sum(1, keepdim=True) / (cells * torch.sqrt(long + 0.01))
        sure = behind * (1 - rise(aside, ASIDE))[..., None] * torch.clamp(20 * weight, 0, 1)
        size = MIRRORED * torch.relu(cells - SLACK) * rise(inward, INWARD) * (1 - deep) * sure
        size = torch.clamp(size, 0.0, FARTHEST)
        shown = torch.maximum(
            torch.clamp(size * (1 / LED), 0, 1), torch.clamp(2 * led, 0, 1) * sure
        )
        mirrored = lag * (size / cells)
        return Led(way * led * (1 / CELLS), mirrored * (1 / CELLS), shown, least)
