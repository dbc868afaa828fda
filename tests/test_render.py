"""Rendering: motion sampled at any PTS, the render graph's contract, order of the last steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from vivant.composite import Compositor
from vivant.controls import Controls
from vivant.latent import INDEX, SIZE
from vivant.render import Frame, MotionTrack, Renderer, frame_pts
from vivant.stats import Stats

SIDE = 32


@dataclass
class _Portrait:
    photo: np.ndarray
    features: np.ndarray
    keypoints: np.ndarray
    motion: np.ndarray


@dataclass
class _Graph:
    """A render stage that shifts the photo by one pixel for each degree of yaw beyond its own."""

    seen: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __call__(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append({name: value.copy() for name, value in tensors.items()})
        yaw = (tensors["motion"] - tensors["source"])[0, INDEX["headYaw"]]
        flow = np.zeros((1, 2, 8, 8), np.float32)
        flow[0, 0] = yaw / SIDE
        return {
            "flow": flow,
            "occlusion": np.zeros((1, 1, 16, 16), np.float32),
            "paint": np.ones((1, 3, 16, 16), np.float32),
        }


def _portrait() -> _Portrait:
    rng = np.random.default_rng(0)
    own = np.zeros((1, SIZE), np.float32)
    own[0, INDEX["headYaw"]] = 2
    return _Portrait(
        photo=rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        features=rng.normal(size=(1, 4, 8, 8)).astype(np.float32),
        keypoints=rng.normal(size=(1, 5, 3)).astype(np.float32),
        motion=own,
    )


def _track(yaws: list[float]) -> MotionTrack:
    track = MotionTrack(320)
    frames = np.zeros((len(yaws), SIZE), np.float32)
    frames[:, INDEX["headYaw"]] = yaws
    track.append(frames)
    return track


def _yaw(track: MotionTrack, pts: int) -> float:
    return float(track.sample(pts)[0][INDEX["headYaw"]])


def test_track_interpolates_linearly_between_its_frames() -> None:
    """Motion at any PTS lies on the line between its two neighbours; outside it holds."""
    track = _track([0, 4, 2])
    assert [_yaw(track, pts) for pts in (0, 80, 320, 480, 640)] == [0, 1, 4, 3, 2]
    assert _yaw(track, -50) == 0
    assert _yaw(track, 10_000) == 2


def test_track_end_is_where_knowledge_ends() -> None:
    """``end`` is the first PTS that later frames could still change."""
    track = MotionTrack(320)
    assert track.end == 0
    track.append(np.zeros((1, SIZE), np.float32))
    assert track.end == 1
    track.append(np.zeros((4, SIZE), np.float32))
    assert track.end == 4 * 320 + 1
    with pytest.raises(LookupError):
        MotionTrack(320).sample(0)


def test_track_in_pieces_equals_the_whole() -> None:
    """However motion arrives, and whatever was dropped behind it, the samples are the same."""
    motion = np.random.default_rng(0).uniform(0, 1, (900, SIZE)).astype(np.float32)
    whole, parts = MotionTrack(320), MotionTrack(320)
    whole.append(motion)
    for start in range(0, 900, 7):
        parts.append(motion[start : start + 7])
        pts = max(start * 320 - 100, 0)
        parts.drop(pts)
        for later in (pts, pts + 130):
            a, b = whole.sample(later), parts.sample(later)
            np.testing.assert_allclose(a[0], b[0], atol=1e-6)
            assert a[1] == pytest.approx(b[1], abs=1e-6)
    assert parts.end == whole.end


@pytest.mark.parametrize("fps", [23.976, 25, 29.97, 30, 50, 60])
def test_frame_times_never_drift(fps: float) -> None:
    """Frame times are integers, and after ten hours still within half a sample of the truth."""
    number = round(36_000 * fps)
    assert abs(frame_pts(number, fps) - number * 16_000 / fps) <= 0.5


def test_rest_is_the_photo() -> None:
    """A neutral motion shows the photo itself, under the photo's own code."""
    portrait, graph = _portrait(), _Graph()
    frame = Renderer(graph, portrait, Compositor(portrait.photo)).frame(_track([0]), 0)
    assert isinstance(frame, Frame)
    assert frame.pts == 0
    np.testing.assert_array_equal(frame.rgb, portrait.photo)
    np.testing.assert_array_equal(graph.seen[0]["motion"], portrait.motion)


def test_graph_gets_the_named_tensors() -> None:
    """The render stage is called with the bundle's four inputs, float32, batch of one."""
    portrait, graph = _portrait(), _Graph()
    Renderer(graph, portrait, Compositor(portrait.photo)).frame(_track([0, 3]), 320)
    (seen,) = graph.seen
    assert {name: value.shape for name, value in seen.items()} == {
        "features": portrait.features.shape,
        "keypoints": portrait.keypoints.shape,
        "source": (1, SIZE),
        "motion": (1, SIZE),
    }
    assert {value.dtype for value in seen.values()} == {np.dtype(np.float32)}
    assert seen["motion"][0, INDEX["headYaw"]] == pytest.approx(5)


def test_mark_goes_over_the_finished_frame() -> None:
    """The mark sees the composited frame, and what it returns is what comes out."""
    portrait = _portrait()
    marked: list[np.ndarray] = []

    def mark(rgb: np.ndarray) -> np.ndarray:
        marked.append(rgb.copy())
        return 255 - rgb

    renderer = Renderer(_Graph(), portrait, Compositor(portrait.photo), marker=mark)
    frame = renderer.frame(_track([3]), 0)
    np.testing.assert_array_equal(marked[0][:, :-3], portrait.photo[:, 3:])
    np.testing.assert_array_equal(frame.rgb, 255 - marked[0])


def test_controls_act_and_may_change_between_frames() -> None:
    """``still_head`` stops the head at once, and lets it go at once."""
    portrait, track = _portrait(), _track([3])
    renderer = Renderer(_Graph(), portrait, Compositor(portrait.photo))
    moved = renderer.frame(track, 0).rgb
    renderer.controls = Controls(still_head=True)
    np.testing.assert_array_equal(renderer.frame(track, 0).rgb, portrait.photo)
    renderer.controls = Controls()
    np.testing.assert_array_equal(renderer.frame(track, 0).rgb, moved)


def test_stats_say_which_compositor_ran() -> None:
    """The choice of compositor and the time of the renderer's own stages are in the stats."""
    portrait, stats = _portrait(), Stats()
    compositor = Compositor(portrait.photo, "numpy")
    Renderer(_Graph(), portrait, compositor, stats=stats).frame(_track([0]), 0)
    assert stats.notes["compositor"] == "numpy"
    assert [row.stage for row in stats.rows()] == ["retarget", "composite"]
