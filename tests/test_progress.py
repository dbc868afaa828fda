"""What a user sees while waiting and after it: the progress bar and the table of times."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from vivant.progress import Progress, duration
from vivant.stats import WINDOW, Stats


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def _ticking(step: float) -> Callable[[], float]:
    """A clock that moves on by ``step`` at each look."""
    now = -step

    def clock() -> float:
        nonlocal now
        now += step
        return now

    return clock


def test_terminal_redraws_one_line() -> None:
    """On a terminal one line is redrawn in place and ends where the work ends."""
    stream = _Terminal()
    with Progress("Rendering", 4, stream=stream, clock=_ticking(1)) as progress:
        for _ in range(4):
            progress.advance()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.count("\r") >= 4
    assert "4/4 frames, 100%" in text


@pytest.mark.parametrize("columns", [20, 50, 200])
def test_line_never_wraps(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """However narrow the terminal, what is shown fits into one line of it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    with Progress("Rendering", 4, stream=stream, clock=_ticking(1)) as progress:
        progress.advance()
    shown = [line.removesuffix("\x1b[K") for line in stream.getvalue().strip().split("\r")]
    assert max(map(len, shown)) < columns
    assert ("█" in stream.getvalue()) == (columns == 200)


def test_log_gets_few_whole_lines() -> None:
    """Without a terminal there is a line for about every tenth, and no control characters."""
    stream = io.StringIO()
    with Progress("Rendering", 1000, stream=stream, clock=_ticking(0.01)) as progress:
        for _ in range(1000):
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert "100/1000 frames, 10%" in lines[0]
    assert "1000/1000 frames, 100%" in lines[-1]
    assert not {"\r", "\x1b"} & set(stream.getvalue())


def test_eta_is_the_work_left_at_the_rate_so_far() -> None:
    """After 25 of 100 frames in 50 seconds, 150 seconds are left."""
    now = [0.0]
    stream = io.StringIO()
    progress = Progress("Rendering", 100, stream=stream, clock=lambda: now[0])
    now[0] = 50.0
    progress.advance(25)
    assert "0.5/s, 2:30 left" in stream.getvalue()


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR set no colour is written, without it the bar has one."""
    shown = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("TERM", "xterm")
        stream = _Terminal()
        with Progress("Rendering", 2, stream=stream, clock=_ticking(1)) as progress:
            progress.advance()
        shown.append("\x1b[36m" in stream.getvalue())
    assert shown == [True, False]


def test_unknown_total_counts() -> None:
    """A job of unknown length shows what is done and how fast, no share and no ETA."""
    stream = io.StringIO()
    with Progress("Encoding", None, stream=stream, clock=_ticking(1)) as progress:
        progress.advance(3)
    assert "Encoding 3 frames" in stream.getvalue()
    assert "%" not in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_nothing_is_said_when_quiet_or_unheard() -> None:
    """A full disk behind stderr costs the bar, never the job."""
    stream = io.StringIO()
    with Progress("Rendering", 10, stream=stream, quiet=True) as progress:
        progress.advance(10)
    assert stream.getvalue() == ""
    with Progress("Rendering", 10, stream=_Full()) as progress:
        for _ in range(10):
            progress.advance()
    assert progress.done == 10


def test_duration_reads_like_a_clock() -> None:
    """Times left are rounded up and grow an hour when they need one."""
    assert [duration(s) for s in (0, 0.2, 61, 3599.5, 3661)] == [
        "0:00",
        "0:01",
        "1:01",
        "1:00:00",
        "1:01:01",
    ]


def test_stats_give_median_p95_and_share() -> None:
    """Median and 95th percentile are nearest-rank values of the calls, shares add up to one."""
    stats = Stats(clock=lambda: 0)
    for ms in range(1, 101):
        stats.add("render", ms * 1_000_000)
    stats.add("composite", 5050 * 1_000_000)
    render, composite = stats.rows()
    assert (render.calls, render.median_ms, render.p95_ms) == (100, 50, 95)
    assert render.share == composite.share == 0.5
    assert render.total_s == pytest.approx(5.05)


def test_stats_time_a_graph_by_the_given_clock() -> None:
    """A timed graph returns what the graph returns, and its time counts even when it fails."""
    times = iter([0, 100, 130, 200, 260, 300])
    stats = Stats(clock=lambda: next(times))
    double = stats.timed("listen", lambda tensors: {"y": tensors["x"]})
    assert double({"x": 1})["y"] == 1  # type: ignore[dict-item]
    with pytest.raises(KeyError):
        double({})
    (row,) = stats.rows()
    assert row.calls == 2
    assert row.total_s == pytest.approx(90e-9)


def test_stats_print_as_table_and_json() -> None:
    """The table and the JSON tell the same, notes included."""
    stats = Stats(clock=_ticking(1_000_000_000))  # type: ignore[arg-type]
    with stats.stage("render"):
        pass
    stats.notes["compositor"] = "opencv"
    table = stats.table()
    assert "render" in table
    assert "100.0%" in table
    assert "compositor: opencv" in table
    told = json.loads(json.dumps(stats.summary()))
    assert told["stages"][0]["median_ms"] == 1000
    assert told["notes"] == {"compositor": "opencv"}


def test_stats_stay_small() -> None:
    """Days of frames do not fill the memory: calls are all counted, old durations forgotten."""
    stats = Stats(clock=lambda: 0)
    for _ in range(WINDOW):
        stats.add("render", 5_000_000)
    for _ in range(WINDOW):
        stats.add("render", 1_000_000)
    (row,) = stats.rows()
    assert row.calls == 2 * WINDOW
    assert row.median_ms == row.p95_ms == 1
    assert row.total_s == pytest.approx(WINDOW * 0.006)
