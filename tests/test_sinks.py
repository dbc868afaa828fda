"""Sinks: what is written can be read back, and what cannot be written leaves no trace."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vivant import disclosure
from vivant.audio import Sound
from vivant.errors import AudioError, OutputError
from vivant.latent import NAMES, SIZE
from vivant.render import Frame, frame_pts
from vivant.sinks import MotionSink, Mp4Sink, PngSink, RawSink, open_sink, output_kind

SIDE = 64


def _frames(count: int, fps: float = 25) -> Iterator[Frame]:
    """A picture that brightens from frame to frame, red at its left and blue at its right."""
    for n in range(count):
        rgb = np.full((SIDE, SIDE, 3), 40 + n, np.uint8)
        rgb[:, : SIDE // 2, 0], rgb[:, SIDE // 2 :, 2] = 220, 200
        yield Frame(rgb, frame_pts(n, fps))


def _sound(seconds: float, rate: int = 16_000, channels: int = 1) -> Sound:
    """A 440 Hz tone that starts after 0.2 s, in blocks that fit no frame."""
    t = np.arange(round(seconds * rate)) / rate
    tone = np.where(t >= 0.2, 0.5 * np.sin(2 * np.pi * 440 * t), 0).astype(np.float32)
    samples = np.repeat(tone[:, None], channels, axis=1)
    blocks = (samples[i : i + 777] for i in range(0, len(samples), 777))
    return Sound(blocks, rate, channels, seconds)


def _write_mp4(path: Path, seconds: float = 1.0, fps: float = 25, **sound: int) -> int:
    count = math.ceil(seconds * fps)
    with Mp4Sink(path, fps=fps, sound=_sound(seconds, **sound)) as sink:
        for frame in _frames(count, fps):
            sink.write(frame)
    return count


def _pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]


@contextmanager
def _full_disk(limit: int) -> Iterator[None]:
    """Every write beyond ``limit`` bytes of a file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("fps", "rate", "channels"),
    [(25, 16_000, 1), (29.97, 44_100, 2), (60, 48_000, 1), (30, 8_000, 2)],
)
def test_mp4_plays_as_long_as_its_sound(
    tmp_path: Path, fps: float, rate: int, channels: int
) -> None:
    """Frame count and rate are exact, and picture and sound end within one frame."""
    path = tmp_path / "out.mp4"
    count = _write_mp4(path, 1.03, fps, rate=rate, channels=channels)
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.codec_context.pix_fmt == "yuv420p"
        assert float(video.average_rate) == pytest.approx(fps, rel=1e-6)
        assert (audio.rate, audio.channels) == (rate, channels)
        video_s = float(video.duration * video.time_base)
        audio_s = float(audio.duration * audio.time_base)
        assert video_s == pytest.approx(count / fps, abs=2e-3)
        assert abs(audio_s - 1.03) <= 1024 / rate
        assert abs(video_s - audio_s) <= 1 / fps
        times = [float(f.pts * f.time_base) for f in file.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(count) / fps, atol=1e-3)


