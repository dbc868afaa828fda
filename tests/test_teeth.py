"""Rows of teeth lie on an arch that turns with the head, and open with the jaw."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from generic_head import IPD, NEAR, keypoints, motion
from torch import Tensor

from vivant.export.nets.encode import PRIOR
from vivant.export.nets.painter import Painter, Window
from vivant.export.nets.pose import TEETH, Posed, Poser, load_rig, rotation
from vivant.export.nets.render import Render
from vivant.export.nets.teeth import LICKED, RISE, ROWS, SMALLER, Rows, Teeth, photographed

POSER = Poser()
UPPER, LOWER = 0, 1
CELL = 0.02
"""Of a window, IPD."""
OPEN = torch.ones(1, 1, 1, 1)


def driven(**values: float) -> tuple[Posed, Tensor]:
    """The generic head driven to a motion code."""
    code = motion(**values)
    with torch.no_grad():
        return POSER(keypoints(motion()), motion(), code, NEAR), code


def middles(row: int, count: int = 3) -> list[float]:
    """Where the first teeth to one side have their middle, IPD."""
    a, b = SMALLER, ROWS[row].teeth
    return [float((-b + (b * b + 4 * a * (k + 0.5)) ** 0.5) / (2 * a)) for k in range(count)]


def seen(posed: Posed, code: Tensor, row: int, x: float, over: float) -> tuple[float, float]:
    """Cover and light where the arch shows a point ``x`` aside and ``over`` the edge, toward the
    gum, projected by plain geometry. Told of a jaw that is shut."""
    bend = ROWS[row].bend
    point = torch.tensor([x, ROWS[row].gum * over, -bend * x * x])
    edge, size, axis = posed.teeth[0, row], posed.size[0, 0, 0], posed.axis[0, 0]
    near = posed.perspective[0, 0, 0]
    start = (edge[:2] - axis) / size * (1 - edge[2] * near)
    at = torch.cat([start, edge[2:]]) + rotation(code[:, 57:60])[0] @ point
    place = at[:2] / (1 - at[2] * near) * size + axis
    ys = torch.stack([place[1], place[1] + CELL * size])[None]
    rows = Teeth(8, 16).rows(posed, code, place[None, :1], ys, OPEN)
    return float(rows.cover[0, row, 0, 0]), float(rows.light[0, row, 0, 0])


@pytest.mark.parametrize("row", [UPPER, LOWER])
@pytest.mark.parametrize("turn", [(0, 0, 0), (15, 0, 0), (-25, 10, 0), (10, -15, 20)])
def test_teeth_are_where_an_arch_shows_them(row: int, turn: tuple[float, float, float]) -> None:
    """Middles of crowns are covered, what lies beyond the edge or the gum is not, and seams are
    darker than the teeth beside them; wherever the head looks."""
    posed, code = driven(headYaw=turn[0], headPitch=turn[1], headRoll=turn[2])
    for x in (side * m for m in middles(row) for side in (-1, 1)):
        # An edge rises aside, and a tooth is as high as in the middle.
        over = 0.5 * ROWS[row].crown - ROWS[row].gum * RISE * x * x
        assert seen(posed, code, row, x, over)[0] > 0.9
        for beyond in (-0.5, 1.6):
            outside = over + (beyond - 0.5) * ROWS[row].crown
            assert seen(posed, code, row, x, outside)[0] < 0.1
        assert seen(posed, code, row, 0.0, over)[1] < 0.85 * seen(posed, code, row, x, over)[1]


def test_a_jaw_takes_the_lower_row_alone() -> None:
    """Upper teeth stay; lower ones drop as their keypoint does, those further back less."""
    line = torch.linspace(0.42, 0.58, 65)[None]
    high = torch.linspace(0.5, 0.75, 257)[None]
    rows = [Teeth(8, 16).rows(*driven(jawOpen=jaw), line, high, OPEN) for jaw in (0.0, 0.5)]
    torch.testing.assert_close(rows[0].cover[:, UPPER], rows[1].cover[:, UPPER])

    def height(cover: Tensor, columns: slice) -> float:
        part = cover[0, LOWER, :, columns].sum(1)
        return float((part * high[0]).sum() / part.sum()) / IPD

    middle, aside = slice(30, 35), slice(0, 8)
    fallen = [height(rows[1].cover, at) - height(rows[0].cover, at) for at in (middle, aside)]
    edges = [driven(jawOpen=jaw)[0].teeth[0, LOWER, 1] for jaw in (0.0, 0.5)]
    assert fallen[0] == pytest.approx(float(edges[1] - edges[0]) / IPD, abs=0.01)
    assert 0.01 < fallen[0] - fallen[1] < 0.1


def test_a_head_from_the_front_has_even_teeth() -> None:
    """Left and right of a head's middle are each other's mirror images."""
    posed, code = driven()
    line = 0.5 + torch.linspace(-0.1, 0.1, 64)[None]
    high = torch.linspace(0.55, 0.65, 64)[None]
    even = posed._replace(teeth=torch.cat([torch.full((1, 2, 1), 0.5), posed.teeth[..., 1:]], 2))
    for part in Teeth(8, 16).rows(even, code, line, high, OPEN):
        torch.testing.assert_close(part, part.flip(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("turn", [-80.0, 80.0])
def test_any_turn_is_finite(turn: float) -> None:
    """Even where the head looks away, and the gradient too."""
    posed, code = driven(headYaw=turn, headPitch=turn / 2)
    line = torch.linspace(0, 1, 64)[None].requires_grad_()
    rows = Teeth(8, 16).rows(posed, code, line, line, OPEN)
    assert min(rows.cover.min(), rows.light.min()) >= 0
    for part in rows:
        assert part.isfinite().all()
        assert (part.abs() <= 1).all()
        (gradient,) = torch.autograd.grad(part.sum(), line, retain_graph=True)
        assert gradient.isfinite().all()


def test_paint_is_left_alone_where_there_are_no_teeth_and_upper_ones_lie_in_front() -> None:
    """Rows are painted over the inside of the mouth, and the upper over the lower one."""
    teeth = Teeth(8, 16)
    with torch.no_grad():
        teeth.tint.weight.zero_()
        # Upper teeth red and lower ones blue.
        teeth.tint.bias.copy_(torch.tensor([9.0, -9, -9, -9, -9, 9]))
        cover = torch.zeros(1, 2, 16, 16)
        cover[:, UPPER, :8], cover[:, LOWER, :, :8] = 1, 1
        rows = Rows(cover, torch.ones(1, 2, 16, 16), torch.zeros(1, 1, 16, 16))
        paint = teeth(rows, torch.zeros(1, 8, 4, 4), INSIDE)
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    wanted = {(4, 4): red, (4, 12): red, (12, 4): blue, (12, 12): INSIDE[0, :, 12, 12]}
    for (row, column), colour in wanted.items():
        torch.testing.assert_close(paint[0, :, row, column], colour, atol=1e-3, rtol=0)


def test_a_tongue_lies_before_the_lower_row() -> None:
    """One that comes out hides it, and leaves the upper teeth."""
    line = torch.linspace(0.42, 0.58, 64)[None]
    high = torch.linspace(0.5, 0.75, 64)[None]
    rest, out = (
        Teeth(8, 16).rows(*driven(jawOpen=0.3, tongueOut=tongue), line, high, OPEN)
        for tongue in (0.0, 1 / LICKED)
    )
    assert rest.cover[:, LOWER].max() > 0.9
    assert (out.cover[:, LOWER] == 0).all()
    torch.testing.assert_close(out.cover[:, UPPER], rest.cover[:, UPPER])


PIXEL = 64 * IPD / 0.25
"""Cells of the grid below, of one IPD."""


def test_a_photos_own_upper_teeth_are_shown() -> None:
    """From the edge of the upper row upward, within the photo's lips; none of a mouth that was shut
    or hardly open, and nothing of its lower half."""
    posed, code = driven(jawOpen=0.5)
    line = torch.linspace(0.42, 0.58, 64)[None]
    high = torch.linspace(0.5, 0.75, 64)[None]
    heights = torch.linspace(-1, 1, 64)[None, None, :, None]
    edge = int((high[0] - posed.teeth[0, UPPER, 1]).abs().argmin())
    rows = Teeth(8, 16).rows(posed, code, line, high, OPEN)
    middle = float(heights[0, 0, edge, 0])

    def own(above: float, below: float) -> Tensor:
        lips = torch.tensor([middle - above, middle + below])[None, :, None, None]
        return photographed(rows.over, PIXEL, lips.expand(1, 2, 1, 64), heights)[0, 0, :, 32]

    assert rows.over[0, 0, edge - 2, 32] > 0 > rows.over[0, 0, edge + 2, 32]
    smile = own(0.25, 0.1)
    at = heights[0, 0, :, 0]
    assert (smile[(at > middle - 0.19) & (at < middle - 0.04)] > 0.95).all()
    assert (smile[(at < middle - 0.25) | (at > middle + 0.04)] == 0).all()
    assert (own(0.03, 0.03) == 0).all()


INSIDE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_training_draws_true_teeth_between_drawn_lips() -> None:
    """Lips that are drawn beside their place take the teeth with them; teeth that lie elsewhere
    between true lips are taught there."""
    posed, _ = driven(jawOpen=0.3)
    shift = torch.tensor([0.01, -0.02, 0.0])
    moved = POSER.with_teeth(posed, posed.points - shift)
    torch.testing.assert_close(moved.teeth, posed.teeth)
    other = posed.points.clone()
    at = [load_rig().names.index(name) for name in TEETH]
    other[:, at] += shift
    moved = POSER.with_teeth(posed, other)
    torch.testing.assert_close(moved.teeth, posed.teeth + shift)


def test_a_photos_teeth_do_not_follow_its_lips() -> None:
    """Of a laugh whose teeth are red from lip to lip, a mouth that opens without a smile shows them
    where they were and no others, though the photo, warped as its lips move, draws them out."""
    laugh = motion(
        **dict.fromkeys(("mouthSmileLeft", "mouthSmileRight"), 0.8),
        **dict.fromkeys(("mouthUpperUpLeft", "mouthUpperUpRight"), 0.7),
        **dict.fromkeys(("mouthLowerDownLeft", "mouthLowerDownRight"), 0.5),
    )
    render, points = Render(8), keypoints(laugh)
    for layer in (render.mouth.leave, render.mouth.teeth.tint):  # grey paint, little of it
        torch.nn.init.zeros_(layer.weight)

    def window(code: Tensor) -> tuple[Painter, Window, Posed]:
        posed = render.poser(points, laugh, code, NEAR)
        return *render.windows(posed, code, (code - laugh) / render.scale)[0], posed

    painter, place, posed = window(laugh)
    xs, _ = painter.axes(posed.size, place)
    lips = painter.lines(posed.points, posed.size, place)[0, :, 0] + painter.lower
    heights = place.centre[0, 1] + lips * painter.radius * posed.size[0, 0, 0]
    edge = posed.teeth[0, UPPER, 1]
    upper, lower = (torch.stack([xs[0], line.clamp(max=edge)], 1).detach() for line in heights)
    area = (torch.cat([upper, lower.flip(0)]) * 1024).round().int().numpy()
    teeth = cv2.fillPoly(np.zeros((1024, 1024), np.float32), [area], 1.0)
    share = torch.from_numpy(cv2.resize(teeth, (256, 256), interpolation=cv2.INTER_AREA))
    photo = GREEN + share * (RED - GREEN)
    code = motion(jawOpen=0.7, mouthUpperUpLeft=0.9, mouthUpperUpRight=0.9)
    painter, place, posed = window(code)
    with torch.no_grad():
        shot = painter.shot(render.poser, posed, photo, torch.zeros(1, PRIOR, 64, 64), code, place)
    weight, colour = shot.paint[0, :1], shot.paint[0, 1:] / (shot.paint[0, :1] + 1e-6)
    shown = colour * weight + shot.crop[0, :3] * (1 - weight)
    red, drawn_out = (c[0] - c[1] > 0.5 for c in (shown, shot.crop[0, :3]))
    below = (shot.ys[0] > edge + 0.01)[:, None]
    assert (red & ~below).sum() > 20
    assert (drawn_out & below).sum() > 50
    assert (red & below).sum() < 0.1 * (drawn_out & below).sum()


RED, GREEN = (torch.tensor(c)[None, :, None, None] for c in ([1.0, 0, 0], [0, 1.0, 0]))
