"""The matte of a portrait, carried out to what a coarse mask leaves out; its outline to the pixel;
and the colours on both sides of it.

A learned mask of 64 x 64 cells loses loose hair, the rim of an ear or of a collar, and what it
loses stays behind as a ghost, or tears, when the head turns. Beside the mask, what stands out from
the background there is the person's: the background's colour and how much it varies are continued
behind the person, and what differs by more than that is taken in, cell by cell.

So wide a matte says where the person may be seen to move, and not where they end: paint as far as
that is a haze about them. Where they end is told by the mask as it was learned and by whether a
pixel is of the colour of the person or of what is behind them.

Nothing here is learned. Masks are logits (B, 1, 64, 64), of which ``render`` takes sigmoid(2 x);
portraits (B, 3, 256, 256), RGB 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.export.nets.layers import upsample

GRAIN = 0.03
"""Deviation of a background that seems even, in each colour: dither and traces of compression."""
STANDS_OUT = 3.0
"""Square of the distance from the background, in its variances, from which a cell is the person's.
The largest of sixteen pixels' of a background that only varies is 1.7."""
SURE = 2.0
"""Largest logit of what is taken in."""
STEPS = 4
"""Cells by which the matte may grow, 32 of 512 pixels."""
COARSE = 4
"""Side of the patches, in cells, over which a background varies: of smaller ones a strand of hair
would be its own background."""
EVEN = 0.005
"""Square of the distance of two colours that cannot be told apart."""
APART = 20.0
"""Colours are wholly believed when they lie more than one over this apart, squared."""
BELIEVED = 0.6
"""By how much they are believed then, and the mask for the rest."""
SEALED = 9
"""Gaps narrower than this, in pixels of 256, count as the person's: between strands of hair."""
MIDDLE = 0.4
"""Share of the person's colour in a pixel that is as much theirs as not. Of 48 people the outline
errs by .046 of a band of eight cells of 128 so, by .051 without colours, and the wide matte by .18
(MIDDLE .6: .049; BELIEVED .8: .050)."""


def continued(known: Tensor, share: Tensor) -> Tensor:
    """What is ``known`` (B, C, n, n), times its ``share`` of each cell (B, 1, n, n), continued over
    the cells of which nothing is.

    Push and pull: averages of what is known, each hole filled from the next coarser level (Gortler
    et al. 1996).
    """
    levels = [(known, share)]
    while share.shape[-1] > 1:
        known, share = F.avg_pool2d(known, 2), F.avg_pool2d(share, 2)
        levels.append((known, share))
    known, share = levels.pop()
    filled = known / (share + 1e-3)
    for known, share in reversed(levels):
        filled = (known + 0.02 * upsample(filled)) / (share + 0.02)
    return filled


def surely_beyond(person: Tensor) -> Tensor:
    """Share of each cell that is surely background, 0..1."""
    return torch.clamp(1 - 1.5 * torch.sigmoid(2 * person), 0, 1)


def background(portrait: Tensor, person: Tensor) -> Tensor:
    """Colour of the background, (B, 3, 64, 64), continued behind the person."""
    away = surely_beyond(person)
    return continued(F.avg_pool2d(portrait - 0.5, 4) * away, away) + 0.5


def foreground(portrait: Tensor, person: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Colour of the person, (B, 3, 64, 64), and what else is ``told`` of them (B, C, 64, 64),
    continued beyond them."""
    solid = torch.clamp(2 * torch.sigmoid(2 * narrowed(person)) - 1, 0, 1)
    known = torch.cat([F.avg_pool2d(portrait - 0.5, 4), told], 1)
    front, told = continued(known * solid, solid).split([3, told.shape[1]], 1)
    return front + 0.5, told


def widened(person: Tensor) -> Tensor:
    """A mask carried over to the four neighbours of each cell, as far as a mask of cells errs."""
    tall = F.max_pool2d(person, (3, 1), 1, (1, 0))
    return torch.maximum(tall, F.max_pool2d(person, (1, 3), 1, (0, 1)))


def narrowed(person: Tensor) -> Tensor:
    """A mask drawn back by a cell on every side."""
    return -F.max_pool2d(-person, 3, 1, 1)


def evidence(portrait: Tensor, person: Tensor) -> Tensor:
    """How surely each cell is no background as what lies beyond ``person``, a logit of at most
    ``SURE``."""
    away = surely_beyond(F.max_pool2d(person, 3, 1, 1))
    image = portrait - 0.5
    moments = torch.cat([F.avg_pool2d(image, 4), F.avg_pool2d(image * image, 4)], 1)
    coarse = F.avg_pool2d(moments * away, COARSE), F.avg_pool2d(away, COARSE)
    mean, square = upsample(upsample(continued(*coarse))).split(3, 1)
    varies = torch.relu(square - mean * mean).sum(1, keepdim=True) + 3 * GRAIN**2
    apart = image - upsample(upsample(mean))
    apart = F.avg_pool2d((apart * apart).sum(1, keepdim=True), 3, 1, 1)
    return torch.clamp(F.max_pool2d(apart, 4, 4) / varies - STANDS_OUT, -2 * SURE, SURE)


def grown(portrait: Tensor, person: Tensor) -> Tensor:
    """A learned mask widened, and carried on to what hangs together with it and stands out."""
    person = widened(person)
    sure = evidence(portrait, person.detach())
    for _ in range(STEPS):
        person = torch.maximum(person, torch.minimum(F.max_pool2d(person, 3, 1, 1), sure))
    return person


def about(share: Tensor) -> Tensor:
    """The most of shares (B, 1, 2 n, 2 n) in two cells about each of n x n: (B, 1, n, n)."""
    return F.max_pool2d(F.max_pool2d(share, 2, 2), 3, 1, 1)


def sealed(share: Tensor, width: int) -> Tensor:
    """Shares (B, 1, H, W) without gaps that are narrower than ``width``, an odd number of cells.
    Nearer than that to the edge of the frame, where no gap can be told, they are as they were."""
    closed = F.max_pool2d(F.max_pool2d(share, (1, width), 1), (width, 1), 1)
    closed = -F.max_pool2d(F.max_pool2d(-closed, (1, width), 1), (width, 1), 1)
    return torch.maximum(share, F.pad(closed, [width - 1] * 4))


def outlined(portrait: Tensor, person: Tensor, front: Tensor, behind: Tensor) -> Tensor:
    """How much of each pixel is the person's, (B, 1, 256, 256), of a mask that ``grown`` gave;
    ``front`` and ``behind`` as ``foreground`` and ``background`` give them."""
    learned = -widened(-person)
    wide, deep = torch.sigmoid(2 * person), torch.sigmoid(2 * narrowed(narrowed(person)))
    cells = [2 * torch.sigmoid(2 * learned) - 1, 2 * wide, 2 * deep - 1, front - behind, behind]
    pixels = upsample(upsample(torch.cat(cells, 1)))
    side, most, least, apart, behind = pixels.split([1, 1, 1, 3, 3], 1)
    size = (apart * apart).sum(1, keepdim=True)
    share = ((portrait - behind) * apart).sum(1, keepdim=True) / (size + EVEN)
    told = torch.clamp(2 * (share - MIDDLE), -1, 1)
    side = side + BELIEVED * torch.clamp(APART * size, 0, 1) * (told - side)
    # No further out than the matte, and no hole in what lies well inside it.
    share = torch.minimum(torch.clamp(0.5 + 2 * side, 0, 1), torch.clamp(most, 0, 1))
    return sealed(torch.maximum(share, torch.clamp(least, 0, 1)), SEALED)
