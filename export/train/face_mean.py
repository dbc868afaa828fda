"""A mean of the weights of two face checkpoints, the second trained on from the first::

    python -m vivant.export.train.face_mean START TRAINED OUT --share 0.7

Weights that one run went through mix as well as they are. What a run gained and what it gave away
for it need not lie at the same place on the way, see ``docs/training.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vivant.cli import run_module
from vivant.errors import UsageError
from vivant.export.train.face import Face, read_face, save


def mean(start: Face, trained: Face, share: float) -> Face:
    """``start`` moved by ``share`` of the way to ``trained``, in place."""
    with torch.no_grad():
        for first, second in zip(start.parameters(), trained.parameters(), strict=True):
            first.lerp_(second, share)
    return start


def main(argv: Sequence[str] | None = None) -> int:
    """Write the mean; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("start", type=Path, help="checkpoint that training started from")
    parser.add_argument("trained", type=Path, help="checkpoint that it ended with")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    args = parser.parse_args(argv)
    if not 0 <= args.share <= 1:
        raise UsageError("--share is no share", expected="0 to 1", got=str(args.share))
    face = mean(read_face(args.start), read_face(args.trained), args.share)
    save(args.out, {"average": face.state_dict(), "step": 0})
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
