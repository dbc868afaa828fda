"""Log-mel spectrum of 16 kHz sound, whole or as it arrives, with the same numbers either way.

Frame ``k`` covers samples ``[k*hop + hop - window, k*hop + hop)``: it ends where its hop ends, so
it needs no later sound, and samples before the start count as zeros. A periodic Hann window, the
power spectrum, triangular filters on the HTK mel scale (2595 log10(1 + f/700), peaks of 1), and
``log(power + floor)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BundleError

Floats = NDArray[np.float32]

_BLOCK = 2048  # frames transformed at once: 8 MiB of float64, however long the recording


@dataclass(frozen=True)
class MelSpec:
    """How sound becomes log-mel frames; a bundle's manifest names every number."""

    rate: int = 16000
    """Sampling rate, Hz."""
    hop: int = 160
    """Samples from one frame to the next."""
    window: int = 400
    """Samples that a frame sees."""
    fft: int = 512
    """Points of the transform; the window is padded with zeros to it."""
    mels: int = 64
    """Number of filters."""
    fmin: float = 60.0
    """Lower foot of the first filter, Hz."""
    fmax: float = 7600.0
    """Upper foot of the last filter, Hz."""
    floor: float = 1e-5
    """Power added before the logarithm, for samples in -1..1."""
    tick: int = 640
    """Samples of one motion tick."""
    look_ahead: int = 960
    """Samples that a tick sees beyond its end."""
    mean: tuple[float, ...] = ()
    """Mean of each filter's log power over the training speech; empty: zeros."""
    std: tuple[float, ...] = ()
    """Standard deviation of the same; empty: ones."""

    def __post_init__(self) -> None:
        counts = ("rate", "hop", "window", "fft", "mels", "tick")
        bad = [name for name in counts if getattr(self, name) < 1]
        if self.look_ahead < 0:
            bad.append("look_ahead")
        if not self.hop <= self.window <= self.fft:
            bad.append("hop <= window <= fft")
        if not 0 <= self.fmin < self.fmax <= self.rate / 2:
            bad.append("0 <= fmin < fmax <= rate/2")
        if not self.floor > 0:
            bad.append("floor")
        bad += [n for n in ("mean", "std") if len(getattr(self, n)) not in (0, self.mels)]
        if not all(value > 0 for value in self.std):
            bad.append("std > 0")
        if bad:
            raise BundleError(
                "The audio section of the manifest makes no sense",
                expected="hop <= window <= fft, 0 <= fmin < fmax <= rate/2, positive counts, "
                "one mean and one positive std for each filter",
                got=", ".join(bad),
                fix="Export the bundle again.",
            )

    @property
    def history(self) -> int:
        """Samples of a frame that come before its own hop (240)."""
        return self.window - self.hop

    def normalise(self, mel: ArrayLike) -> Floats:
        """(N, mels) log power -> (N, mels) with mean 0 and deviation 1 over training speech."""
        x: Floats = np.asarray(mel, np.float32)
        if self.mean:
            x = np.subtract(x, np.asarray(self.mean, np.float32), dtype=np.float32)
        if self.std:
            x = np.divide(x, np.asarray(self.std, np.float32), dtype=np.float32)
        return x

    def silence(self, frames: int = 1) -> Floats:
        """(frames, mels) log-mel of digital silence, not normalised: log(floor)."""
        return np.full((frames, self.mels), np.log(self.floor), np.float32)


@lru_cache(maxsize=8)
def filterbank(spec: MelSpec) -> NDArray[np.float64]:
    """(fft/2 + 1, mels) triangular weights: feet at the neighbours' peaks, peaks of 1, no scaling.

    Mel scale of HTK (Young et al., The HTK Book, 5.6): 2595 log10(1 + f/700).
    """
    feet = 2595 * np.log10(1 + np.array([spec.fmin, spec.fmax]) / 700)
    hz = 700 * (10 ** (np.linspace(feet[0], feet[1], spec.mels + 2) / 2595) - 1)  # (mels + 2,)
    bins = (np.arange(spec.fft // 2 + 1) * spec.rate / spec.fft)[:, None]
    rise = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2])
    fall = (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall))


@lru_cache(maxsize=8)
def _window(spec: MelSpec) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / spec.window)


@lru_cache(maxsize=8)
def _spans(spec: MelSpec) -> tuple[tuple[int, int, NDArray[np.float64]], ...]:
    """First bin, end bin and weights of each filter, which is zero elsewhere."""
    weights = filterbank(spec)
    spans = []
    for m in range(spec.mels):
        inside = np.flatnonzero(weights[:, m])
        first, end = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 1)
        spans.append((first, end, np.ascontiguousarray(weights[first:end, m])))
    return tuple(spans)


def _frames(padded: Floats, count: int, spec: MelSpec) -> Floats:
    """(count, mels) from samples that begin ``history`` before the first frame's hop."""
    out = np.empty((count, spec.mels), np.float32)
    views = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
    for start in range(0, count, _BLOCK):
        rows = views[start : min(start + _BLOCK, count)]
        spectrum = np.fft.rfft(rows * _window(spec), spec.fft)  # (n, fft/2 + 1)
        power = spectrum.real**2 + spectrum.imag**2
        bands = np.empty((len(rows), spec.mels))
        # One product per filter and not one matrix product: a BLAS chooses another summation
        # order for another number of rows, and chunked would differ from whole.
        for m, (first, end, weights) in enumerate(_spans(spec)):
            np.sum(power[:, first:end] * weights, axis=1, out=bands[:, m])
        out[start : start + len(rows)] = np.log(bands + spec.floor)
    return out


def _checked(samples: ArrayLike) -> Floats:
    x = np.asarray(samples, np.float32)
    if x.ndim != 1:
        raise ValueError(f"samples must be one-dimensional (mono), got shape {x.shape}")
    return x


def log_mel(samples: ArrayLike, spec: MelSpec | None = None) -> Floats:
    """Log-mel frames of a whole recording.

    ``samples``: (n,) mono at ``spec.rate``, -1..1. Returns (n // hop, mels) float32, not
    normalised; samples after the last whole hop are left out.
    """
    return LogMel(spec).push(samples)


class LogMel:
    """The same frames from a stream: push samples as they come, get the frames they complete.

    All memory is ``tail`` (the samples that later frames still see) and ``count``.
    """

    def __init__(self, spec: MelSpec | None = None) -> None:
        self.spec = spec or MelSpec()
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next sample is sample 0, with zeros before it."""
        self.tail: Floats = np.zeros(self.spec.history, np.float32)
        self.count: int = 0  # frames returned so far

    def push(self, samples: ArrayLike) -> Floats:
        """(n,) new samples at ``spec.rate`` -> (m, mels) float32 frames that they complete."""
        padded = np.concatenate([self.tail, _checked(samples)])
        count = (len(padded) - self.spec.history) // self.spec.hop
        frames = _frames(padded, count, self.spec) if count else self.spec.silence(0)
        self.tail = padded[count * self.spec.hop :].copy()
        self.count += count
        return frames
