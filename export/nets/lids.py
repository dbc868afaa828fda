"""Lids that fall as their rims do: the flow about one eye, and the lid that comes to light.

When lids meet, the flow between them is a mean of what either does, and shows the eye that it
should hide. Here what lies above the upper rim follows the upper rim, what lies below the lower one
follows the lower, and between them is the eye, which falling lids do not move. Nothing of that is
learned. But a lid that falls is unfolded, it is not drawn out: below the crease comes skin that the
photo does not show, smooth and without lashes but at its edge. ``Lids`` paints it as a shape, of
which the colour is learned. Heights and distances are in half windows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivant.export.nets.layers import coarse, conv, quiet
from vivant.export.nets.warp import hats

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
RISE = 0.15
"""Share of the way to a shut eye that is its lower lid's."""
HEM = 0.12
"""Share of that way by which lower lids are drawn up further: a photo's lower rim is often found
within the eye, whose white would stay as a line."""
SOFT = 0.8
"""How much more slowly than the flow the eye's own look sets in from a rim."""
WHOLE = 4.0
"""An iris moves as a whole where an eye is open by one over this."""
WIDER = 0.1
"""By how much an eye is wider open than in the photo, where what the photo shows of it no longer
fills the opening, and is drawn out with the lids."""
CREASE = (0.36, 4.0)
"""How far above the photo's upper rim a falling lid begins to be new, and over which share of a
half window it does: in that are the crease and the lashes of the open eye."""
FALLEN = (0.04, 7.0)
"""How far a lid has to fall before it is new, and how fast it is then."""
LASHES = 0.045
"""Half the height of a line of lashes."""
INK = 0.4
"""Colour of a line of lashes, of the lid's."""
ABOVE, BELOW = (0.15, 0.35), (0.12, 0.4)
"""How far above and below an eye lies skin in the same light as its lid, from and to. Of renders, a
lid's brightness is told by it to 16 %, and by the cheek to 20 %."""
SHARP = 8.0
"""How fast it begins and ends."""
TINTS = 5
"""Side of the maps of the colour of lids: so coarse that they cannot draw lashes or an eye."""


def arc(u: Tensor, v: Tensor, ramp: Tensor) -> Tensor:
    """The height (B, 2, 1, n) at columns ``ramp`` (B or 1, n) of rims through four points each,
    from left to right at ``u`` (B, 2, 4, 1) and as high as ``v``: cubic, and level beside them."""
    left, width = u[:, :, :1], torch.clamp(u[:, :, 3:] - u[:, :, :1], NARROW, 2.0)
    start, drop = v[:, :, :1], v[:, :, 3:] - v[:, :, :1]
    bulge, places = [], []
    for k, (low, high) in enumerate(INNER, 1):
        place = torch.clamp((u[:, :, k : k + 1] - left) / width, low, high)
        bulge.append((v[:, :, k : k + 1] - start - drop * place) / (place * (1 - place)))
        places.append(place)
    slope = (bulge[1] - bulge[0]) / (places[1] - places[0])
    along = torch.clamp((ramp[:, None, None] - left) / width, 0, 1)
    return start + along * (drop + (1 - along) * (bulge[0] + slope * (along - places[0])))


def fallen(now: Tensor, was: Tensor, told: Tensor) -> Tensor:
    """Upper and lower rim ``now`` (B, 2, 1, n), as they ``was`` in the photo: narrow eyes are shut
    before a generic lid has ended its way, and it stops at the other; and of large ones at least
    the share ``told`` (B, 1, 1, 1) is shut, so that in the end they are."""
    moved, (high, low) = now - was, was.split(1, 1)
    fall, lift = moved.split(1, 1)
    gap = torch.relu(low - high)
    way = fall - lift
    short = torch.relu(told * gap - torch.relu(way)) + told * torch.relu(-way)
    moved = moved + torch.cat([(1 - RISE) * short, -RISE * short], 1)
    fall, lift = moved.split(1, 1)
    way = torch.clamp(fall - lift, LEAST, 4.0)
    return was + moved * torch.clamp(gap / way, 0, 1)


