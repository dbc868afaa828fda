"""The command line does what its help says, and every mistake has its exit code."""

from __future__ import annotations

import errno
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_bundle import portrait

from vivant.cli import main
from vivant.plan import Plan

RATE = 16_000


@pytest.fixture
def work(tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, half a second of sound and a bundle beside it."""
    Image.fromarray(portrait()).save(tmp_path / "me.png")
    samples = np.random.default_rng(1).normal(0, 0.1, RATE // 2).astype(np.float32)
    soundfile.write(tmp_path / "say.wav", samples, RATE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(bundle_path)
    return tmp_path


def animate(*arguments: str) -> int:
    """Run ``vivant animate`` on the prepared photo and sound with the tiny bundle."""
    options = ["--bundle", "bundle", "--backend", "onnxruntime", "-q"]
    return main(["animate", "me.png", "say.wav", *options, *arguments])


def test_animate_writes_a_video_of_the_sounds_length(work: Path) -> None:
    """Photo and sound in, one MP4 out."""
    assert animate("-o", "out.mp4") == 0
    import av

    with av.open("out.mp4") as video:
        assert [s.type for s in video.streams] == ["video", "audio"]
        frames = list(video.decode(video=0))
    assert len(frames) == 13
    assert (frames[0].width, frames[0].height) == (512, 512)


def test_animate_writes_motion_as_arkit_tables(work: Path) -> None:
    """The motion alone, in two formats with the same numbers."""
    assert animate("-o", "m.csv") == 0
    assert animate("-o", "m.json") == 0
    rows = [r for r in (work / "m.csv").read_text().splitlines() if not r.startswith("#")]
    table = json.loads((work / "m.json").read_text())
    assert rows[0].split(",")[2:] == table["names"]
    assert len(rows) - 1 == len(table["frames"]) == 26
    assert float(rows[5].split(",")[9]) == pytest.approx(table["frames"][4]["values"][7], abs=1e-5)


def test_animate_writes_frames_and_reports_as_json(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PNG frames in a new folder; --json says what was done and how long each stage took."""
    assert animate("-o", "frames/", "--fps", "10", "--json", "--stats") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == len(list((work / "frames").glob("*.png"))) == 5
    assert {"align", "encode", "listen", "denoise", "render", "composite"} <= {
        row["stage"] for row in result["stats"]["stages"]
    }
    assert "times real time" in result["stats"]["notes"]["speed"]


def test_animate_pipes_raw_frames(work: Path) -> None:
    """``-o -`` writes RGB24 to standard output and nothing else."""
    options = ["--bundle", "bundle", "--backend", "onnxruntime", "-o", "-"]
    run = subprocess.run(
        [sys.executable, "-m", "vivant.cli", "animate", "me.png", "say.wav", *options],
        capture_output=True,
        check=True,
    )
    assert len(run.stdout) == 13 * 512 * 512 * 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fps", "0"], 2, "1 to 120"),
        (["--emotion", "bored"], 2, "happy"),
        (["--gaze", "1"], 2, "YAW,PITCH"),
        (["--threads", "-1"], 2, "0 (auto)"),
        (["--threads", "99999999"], 2, "256"),
        (["--seed", "-1"], 2, "0 to 2^64"),
        (["--backend", "abacus"], 2, "onnxruntime"),
        (["--face", "3"], 2, "face"),
        (["--bundle", "nowhere"], 5, "nowhere"),
        (["-o", "out.avi"], 7, ".mp4"),
        (["-o", "no/such/folder/out.mp4"], 7, "folder"),
        (["-o", "out.csv", "--emotion", ""], 2, "happy"),
        (["-o", "say.wav.mp4/"], 0, ""),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_each_mistake_has_its_exit_code_and_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """What was wrong and what was expected, on one line, with the documented exit code."""
    assert animate(*arguments) == code
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == (1 if code else 0)


def test_wrong_inputs_have_their_exit_codes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 for the photo, 4 for the recording; the old output stays as it was."""
    good = work / "talking.mp4"
    good.write_bytes(b"an earlier video")
    Image.new("RGB", (300, 300)).save("nobody.png")
    (work / "noise.wav").write_bytes(b"not a sound")
    rest = ["--bundle", "bundle", "-q"]
    assert main(["animate", "nobody.png", "say.wav", *rest]) == 3
    assert main(["animate", "me.png", "noise.wav", *rest]) == 4
    assert main(["animate", "missing.png", "say.wav", *rest]) == 3
    assert good.read_bytes() == b"an earlier video"
    assert capsys.readouterr().err.count("vivant: error:") == 3


@pytest.mark.parametrize("output", ["out.mp4", "out.csv", "-"])
def test_inputs_are_looked_at_first(
    work: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """A missing photo or recording is said before any graph is compiled, for every output."""
    monkeypatch.setattr(Plan, "load", lambda *_: pytest.fail("a graph was compiled"))
    options = ["--bundle", "bundle", "-q", "-o", output]
    assert main(["animate", "missing.png", "say.wav", *options]) == 3
    assert main(["animate", "", "say.wav", *options]) == 3
    assert main(["animate", "me.png", "", *options]) == 4
    assert main(["animate", "me.png", "-", *options]) == 4
    if output != "-":
        assert animate("-o", f"nowhere/{output}") == 7


def test_a_hostile_name_cannot_write_to_the_terminal(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line breaks and escape sequences in a file's name are shown, not obeyed."""
    assert main(["animate", "a\n\x1b[2Jb.png", "say.wav"]) == 3
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert r"a\n\x1b[2Jb.png" in printed


def test_an_input_is_never_overwritten(work: Path) -> None:
    """Choosing the photo as the output is refused."""
    (work / "me.png").rename(work / "me.mp4")
    before = (work / "me.mp4").read_bytes()
    options = ["--bundle", "bundle", "-q", "-o", "me.mp4"]
    assert main(["animate", "me.mp4", "say.wav", *options]) == 7
    assert (work / "me.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_being_stopped_leaves_nothing_and_says_so(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    """Stopping half-way, by Ctrl-C, SIGTERM or a closed terminal, leaves no half a video."""
    from vivant.sinks import Mp4Sink

    write = Mp4Sink.write

    def stop(sink: Mp4Sink, frame: object) -> None:
        write(sink, frame)  # type: ignore[arg-type]
        if frame.pts > 2000:  # type: ignore[attr-defined]
            signal.raise_signal(number)

    monkeypatch.setattr(Mp4Sink, "write", stop)
    # Tests that run in the background or under nohup inherit some signals as ignored.
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    try:
        assert animate("-o", "out.mp4") == code
    finally:
        signal.signal(number, before)
    assert "stopped" in capsys.readouterr().err
    assert sorted(p.name for p in work.iterdir()) == ["bundle", "me.png", "say.wav"]


def test_faults_of_our_own_are_called_that(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception is one line with exit code 1, and a traceback only on demand."""
    monkeypatch.setattr("vivant.animate_cli.frame_rate", lambda fps: 1 / 0)
    assert animate() == 1
    assert "--debug" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "animate", "me.png", "say.wav"])


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Help shows examples and the exit codes."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit codes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["animate", "--help"])
    assert "examples" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["bench"], ["export"], ["train", "motion"], ["evaluate", "face"]])
