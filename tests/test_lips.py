"""Promises about lips: they go where their rims do, what a photo's own code says of their gap, and
teeth to learn it from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from generic_head import NEAR
from generic_head import keypoints as seen
from generic_head import motion as code
from torch import Tensor
from torch.nn import functional as F

from vivant import latent
from vivant.export.nets.encode import PRIOR, TOUCH, Encode
from vivant.export.nets.lips import follow_lips, widened
from vivant.export.nets.painter import chain
from vivant.export.nets.render import FLOW, Render
from vivant.export.nets.warp import centres
from vivant.export.synth.people import keypoints as generic
from vivant.export.synth.people.classes import MOUTH
from vivant.export.train.face_data import NONE, Augment, make_sample
from vivant.export.train.face_teeth import bared, drawn_apart, gap, with_teeth

SKIN = (190, 140, 120)
LIPS = [[f"lipInner{row}{part}" for part in ("Right", "Mid", "Left")] for row in ("Upper", "Lower")]
BARED = {
    name + side: 0.6 for name in ("mouthUpperUp", "mouthLowerDown") for side in ("Left", "Right")
}


def unexplained(motion: torch.Tensor, told: torch.Tensor) -> float:
    """Gap between the lips that a head of one code keeps when another is taken away, IPD."""
    left = seen(code(**dict.fromkeys(BARED, 0.0)) + (motion - told))
    return gap(left[0].numpy())


@pytest.fixture(scope="module")
def encode() -> Encode:
    torch.manual_seed(0)
    return Encode(width=8).eval()


@pytest.mark.parametrize("turn", [{}, {"headYaw": 20.0, "headPitch": -12.0, "headRoll": 9.0}])
@pytest.mark.parametrize("shown", [{}, {"mouthSmileLeft": 0.6, "jawOpen": 0.4}, BARED])
def test_a_right_code_stays(
    encode: Encode, shown: dict[str, float], turn: dict[str, float]
) -> None:
    """Where the code explains the keypoints, closed lips among them, nothing changes."""
    own = code(**shown, **turn)
    assert (encode.closing(seen(own), own, NEAR) - own).abs().max() < 1e-3


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("shown", [BARED, {"jawOpen": 0.3}, BARED | {"headYaw": 15.0}])
def test_a_parted_mouth_touches_when_its_code_is_taken_away(
    encode: Encode, shown: dict[str, float], share: float
) -> None:
    """Of a gap that a code tells half of, next to nothing is left; no other latent changes."""
    true = code(**shown)
    told = true.clone()
    for name in shown:
        if not name.startswith("head"):
            told[0, latent.INDEX[name]] *= share
    mended = encode.closing(seen(true), told, NEAR)
    before, after = unexplained(true, told), unexplained(true, mended)
    assert before > 0.06
    assert abs(after - TOUCH) < 0.25 * (before - TOUCH)
    parting = ("jawOpen", "mouthUpperUp", "mouthLowerDown")
    others = [k for k, name in enumerate(latent.NAMES) if not name.startswith(parting)]
    torch.testing.assert_close(mended[:, others], told[:, others])


def test_mending_twice_is_mending_once(encode: Encode) -> None:
    """A mended code is in its bounds and is not mended much further."""
    points, told = seen(code(**BARED)), code(jawOpen=-0.2, mouthUpperUpLeft=1.4)
    once = encode.closing(points, told, NEAR)
    assert once[:, :55].min() >= 0
    assert once[:, :55].max() <= 1
    assert (encode.closing(points, once, NEAR) - once).abs().max() < 0.03


def test_mending_is_differentiable(encode: Encode) -> None:
    """Gradients with respect to keypoints and code are finite, also for keypoints in one place."""
    for points in (seen(code(**BARED)), torch.full((1, len(generic.NAMES), 3), 0.5)):
        points, told = points.requires_grad_(), torch.zeros(1, latent.SIZE, requires_grad=True)
        encode.closing(points, told, NEAR).square().sum().backward()
        for value in (points, told):
            assert value.grad is not None
            assert bool(torch.isfinite(value.grad).all())


def frame(motion: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A face of one tone, all skin: picture, classes, code, keypoints."""
    image = np.full((256, 256, 3), SKIN, np.uint8)
    return image, np.ones((128, 128), np.uint8), motion[0].numpy(), seen(motion)[0].numpy()


