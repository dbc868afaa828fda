"""Record what the networks see of synthetic people, for calibration and for the gate::

    python -m vivant.quant.calibrate --bundle BUNDLE --people DIR --out calibration.npz

Portraits go through the runtime's own ``encode`` graph. Each is driven by motion codes of the same
person, as differences from its own code, the way the renderer is driven.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivant import latent
from vivant.bundle import Bundle
from vivant.cache import write_atomic
from vivant.cli import run_module
from vivant.errors import BundleError, OutputError, UsageError
from vivant.export.to_openvino import FLOATING
from vivant.graph import Graph
from vivant.plan import Plan
from vivant.portrait import encode_input
from vivant.tensor import Array

DRIVEN = 3
"""Driven motions of each portrait."""
TURNS = {"headYaw": 30.0, "headPitch": 18.0, "headRoll": 18.0}
"""Degrees to which a recorded head turns at most. One of 43 held activations up to 29 times as
large as usual, and what is usual lost its precision: 23 dB in the worst frame with all layers in
INT8, 37 within these turns, which are more than a stream or a command makes."""


@dataclass(frozen=True)
class Recording:
    """Portraits of synthetic people, what ``encode`` says of them, and motions to drive them."""

    portrait: NDArray[np.uint8]
    """(N, S, S, 3) RGB."""
    features: Array
    """(N, C, 64, 64)."""
    keypoints: Array
    """(N, K, 3)."""
    source: Array
    """(N, 63), the portraits' own motion codes."""
    motion: Array
    """(N, D, 63), the motions that drive each portrait."""

    def inputs(self, stage: str) -> list[dict[str, Array]]:
        """Inputs of ``encode`` (N of them) or ``render`` (N * D); UsageError for other stages."""
        if stage == "encode":
            return [{"portrait": encode_input(portrait)} for portrait in self.portrait]
        if stage != "render":
            raise UsageError("nothing was recorded", expected="encode or render", got=repr(stage))
        return [
            {
                "features": self.features[index][None],
                "keypoints": self.keypoints[index][None],
                "source": self.source[index][None],
                "motion": motion[None],
            }
            for index, motions in enumerate(self.motion)
            for motion in motions
        ]

    def only(self, index: int) -> Recording:
        """The recording of one portrait."""
        chosen = slice(index, index + 1)
        return Recording(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.portrait)


def record(encode: Graph, people: Sequence[Path], count: int, seed: int = 0) -> Recording:
    """``count`` portraits of the ``people`` (shards), a new person for each until all were seen.

    Raises UsageError when there are no people or a shard cannot be read.
    """
    if not people:
        raise UsageError("no people to record", expected="a folder with person_*.npz")
    random = np.random.Generator(np.random.Philox(seed))
    parts: dict[str, list[Array]] = {field.name: [] for field in fields(Recording)}
    for index in range(count):
        images, codes = _shard(people[index % len(people)])
        own, *others = random.choice(len(images), DRIVEN + 1)
        portrait = np.ascontiguousarray(images[own])
        coded = encode({"portrait": encode_input(portrait)})
        motion = coded["motion"][0] + codes[others] - codes[own]
        weights = [i for i, unit in enumerate(latent.UNITS) if unit == "weight"]
        motion[:, weights] = np.clip(motion[:, weights], 0, 1)
        for name, turn in TURNS.items():
            at = latent.INDEX[name]
            motion[:, at] = np.clip(motion[:, at], -turn, turn)
        parts["portrait"].append(portrait)
        parts["features"].append(coded["features"][0])
        parts["keypoints"].append(coded["keypoints"][0])
        parts["source"].append(coded["motion"][0])
        parts["motion"].append(motion.astype(np.float32))
    return Recording(**{name: np.stack(values) for name, values in parts.items()})


def _shard(path: Path) -> tuple[NDArray[np.uint8], Array]:
    """Images (F, S, S, 3) u8 and motion codes (F, 63) of one person."""
    try:
        with np.load(path, allow_pickle=False) as data:
            images, codes = data["image"], data["motion"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a person's shard", got=str(error)[:200]) from None
    side = images.shape[1] if images.ndim == 4 else 0
    fits = images.shape == (len(images), side, side, 3) and side > 0 and side % 256 == 0
    if images.dtype != np.uint8 or not fits or codes.shape != (len(images), latent.SIZE):
        raise UsageError(
            f"{path} is not a person's shard",
            expected=f"image uint8 (F, S, S, 3), S a multiple of 256, motion (F, {latent.SIZE})",
            got=f"image {images.dtype} {images.shape}, motion {codes.shape}",
        )
    return images, codes.astype(np.float32)


def shards(folder: Path) -> list[Path]:
    """The people's shards in a folder, sorted; raises UsageError when there are none."""
    found = sorted(folder.glob("person_*.npz"))
    if not found:
        raise UsageError(f"{folder} holds no people", expected="person_*.npz")
    return found


def save(recording: Recording, path: Path) -> None:
    """Write a recording as .npz; raises OutputError."""
    stream = io.BytesIO()
    np.savez(stream, **{f.name: getattr(recording, f.name) for f in fields(recording)})
    try:
        write_atomic(path, stream.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write {path}", got=str(error)) from None


def load(path: Path, bundle: Bundle) -> Recording:
    """Read a recording; raises UsageError when it is none, or none of this bundle's networks."""
    try:
        with np.load(path, allow_pickle=False) as data:
            recording = Recording(**{f.name: data[f.name] for f in fields(Recording)})
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a recording", got=str(error)[:200]) from None
    specs = {spec.name: spec.shape for spec in bundle.stage("render").inputs}
    for name in ("features", "keypoints", "source"):
        got = getattr(recording, name).shape[1:]
        if got != specs[name][1:]:
            raise UsageError(
                f"{path} was recorded with other networks",
                expected=f"{name} {specs[name][1:]}",
                got=str(got),
                fix="Record it again: python -m vivant.quant.calibrate",
            )
    return recording


def encoder(bundle: Bundle) -> Graph:
    """The bundle's ``encode`` stage on the best backend here."""
    return Plan(cache=None, precision=floating(bundle, "encode")).load(bundle, "encode")


def floating(bundle: Bundle, stage: str) -> str:
    """Precision of the stage's first artifact that is not quantised; raises BundleError."""
    for artifact in bundle.stage(stage).artifacts:
        if artifact.precision in FLOATING and artifact.format == "onnx":
            return artifact.precision
    raise BundleError(f"stage {stage} has no ONNX artifact in floating point")


def main(argv: Sequence[str] | None = None) -> int:
    """Record a calibration file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vivant.quant.calibrate",
        description="Record calibration tensors from synthetic people.",
    )
    parser.add_argument("--bundle", type=Path, help="bundle to record (default: the embedded)")
    parser.add_argument("--people", type=Path, required=True, help="folder of person_*.npz")
    parser.add_argument("--out", type=Path, required=True, help=".npz to write")
    parser.add_argument("--count", type=int, default=32, help="portraits (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of frames")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UsageError("nothing to record", expected="--count of at least 1", got=str(args.count))
    recording = record(
        encoder(Bundle.open(args.bundle)), shards(args.people), args.count, args.seed
    )
    save(recording, args.out)
    print(f"{args.out}: {len(recording)} portraits", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