def test_verbs_with_a_command_line_of_their_own_show_their_own_help(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments behind such a verb, ``--help`` too, are its own."""
    with pytest.raises(SystemExit) as done:
        main([*verb, "--help"])
    assert done.value.code == 0
    assert f"usage: vivant {' '.join(verb)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["animate", "--fps", "fast"], "30000/1001"),
        (["animate", "--fps", "nan"], "30000/1001"),
        (["animate", "--seed", "x"], "whole number"),
        (["animate", "--gaze", "-10,0"], "--gaze=-10,0"),
        (["animate", "a.jpg", "b.wav", "c.wav"], "c.wav"),
        (["paint"], "animate"),
        ([], "VERB"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No page of usage: what is wrong, and where to read on."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert words in line
    assert "--help" in line


def test_progress_counts_every_frame(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a second at 25 frames a second are 13 frames, and 13 are announced."""
    options = ["--bundle", "bundle", "--backend", "onnxruntime"]
    assert main(["animate", "me.png", "say.wav", *options, "-o", "out.rgb"]) == 0
    assert "Animating 13/13 frames, 100%" in capsys.readouterr().err


class _Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_program_without_a_console_gets_its_video(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services and windowed programs have no standard error, or one that takes nothing."""
    monkeypatch.setattr(sys, "stderr", None)
    options = ["--bundle", "bundle", "--backend", "onnxruntime", "--stats"]
    assert main(["animate", "me.png", "say.wav", *options, "-o", "out.rgb"]) == 0
    monkeypatch.setattr(sys, "stderr", _Full())
    assert main(["animate", "me.png", "say.wav", *options, "-o", "out.rgb"]) == 0
    assert (work / "out.rgb").stat().st_size == 13 * 512 * 512 * 3


def test_frames_cannot_go_to_a_closed_standard_output(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``-o -`` without a standard output is an error of the output."""
    monkeypatch.setattr(sys, "stdout", None)
    assert animate("-o", "-") == 7
    assert "closed" in capsys.readouterr().err


def test_a_full_standard_output_is_said(work: Path) -> None:
    """What could not be printed is an error of the output, not a fault of the program."""
    for arguments in (["bundle", "info", "bundle"], ["bundle", "info", "bundle", "--json"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "vivant.cli", *arguments]
            run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 7
        assert "standard output cannot be written" in run.stderr
        assert run.stderr.count("\n") == 1


def test_foreign_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that does not exist is a usage error, not silently dropped."""
    with pytest.raises(SystemExit) as done:
        main(["devices", "--colour", "blue"])
    assert done.value.code == 2
    assert "--colour" in capsys.readouterr().err
