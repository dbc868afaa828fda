"""Real recordings for evaluation: speech with aligned phones, tracked mouths, other sounds.

Folders hold recordings with, beside each, its alignment in seconds: ``NAME.align.json`` (words
with phones: [word, start, end, [[phone, start, end, score], ...]]), ``NAME.phone.json``
(pocketsphinx), or one ``align.json`` for all (phones in ``segs``), and ``NAME.npz`` with ``mp``
(T, 478, 3), the points of a face mesh tracked at ``fps``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from vivant import mel
from vivant.errors import AudioError
from vivant.export.synth.speech.articulation import Style, articulate
from vivant.export.synth.speech.phones import Labelled, Phone, expand, from_cmu, joined
from vivant.export.synth.speech.prosody import analyse

RATE = 16000
TICK = 640
LONGEST = 30.0
"""Seconds of a recording that are used."""
SOUNDS: tuple[str, ...] = ("music", "noise", "mfa_breaths", "mfa_laughter")
"""How the names of recordings begin that are not speech."""
WORDLESS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "mfa_laughter": ((0.6, 1.9), (3.55, 5.15), (6.35, 8.3), (9.25, 10.0)),
    "mfa_breaths": ((1.0, 1.75), (2.25, 3.45), (5.75, 6.6), (10.1, 10.85)),
}
"""Seconds without a word in the recordings of laughter and breath that hold words between."""
_AUDIO = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Tracked:
    """A mouth tracked in video, in interpupillary distances."""

    rate: float  # Hz
    aperture: np.ndarray  # (T,) gap between the inner lips
    width: np.ndarray  # (T,) between the corners of the mouth
    jaw: np.ndarray  # (T,) chin below the nose


@dataclass(frozen=True)
class Recording:
    """One recording and what is known of it."""

    name: str
    spoken: bool  # False: music, noise, breath, laughter, silence
    samples: np.ndarray  # (n,) float32 at 16 kHz, whole ticks
    mel: np.ndarray  # (n / 160, 64) log-mel, not normalised
    phones: list[Phone]  # empty when not aligned
    reference: np.ndarray | None  # (n / 320, 63) articulation of the phones at 50 Hz
    tracked: Tracked | None

    @property
    def wordless(self) -> tuple[tuple[float, float], ...]:
        """Seconds (start, end) in which nobody says a word; all of it where nothing is known."""
        whole = (0.0, len(self.samples) / RATE)
        return () if self.spoken else WORDLESS.get(self.name, (whole,))


def load_audio(path: Path, longest: float = LONGEST) -> np.ndarray:
    """(n,) mono float32 at 16 kHz. Raises: AudioError when the file cannot be read."""
    try:
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"cannot read {path.name}", got=str(error)) from error
    x = soxr.resample(x.mean(1), rate, RATE)[: int(longest * RATE)]
    return np.asarray(x, np.float32)


def recording(
    name: str,
    samples: np.ndarray,
    phones: list[Phone] | None = None,
    tracked: Tracked | None = None,
    spoken: bool = True,
) -> Recording:
    """A recording of (n,) samples, padded to whole ticks, with its reference articulation."""
    samples = np.pad(samples, (0, -len(samples) % TICK)).astype(np.float32)
    frames = len(samples) // 320
    duration = len(samples) / RATE
    reference = None
    if phones:
        phones = joined([p for p in phones if p.start < duration], duration)
        prosody = analyse(samples)
        times = np.arange(frames) / 50
        at = np.arange(len(prosody.loudness)) / 100
        loudness = np.clip(np.interp(times, at, prosody.loudness), -12, 9)
        reference = articulate(phones, times, Style(), loudness).motion
    return Recording(name, spoken, samples, mel.log_mel(samples), phones or [], reference, tracked)


def words_alignment(words: list[Any]) -> list[Phone]:
    """Phones of ``NAME.align.json``."""
    labels = [(max(0.0, a), b, p) for _, _, _, phones in words for p, a, b, _ in phones]
    return expand(labels, from_cmu)


def pocketsphinx_alignment(utterance: dict[str, Any]) -> list[Phone]:
    """Phones of pocketsphinx's JSON: words ``w`` of phones ``w`` with begin, duration, text."""
    labels: list[Labelled] = [
        (p["b"], p["b"] + p["d"], p["t"]) for word in utterance["w"] for p in word["w"]
    ]
    return expand(labels, from_cmu)


def track(points: np.ndarray, rate: float) -> Tracked:
    """Mouth measures of a face mesh (T, 478, 3) in pixels (canonical face model's indices)."""

    def apart(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(points[:, a, :2] - points[:, b, :2], axis=1)

    pupils = np.median(apart(468, 473))
    gap = (2 * apart(13, 14) + apart(82, 87) + apart(312, 317)) / 4
    return Tracked(rate, gap / pupils, apart(78, 308) / pupils, apart(2, 152) / pupils)


def load_speech(folder: Path) -> Iterator[Recording]:
    """Every recording of a folder, aligned where an alignment stands beside it."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in _AUDIO:
            continue
        phones: list[Phone] = []
        by_words = path.with_suffix(".align.json")
        by_phones = path.with_suffix(".phone.json")
        if by_words.exists():
            phones = words_alignment(json.loads(by_words.read_text()))
        elif by_phones.exists():
            phones = pocketsphinx_alignment(json.loads(by_phones.read_text()))
        spoken = not path.stem.startswith(SOUNDS)
        yield recording(path.stem, load_audio(path), phones, spoken=spoken)


def load_grid(folder: Path) -> Iterator[Recording]:
    """Audiovisual clips: ``align.json``, and NAME.wav and NAME.npz for each."""
    for name, alignment in json.loads((folder / "align.json").read_text()).items():
        phones = [Phone(*segment) for segment in alignment["segs"]]
        with np.load(folder / f"{name}.npz") as file:
            tracked = track(file["mp"], float(file["fps"]))
        yield recording(name, load_audio(folder / f"{name}.wav"), phones, tracked)


def stillness(seconds: float = 10.0) -> Iterator[Recording]:
    """Silence and steady noises, through which lips must rest."""
    n = int(seconds * RATE)
    rng = np.random.default_rng(0)
    t = np.arange(n) / RATE
    yield recording("silence", np.zeros(n), spoken=False)
    yield recording("white", 0.03 * rng.standard_normal(n), spoken=False)
    yield recording("tone", 0.1 * np.sin(2 * np.pi * 440 * t), spoken=False)


def load_real(speech: Path, grid: Path | None = None) -> list[Recording]:
    """All evaluation recordings: aligned speech, other speech, tracked talkers, other sounds."""
    found = [*load_speech(speech), *stillness()]
    return found + (list(load_grid(grid)) if grid is not None else [])
