"""Lips that go where their rims do: the flow about a mouth, and where it opens.

A flow interpolated between keypoints is a mean of what either lip does where they part: it draws
both out over the opening, and paint that hides that hides the lips too. Here what lies above the
upper rim follows the upper rim, what lies below the lower one follows the lower, so that lips stay
the photo's, to the pixel; and what comes to light between them is painted as far as the rims say.
Nothing of that is learned. Heights and distances are in half windows of the mouth's painter.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH, MARGIN = 0.6, 0.2
"""How far beside a rim its motion is felt, in what it moves, and further: a lip is .2 thick."""
ASIDE = 6.0
"""How fast it ends beside the corners of a mouth."""
WIDER, SLACK = 16.0, 0.2
"""How fast what a mouth opens further than in the photo is painted, and what of it is not: a mouth
that all but rests keeps the photo's inside."""


def follow_lips(
    now: Tensor,
    was: Tensor,
    led: Tensor,
    rows: Tensor,
    half: Tensor,
    aside: Tensor,
    spin: Tensor,
    flow: Tensor,
) -> Tensor:
    """What to add to a backward ``flow`` (B, 2, H, W), frame fractions, for each lip to move as its
    rim does.

    Upper and lower rim ``now`` and as they ``was`` in the photo, both on the driven head
    (B, 2, 1, W), and by how much they are ``led`` to where the photo has them, across and down
    (B, 2, 2, W), frame fractions; the heights ``rows`` (B or 1, 1, H, 1) of rows of cells; the
    ``half`` window (B, 1, 1, 1), frame fractions; how far columns lie ``aside`` of a mouth's
    corners (B, 1, 1, W); and by how much more the head's own turn leads what lies lower,
    ``spin`` (B, 2, 1, 1) of the distance.
    """
    upper, lower = now.split(1, 1)
    above, below = upper - rows, rows - lower
    reach = REACH * torch.abs(now - was) + MARGIN
    near, far = torch.clamp(1 - torch.relu(torch.cat([above, below], 1)) / reach, 0, 1).split(1, 1)
    # The rim that is nearer, and no mean of both, which would draw a lip out over the other: they
    # meet within a cell.
    cell = rows[:, :, 1:2] - rows[:, :, :1]
    upmost = torch.clamp((above - below) * (0.5 / cell) + 0.5, 0, 1)
    one, other = (part.transpose(1, 2) for part in led.split(1, 1))  # (B, 2, 1, W)
    one, other = one - above * half * spin, other + below * half * spin
    step = other + upmost * (one - other)
    share = (far + upmost * (near - far)) * torch.clamp(1 - ASIDE * torch.relu(aside), 0, 1)
    return share * (step - flow)


def widened(now: Tensor, was: Tensor) -> Tensor:
    """Whether a mouth is open further than in the photo, of rims as for ``follow_lips``, column by
    column, (B, 1, 1, W); 0 for the photo's own."""
    (upper, lower), (high, low) = now.split(1, 1), was.split(1, 1)
    return torch.clamp(WIDER * (lower - upper - torch.relu(low - high)) - SLACK, 0, 1)
