"""What a turning head uncovers is led inside the photo's outline, and mirrored at it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vivant.export.nets.rim import CELLS, FARTHEST, Led, Rim
from vivant.export.nets.warp import centres


def outline(turns: int = 0) -> Tensor:
    """Logits of a person who fills the left of the frame, turned by quarters of a circle."""
    line = torch.arange(CELLS) - CELLS / 2 + 0.5
    person = torch.clamp(-2 * line, -8, 8).expand(1, 1, CELLS, CELLS)
    return torch.rot90(person, turns, (2, 3))


def gathered(spread: float, turns: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A flow that brings points of the photo together by ``spread``, a depth that explains it of a
    head that turns, and how far that head moves each unit of depth."""
    line = (centres(CELLS, torch.zeros(1)) - 0.5).expand(CELLS, CELLS)
    flow = -spread * torch.stack([line, line.t()])[None]
    depth = -spread * (line.t() if turns % 2 else line)[None, None]
    lean = torch.tensor([float(turns % 2 == 0), float(turns % 2)])
    return flow, depth, lean[None, :, None, None]


AHEAD = torch.zeros(1, 1, 1)
"""A photo that does not look aside."""


def place(below: float, behind: float) -> Tensor:
    """A place this far below and behind the pupils, everywhere."""
    return torch.tensor([0.5, below, -behind])[None, :, None, None].expand(1, 3, CELLS, CELLS)


def led(spread: float, below: float, behind: float = 0.6, turns: int = 0) -> Tensor:
    """The step where flow brings points together by ``spread``, this far below and behind the
    pupils."""
    found: Led = Rim()(*gathered(spread, turns), outline(turns), place(below, behind), AHEAD)
    return found.step


def uncovered(density: float, behind: float = 0.6, aside: float = 0.0, turns: int = 0) -> Led:
    """Of a person whose photo ends in the middle and of whom three cells more are to be seen: from
    two cells inside on, each cell of the flow goes on by ``density`` of one."""
    line = torch.arange(CELLS).float() - CELLS / 2 + 0.5
    lag = torch.clamp(line + 2, 0, 6) * (density - 1) / CELLS
    flow = torch.stack([lag.expand(CELLS, CELLS), torch.zeros(CELLS, CELLS)])[None]
    for _ in range(turns):
        flow = torch.stack([flow[:, 1], -flow[:, 0]], 1).rot90(1, (2, 3))
    still = torch.zeros(1, 1, CELLS, CELLS), torch.zeros(1, 2, 1, 1)
    where = place(0.0, behind), AHEAD + aside
    found: Led = Rim()(flow, *still, outline(turns), *where)
    return found


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_stretched_outlines_are_led_to_the_person(turns: int) -> None:
    """Toward the person and no other way, from the outline by half a cell or more; what lies
    deep inside or far outside stays."""
    step = torch.rot90(led(0.9, 2.0, turns=turns), -turns, (2, 3))
    across, along = step[0, turns % 2], step[0, 1 - turns % 2]
    across = across if turns in (0, 3) else -across
    assert along[8:-8].abs().max() < 1e-3 / CELLS
    assert across.max() < 1e-3 / CELLS
    assert -across[32, 32] > 0.5 / CELLS
    # Flow gathers the whole row about the middle: the cells beyond lead from .1 of their distance.
    assert led(0.11, 2.0)[..., :26].abs().max() < 1e-4, "deep inside"
    assert led(0.11, 2.0)[..., 45:].abs().max() < 1e-4, "far outside"


@pytest.mark.parametrize(
    ("spread", "below", "behind"),
    [(0.0, 2.0, 0.6), (0.1, 2.0, 0.6), (-0.5, 2.0, 0.6), (0.9, 0.5, 0.6), (0.9, 2.0, 0.15)],
)
def test_what_only_moves_or_is_no_jaw_stays(spread: float, below: float, behind: float) -> None:
    """Where flow moves or turns away without stretching, above the ear lobes and in front of the
    jaw's side, where a mouth turned away meets the outline: no step."""
    assert led(spread, below, behind).abs().max() < 1e-6


