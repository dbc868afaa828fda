"""Two rows of teeth where the posed keypoints say that they are; learned is their colour alone.

Upper teeth that a photo shows are the photo's, and turn with the head (``photographed``). A photo
whose mouth is shut tells nothing of its teeth, and paint that is taught by what is likely becomes a
pale bar. Here are rows with edges and seams, on an arch that turns with the head; the painter of
the mouth says of what colour they are. Coordinates are those of the head, x right, y down, z
forward, in interpupillary distances (IPD) from the middle of the edge of a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vivant import latent
from vivant.export.nets.layers import coarse, conv, quiet
from vivant.export.nets.pose import Posed
from vivant.export.nets.warp import hats


class Row(NamedTuple):
    """A row of teeth, as measured on the mean head of ICT-FaceKit."""

    gum: float
    """1 where the gum lies below the edge, -1 above."""
    bend: float
    """A tooth at x lies ``bend`` x^2 behind the front."""
    teeth: float
    """How many lie between the middle and a small x, for each IPD."""
    crown: float
    """Height of a crown in its middle."""


ROWS = (Row(-1, 2.1, 7.4, 0.12), Row(1, 2.5, 9.2, 0.1))
"""Upper and lower."""
SMALLER = 9.0
"""Teeth grow narrower, and turn away: between the middle and x lie ``teeth`` x + SMALLER x^2."""
RISE = 0.2
"""How far an edge rises at x, for each x^2."""
LAG = 0.425
"""By how much less teeth drop with an open jaw, for each IPD that they lie behind the front."""
SEAM = 6.0
"""How narrow seams are: exp(SEAM (cos - 1)) of the phase of a tooth, a quarter of it wide."""
NOTCH, PAPILLA = 0.012, 0.035
"""By how much an edge draws back at a seam, and the gum comes forward, IPD."""
SIDES = (0.2, 0.42)
"""How far aside teeth begin to lie in the shade of the cheek, and end in it, IPD."""
DARK = (0.35, 0.3, 0.8)
"""What seams, edges and sides lose of their light."""
LICKED = 2.0
"""A tongue that comes out by one over this hides the lower row."""
WITHIN, SHRUNK = 20.0, 0.15
"""A photo's own teeth set in over a cell and a half about its lips, so much for each half window,
and a cell inside them: where lips lie is known to a cell."""
PARTED = (0.07, 12.0)
"""Between how wide open lips, in half windows, a photo's own teeth show, and how fast they do."""
TINTS = 4
"""Side of the maps of the colour of teeth: so coarse that they cannot blur the rows."""


class Rows(NamedTuple):
    """Upper and lower teeth over the cells of a window."""

    cover: Tensor
    """(B, 2, H, W) how much of a cell is teeth."""
    light: Tensor
    """(B, 2, H, W) their light, 0..1."""
    over: Tensor
    """(B, 1, H, W) how far a cell lies from the upper edge, toward the gum, IPD, up to one."""


def photographed(over: Tensor, pixel: float, was: Tensor, heights: Tensor) -> Tensor:
    """Where a photo shows upper teeth and the gum above them, (B, 1, H, W).

    ``over`` as in ``Rows``, in cells of which ``pixel`` make one IPD; ``was`` (B, 2, 1, W) are the
    photo's lips on the driven head, and ``heights`` (1 or B, 1, H, 1 or W) those of what is asked
    for, in half windows.
    """
    high, low = was.split(1, 1)
    below, above = (torch.clamp(x * WITHIN - SHRUNK, 0, 1) for x in (heights - high, low - heights))
    parted = (low - high).amax(3, keepdim=True)
    plenty = torch.clamp((parted - PARTED[0]) * PARTED[1], 0, 1)
    return torch.clamp(over * pixel + 0.5, 0, 1) * (below * above * plenty)


