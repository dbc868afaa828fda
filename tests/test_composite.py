"""Compositing: both implementations keep one contract, stated here in float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vivant.composite import IMPLEMENTATIONS, Compositor, composite
from vivant.errors import BackendError, BundleError, PhotoError, UsageError

PHOTO = 128


def _scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A smooth photo with detail, a flow of a few pixels that also leaves the frame, and paint."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:PHOTO, 0:PHOTO] / PHOTO
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(2, 40, (3, 3))]
    photo = np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)
    v, u = np.mgrid[0:32, 0:32] / 32
    flow = 0.06 * np.stack([np.sin(7 * u + 3 * v), np.cos(5 * v - 4 * u)])[None]
    t, s = np.mgrid[0:64, 0:64] / 64
    occlusion = np.clip(1.4 * np.sin(6 * s) * np.cos(5 * t), 0, 1)[None, None]
    paint = np.stack([s, t, 1 - s * t])[None]
    return photo, flow.astype(np.float32), occlusion.astype(np.float32), paint.astype(np.float32)


def _enlarge(plane: np.ndarray, size: int) -> np.ndarray:
    at = np.clip((np.arange(size) + 0.5) * plane.shape[0] / size - 0.5, 0, plane.shape[0] - 1)
    return _bilinear(plane, *np.meshgrid(at, at))


def _bilinear(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = plane.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    return (plane[top, left] * (1 - fx) + plane[top, right] * fx) * (1 - fy) + (
        plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx
    ) * fy


def _between(rows: np.ndarray) -> np.ndarray:
    """Lanczos interpolation (three lobes) half way between rows, edges replicated."""
    at = np.arange(2 * len(rows) - 1) / 2
    first = np.floor(at).astype(int)
    total, weight = 0.0, 0.0
    for k in range(-2, 4):
        away = at - (first + k)
        share = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0)[:, None, None]
        total = total + share * rows[np.clip(first + k, 0, len(rows) - 1)]
        weight = weight + share
    return np.asarray(total / weight)


def _reference(
    photo: np.ndarray, flow: np.ndarray, occlusion: np.ndarray, paint: np.ndarray
) -> np.ndarray:
    y, x = np.mgrid[0:PHOTO, 0:PHOTO].astype(float)
    x = x + PHOTO * _enlarge(flow[0, 0].astype(float), PHOTO)
    y = y + PHOTO * _enlarge(flow[0, 1].astype(float), PHOTO)
    share = _enlarge(occlusion[0, 0].astype(float), PHOTO)
    table = _between(_between(photo.astype(float)).swapaxes(0, 1)).swapaxes(0, 1)
    table = np.clip(table, 0, 255)
    channels = [
        _bilinear(table[..., c], 2 * x, 2 * y) * (1 - share)
        + 255 * _enlarge(paint[0, c].astype(float), PHOTO) * share
        for c in range(3)
    ]
    return np.stack(channels, -1)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_follows_the_contract(name: str) -> None:
    """Warp, paint and blend agree with the written formula within an 8-bit step on average."""
    scene = _scene()
    error = np.abs(composite(*scene, name) - _reference(*scene))
    assert error.mean() < 0.6
    assert error.max() < 5  # 1/64 pixel of coordinate rounding on the steepest edge


def test_implementations_agree() -> None:
    """A frame does not depend on which implementation a machine has."""
    for seed in range(4):
        scene = _scene(seed)
        frames = [composite(*scene, name).astype(int) for name in IMPLEMENTATIONS]
        difference = np.abs(frames[0] - frames[1])
        assert difference.mean() <= 1
        assert difference.max() <= 3


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_no_motion_returns_the_photo(name: str) -> None:
    """Zero flow and zero occlusion give back every byte of the photo."""
    photo, flow, occlusion, paint = _scene()
    frame = composite(photo, flow * 0, occlusion * 0, paint, name)
    np.testing.assert_array_equal(frame, photo)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_whole_pixel_flow_moves_bytes_and_repeats_the_border(name: str) -> None:
    """A shift by whole pixels copies pixels unchanged; beyond the photo its border goes on."""
    photo, flow, occlusion, paint = _scene()
    flow[:] = 0
    flow[0, 0] = 5 / PHOTO
    frame = composite(photo, flow, occlusion * 0, paint, name)
    np.testing.assert_array_equal(frame[:, :-5], photo[:, 5:])
    np.testing.assert_array_equal(frame[:, -5:], np.repeat(photo[:, -1:], 5, axis=1))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_moving_photo_stays_sharp(name: str) -> None:
    """Fine texture does not blur when it comes to lie between the pixels."""
    photo, flow, occlusion, paint = _scene()
    y, x = np.mgrid[0:PHOTO, 0:PHOTO]
    photo[:] = (127 + 60 * np.sin(1.6 * x + 0.5 * y))[..., None]  # a period of four pixels

    def contrast(shift: float) -> float:
        flow[:] = shift / PHOTO
        frame = composite(photo, flow, occlusion * 0, paint, name)[8:-8, 8:-8].astype(float)
        return float(frame.std())

    for shift in (0.25, 0.5, 0.7):
        assert contrast(shift) > 0.9 * contrast(0)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_full_occlusion_shows_only_paint(name: str) -> None:
    """Where the paint's weight is one, nothing of the photo is left, and values saturate."""
    photo, flow, occlusion, paint = _scene()
    paint[:] = np.float32([0.2, 1.7, -0.5]).reshape(1, 3, 1, 1)
    frame = composite(photo, flow, np.ones_like(occlusion), paint, name)
    np.testing.assert_array_equal(frame, np.broadcast_to(np.uint8([51, 255, 0]), frame.shape))


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (1.07, 0.95, 0.75)])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_paint_takes_the_tone_of_a_photo_without_colours(
    name: str, tone: tuple[float, float, float]
) -> None:
    """On a greyscale or sepia photo lids and lips are painted grey or sepia, as bright as they
    were."""
    photo, flow, occlusion, paint = _scene()
    grey = photo.mean(-1, keepdims=True) * 0.8
    toned = np.rint(grey * tone).astype(np.uint8)
    paint = 0.2 + 0.5 * paint
    frame = composite(toned, flow, np.ones_like(occlusion), paint, name).astype(float)
    want = frame.mean(-1, keepdims=True) * np.divide(tone, np.mean(tone))
    assert np.abs(frame - want).max() < 4
    plain = composite(photo, flow, np.ones_like(occlusion), paint, name)
    assert np.abs(frame.mean(-1) - plain.mean(-1)).max() < 4


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_calls_are_independent(name: str) -> None:
    """Reused buffers leave nothing behind: the second frame is as if it were the first."""
    photo, flow, occlusion, paint = _scene()
    compositor = Compositor(photo, name)
    first = compositor(flow, occlusion, paint)
    kept = first.copy()
    compositor(-flow, 1 - occlusion, 1 - paint)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(compositor(flow, occlusion, paint), kept)


def test_choice_is_said_and_never_changed_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """``name`` tells what runs, and asking for OpenCV without it is an error with its cure."""
    photo = _scene()[0]
    assert [Compositor(photo, name).name for name in IMPLEMENTATIONS] == list(IMPLEMENTATIONS)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert Compositor(photo).name == "numpy"
    with pytest.raises(BackendError, match="pip install"):
        Compositor(photo, "opencv")
    with pytest.raises(UsageError, match="numpy"):
        Compositor(photo, "cuda")


def test_wrong_shapes_are_refused_by_name() -> None:
    """A photo or tensor of another shape is refused with the shape it should have."""
    photo, flow, occlusion, paint = _scene()
    with pytest.raises(PhotoError, match=r"uint8 \(H, W, 3\)"):
        Compositor(photo[..., 0])
    with pytest.raises(BundleError, match=r"flow \(1, 2, h, w\)"):
        composite(photo, flow[:, :1], occlusion, paint)
    with pytest.raises(BundleError, match="paint"):
        composite(photo, flow, occlusion, paint[..., ::2])