def test_mp4_shows_the_right_colours_in_order(tmp_path: Path) -> None:
    """Decoded frames are the frames written, in order and colour, to within compression."""
    path = tmp_path / "out.mp4"
    _write_mp4(path, 0.4)
    shown = _pictures(path)
    assert len(shown) == 10
    for wrote, got in zip(_frames(10), shown, strict=True):
        error = np.abs(wrote.rgb.astype(int) - got)
        assert error[:, 4 : SIDE // 2 - 4].mean() < 3
        assert error[:, SIDE // 2 + 4 : -4].mean() < 3


def test_mp4_sound_is_in_time_and_loud_as_it_was(tmp_path: Path) -> None:
    """The tone starts where it started, within 5 ms, at the level it had."""
    path = tmp_path / "out.mp4"
    _write_mp4(path, 1.0, rate=48_000)
    with av.open(str(path)) as file:
        heard = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
    onset = int(np.argmax(np.abs(heard) > 0.25)) / 48_000
    assert abs(onset - 0.2) < 0.005
    assert np.abs(heard[20_000:40_000]).max() == pytest.approx(0.5, abs=0.03)


def test_mp4_says_that_it_is_generated(tmp_path: Path) -> None:
    """Title, comment and the IPTC digital source type are in the file, its index at the front."""
    path = tmp_path / "out.mp4"
    _write_mp4(path, 0.2)
    with av.open(str(path)) as file:
        assert file.metadata["title"] == disclosure.TITLE
        assert "AI-generated" in file.metadata["comment"]
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert disclosure.XMP_BOX.bytes in data
    assert disclosure.DIGITAL_SOURCE_TYPE.encode() in data[data.index(b"mdat") :]
    boxes, at = [], 0
    while at < len(data):
        boxes.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    assert at == len(data)
    assert boxes[-1] == b"uuid"


def test_mp4_without_sound(tmp_path: Path) -> None:
    """A video needs no sound track."""
    path = tmp_path / "out.mp4"
    with Mp4Sink(path) as sink:
        for frame in _frames(5):
            sink.write(frame)
    with av.open(str(path)) as file:
        assert not file.streams.audio
    assert len(_pictures(path)) == 5


def test_same_frames_same_file(tmp_path: Path) -> None:
    """Writing the same twice gives the same bytes: no clock and no chance in the file."""
    _write_mp4(tmp_path / "a.mp4", 0.4)
    _write_mp4(tmp_path / "b.mp4", 0.4)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_png_frames_are_exact_and_marked(tmp_path: Path) -> None:
    """Numbered frames come back byte for byte, each saying that it is AI-generated."""
    folder = tmp_path / "frames"
    with PngSink(folder) as sink:
        for frame in _frames(3):
            sink.write(frame)
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    for n, frame in enumerate(_frames(3)):
        with Image.open(folder / f"{n:06}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), frame.rgb)
            assert "AI-generated" in image.info["Comment"]
            assert disclosure.DIGITAL_SOURCE_TYPE in image.info["XML:com.adobe.xmp"]


def test_raw_frames_are_bare_bytes(tmp_path: Path) -> None:
    """RGB24 is width x height x 3 bytes a frame, nothing else; strided frames too."""
    path = tmp_path / "out.rgb"
    frames = [Frame(f.rgb[:, ::-1], f.pts) for f in _frames(3)]
    with RawSink(path) as sink:
        for frame in frames:
            sink.write(frame)
    data = np.frombuffer(path.read_bytes(), np.uint8).reshape(3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(data, [f.rgb for f in frames])


def test_raw_frames_go_to_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is standard output; a reader that leaves is a broken pipe, not an error of ours."""
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(writer, "wb", buffering=0)))
    with RawSink("-") as sink:
        sink.write(Frame(np.full((2, 2, 3), 7, np.uint8), 0))
    assert os.read(reader, 100) == b"\x07" * 12
    os.close(reader)
    with pytest.raises(BrokenPipeError), RawSink("-") as sink:
        sink.write(next(_frames(1)))


def _motion(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-30, 30, (count, SIZE)).astype(np.float32)


def test_motion_as_csv(tmp_path: Path) -> None:
    """Rows hold PTS, seconds and the named values, and the header says the units."""
    path, motion = tmp_path / "motion.csv", _motion(7)
    with MotionSink(path, "csv") as sink:
        sink.write(motion[:3])
        sink.write(motion[3:])
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert "AI-generated" in comments[0]
    assert "headYaw degree" in comments[1]
    assert lines[2].split(",") == ["pts", "seconds", *NAMES]
    table = np.genfromtxt(lines[3:], delimiter=",")
    np.testing.assert_array_equal(table[:, 0], np.arange(7) * 320)
    np.testing.assert_allclose(table[:, 1], np.arange(7) * 0.02)
    np.testing.assert_allclose(table[:, 2:], motion, rtol=1e-5)


def test_motion_as_json(tmp_path: Path) -> None:
    """The JSON is one valid object with names, units, rates and frames; empty motion too."""
    path, motion = tmp_path / "motion.json", _motion(3)
    with MotionSink(path, "json") as sink:
        sink.write(motion)
    told = json.loads(path.read_text())
    assert told["names"] == list(NAMES)
    assert len(told["units"]) == SIZE
    assert (told["rate"], told["ptsRate"]) == (50, 16_000)
    assert [f["pts"] for f in told["frames"]] == [0, 320, 640]
    np.testing.assert_allclose([f["values"] for f in told["frames"]], motion, rtol=1e-5)
    with MotionSink(path, "json"):
        pass
    assert json.loads(path.read_text())["frames"] == []


SINKS: list[tuple[str, Callable[[Path], None]]] = [
    ("out.mp4", lambda sink: [sink.write(f) for f in _frames(12)]),
    ("out.rgb", lambda sink: [sink.write(f) for f in _frames(12)]),
    ("out.csv", lambda sink: sink.write(_motion(400))),
    ("out.json", lambda sink: sink.write(_motion(400))),
    ("frames/", lambda sink: [sink.write(f) for f in _frames(12)]),
]


def _run(
    path: str | Path,
    fill: Callable[[object], None],
    fault: BaseException | type[BaseException] | None = None,
    sound: Sound | None = None,
) -> None:
    """A run that fills a sink and then, maybe, fails before the sink is closed."""
    with open_sink(path, sound=sound) as sink:
        fill(sink)
        if fault is not None:
            raise fault


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, AudioError("damaged")])
@pytest.mark.parametrize(("name", "fill"), SINKS)
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, name: str, fill: Callable[[object], None], fault: BaseException
) -> None:
    """After an error or Ctrl-C mid-way there is no partial file, and no temporary one."""
    with pytest.raises((RuntimeError, KeyboardInterrupt, AudioError)):
        _run(f"{tmp_path}/{name}", fill, fault)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(("name", "fill"), SINKS[:4])
def test_an_interrupted_run_keeps_the_earlier_output(
    tmp_path: Path, name: str, fill: Callable[[object], None], fault: BaseException
) -> None:
    """A partly written output never replaces a good one."""
    path = tmp_path / name
    path.write_bytes(b"good")
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        _run(path, fill, fault)
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [0, 700, 2500])
@pytest.mark.parametrize(("name", "fill"), SINKS)
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, name: str, fill: Callable[[object], None], limit: int
) -> None:
    """Wherever the disk fills up, in a frame or at the end, the error names it, traces go."""
    limit = min(limit, 100) if name == "frames/" else limit
    with _full_disk(limit), pytest.raises(OutputError, match="cannot be written"):
        _run(f"{tmp_path}/{name}", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_good_run_replaces_and_keeps_permissions(tmp_path: Path) -> None:
    """A complete output takes the place of the earlier one with its permissions; new ones get
    the user's own default."""
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with open_sink(path) as sink:
        sink.write(_motion(1))  # type: ignore[arg-type]
    assert b"old" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    mask = os.umask(0o022)
    try:
        with open_sink(tmp_path / "new.csv"):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.csv").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere/out.mp4", "does not exist"),
        ("a-file/out.mp4", "is a file"),
        ("a-folder.mp4", "is a folder"),
        ("x" * 300 + ".mp4", "cannot be written"),
        ("nul\0.mp4", "NUL"),
    ],
)
def test_impossible_places_are_refused_at_the_start(tmp_path: Path, name: str, words: str) -> None:
    """A place that cannot be written is told before any work is done."""
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "a-folder.mp4").mkdir()
    with pytest.raises(OutputError, match=words):
        Mp4Sink(tmp_path / name).open()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-file", "a-folder.mp4"]


