"""Synthesise the sentence that Vivant ships with: ``python -m vivant.export.synth.speech.demo``.

The voice is flite's ``slt`` (CMU ARCTIC, free for any use). Its statistical spectrum is dull and
dry; pre-emphasis and a faint room bring its Frechet distance on log-mel to real speech from 0.51
to 0.38 of its variance, nearer the diphone voices (0.24-0.27), whose prosody is far less even.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import lfilter

from vivant.errors import VivantError
from vivant.export.synth.speech.noise import RATE, level, room
from vivant.export.synth.speech.voices import Voice, speak

# The name is spelled as it sounds, for the synthesiser's sake.
TEXT: tuple[str, ...] = (
    "Hello. I am Veevont.",
    "Give me one photo and a voice, and the picture comes alive.",
    "I speak in real time, on your own device, and nothing ever leaves it.",
)
PAUSE = 0.35
"""Seconds between sentences."""
DBFS = -21.0


def demo_speech(texts: Sequence[str] = TEXT, pace: float = 0.97) -> np.ndarray:
    """(n,) float32 at 16 kHz. Raises: SynthesisError when flite is missing."""
    silence = np.zeros(int(PAUSE * RATE), np.float32)
    pieces = [silence]
    for said in speak(Voice("flite", "slt", pace, 0.0), texts):
        pieces += [soxr.resample(said.samples, said.rate, RATE), silence]
    dry = np.concatenate(pieces)
    bright = lfilter([1, -0.5], [1], dry)
    wet = 0.65 * bright + 0.35 * room(bright, np.random.default_rng(0))
    x = level(wet, DBFS)
    return (x * min(1.0, 0.9 / float(np.abs(x).max()))).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vivant.export.synth.speech.demo", description=__doc__)
    here = Path(__file__).resolve().parents[3] / "runtime" / "default" / "speech.flac"
    parser.add_argument("--out", type=Path, default=here, help="audio file to write")
    out = parser.parse_args(arguments).out
    try:
        x = demo_speech()
        soundfile.write(out, x, RATE, subtype="PCM_16")
    except VivantError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{out}: {len(x) / RATE:.1f} s, {out.stat().st_size / 1024:.0f} KiB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