class Teeth(nn.Module):
    """Where two rows of teeth lie and how light they are, which is geometry, and their colour,
    which is learned."""

    gum: Tensor
    bend: Tensor
    count: Tensor
    crown: Tensor
    low: Tensor
    spread: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        rows = torch.tensor(ROWS).t()[:, None, :, None, None]
        for name, value in zip(("gum", "bend", "count", "crown"), rows, strict=True):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("low", torch.relu(rows[0]), persistent=False)
        self.jaw, self.tongue = latent.INDEX["jawOpen"], latent.INDEX["tongueOut"]
        self.tint = conv(channels, 2 * 3, 1)
        quiet(self.tint, 0.1)
        self.register_buffer("spread", hats(TINTS, size), persistent=False)

    def forward(self, rows: Rows, features: Tensor, paint: Tensor) -> Tensor:
        """``paint`` (B, 3, n, n) of a mouth's inside with the rows painted over it, coloured as
        ``features`` (B, C, n / 4, n / 4) say."""
        told = coarse(self.tint, features, self.spread)
        covers, lights = rows.cover.split(1, 1), rows.light.split(1, 1)
        # Upper teeth lie before lower ones.
        for k in (1, 0):
            colour = told[:, 3 * k : 3 * k + 3]
            paint = paint + covers[k] * (colour * lights[k] - paint)
        return paint

    def rows(self, posed: Posed, motion: Tensor, xs: Tensor, ys: Tensor, inside: Tensor) -> Rows:
        """Driven by ``motion`` (B, 63), over the grid ``xs`` (B, W) x ``ys`` (B, H), frame
        fractions, where a cell is ``inside`` (B, 1, H, W) the mouth's opening."""
        across, down, depth = posed.teeth.split(1, 2)  # (B, 2, 1)
        size = posed.size  # (B, 1, 1)
        near = 1 - depth * posed.perspective
        u = ((xs[:, None] - across) / size * near)[:, :, None, :]  # (B, 2, 1, W)
        v = ((ys[:, None] - down) / size * near)[:, :, :, None]  # (B, 2, H, 1)
        # A pixel's line of sight is (u, v, 0) + z ray, all in camera coordinates from the edge.
        middle_x, middle_y = posed.axis.split(1, 2)
        ray = torch.cat([middle_x - across, middle_y - down], 2) / size * posed.perspective
        ray = torch.cat([ray, torch.ones_like(near)], 2)  # (B, 2, 3)
        rx, ry, rz = (part[..., None] for part in torch.matmul(ray, posed.head).split(1, 2))
        ax, ay, az = (part[:, :, None] for part in posed.head[:, 0:1].split(1, 2))  # (B, 1, 1, 1)
        bx, by, bz = (part[:, :, None] for part in posed.head[:, 1:2].split(1, 2))
        rz = torch.clamp(rz, 0.2, 2.0)
        aside, below = rx / rz, ry / rz
        # Where it meets z = -bend x^2: a quadratic, whose nearer root is stable so.
        start = (ax - aside * az) * u + (bx - aside * bz) * v
        root = 1 + 4 * self.bend * aside * start
        x = 2 * start / (1 + torch.sqrt(torch.clamp(root, 0.01, 9.0)))
        behind = self.bend * x * x
        y = (ay - below * az) * u + (by - below * bz) * v - below * behind
        y = y + LAG * self.low * motion[:, self.jaw, None, None, None] * behind
        away = torch.abs(x)
        phase = torch.cos(2 * math.pi * (away * (self.count + SMALLER * away)))
        seam = torch.exp(SEAM * (phase - 1))
        # From the edge toward the gum.
        over = self.gum * (y + RISE * x * x) - NOTCH * seam
        high = self.crown - PAPILLA * (0.5 + 0.5 * phase)
        pixel = 1 / torch.abs((ys[:, 1:2] - ys[:, :1])[:, None, :, None] / size[..., None])
        cover = torch.clamp(over * pixel + 0.5, 0, 1) * torch.clamp((high - over) * pixel, 0, 1)
        cover = cover * torch.clamp((SIDES[1] - away) * pixel, 0, 1) * torch.clamp(root * 16, 0, 1)
        # A tongue that comes out lies before the lower row.
        out = motion[:, self.tongue, None, None, None]
        cover = cover * (1 - self.low * torch.clamp(LICKED * out, 0, 1)) * inside
        light = (1 - DARK[0] * seam) * (1 - DARK[1] * torch.exp(-60 * torch.abs(over)))
        shade = torch.clamp((away - SIDES[0]) * (1 / (SIDES[1] - SIDES[0])), 0, 1)
        return Rows(cover, light * (1 - DARK[2] * shade), torch.clamp(over[:, :1], -1, 1))
