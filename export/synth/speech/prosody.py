"""Fundamental frequency, loudness and accents of speech: what head and brows move with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vivant.export.synth.speech.phones import SILENCE, VOWELS, Phone

HOP = 160
"""Samples between frames, at 16 kHz."""
_WINDOW = 800  # 50 ms: two periods of 40 Hz
_LOWEST, _HIGHEST = 65.0, 450.0  # Hz
_VOICED = 0.45  # least normalised autocorrelation of a voiced frame


@dataclass(frozen=True)
class Prosody:
    """Prosody at 100 Hz; frame k is centred on sample 160 k."""

    pitch: np.ndarray  # (N,) semitones relative to the median, interpolated where unvoiced
    loudness: np.ndarray  # (N,) dB relative to the mean of the voiced frames
    voiced: np.ndarray  # (N,) bool


@dataclass(frozen=True)
class Accent:
    """A prominent syllable."""

    time: float  # s, middle of its vowel
    prominence: float  # standard deviations above the utterance's mean


def analyse(samples: np.ndarray, rate: int = 16000) -> Prosody:
    """Prosody of (n,) samples at 16 kHz, by the normalised autocorrelation (Boersma 1993)."""
    if rate != 16000:
        raise ValueError(f"prosody needs 16 kHz samples, got {rate} Hz")
    count = len(samples) // HOP
    padded = np.pad(np.asarray(samples, np.float32), _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][:count]
    hann = np.hanning(_WINDOW).astype(np.float32)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(hann, 2048)) ** 2)[:_WINDOW]
    lo, hi = int(16000 / _HIGHEST), int(16000 / _LOWEST)
    best, lag = np.zeros(count), np.ones(count)
    for start in range(0, count, 512):
        block = frames[start : start + 512]
        spectrum = np.fft.rfft((block - block.mean(1, keepdims=True)) * hann, 2048)
        r = np.fft.irfft(np.abs(spectrum) ** 2)[:, : hi + 1]  # (n, lags)
        r = r / (r[:, :1] + 1e-9) * (of_window[0] / of_window[: hi + 1])
        r[:, lo:] -= 0.01 * np.log2(np.arange(lo, hi + 1) / lo)  # prefer the shorter period
        k = r[:, lo:].argmax(1) + lo
        best[start : start + 512] = r[np.arange(len(k)), k]
        lag[start : start + 512] = k
    power = np.mean(frames.astype(np.float64) ** 2, 1) if count else np.zeros(0)
    level = 10 * np.log10(power + 1e-9)
    loud_enough = level > (level.max() - 35 if count else 0)
    voiced = (best > _VOICED) & loud_enough
    if voiced.sum() < 5:
        return Prosody(np.zeros(count), np.zeros(count), np.zeros(count, bool))
    at = np.flatnonzero(voiced)
    semitones = 12 * np.log2(16000 / lag[at])
    semitones = _median(semitones - np.median(semitones), 5)
    pitch = np.interp(np.arange(count), at, np.clip(semitones, -8, 10))
    return Prosody(pitch, np.clip(level - level[voiced].mean(), -30, 15), voiced)


def _median(x: np.ndarray, width: int) -> np.ndarray:
    padded = np.pad(x, width // 2, "edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def accents(phones: Sequence[Phone], prosody: Prosody) -> list[Accent]:
    """Vowels that stand out by pitch, loudness and length among their neighbours."""
    nuclei = [p for p in phones if p.name in VOWELS and p.end - p.start > 0.05]
    if len(nuclei) < 3 or not prosody.voiced.any():
        return []
    middles = np.array([(p.start + p.end) / 2 for p in nuclei])
    k = np.clip((middles * 100).astype(int), 0, len(prosody.pitch) - 1)
    lengths = np.log([p.end - p.start for p in nuclei])
    cues = np.stack([prosody.pitch[k], prosody.loudness[k], lengths], 1)
    score = (cues - cues.mean(0)) / (cues.std(0) + 1e-6) @ [0.5, 0.4, 0.3]
    padded = np.pad(score, 1, constant_values=-np.inf)
    peak = (score > 0.35) & (score >= padded[:-2]) & (score >= padded[2:])
    return [Accent(float(middles[i]), float(score[i])) for i in np.flatnonzero(peak)]


def pauses(phones: Sequence[Phone], least: float = 0.22) -> list[tuple[float, float]]:
    """Silences of at least ``least`` seconds: (start, end) in seconds."""
    return [(p.start, p.end) for p in phones if p.name == SILENCE and p.end - p.start > least]
