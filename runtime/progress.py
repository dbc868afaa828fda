"""A progress bar with an ETA: one line redrawn on a terminal, a few lines in a log."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

REDRAW = 0.1
"""Seconds between two redraws on a terminal."""
LOG_STEPS = 10
"""Lines for the whole job where there is no terminal."""
WIDTH = 24
"""Cells of the bar."""


def say(text: str) -> None:
    """Print a line for people on standard error; one that is closed or full costs no result."""
    if sys.stderr is not None:  # as in programs without a console
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr)


class Progress:
    """Shows how far a job of ``total`` units is; use it as a context manager.

    ``total`` ``None`` or 0 means unknown: counts are shown instead of a bar. ``clock`` returns
    seconds. Colour is used on a terminal unless ``NO_COLOR`` is set (no-color.org). Writes to
    ``stream`` (standard error) and never raises because of it.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str = "frames",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        self.label, self.total, self.unit = label, total or 0, unit
        self.done = 0
        self._stream = stream or sys.stderr or io.StringIO()  # programs without a console have none
        self._clock, self._quiet = clock, quiet
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        unicode = "utf" in (getattr(self._stream, "encoding", None) or "").lower()
        self._cells = "█░" if unicode else "#."
        self._begun = clock()
        self._drawn = float("-inf")
        self._logged = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._draw()
            self._write("\n")
        elif kind is None:
            self._write(self._text() + "\n")

    def advance(self, units: int = 1) -> None:
        """Count ``units`` more as done."""
        self.done += units
        if self._terminal:
            if self._clock() - self._drawn >= REDRAW:
                self._draw()
            return
        # A last line comes on leaving; here only the steps on the way to it.
        steps = self.done * LOG_STEPS // self.total if self.total else 0
        if self._logged < steps < LOG_STEPS:
            self._logged = steps
            self._write(self._text() + "\n")

    def _draw(self) -> None:
        self._drawn = self._clock()
        # A line that wraps could not be redrawn: the bar goes first, then the text's end.
        columns = shutil.get_terminal_size().columns - 1
        text, bar = self._text()[:columns], ""
        if self.total and len(text) + WIDTH < columns:
            full = round(WIDTH * min(self.done / self.total, 1))
            bar = self._cells[0] * full + self._cells[1] * (WIDTH - full) + " "
            if self._colour:
                bar = f"\x1b[36m{bar}\x1b[0m"
        self._write(f"\r{bar}{text}\x1b[K")

    def _text(self) -> str:
        """``Rendering 120/500 frames, 24%, 31.2/s, 0:12 left``."""
        elapsed = self._clock() - self._begun
        rate = self.done / elapsed if elapsed > 0 else 0.0
        counted = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        parts = [f"{self.label} {counted} {self.unit}"]
        if self.total:
            parts.append(f"{min(self.done / self.total, 1):.0%}")
        if rate:
            parts.append(f"{rate:.1f}/s")
        if self.total and rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        else:
            parts.append(f"{duration(elapsed)}")
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # A closed or full stderr must not cost the user the video.
            self._quiet = True


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``, rounded up, so that it never says 0:00 too early."""
    whole = -int(-seconds // 1)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