def test_teeth_are_painted_between_the_lips_alone() -> None:
    """Between the inner lips everything becomes teeth or their shade, and is told as the mouth's
    inside; beyond the lips the picture stays."""
    image, classes, _, points = frame(code(**BARED, jawOpen=0.1))
    out, told = with_teeth(image, classes, points, np.random.default_rng(1))
    upper, lower = (points[[generic.INDEX[name] for name in row], :2] * 256 for row in LIPS)
    changed = (out != image).any(-1)
    for (x, top), (_, bottom) in zip(upper, lower, strict=True):
        column = changed[:, int(x)]
        assert column[int(top + 2) : int(bottom - 1)].all()
        assert not column[: int(top) - 3].any()
        assert not column[int(bottom) + 4 :].any()
        assert told[int((top + bottom) / 4), int(x / 2)] == MOUTH
    assert (told == MOUTH).sum() * 4 == pytest.approx(changed.sum(), rel=0.3)


def test_lips_drawn_apart_are_told_so() -> None:
    """Drawing lips apart moves a mark on the lip to where its keypoint is said to be, and the
    code by what was asked for."""
    image, classes, motion, points = frame(code(**BARED))
    mark = generic.INDEX["lipUpperMid"]
    x, y = (int(v) for v in points[mark, :2] * 256)
    image[y - 1 : y + 2, x - 1 : x + 2] = (20, 200, 40)
    change = code(**dict.fromkeys(BARED, 0.4))[0].numpy()
    out, _, told, moved = drawn_apart(image, classes, motion, points, change)
    np.testing.assert_allclose(told, motion + change, atol=1e-6)
    assert gap(moved) > gap(points) + 0.05
    rows, columns = np.nonzero(out[..., 1].astype(int) - out[..., 0] > 40)
    at = np.array([columns.mean(), rows.mean()]) + 0.5
    assert np.linalg.norm(at - moved[mark, :2] * 256) < 2.5


def test_closed_lips_get_no_teeth() -> None:
    """A mouth that shows no teeth is left alone, whatever chance says."""
    closed = frame(code(mouthSmileLeft=0.5, mouthSmileRight=0.5))
    for seed in range(5):
        for was, now in zip(closed, bared(*closed, np.random.default_rng(seed)), strict=True):
            np.testing.assert_array_equal(was, now)


def test_a_hand_before_the_mouth_stays() -> None:
    """Teeth are not painted over what hides the mouth."""
    image, classes, _, points = frame(code(**BARED, jawOpen=0.2))
    hidden = np.full_like(classes, 7)
    for was, now in zip(
        (image, hidden), with_teeth(image, hidden, points, np.random.default_rng(0)), strict=True
    ):
        np.testing.assert_array_equal(was, now)


def test_bared_teeth_keep_to_the_latent() -> None:
    """Codes of bared teeth stay within 0..1, and the same chance gives the same frame."""
    parted = frame(code(**BARED, mouthSmileLeft=0.9))
    for seed in range(8):
        one, two = (bared(*parted, np.random.default_rng(seed)) for _ in range(2))
        assert one[2][:55].min() >= 0
        assert one[2][:55].max() <= 1
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_wide_open_mouths_are_driven_most() -> None:
    """Training draws the one frame in which a person yawns more often than the three others
    together, evaluation draws all alike."""
    pairs = np.array([[driver, 4] for driver in range(4)], np.int16)
    person = {
        "image": np.zeros((5, 256, 256, 3), np.uint8),
        "motion": np.concatenate([code(headX=0.01 * k).numpy() for k in range(5)]),
        "keypoints": np.stack([seen(code(headX=0.01 * k))[0].numpy() for k in range(5)]),
        "segmentation": np.ones((5, 128, 128), np.uint8),
        "pairs": pairs,
        "flow": np.zeros((4, 2, 128, 128), np.float16),
        "visible": np.ones((4, 128, 128), np.uint8),
    }
    person["segmentation"][2, 60:70, 60:68] = MOUTH

    def yawns(augment: Augment) -> float:
        drawn = [make_sample(person, np.random.default_rng(k), 1, augment, 1) for k in range(60)]
        return float(np.mean([(one["target_segment"] == MOUTH).any() for one in drawn]))

    assert yawns(NONE) == pytest.approx(0.25, abs=0.15)
    assert yawns(replace(NONE, open=10.0)) == pytest.approx(10 / 13, abs=0.15)


CELLS = 64
ROWS = ((torch.arange(CELLS) + 0.5) / CELLS * 2 - 1)[None, None, :, None]
HALF = torch.full((1, 1, 1, 1), 0.1)
BESIDE = torch.full((1, 1, 1, CELLS), -1.0)
"""No column lies beside the mouth."""


def rims(upper: float, lower: float) -> Tensor:
    """Level rims at these heights, (1, 2, 1, n)."""
    return torch.tensor([upper, lower])[None, :, None, None].expand(1, 2, 1, CELLS)