def test_a_frame_that_cuts_a_person_off_is_no_outline() -> None:
    """Nobody is drawn in from the edges of a frame that they fill."""
    flow, *turned = gathered(0.9)
    full, jaw = torch.full((1, 1, CELLS, CELLS), 8.0), torch.tensor([0.5, 2.0, -0.6])
    for shift in (-0.45, 0.45):
        found = Rim()(flow + shift, *turned, full, jaw[None, :, None, None], AHEAD)
        assert found.step.abs().max() < 1e-4
        assert found.mirrored.abs().max() < 1e-4


def test_a_head_that_tilts_in_the_picture_leads_nothing() -> None:
    """Only a turn out of the picture's plane uncovers a side; a shear of neck and ear does not."""
    flow, depth, lean = gathered(0.9)
    jaw = torch.tensor([0.5, 2.0, -0.6])[None, :, None, None]
    assert Rim()(flow, depth, 0 * lean, outline(), jaw, AHEAD).step.abs().max() == 0
    assert Rim()(flow, depth, lean, outline(), jaw, AHEAD).step.abs().max() > 0.5 / CELLS


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_what_is_uncovered_mirrors_the_photo(turns: int) -> None:
    """The further out, the further inside the outline of the photo; nothing aside, nothing where
    the photo shows the person, and no more than its bound."""
    found = uncovered(0.2, turns=turns)
    step = found.mirrored
    for _ in range(turns):
        step = torch.stack([-step[:, 1], step[:, 0]], 1).rot90(-1, (2, 3))
    across, along = step[0, :, 8:-8] * CELLS
    assert along.abs().max() < 1e-3
    assert across[:, :30].abs().max() < 1e-3, "as the photo shows it"
    assert across.max() < 1e-3, "toward the person"
    assert across.min() >= -FARTHEST - 1e-3
    # Without it three cells on would show .6 of one.
    source = 0.2 * torch.arange(4) + across[:, 31:35] + 30
    assert (source[:, 1:] < source[:, :-1] - 0.3).all(), "mirrored"
    shown = found.shown.rot90(-turns, (2, 3))[0, 0, 8:-8]
    assert (shown[:, 33:36] > 0.9).all()
    assert shown[:, :29].max() < 1e-3


@pytest.mark.parametrize(
    ("density", "behind", "aside"),
    [(1.0, 0.6, 0.0), (2.0, 0.6, 0.0), (0.2, 0.1, 0.0), (0.2, 0.6, 0.5)],
)
def test_nothing_else_is_mirrored(density: float, behind: float, aside: float) -> None:
    """What is not stretched, rims that a turn hides, the face itself, and the side that a photo
    which looks aside hides: its face would show twice."""
    found = uncovered(density, behind, aside)
    assert found.mirrored.abs().max() * CELLS < 1e-3
    assert found.shown.max() < 1e-3


@pytest.mark.parametrize("turns", [0, 1])
def test_area_is_what_a_cell_shows_of_the_photo(turns: int) -> None:
    """1 where flow only moves, also at the frame's edges, the product of what it stretches by, and
    below nothing where it turns back on itself; the least of it three cells beside too."""
    line = (centres(CELLS, torch.zeros(1)) - 0.5).expand(CELLS, CELLS)
    area = Rim().area
    moved = torch.full((1, 2, CELLS, CELLS), 0.2)
    torch.testing.assert_close(area(moved), torch.ones(1, 1, CELLS, CELLS), atol=1e-5, rtol=0)
    stretched = area(torch.stack([0.5 * line, -0.2 * line.t()])[None])
    torch.testing.assert_close(stretched[..., 5:-5, 5:-5], torch.full((1, 1, 54, 54), 1.5 * 0.8))
    # A step of .2 down to nothing within four cells: the photo is seen, back to front, once more.
    step = torch.clamp(-16 * line + 0.5, 0, 1) * 0.2
    flow = torch.stack([step, 0 * step]) if turns == 0 else torch.stack([0 * step, step.t()])
    found = Rim().least(area(flow[None]))[0, 0]
    found = found if turns == 0 else found.t()
    assert found[8:-8, 27:37].max() < 0
    torch.testing.assert_close(found[:, 40:], torch.ones(CELLS, CELLS - 40), atol=1e-5, rtol=0)
