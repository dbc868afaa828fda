"""``python -m vivant.export.train.decide``: where the motion network's two decisions change.

A trained network gives log-odds that a mouth makes the sound, and that its lips touch. The first is
decided at even odds. The threshold of the second is set on held-out voices of the synthetic corpus
alone: closures must be found where bilabials are and not elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vivant.export.nets.denoise import RAMP
from vivant.export.synth.speech import metrics
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.phones import VISEME, Phone

from .motion import read_checkpoint, restore, save_checkpoint
from .motion_data import FRAMES, Corpus, Statistics, load_corpus
from .motion_loss import MotionNet
from .rollout import primed, rollout

Array = NDArray[np.float32]
EVEN = -RAMP / 2
"""Threshold of the voice's decision: at even odds the mouth is half at rest."""
LEVELS = (-3.0, -2.5, -2.0, -1.75, -1.5, -1.25, -1.0, -0.5, 0.0, 1.0)
"""Thresholds of the lips' decision that are tried."""
SECONDS = 8.0
"""Of each clip."""


def phones_of(viseme: NDArray[np.uint8]) -> list[Phone]:
    """A phone for every run of a class in ``viseme`` (N,) at 100 Hz, one that looks like it.

    A rounded one is a vowel: lips do not touch there.
    """
    alike = {index: name for name, index in VISEME.items() if name not in "wβ"}
    edges = np.flatnonzero(np.diff(viseme.astype(int))) + 1
    bounds = [0, *edges.tolist(), len(viseme)]
    return [Phone(a / 100, b / 100, alike[int(viseme[a])]) for a, b in pairwise(bounds)]


def clips_of(corpus: Corpus, count: int, seed: int = 0) -> list[tuple[Array, NDArray[np.uint8]]]:
    """Mel and visemes of the first SECONDS of ``count`` clips in which somebody speaks."""
    found: list[tuple[Array, NDArray[np.uint8]]] = []
    for first, ticks in np.random.default_rng(seed).permutation(corpus.clips):
        frames = slice(FRAMES * first, FRAMES * (first + min(ticks, int(25 * SECONDS))))
        long = frames.stop - frames.start == int(100 * SECONDS)
        if long and corpus.viseme[frames].any() and len(found) < count:
            found.append((corpus.mel[frames].astype(np.float32), corpus.viseme[frames]))
    return found


def closures_at(
    net: MotionNet,
    known: Statistics,
    mels: Array,
    phones: Sequence[Sequence[Phone]],
    level: float,
) -> metrics.Closure:
    """Closures of the lips in clips ``mels`` (``primed``) when they touch from ``level``."""
    net.denoise.innovation.threshold[1] = level
    total = metrics.Closure(0, 0, 0, 0)
    for motion, spoken in zip(rollout(net, known, mels), phones, strict=True):
        total += metrics.closure(aperture(motion), 50.0, spoken)
    return total


def best(found: Sequence[metrics.Closure]) -> float:
    """The one of LEVELS with the highest F-measure: a closure too many is seen as one too few is.

    Real voices are heard better than the held-out synthetic ones, so recall alone would ask for
    lips that close too often.
    """

    def score(one: metrics.Closure) -> float:
        recall, precision = one.recall, one.precision
        return 2 * recall * precision / (recall + precision) if recall and precision else 0.0

    return LEVELS[int(np.argmax([score(one) for one in found]))]


def main(argv: list[str] | None = None) -> None:
    """Set the thresholds of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--heldout", required=True, help="folder of speech_9*.npz")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    content = read_checkpoint(Path(args.checkpoint))
    net, known = restore(content)
    clips = clips_of(load_corpus(Path(args.heldout).glob("speech_9*.npz")), args.clips)
    mels = np.stack([primed(mel) for mel, _ in clips])
    phones = [phones_of(viseme) for _, viseme in clips]
    found = [closures_at(net, known, mels, phones, level) for level in LEVELS]
    for level, one in zip(LEVELS, found, strict=True):
        told = f"recall {one.recall:.3f} of {one.bilabials}, precision {one.precision:.3f}"
        print(f"lips touch from {level:g}: {told}", file=sys.stderr)
    chosen = torch.tensor([EVEN, best(found)])
    print(f"voice from {EVEN:g}, lips touch from {float(chosen[1]):g}")
    content["average"]["denoise.innovation.threshold"] = chosen
    save_checkpoint(Path(args.out), **content)


if __name__ == "__main__":
    main()
