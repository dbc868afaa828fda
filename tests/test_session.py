"""From photo and sound to frames through every graph of a bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_bundle import portrait

import vivant
from vivant.controls import Controls
from vivant.errors import AudioError, PhotoError, UsageError
from vivant.latent import INDEX

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


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1000, "25", None])
def test_impossible_frame_rates_are_refused(face, fps: float) -> None:
    """A frame rate out of range says which range."""
    with pytest.raises(UsageError, match="1 to 120"):
        face.animate(tone(100), fps=fps)


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"seed": "x"}, {"controls": {"gaze": (1, 2)}}],
    ids=str,
)
def test_wrong_arguments_are_refused_before_any_frame(face, wrong: dict) -> None:
    """The call itself says what is wrong, in one line with what was expected."""
    with pytest.raises(UsageError, match="expected"):
        face.animate(tone(100), **wrong)
    with pytest.raises(UsageError, match="expected"):
        face.motion(tone(100), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"threads": -1}, {"threads": 100_000}, {"threads": "2"}, {"backend": "abacus"}],
    ids=str,
)
def test_wrong_ways_to_open_are_refused_at_once(bundle_path: Path, wrong: dict) -> None:
    """No vendor is asked for a hundred thousand threads."""
    with pytest.raises(UsageError, match="expected"):
        vivant.open(bundle=bundle_path, **wrong)


def test_one_session_serves_many(face) -> None:
    """Photos and sounds follow one another, overlap and break off; each is as if it were alone."""
    alone = [frame.rgb for frame in face.animate(tone(4000), seed=1)]
    portrait_before = face.portrait
    broken = face.animate(tone(RATE), seed=2)
    next(broken)
    with pytest.raises(PhotoError):
        face.use_portrait("missing.jpg")
    assert face.portrait is portrait_before
    mixed = [frame.rgb for frame, _ in zip(face.animate(tone(4000), seed=1), broken, strict=False)]
    broken.close()
    np.testing.assert_array_equal(mixed, alone)
    face.use_portrait(portrait(radius=50))
    other = [frame.rgb for frame in face.animate(tone(4000), seed=1)]
    face.use_portrait(portrait())
    again = [frame.rgb for frame in face.animate(tone(4000), seed=1)]
    assert (np.array(other) != alone).any()
    np.testing.assert_array_equal(again, alone)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_may_share_a_session(bundle_path: Path, backend: str) -> None:
    """Three threads that animate with one session get the frames that one would."""
    with vivant.open(portrait(), bundle=bundle_path, backend=backend) as face:

        def play(_: int) -> list[np.ndarray]:
            return [frame.rgb for frame in face.animate(tone(4000))]

        expected = play(0)
        with ThreadPoolExecutor(3) as pool:
            for frames in pool.map(play, range(3)):
                np.testing.assert_array_equal(frames, expected)


def test_still_head_holds_in_the_motion_too(bundle_path: Path) -> None:
    """An avatar that should hold its head gets no head motion, and its eyes keep their target."""
    with vivant.open(bundle=bundle_path, backend="onnxruntime") as session:
        free = np.concatenate(list(session.motion(tone(8000))))
        still = Controls(still_head=True)
        held = np.concatenate(list(session.motion(tone(8000), controls=still)))
    head, gaze = slice(INDEX["headYaw"], None), slice(INDEX["gazeYaw"], INDEX["headYaw"])
    assert np.abs(free[:, head]).max() > 1
    assert not held[:, head].any()
    target = free[:, gaze] + free[:, head][:, :2]
    close = np.abs(target).max(1) < 15
    np.testing.assert_allclose(held[close, gaze], target[close], atol=1e-4)
    mouth = slice(INDEX["jawForward"], INDEX["tongueOut"])
    np.testing.assert_array_equal(held[:, mouth], free[:, mouth])


def test_the_readme_example_runs(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of the README is Python that works, with a bundle in place of the embedded one."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    monkeypatch.setattr("vivant.bundle.default_path", lambda: bundle_path)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(portrait()).save("me.jpg")
    samples, rate = tone(8000)
    soundfile.write("speech.wav", samples, rate)
    shown, driven = [], []
    exec(code, {"show": lambda rgb, pts: shown.append((rgb, pts)), "drive": driven.append})
    assert [pts for _, pts in shown] == [640 * n for n in range(13)]
    assert all(rgb.shape == (512, 512, 3) and rgb.dtype == np.uint8 for rgb, _ in shown)
    assert np.concatenate(driven).shape == (26, 63)


def test_wrong_inputs_keep_their_kind(face, tmp_path: Path) -> None:
    """Photo and recording errors come through as what they are."""
    with pytest.raises(AudioError):
        face.animate(tmp_path / "none.wav")
    with pytest.raises(PhotoError):
        face.use_portrait(np.zeros((64, 64, 3), np.uint8))