@pytest.mark.parametrize("name", ["out.mp4", "out.csv", "frames/"])
def test_a_folder_without_permission_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A folder that may not be written to ends in one line with its cure."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match=r"Permission denied.*Choose a folder"):
        open_sink(f"{tmp_path}/{name}").open()


@pytest.mark.parametrize("name", ["", "out", "out.", "out.avi", "folder.d/out", ".mp4"])
def test_extension_decides_and_must_be_known(name: str) -> None:
    """A missing or unknown extension is refused with the list of those that exist."""
    with pytest.raises(OutputError, match=r"\.mp4, \.rgb"):
        output_kind(name)


def test_extensions(tmp_path: Path) -> None:
    """Extensions in any case, folders and ``-`` say what to write."""
    kinds = {"a.mp4": "mp4", "a.MP4": "mp4", "f/": "png", "-": "raw", "m.csv": "csv"}
    assert {name: output_kind(name) for name in kinds} == kinds
    assert output_kind(tmp_path) == "png"


def test_a_pipe_or_device_takes_raw_frames(tmp_path: Path) -> None:
    """What has no extension and is no file is written to as standard output is."""
    os.mkfifo(tmp_path / "pipe")
    assert output_kind(tmp_path / "pipe") == output_kind(os.devnull) == "raw"


