"""Lids that fall as their rims do: the flow about one eye. Nothing of it is learned.

When lids meet, the flow between them is a mean of what either does, and shows the eye that it
should hide. Here what lies above the upper rim follows the upper rim, what lies below the lower one
follows the lower, and between them is the eye, which falling lids do not move. So a lid is made of
the skin above it, and lashes stay at its edge. Heights and distances are in half windows.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH, MARGIN = 1.5, 0.15
"""How far beside a rim its motion is felt, in what it moves, and further: skin is drawn out up to
three times, and a brow stays."""
INNER = ((0.2, 0.42), (0.58, 0.8))
"""Where the inner two of a rim's four keypoints may lie between the outer ones: of an eye in
profile they fall on each other."""
NARROW = 0.4
"""Least width of an eye."""
LEAST = 0.01
"""What is divided by is no less."""
HEM = 0.12
"""Share of that way by which lower lids are drawn up further: a photo's lower rim is often found
within the eye, whose white would stay as a line."""
SOFT = 0.3
"""How much more slowly than the flow the eye's own look sets in from a rim."""
WHOLE = 4.0
"""An iris moves as a whole where an eye is open by one over this."""
WIDER = 0.1
"""By how much an eye is wider open than in the photo, where what the photo shows of it no longer
fills the opening, and is drawn out with the lids."""


def arc(u: Tensor, v: Tensor, ramp: Tensor) -> Tensor:
    """The height (B, 2, 1, n) at columns ``ramp`` (1, n) of rims through four points each, from
    left to right at ``u`` (B, 2, 4, 1) and as high as ``v``: cubic, and level beside them."""
    left, width = u[:, :, :1], torch.clamp(u[:, :, 3:] - u[:, :, :1], NARROW, 2.0)
    start, drop = v[:, :, :1], v[:, :, 3:] - v[:, :, :1]
    bulge, places = [], []
    for k, (low, high) in enumerate(INNER, 1):
        place = torch.clamp((u[:, :, k : k + 1] - left) / width, low, high)
        bulge.append((v[:, :, k : k + 1] - start - drop * place) / (place * (1 - place)))
        places.append(place)
    slope = (bulge[1] - bulge[0]) / (places[1] - places[0])
    along = torch.clamp((ramp[None, None] - left) / width, 0, 1)
    return start + along * (drop + (1 - along) * (bulge[0] + slope * (along - places[0])))


def follow_rims(
    now: Tensor, was: Tensor, rows: Tensor, half: Tensor, flows: tuple[Tensor, Tensor], gaze: Tensor
) -> tuple[Tensor, Tensor]:
    """Backward flow (B, 2, n, n), frame fractions, of a window about an eye, and where that shows
    the eye itself as the photo does, (B, 1, n, n).

    Upper and lower rim ``now`` and as they ``was`` in the photo, both on the driven head (B, 2, 1,
    n); the heights ``rows`` (1, 1, n, 1) of the window's rows and its ``half`` height (B, 1, 1, 1),
    frame fractions; two ``flows``: that of skin and of the head alone; and ``gaze`` (B, 2, 1, 1),
    whence a pupil comes, frame fractions.
    """
    skin, head = flows
    sharp = rows.shape[2] / 2
    moved, (high, low) = now - was, was.split(1, 1)
    fall, lift = moved.split(1, 1)
    # Narrow eyes are shut before a generic lid has ended its way: it stops at the other.
    way = torch.clamp(fall - lift, LEAST, 4.0)
    moved = moved * torch.clamp(torch.relu(low - high) / way, 0, 1)
    upper, lower = (was + moved).split(1, 1)
    beyond = torch.cat([upper - rows, rows - lower], 1)  # above the upper, below the lower rim
    felt = torch.clamp(1 - torch.relu(beyond) / (REACH * torch.abs(moved) + MARGIN), 0, 1)
    above, below = beyond.split(1, 1)
    # The rim that is nearer, and no mean of both, which would show the eye where they meet.
    upmost = torch.clamp((above - below) * sharp + 0.5, 0, 1)
    (fall, lift), (near, far) = moved.split(1, 1), felt.split(1, 1)
    wider = torch.clamp((lift - fall) * (1 / WIDER), 0, 1)
    lift = lift - HEM * torch.relu(fall - lift)
    across, down = (head - skin).split(1, 1)
    step = (lift + upmost * (fall - lift)) * half
    lids = skin + (far + upmost * (near - far)) * torch.cat([across, down - step], 1)
    # No slit that is less than a cell wide; and a weight may not hang on the last digits.
    one, other = torch.clamp(-beyond * sharp - 0.5, 0, 1).split(1, 1)
    inside = one * other
    one, other = torch.clamp(-beyond * (SOFT * sharp) - 0.2, 0, 1).split(1, 1)
    # Corners stay where an iris moves, and what comes from beyond a rim is that rim.
    aside, up = (gaze * torch.clamp((low - high) * WHOLE, 0, 1)).split(1, 1)
    up, top, bottom = up / half, high - rows, low - rows
    up = top + torch.relu(up - top) - torch.relu(up - bottom)
    eye = head + torch.cat([aside + torch.zeros_like(up), up * half], 1)
    eye = eye + wider * (skin - eye)
    return lids + inside * (eye - lids), one * other * (1 - wider)
