"""The whole offline pipeline on every backend of this machine, in turns, as ratios::

    vivant bench [--seconds 4] [--rounds 3] [--fps 25] [--json]

Each round animates the same sound on each backend in turn, so that whatever else the machine does
falls on all of them. A backend's figure is its best round; stages are medians over its frames.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources

import numpy as np

from vivant.audio import RATE, embedded_speech
from vivant.bundle import Bundle
from vivant.devices.probe import machine, probe
from vivant.errors import BackendError
from vivant.photo import PhotoSource
from vivant.plan import LADDER
from vivant.session import Session, open_session

REAL_TIME = 25.0
"""Frames a second that a live portrait needs at least."""


@dataclass(frozen=True)
class Row:
    """One backend."""

    backend: str
    fps: float
    """Frames of video made in a second, the best of all rounds."""
    ratio: float
    """To the first row's ``fps``."""
    real_time: float
    """Seconds of video made in a second of work, at the asked frame rate."""
    start_s: float
    """From opening the session to its first frame, the worst of all rounds."""
    stages_ms: dict[str, float]
    """Median of each stage's calls."""


def measure(session: Session, sound: np.ndarray, fps: float) -> tuple[float, float]:
    """Frames a second once running, and the seconds until the first frame."""
    begin = time.perf_counter()
    frames = session.animate((sound, RATE), fps=fps)
    next(frames)
    first = time.perf_counter()
    count = sum(1 for _ in frames)
    return count / (time.perf_counter() - first), first - begin


def compare(
    bundle: Bundle,
    backends: Sequence[str],
    photo: PhotoSource,
    sound: np.ndarray,
    *,
    rounds: int = 3,
    fps: float = REAL_TIME,
) -> list[Row]:
    """One row for each backend that can run the bundle; raises BackendError when none can.

    ``sound``: (n,) mono at 16 kHz.
    """
    sessions: dict[str, Session] = {}
    starts: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    reasons = []
    for backend in backends:
        begin = time.perf_counter()
        try:
            sessions[backend] = open_session(photo, bundle=bundle, backend=backend)
        except BackendError as error:
            reasons.append(f"{backend}: {error}")
            continue
        speeds[backend], starts[backend] = [], [time.perf_counter() - begin]
    if not sessions:
        raise BackendError("no backend can run the bundle", got=" | ".join(reasons))
    for _ in range(rounds):
        for backend, session in sessions.items():
            speed, first = measure(session, sound, fps)
            speeds[backend].append(speed)
            starts[backend].append(first)
    rows = []
    base = max(speeds[next(iter(sessions))])
    for backend, session in sessions.items():
        best = max(speeds[backend])
        stages = {row.stage: row.median_ms for row in session.stats.rows() if row.calls > 1}
        start = starts[backend][0] + max(starts[backend][1:])
        rows.append(Row(backend, best, best / base, best / fps, start, stages))
        session.close()
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    names = list(dict.fromkeys(name for row in rows for name in row.stages_ms))
    head = f"{'backend':<18}{'fps':>8}{'ratio':>8}{'x real':>8}{'start s':>9}"
    lines = [head + "".join(f"{name:>11}" for name in names)]
    for row in rows:
        line = f"{row.backend:<18}{row.fps:>8.1f}{row.ratio:>8.2f}{row.real_time:>8.2f}"
        cells = (f"{row.stages_ms.get(name, float('nan')):>11.2f}" for name in names)
        lines.append(f"{line}{row.start_s:>9.2f}" + "".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="vivant bench",
        description="Compare the whole offline pipeline on every backend of this machine.",
    )
    parser.add_argument("--bundle", help="weights to use (default: the embedded)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sound (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each backend (default: 3)")
    parser.add_argument(
        "--fps", type=float, default=REAL_TIME, help="frames a second (default: 25)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    usable = [name for name in LADDER if not probe(name.partition(":")[0]).reason]
    default = resources.files("vivant.default")
    rows = compare(
        Bundle.open(args.bundle),
        usable,
        (default / "portrait.jpg").read_bytes(),
        embedded_speech()[: round(args.seconds * RATE)],
        rounds=args.rounds,
        fps=args.fps,
    )
    if args.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))
    else:
        print(", ".join(f"{key}: {value}" for key, value in machine().items()), file=sys.stderr)
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