def shown(now: Tensor, was: Tensor, aside: Tensor = BESIDE) -> Tensor:
    """The height in the photo that each cell shows, half windows, of a head that rests and a skin
    that moves down by a tenth, (n, n)."""
    skin = torch.full((1, 2, CELLS, CELLS), -0.1) * HALF
    led = torch.stack([torch.zeros(1, 2, CELLS), ((was - now) * HALF)[:, :, 0]], 2)
    still = torch.zeros(1, 2, 1, 1)
    flow = skin + follow_lips(now, was, led, ROWS, HALF, aside, still, skin)
    return (ROWS + flow[:, 1:] / HALF)[0, 0]


def test_a_chain_goes_through_its_points() -> None:
    """Each value at its column and the end ones beyond, straight between the inner points, steep
    where bent, and finite where points of a mouth in profile fall on each other."""
    u = torch.tensor([-0.6, -0.2, 0.1, 0.5]).expand(1, 2, 4)[..., None]
    v = torch.tensor([[0.0, 1.0], [0.4, 3.0], [0.5, 2.0], [0.1, 0.0]]).expand(1, 2, 4, 2)
    bend = torch.tensor([1.0, 0.0, -1.0])[None, None, :, None]
    at = torch.tensor([[-0.9, -0.6, -0.2, 0.1, 0.5, 0.9]])
    got = chain(u, v, at, bend)
    torch.testing.assert_close(got[:, :, :, 1:-1], v.transpose(2, 3))
    torch.testing.assert_close(got[..., [0, -1]], v.transpose(2, 3)[..., [0, -1]])
    middles = chain(u, v, torch.tensor([[-0.4, -0.05, 0.3]]), bend)[0, 0, 0]
    torch.testing.assert_close(middles, torch.tensor([0.3, 0.45, 0.4]))
    assert chain(0 * u, v, at, bend).isfinite().all()


def test_parted_lips_are_the_photos() -> None:
    """Above the driven upper rim follows what lay above it in the photo, below the lower one what
    lay below, without a fold, and no lip is drawn out; far from both the skin's own flow stays."""
    was, now = rims(0.0, 0.0), rims(-0.05, 0.5)
    column = shown(now, was)[:, 5]
    rows = ROWS[0, 0, :, 0]
    above, below = column[rows < -0.05], column[rows > 0.5]
    assert -0.05 < above[-1] <= 0 <= below[0] < 0.05
    assert (above.diff() > 0).all()
    assert (below.diff() > 0).all()
    near = below[: CELLS // 32].diff() / rows.diff()[0]
    assert near.min() > 0.5
    assert near.max() < 2
    far = rows < -0.45
    torch.testing.assert_close(column[far], rows[far] - 0.1)


def test_only_what_lies_between_the_corners_is_led() -> None:
    """A sixth of a half window beside the corners the skin's own flow stays."""
    aside = (torch.arange(CELLS) / CELLS - 0.5)[None, None, None]
    got = shown(rims(0.0, 0.5), rims(0.0, 0.0), aside)
    skin = ROWS[0, 0] - 0.1
    torch.testing.assert_close(got[:, 44:], skin.expand(CELLS, 20))
    assert (got - skin)[:, :33].abs().max() > 0.3


def test_a_mouth_opens_where_its_rims_part_further() -> None:
    """Nothing opens of a photo's own mouth, nor where it closes, and a wide gap is open."""
    for now, was, wanted in (
        (rims(-0.1, 0.1), rims(-0.1, 0.1), 0.0),
        (rims(0.0, 0.0), rims(-0.1, 0.2), 0.0),
        (rims(0.0, 0.0), rims(0.05, 0.0), 0.0),
        (rims(-0.1, 0.3), rims(-0.1, 0.1), 1.0),
    ):
        assert (widened(now, was) == wanted).all()


@pytest.mark.parametrize("turn", [{}, {"headYaw": 12.0}, {"headPitch": -10.0, "headRoll": 8.0}])
def test_the_first_flow_takes_each_rim_to_the_photos(turn: dict[str, float]) -> None:
    """A pixel outside either rim of an open mouth lies what lies outside that rim in the photo."""
    torch.manual_seed(0)
    render, still, told = Render(8), code(), code(jawOpen=0.7, **turn)
    points = seen(still)
    with torch.no_grad():
        posed = render.poser(points, still, told, NEAR)
        line = centres(FLOW, points).expand(1, -1)
        windows = render.windows(posed, told, told / render.scale)
        flow = render.first(posed, torch.zeros(1, PRIOR, 64, 64), line, windows).flow
        for picks, outside in zip(render.mouth.rims.chunk(2), (-1, 1), strict=True):
            now, was = (torch.matmul(picks, p[0])[1:4, :2] for p in (posed.points, points))
            pixel = torch.tensor([0.0, outside / FLOW])
            at = (now + pixel) * 2 - 1
            there = F.grid_sample(flow, at[None, None], align_corners=False)[0, :, 0].T
            error = now + pixel + there - was
            assert (outside * error[:, 1]).min() > 0
            assert error.abs().max() < 2 / FLOW
