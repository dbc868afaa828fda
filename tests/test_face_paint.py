"""Promises of what is painted into mouths and eyes, and where it is judged."""

from __future__ import annotations

import pytest
import torch
from generic_head import NEAR, keypoints, motion
from torch import Tensor
from torch.nn import functional as F

from vivant.export.nets.painter import EDGE
from vivant.export.nets.render import Render
from vivant.export.nets.warp import centres, resize
from vivant.export.train.face_close import SHARES, blend, painter
from vivant.export.train.face_loss import found_at, gradient_l1, misplaced, texture_l1


def waves(at: Tensor) -> Tensor:
    """A smooth picture (B, 3, H, W) as a function of places (B, 2, H, W), frame fractions."""
    x, y = at.split(1, 1)
    tones = [torch.sin(9 * x + 4 * y), torch.cos(11 * y), torch.sin(7 * x - 5 * y)]
    return 0.5 + 0.3 * torch.cat(tones, 1)


def plane(size: int) -> Tensor:
    """Places of a frame's pixels, (1, 2, size, size)."""
    line = centres(size, torch.zeros(1))[0]
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]


def test_hair_that_lies_elsewhere_is_better_than_a_haze() -> None:
    """Pixel by pixel a blur is nearest to strands that lie a few pixels aside; by how much detail
    there is, the strands are, and where nothing is asked for nothing counts."""
    torch.manual_seed(0)
    hair = torch.rand(1, 3, 256, 256)
    aside, haze = hair.roll((3, 5), (2, 3)), F.avg_pool2d(hair, 9, 1, 4)
    everywhere = torch.ones(1, 1, 256, 256)
    assert gradient_l1(haze, hair, everywhere) < gradient_l1(aside, hair, everywhere)
    assert 10 * texture_l1(aside, hair, everywhere) < texture_l1(haze, hair, everywhere)
    assert texture_l1(hair, hair, everywhere) == 0
    assert texture_l1(haze, hair, 0 * everywhere) == 0


def test_a_misplaced_face_is_judged_where_it_is_drawn() -> None:
    """What our flow draws elsewhere is found again there in the true frame, and so is the mouth
    between lips whose place alone is known."""
    at = plane(128)
    x, y = at.split(1, 1)
    exact = torch.cat([0.02 * torch.sin(3 * y), -0.03 * torch.cos(2 * x)], 1)
    error = torch.cat([0.006 * torch.cos(2 * x + y), 0.005 * torch.sin(2 * y)], 1)
    known = torch.ones(1, 1, 128, 128)
    known[..., 60:70, 50:78] = 0
    fine = plane(256)
    truth = waves(fine + resize(exact, 256))
    ours = waves(fine + resize(exact + error, 256))
    step = misplaced(exact + error, exact, known)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    found = found_at(truth, resize(step, 256))
    assert (ours - truth)[inner].abs().max() > 10 * (ours - found)[inner].abs().max()


def test_what_is_in_place_or_unknown_is_judged_there() -> None:
    """An exact flow moves nothing, nor does one of which nothing is known; bicubic sampling at no
    step is the picture itself."""
    flow = 0.01 * torch.randn(1, 2, 128, 128)
    assert not misplaced(flow, flow, torch.ones(1, 1, 128, 128)).any()
    assert not misplaced(flow, torch.zeros_like(flow), torch.zeros(1, 1, 128, 128)).any()
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found_at(picture, torch.zeros(1, 2, 64, 64)), picture)


def opening(render: Render, place: str, code: Tensor) -> Tensor:
    """Distances from the rims of the generic head's mouth, right or left eye, (2, n, n)."""
    posed = render.poser(keypoints(motion()), motion(), code, NEAR)
    windows = render.windows(posed, code, code / render.scale)
    painter, window = windows[("mouth", "right", "left").index(place)]
    with torch.no_grad():
        return painter.edges(painter.lines(posed.points, posed.size, window))[0]


def test_a_mouth_is_open_between_its_rims() -> None:
    """Both distances are positive between the lips' inner edges alone: nowhere when they are shut,
    and over an area that grows with the jaw."""
    render = Render(8)
    areas = [
        int((opening(render, "mouth", motion(jawOpen=jaw)).amin(0) > 0.05).sum())
        for jaw in (0, 0.3, 0.8)
    ]
    assert areas[0] <= 2 < 40 < areas[1] < 0.6 * areas[2]


@pytest.mark.parametrize("roll", [0.0, 15.0, -15.0])
def test_rims_go_through_their_keypoints(roll: float) -> None:
    """At each keypoint of a rim its distance is nothing, also where a head is tilted."""
    render = Render(8)
    painter, code = render.mouth, motion(jawOpen=0.5, headRoll=roll)
    posed = render.poser(keypoints(motion()), motion(), code, NEAR)
    field = opening(render, "mouth", code)
    half = painter.radius * posed.size[0, 0, 0]
    for picks, distances in zip(painter.rims.chunk(2), field, strict=True):
        at = (torch.matmul(picks, posed.points[0])[:, :2] - posed.anchors[:, 0]) / half
        at = at - torch.tensor([0.0, painter.lower])
        here = F.grid_sample(distances[None, None], at[None, None], align_corners=False)
        # Between two pixels beside a bend, the line is cut short.
        assert here.abs().max() < 1.5 * EDGE / 32


def test_a_left_eye_is_a_mirrored_right_one() -> None:
    """On a symmetric head both eyes' windows tell the same distances, one mirrored."""
    render = Render(8)
    code = motion(eyeBlinkLeft=0.4, eyeBlinkRight=0.4)
    right, left = (opening(render, place, code) for place in ("right", "left"))
    torch.testing.assert_close(right, left, atol=0.02, rtol=0)
    assert (right.amin(0) > 0.05).sum() > 20


def test_falling_lids_close_the_opening() -> None:
    """The area between the lids' rims shrinks to nothing as a blink ends."""
    render = Render(8)
    areas = [
        int((opening(render, "right", motion(eyeBlinkRight=shut)).amin(0) > 0.05).sum())
        for shut in (0.0, 0.5, 1.0)
    ]
    assert areas[0] > areas[1] > 4 * areas[2]


def test_close_ups_are_written_as_a_mean_with_their_start() -> None:
    """Every part by its share, and what close-ups do not train stays to the bit."""
    torch.manual_seed(0)
    render = Render(8)
    before = {name: value.clone() for name, value in render.state_dict().items()}
    chosen = painter(render)
    blend(render, [torch.nn.Parameter(value + 1) for value in chosen.values()])
    shares = {}
    for name, value in render.state_dict().items():
        step = (value - before[name]).float()
        if name not in chosen:
            assert not step.any(), name
            continue
        shares[name] = round(float(step.mean()), 3)
        torch.testing.assert_close(step, torch.full_like(step, shares[name]), atol=1e-5, rtol=0)
    assert shares["mouth.enter.weight"] == SHARES["mouth."]
    assert shares["mouth.teeth.tint.weight"] == SHARES["mouth.teeth."]
    assert shares["eye.enter.weight"] == SHARES["eye."]
    assert shares["eye.lids.tint.bias"] == SHARES["eye.lids."]
    assert shares["steer_close.0.weight"] == SHARES["steer_close."]
