"""Where the time of a run goes: calls, median, 95th percentile and share of every stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from .tensor import Array

Call = Callable[[Mapping[str, Array]], dict[str, Array]]

WINDOW = 20_000
"""Latest calls of a stage that the percentiles are taken over: bounded memory for days of use."""


@dataclass(frozen=True)
class StageTime:
    """The time one stage took."""

    stage: str
    calls: int
    median_ms: float
    p95_ms: float
    """95th percentile by nearest rank, as ``median_ms`` over the latest ``WINDOW`` calls."""
    total_s: float
    share: float
    """Of the time of all stages together, 0..1."""


class Stats:
    """Collects the duration of each call of each stage; stages must not contain one another.

    ``clock`` returns nanoseconds and never goes back. ``notes`` are facts worth printing with the
    times, such as which compositor ran.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.notes: dict[str, str] = {}
        self._clock = clock
        self._started = clock()
        self._latest: dict[str, deque[int]] = {}
        self._calls: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def add(self, stage: str, nanoseconds: int) -> None:
        """Count one call of ``stage``."""
        self._latest.setdefault(stage, deque(maxlen=WINDOW)).append(nanoseconds)
        self._calls[stage] = self._calls.get(stage, 0) + 1
        self._total[stage] = self._total.get(stage, 0) + nanoseconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block, also when it raises."""
        begin = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - begin)

    def timed(self, name: str, call: Call) -> Call:
        """``call`` with every use of it counted as a call of the stage ``name``."""

        def run(tensors: Mapping[str, Array]) -> dict[str, Array]:
            with self.stage(name):
                return call(tensors)

        return run

    def rows(self) -> list[StageTime]:
        """One row for each stage, in the order of their first calls."""
        everything = sum(self._total.values()) or 1
        rows = []
        for name, latest in self._latest.items():
            ordered = sorted(latest)
            rows.append(
                StageTime(
                    stage=name,
                    calls=self._calls[name],
                    median_ms=_rank(ordered, 50) / 1e6,
                    p95_ms=_rank(ordered, 95) / 1e6,
                    total_s=self._total[name] / 1e9,
                    share=self._total[name] / everything,
                )
            )
        return rows

    def summary(self) -> dict[str, Any]:
        """Everything as plain JSON values; ``elapsed_s`` counts from the making of this object."""
        return {
            "elapsed_s": (self._clock() - self._started) / 1e9,
            "stages": [asdict(row) for row in self.rows()],
            "notes": dict(self.notes),
        }

    def table(self) -> str:
        """The rows as text for people, longest total first, with the notes below."""
        lines = [
            f"{'stage':<12}{'calls':>9}{'median ms':>12}{'p95 ms':>10}{'total s':>10}{'share':>8}"
        ]
        lines += [
            f"{row.stage:<12}{row.calls:>9}{row.median_ms:>12.2f}{row.p95_ms:>10.2f}"
            f"{row.total_s:>10.2f}{row.share:>8.1%}"
            for row in sorted(self.rows(), key=lambda row: -row.total_s)
        ]
        lines.append(f"elapsed {(self._clock() - self._started) / 1e9:.2f} s")
        lines += [f"{key}: {value}" for key, value in self.notes.items()]
        return "\n".join(lines)


def _rank(ordered: list[int], percent: int) -> int:
    """Percentile of sorted values by nearest rank."""
    return ordered[-(-len(ordered) * percent // 100) - 1]