def follow_rims(
    now: Tensor, was: Tensor, rows: Tensor, half: Tensor, flows: tuple[Tensor, Tensor], gaze: Tensor
) -> tuple[Tensor, Tensor]:
    """Backward flow (B, 2, n, n), frame fractions, of a window about an eye, and where that shows
    the eye itself as the photo does, (B, 1, n, n).

    Upper and lower rim ``now``, see ``fallen``, and as they ``was`` in the photo, both on the
    driven head (B, 2, 1, n); the heights ``rows`` (1, 1, n, 1) of the window's rows, its ``half``
    height (B, 1, 1, 1), frame fractions; two ``flows``: that of skin and of the head alone; and
    ``gaze`` (B, 2, 1, 1), whence a pupil comes, frame fractions.
    """
    skin, head = flows
    sharp = rows.shape[2] / 2
    moved, (high, low), (upper, lower) = now - was, was.split(1, 1), now.split(1, 1)
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


def lid_cover(now: Tensor, was: Tensor, rows: Tensor, between: Tensor) -> Tensor:
    """How much of a cell is a lid that has come to light, and how much the lashes at its edge,
    (B, 2, n, n), of the lines and ``rows`` of ``follow_rims``; ``between`` (B, 1, 1, n) an eye's
    corners."""
    sharp = rows.shape[2] / 2
    upper, _ = now.split(1, 1)
    high, _ = was.split(1, 1)
    fall = torch.relu(upper - high)
    told = torch.clamp((fall - FALLEN[0]) * FALLEN[1], 0, 1)
    below = torch.clamp((rows - high + CREASE[0]) * CREASE[1], 0, 1)
    sheet = told * below * torch.clamp((upper - rows) * sharp + 0.5, 0, 1)
    # Lashes show as far as the lid has fallen where it falls furthest.
    most = told.amax(3, keepdim=True) * between
    lashes = most * torch.clamp(1.5 - torch.abs(rows - upper) * (1 / LASHES), 0, 1)
    return torch.cat([sheet, lashes], 1)


def beside(was: Tensor, rows: Tensor, between: Tensor) -> Tensor:
    """How much of a cell is skin just above or below an eye, of the lines and ``rows`` of
    ``follow_rims``, (B, 1, n, n); ``between`` (B, 1, 1, n) its corners."""
    high, low = was.split(1, 1)
    share = []
    for away, (start, end) in ((high - rows, ABOVE), (rows - low, BELOW)):
        far, near = (torch.clamp(x * SHARP, 0, 1) for x in (away - start, end - away))
        share.append(far * near)
    return (share[0] + share[1]) * between


def skin_of(picture: Tensor, share: Tensor) -> Tensor:
    """Mean colour (B, 3, 1, 1) of skin in a ``picture`` (B, 3, n, n) where ``share`` (B, 1, n, n)
    is 1: bright cells count more, for dark ones may be brows, lashes or a pair of glasses."""
    share = share * picture.mean(1, keepdim=True)
    total = share.mean((2, 3), keepdim=True) + 1e-4
    return (picture * share).mean((2, 3), keepdim=True) / total


class Lids(nn.Module):
    """Of what colour a lid that has come to light is, as a share of that of the skin beside it. Its
    lashes are always as dark: no photo tells a rim to the pixel, and lines that are judged beside
    their place are unlearned."""

    spread: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.tint = conv(channels, 3, 1)
        quiet(self.tint, 0.1)
        self.register_buffer("spread", hats(TINTS, size), persistent=False)

    def forward(self, cover: Tensor, features: Tensor, skin: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Layers of paint, how much (B, 1, n, n) of what colour (B, 3, n, n), of ``lid_cover``'s
        ``cover``; ``features`` (B, C, n / 4, n / 4), and ``skin`` (B, 3, 1, 1) beside the eye."""
        colour = coarse(self.tint, features, self.spread)
        sheet, lashes = cover.split(1, 1)
        lid = torch.clamp(2 * colour * skin, 0, 1)
        return [(sheet, lid), (lashes, INK * lid)]