@pytest.mark.parametrize(
    ("fps", "rate"), [(30000 / 1001, "30000/1001"), (100 / 3, "100/3"), (29.97, "2997/100")]
)
def test_mp4_keeps_any_frame_rate(tmp_path: Path, fps: float, rate: str) -> None:
    """A rate that no short decimal gives is written as the ratio that it is."""
    _write_mp4(tmp_path / "out.mp4", 0.5, fps)
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert str(file.streams.video[0].average_rate) == rate


def test_png_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Frames are never mixed with other files: a folder must be new or empty."""
    folder = tmp_path / "frames"
    folder.mkdir()
    with PngSink(folder) as sink:
        sink.write(next(_frames(1)))
    with pytest.raises(OutputError, match="not empty"):
        PngSink(folder).open()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        PngSink(tmp_path / "file").open()


@pytest.mark.parametrize("name", ["talk.mp4", "link.mp4", "./sub/../talk.mp4"])
def test_inputs_are_never_overwritten(tmp_path: Path, name: str) -> None:
    """An output that is an input, by whatever path, is refused and the input kept."""
    source = tmp_path / "talk.mp4"
    source.write_bytes(b"recording")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.mp4").symlink_to(source)
    with pytest.raises(OutputError, match="also an input"):
        open_sink(f"{tmp_path}/{name}", inputs=["no-such-photo.png", source]).open()
    assert source.read_bytes() == b"recording"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """An output that is a symbolic link is written where it points."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "latest.rgb"
    link.symlink_to(tmp_path / "disk" / "today.rgb")
    for count in (1, 2):
        with RawSink(link) as sink:
            for frame in _frames(count):
                sink.write(frame)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "today.rgb").stat().st_size == count * SIDE * SIDE * 3
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["disk", "latest.rgb", "today.rgb"]


def test_empty_video_is_no_video(tmp_path: Path) -> None:
    """Closing without a frame is an error and leaves nothing."""
    with pytest.raises(OutputError, match="at least one frame"), Mp4Sink(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_mp4_without_pyav_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base install has no encoder: the error names the library and the way without it."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OutputError, match="pip install av"):
        Mp4Sink(tmp_path / "out.mp4").open()
    assert list(tmp_path.iterdir()) == []


def test_sound_that_breaks_off_aborts_the_video(tmp_path: Path) -> None:
    """A recording that turns out damaged half-way ends the run with its own error."""

    def damaged() -> Iterator[np.ndarray]:
        yield np.zeros((1600, 1), np.float32)
        raise AudioError("The recording is damaged after 0.10 s")

    sound = Sound(damaged(), 16_000, 1, None)
    with pytest.raises(AudioError):
        _run(tmp_path / "out.mp4", SINKS[0][1], sound=sound)
    assert list(tmp_path.iterdir()) == []
