"""From photo and sound to frames through every graph of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import portrait

import vivant
from vivant.controls import Controls
from vivant.errors import AudioError, PhotoError, UsageError

RATE = 16_000


def tone(samples: int) -> tuple[np.ndarray, int]:
    t = np.arange(samples) / RATE
    return (0.3 * np.sin(2 * np.pi * 200 * t) * np.sin(2 * np.pi * 2 * t)).astype(np.float32), RATE


@pytest.fixture
def face(bundle_path: Path):
    """A session with the tiny bundle and a "person" in it."""
    with vivant.open(portrait(), bundle=str(bundle_path), backend="onnxruntime") as session:
        yield session


@pytest.mark.parametrize("samples", [1, 640, 15_999, 16_000, 40_321])
@pytest.mark.parametrize("fps", [25, 29.97, 60])
def test_frames_cover_the_sound_within_one_frame(face, samples: int, fps: float) -> None:
    """Nothing is dropped: the video lasts as long as the sound, rounded up to a frame."""
    frames = list(face.animate(tone(samples), fps=fps))
    assert 0 <= len(frames) / fps - samples / RATE < 1 / fps + 1e-4
    assert [frame.pts for frame in frames] == [round(n * RATE / fps) for n in range(len(frames))]


def test_frames_are_pictures_that_move(face) -> None:
    """Frames are 512x512 RGB, differ from one another, and stay close to the photo."""
    frames = [frame.rgb for frame in face.animate(tone(RATE))]
    assert all(frame.shape == (512, 512, 3) and frame.dtype == np.uint8 for frame in frames)
    assert np.abs(frames[20].astype(int) - frames[0]).mean() > 0.1
    assert np.abs(frames[0].astype(int) - face.portrait.photo).mean() < 10


def test_the_same_seed_gives_the_same_video(face) -> None:
    """Reproducible to the bit; another seed moves another way."""
    first, again, other = (
        np.stack([frame.rgb for frame in face.animate(tone(8000), seed=seed)]) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_long_recording_is_animated_in_pieces(face) -> None:
    """Frames of the beginning come before the end is read, so memory does not grow."""
    frames = face.animate(tone(60 * RATE))
    assert next(frames).pts == 0
    frames.close()
    assert face.stats.summary()["stages"]
    listened = next(row for row in face.stats.rows() if row.stage == "listen")
    assert listened.calls < 200


def test_still_head_keeps_the_pose_and_the_face_moves(face) -> None:
    """With a still head only the mouth differs from frame to frame."""
    frames = [f.rgb for f in face.animate(tone(RATE), controls=Controls(still_head=True))]
    change = np.abs(np.stack(frames).astype(int) - frames[0]).mean((0, 3))
    assert change[290:345, 230:280].max() > 1
    assert change[:200].max() < 3


def test_motion_alone_needs_no_portrait(bundle_path: Path) -> None:
    """Avatars of other programs can be driven without any photo."""
    with vivant.open(bundle=str(bundle_path), backend="onnxruntime") as session:
        motion = np.concatenate(list(session.motion(tone(16_000))))
        assert motion.shape == (50, 63)
        with pytest.raises(UsageError, match="no portrait"):
            next(session.animate(tone(100)))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1000])
def test_impossible_frame_rates_are_refused(face, fps: float) -> None:
    """A frame rate out of range says which range."""
    with pytest.raises(UsageError, match="1 to 120"):
        next(face.animate(tone(100), fps=fps))


def test_wrong_inputs_keep_their_kind(face, tmp_path: Path) -> None:
    """Photo and recording errors come through as what they are."""
    with pytest.raises(AudioError):
        next(face.animate(tmp_path / "none.wav"))
    with pytest.raises(PhotoError):
        face.use_portrait(np.zeros((64, 64, 3), np.uint8))
