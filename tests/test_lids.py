"""Falling lids take their skin with them and leave the eye where it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from generic_head import NEAR, keypoints, motion
from torch import Tensor

from vivant.export.nets.encode import PRIOR
from vivant.export.nets.lids import (
    ABOVE,
    BELOW,
    CREASE,
    HEM,
    INK,
    LASHES,
    Lids,
    arc,
    beside,
    fallen,
    follow_rims,
    lid_cover,
    skin_of,
)
from vivant.export.nets.render import Render

SIZE = 64
RAMP = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
ROWS = RAMP[None, None, :, None]
HALF = torch.full((1, 1, 1, 1), 0.06)
SKIN, HEAD = (torch.full((1, 2, SIZE, SIZE), v) for v in (0.003, 0.001))
AHEAD = torch.zeros(1, 2, 1, 1)
FREE = torch.zeros(1, 1, 1, 1)
"""No share of the way to shut lids is told."""


def rims(upper: float, lower: float) -> Tensor:
    """Level rims at these heights, (1, 2, 1, n)."""
    return torch.tensor([upper, lower])[None, :, None, None].expand(1, 2, 1, SIZE)


def source(now: Tensor, was: Tensor) -> Tensor:
    """The height in the photo that each row of the middle column shows, half windows, in a head
    that rests."""
    still = torch.zeros(1, 2, SIZE, SIZE)
    flow, _ = follow_rims(fallen(now, was, FREE), was, ROWS, HALF, (still, still), AHEAD)
    return RAMP + flow[0, 1, :, SIZE // 2] / HALF[0, 0, 0, 0]


def test_an_arc_goes_through_its_points() -> None:
    """Through all four, level beside them, and finite where an eye in profile has no width."""
    at = RAMP[[8, 24, 38, 54]]
    heights = torch.tensor([[0.1, -0.2, -0.25, 0.05], [0.1, 0.2, 0.1, 0.05]])
    line = arc(at.expand(1, 2, 4)[..., None], heights[None, ..., None], RAMP[None])
    torch.testing.assert_close(line[0, :, 0, [8, 24, 38, 54]], heights)
    assert (line[..., :8] == heights[None, :, None, :1]).all()
    flat = arc(torch.zeros(1, 2, 4, 1), heights[None, ..., None], RAMP[None])
    assert flat.isfinite().all()
    assert flat.abs().max() < 3


def test_lids_that_rest_change_nothing() -> None:
    """Far from the opening the skin's own flow, and within it the head's: that eye rests."""
    still = rims(-0.4, 0.3)
    flow, eye = follow_rims(still, still, ROWS, HALF, (SKIN, HEAD), AHEAD)
    inside, outside = (RAMP > -0.28) & (RAMP < 0.18), (RAMP < -0.56) | (RAMP > 0.46)
    torch.testing.assert_close(flow[:, :, inside], HEAD[:, :, inside])
    torch.testing.assert_close(flow[:, :, outside], SKIN[:, :, outside])
    assert (eye[:, :, inside] == 1).all()
    assert (eye[:, :, outside] == 0).all()


@pytest.mark.parametrize("fall", [0.3, 0.65])
def test_skin_at_a_rim_is_the_photos(fall: float) -> None:
    """Above the driven upper rim follows what lay above it in the photo, below the lower one what
    lay below, without a fold; and an eye half shut rests in between."""
    was, now = rims(-0.4, 0.3), rims(-0.4 + fall, 0.27)
    shown = source(now, was)
    above, below = shown[-0.4 + fall - 0.02 > RAMP], shown[RAMP > 0.29]
    assert -0.5 < above[-1] < -0.37
    assert 0.28 < below[0] < 0.4 + HEM * (fall + 0.03)
    for part in (above, below):
        assert (part[1:] > part[:-1]).all()
    inside = (-0.4 + fall + 0.06 < RAMP) & (RAMP < 0.2)
    torch.testing.assert_close(shown[inside], RAMP[inside])


def test_lids_stop_where_they_meet() -> None:
    """A lid that is told to fall beyond the other meets it, and no eye is left."""
    was = rims(-0.2, 0.1)
    shown, beyond = source(rims(0.1, 0.1), was), source(rims(0.4, 0.1), was)
    torch.testing.assert_close(shown, beyond)
    assert not ((shown > -0.15) & (shown < 0.08)).any()


@pytest.mark.parametrize("told", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("raised", [-0.1, 0.0, 0.2])
def test_large_eyes_are_shut_as_far_as_told(told: float, raised: float) -> None:
    """However little a generic lid falls, the share of the opening that is told is gone, most of it
    by the upper lid, and told all, lids that are raised meanwhile meet too; where lids fall further
    by themselves, nothing is added."""
    was, now = rims(-0.5, 0.5), rims(-0.5 + raised, 0.5)
    upper, lower = fallen(now, was, FREE + told)[0, :, 0, 0].tolist()
    least = raised if raised < 0 and told < 1 else max(told, raised)
    assert least - 1e-5 <= 1 - (lower - upper) <= max(told, raised) + 1e-5
    assert 0.5 - lower <= 0.2 * told
    if raised >= told or told == 0:
        torch.testing.assert_close(fallen(now, was, FREE + told), now)


EVERYWHERE = torch.ones(1, 1, 1, SIZE)


def test_a_lid_at_rest_is_the_photos() -> None:
    """Nothing is painted over lids that have not fallen, nor over those that are raised."""
    was = rims(-0.4, 0.3)
    for raised in (0.0, 0.2):
        cover = lid_cover(fallen(rims(-0.4 - raised, 0.3), was, FREE), was, ROWS, EVERYWHERE)
        assert (cover == 0).all()


@pytest.mark.parametrize("fall", [0.3, 0.65])
def test_a_fallen_lid_is_new_down_to_its_lashes(fall: float) -> None:
    """From where the photo's lashes were to the rim the lid is new, above its crease the photo's,
    and its lashes lie along the rim, between the corners alone."""
    was = rims(-0.4, 0.3)
    now = fallen(rims(-0.4 + fall, 0.3), was, FREE)
    between = EVERYWHERE * (RAMP.abs() < 0.5)
    sheet, lashes = lid_cover(now, was, ROWS, between)[0]
    rim = -0.4 + fall
    new, old = (RAMP > -0.45) & (rim - 0.04 > RAMP), (-0.4 - CREASE[0] > RAMP) | (rim + 0.04 < RAMP)
    assert (sheet[new] == 1).all()
    assert (sheet[old] == 0).all()
    line = (RAMP - rim).abs()
    inside = RAMP.abs() < 0.5
    assert (lashes[line < 0.5 * LASHES][:, inside] == 1).all()
    assert (lashes[line > 1.5 * LASHES] == 0).all()
    assert (lashes[:, ~inside] == 0).all()


def test_a_lid_has_the_colour_of_the_face() -> None:
    """Told nothing, a lid is as the skin just above and below the eye, whatever the eye, the cheek
    and what lies beside its corners are, and its lashes are dark; its own look is a share of that
    colour."""
    was, between = rims(-0.4, 0.3), EVERYWHERE * (RAMP.abs() < 0.5)
    picture = torch.rand(1, 3, SIZE, SIZE)
    tone = torch.tensor([0.5, 0.4, 0.3])[:, None]
    above = (-0.4 - ABOVE[0] > RAMP) & (-0.4 - ABOVE[1] < RAMP)
    below = (0.3 + BELOW[0] < RAMP) & (0.3 + BELOW[1] > RAMP)
    for rows, shade in ((above, 0.8), (below, 1.2)):
        at = rows[:, None] & (RAMP.abs() < 0.5)
        picture[:, :, at] = shade * tone
    skin = skin_of(picture, beside(was, ROWS, between))
    tone = tone[..., None]
    brow = picture.clone()
    brow[:, :, above & (-0.4 - ABOVE[0] - 0.1 > RAMP)] = 0.05
    assert (skin_of(brow, beside(was, ROWS, between)) > 0.95 * skin).all(), "no skin, and left out"
    assert ((skin[0] > 0.9 * tone) & (skin[0] < 1.1 * tone)).all()
    picture[:, :, below] = picture[:, :, above][:, :, :1]
    assert (skin_of(picture, beside(was, ROWS, between)) < skin).all()
    skin = tone[None]
    lids = Lids(8, SIZE)
    cover = torch.rand(1, 2, SIZE, SIZE)
    with torch.no_grad():
        lids.tint.weight.zero_()
        lids.tint.bias.zero_()
        (over, lid), (dark, ink) = lids(cover, torch.zeros(1, 8, 10, 10), skin)
        lids.tint.bias[:] = -1.1  # sigmoid: 1 / 4
        dim = lids(cover, torch.zeros(1, 8, 10, 10), skin)[0][1]
    torch.testing.assert_close(over, cover[:, :1])
    torch.testing.assert_close(dark, cover[:, 1:])
    torch.testing.assert_close(lid, skin.expand_as(lid), atol=1e-5, rtol=0)
    torch.testing.assert_close(ink, INK * lid)
    torch.testing.assert_close(dim, 0.5 * lid, atol=2e-3, rtol=0)


def test_a_gaze_moves_the_eye_and_no_corner() -> None:
    """An iris comes from where the gaze was, less near the corners, and nothing from beyond the
    photo's rims is drawn between the driven ones."""
    lens = 0.35 * (1 - (RAMP / 0.7) ** 2).clamp_min(0)[None, None, None]
    was = torch.cat([-lens, lens], 1)
    gaze = torch.tensor([0.01, -0.012])[None, :, None, None]
    flow, eye = follow_rims(fallen(0.9 * was, was, FREE), was, ROWS, HALF, (HEAD, HEAD), gaze)
    middle, corner = flow[0, :, :, SIZE // 2], flow[0, :, SIZE // 2, 11]
    torch.testing.assert_close(middle[:, 34], HEAD[0, :, 34, 0] + gaze[0, :, 0, 0])
    assert abs(corner[0] - HEAD[0, 0, 0, 0]) < 0.3 * gaze[0, 0]
    shown = RAMP[:, None] + (flow - HEAD)[0, 1] / HALF[0, 0, 0, 0]
    inside = eye[0, 0] > 0
    assert inside.sum() > 200
    assert (shown.abs() <= lens[0, 0] + 0.01)[inside].all()


def test_lids_that_open_wider_draw_the_eye_out() -> None:
    """What the photo shows of an eye fills a larger opening as skin's flow stretches it."""
    was = rims(-0.2, 0.2)
    flow, eye = follow_rims(
        fallen(rims(-0.5, 0.4), was, FREE), was, ROWS, HALF, (SKIN, HEAD), AHEAD
    )
    inside = (RAMP > -0.38) & (RAMP < 0.28)
    torch.testing.assert_close(flow[:, :, inside], SKIN[:, :, inside])
    assert (eye == 0).all(), "nor is that left as it is"


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("roll", [0.0, 12.0])
def test_a_blink_hides_the_eye(side: int, roll: float) -> None:
    """Of an eye that is painted red on a green face, a window shows a lot when open, less when half
    shut, and hardly any when shut; also when the head tilts meanwhile."""
    render = Render(8)
    points = keypoints(motion())
    posed = render.poser(points, motion(), motion(), NEAR)
    painter, window = render.windows(posed, motion(), motion())[side]
    xs, _ = painter.axes(posed.size, window)
    heights = painter.lines(posed.points, posed.size, window)[0, :, 0] + painter.lower
    heights = window.centre[0, 1] + heights * painter.radius * posed.size[0, 0, 0]
    upper, lower = (torch.stack([xs[0], line], 1).detach() for line in heights)
    eye = np.zeros((1024, 1024), np.uint8)
    cv2.fillPoly(eye, [(torch.cat([upper, lower.flip(0)]) * 1024).round().int().numpy()], 1)
    share = torch.from_numpy(
        cv2.resize(eye.astype(np.float32), (256, 256), None, 0, 0, cv2.INTER_AREA)
    )
    photo = GREEN + share * (RED - GREEN)
    red = []
    for shut in (0.0, 0.5, 1.0):
        code = motion(eyeBlinkLeft=shut, eyeBlinkRight=shut, headRoll=roll)
        posed = render.poser(points, motion(), code, NEAR)
        painter, window = render.windows(posed, code, code / render.scale)[side]
        prior = torch.zeros(1, PRIOR, 64, 64)
        with torch.no_grad():
            crop = painter.shot(render.poser, posed, photo, prior, code, window).crop[:, :3]
        red.append(float((crop[:, 0] > 0.75).sum()))
    assert red[0] > 80, red
    assert 0.2 * red[0] < red[1] < 0.8 * red[0]
    assert red[2] < 0.1 * red[0]


@pytest.mark.parametrize("side", [1, 2])
def test_a_full_blink_shuts_an_eye_however_wide(side: int) -> None:
    """Half of the way from the photo's own lids is half, and all of it all, also of lids that droop
    in the photo; lids that open are told no way, and those that seem shut a small one."""
    render = Render(8)
    names = ("eyeBlinkRight", "eyeBlinkLeft")

    def told(own: float, driven: float) -> float:
        source, code = (motion(**{names[side - 1]: blink}) for blink in (own, driven))
        posed = render.poser(keypoints(motion()), source, code, NEAR)
        shut = render.windows(posed, code, (code - source) / render.scale)[side][1].shut
        return float(shut)

    assert told(0.0, 0.5) == pytest.approx(0.5)
    assert told(0.0, 1.0) == pytest.approx(1)
    assert told(0.4, 0.7) == pytest.approx(0.5)
    assert told(0.4, 0.1) == 0
    assert told(0.98, 1.0) < 0.2


RED, GREEN = (torch.tensor(c)[None, :, None, None] for c in ([1.0, 0, 0], [0, 1.0, 0]))
