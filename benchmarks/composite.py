"""Time of one composited frame, OpenCV against numpy: ``python -m vivant.benchmarks.composite``."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np

from vivant.composite import IMPLEMENTATIONS, Compositor, Float, Image

SIZE = 512
"""Side of the portrait, pixels."""
TURN = 10
"""Frames that one implementation does before the other takes over."""


def scene(seed: int = 0) -> tuple[Image, Float, Float, Float]:
    """A photo of smooth noise and what ``render`` could give for it, at the bundle's sizes."""
    rng = np.random.default_rng(seed)
    photo = (255 * _smooth(rng, 3, SIZE)).astype(np.uint8).transpose(1, 2, 0)
    flow = 0.05 * (2 * _smooth(rng, 2, 128) - 1)[None]
    y, x = np.mgrid[0:256, 0:256] / 256
    mouth = np.exp(-(((x - 0.5) / 0.1) ** 2) - ((y - 0.62) / 0.06) ** 2)[None, None]
    paint = _smooth(rng, 3, 256)[None]
    return (
        np.ascontiguousarray(photo),
        flow.astype(np.float32),
        mouth.astype(np.float32),
        paint.astype(np.float32),
    )


def _smooth(rng: np.random.Generator, channels: int, size: int) -> np.ndarray:
    """Sums of waves, 0..1, (channels, size, size)."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [
        sum(np.sin(a * x + b * y + c) for a, b, c in rng.uniform(2, 40, (4, 3)))
        for _ in range(channels)
    ]
    return 0.5 + np.stack(waves) / 8


def measure(names: Sequence[str], frames: int) -> dict[str, list[float]]:
    """Milliseconds of each frame by implementation; they take turns, so they share any load."""
    photo, *tensors = scene()
    compositors = {name: Compositor(photo, name) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(-(-frames // TURN)):
        for name, compositor in compositors.items():
            compositor(*tensors)  # warms the caches that the other one has taken
            for _ in range(TURN):
                begin = time.perf_counter_ns()
                compositor(*tensors)
                times[name].append((time.perf_counter_ns() - begin) / 1e6)
    return times


def main(argv: Sequence[str] | None = None) -> int:
    """Print medians, 95th percentiles and the ratio; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200, help="frames measured (default: 200)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    args = parser.parse_args(argv)
    times = measure(IMPLEMENTATIONS, max(args.frames, TURN))
    medians = {name: statistics.median(values) for name, values in times.items()}
    p95 = {name: statistics.quantiles(values, n=20)[-1] for name, values in times.items()}
    if args.json:
        print(json.dumps({"median_ms": medians, "p95_ms": p95, "frames": args.frames}))
        return 0
    print(f"composite {SIZE}x{SIZE}, {args.frames} frames")
    for name in times:
        print(f"{name:<8} median {medians[name]:6.2f} ms   p95 {p95[name]:6.2f} ms")
    print(f"numpy / opencv: {medians['numpy'] / medians['opencv']:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
