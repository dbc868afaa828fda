"""``vivant compress``: store the weights of a bundle's graphs in fewer bits, measured and gated.

    vivant compress --bundle IN --out OUT [--precision w8] [--formats coreml,onnx,openvino]
                    [--stages align,encode,...] [--replace] [--people DIR]

Only weights become smaller; activations and arithmetic stay as they are, so nothing has to be
recorded first. ``vivant quantize`` makes graphs that compute in INT8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vivant.bundle import STAGES, Bundle
from vivant.cli import run_module
from vivant.errors import BundleError, UsageError
from vivant.export.to_coreml import predict
from vivant.export.write import ArtifactData, StageData, based_on, table, write_bundle
from vivant.graph import load_graph
from vivant.quant import calibrate, coreml, moves, weights
from vivant.quant.gate import BAR, draw, frame_psnr
from vivant.render import GraphCall
from vivant.tensor import Array

Tell = Callable[[str], None]

Compressor = Callable[[str, StageData, str, Tell, moves.Judge | None], ArtifactData]
COMPRESSORS: dict[str, Compressor] = {
    "coreml": coreml.compressed,
    "onnx": weights.compressed_onnx,
    "openvino": weights.compressed_openvino,
}
"""Of each format; every one measures what it makes, and raises BundleError below the gate."""
PRECISIONS = {"coreml": coreml.PRECISIONS, "onnx": ("w8",), "openvino": ("w8",)}

DRAWN = ("encode", "render")
"""Stages that are judged by frames as well, where there are people."""


def call(stage: str, data: StageData, artifact: ArtifactData) -> GraphCall:
    """A Core ML artifact with its tensors by name."""
    outputs = data.golden[1]

    def run(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        feeds = {spec.name: tensors[spec.name] for spec in data.inputs}
        return predict(artifact.data, artifact.weights, [feeds], outputs)[0]

    return run


def judge(
    bundle: Bundle, stage: str, data: StageData, artifact: ArtifactData, held: calibrate.Recording
) -> ArtifactData:
    """The artifact with the PSNR of its worst frame of people; raises BundleError below BAR."""
    plain, render = (
        load_graph(bundle, name, "onnxruntime", precision=calibrate.floating(bundle, name))
        for name in (stage, "render")
    )
    everyone = range(len(held))
    expected = draw(stage, plain, held, render, everyone)
    got = draw(stage, call(stage, data, artifact), held, render, everyone)
    worst = min(frame_psnr(expected, got))
    if not worst >= BAR:
        raise BundleError(
            f"the {artifact.precision} weights of {stage} draw other frames",
            expected=f"PSNR >= {BAR:g} dB",
            got=f"{worst:.1f} dB",
            fix="Take a precision of more bits.",
        )
    return replace(artifact, fidelity={**artifact.fidelity, "frame_psnr_db": worst})


def parser() -> argparse.ArgumentParser:
    """The command line of ``vivant compress``."""
    result = argparse.ArgumentParser(
        prog="vivant compress", description="Store the weights of a bundle in fewer bits."
    )
    result.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    result.add_argument(
        "--precision",
        choices=coreml.PRECISIONS,
        default="w8",
        help="8 bits, or (Core ML) a palette of 6 or 4 bits (default: w8)",
    )
    result.add_argument(
        "--formats", default="coreml", help=f"comma-separated: {', '.join(COMPRESSORS)}"
    )
    result.add_argument("--stages", default=",".join(STAGES), help="comma-separated (default: all)")
    result.add_argument(
        "--replace", action="store_true", help="leave out the artifacts that were compressed"
    )
    result.add_argument(
        "--people", type=Path, help="folder of person_*.npz whose frames Core ML must draw"
    )
    result.add_argument("--count", type=int, default=8, help="portraits of them (default: 8)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Write a bundle with compressed artifacts; returns the exit code."""
    args = parser().parse_args(argv)
    formats, wanted = (tuple(dict.fromkeys(v.split(","))) for v in (args.formats, args.stages))
    for given, known in ((formats, COMPRESSORS), (wanted, STAGES)):
        if not set(given) <= set(known):
            raise UsageError(
                "unknown format or stage", expected=" or ".join(known), got=",".join(given)
            )
    for name in formats:
        if args.precision not in PRECISIONS[name]:
            raise UsageError(
                f"{name} has no {args.precision}", expected=" or ".join(PRECISIONS[name])
            )
    if args.count < 1:
        raise UsageError("--count is too small", expected="at least 1")
    bundle = Bundle.open(args.bundle)
    head, stages = based_on(args.bundle)
    held, mover = None, None
    if args.people:
        people = calibrate.shards(args.people)
        held = calibrate.record(calibrate.encoder(bundle), people, args.count, seed=1)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for stage, name in ((s, f) for s in wanted for f in formats if s in stages):
        tell(f"{stage}: {name} {args.precision}")
        data = stages[stage]
        if mover is None and stage in moves.STAGES and set(moves.STAGES) <= set(stages):
            mover = moves.Judge(bundle)
        mine = mover if stage in moves.STAGES else None
        artifact = COMPRESSORS[name](stage, data, args.precision, tell, mine)
        if held is not None and name == "coreml" and stage in DRAWN:
            artifact = judge(bundle, stage, data, artifact, held)
        stages[stage] = put(data, artifact, alone=args.replace)
    result = write_bundle(args.out, {n: stages[n] for n in STAGES if n in stages}, head)
    tell("\n".join(table(result)))
    return 0


def put(data: StageData, artifact: ArtifactData, *, alone: bool) -> StageData:
    """``data`` with ``artifact`` after the others of its format, or in their place."""
    others = [
        a
        for a in data.artifacts
        if a.format != artifact.format or not (alone or a.precision == artifact.precision)
    ]
    place = max((i + 1 for i, a in enumerate(others) if a.format == artifact.format), default=-1)
    if place < 0:  # where the first one of the format was
        place = next(i for i, a in enumerate(data.artifacts) if a.format == artifact.format)
    return replace(data, artifacts=(*others[:place], artifact, *others[place:]))


if __name__ == "__main__":
    sys.exit(run_module(main))
