"""``vivant quantize``: add INT8 artifacts to a bundle, each measured and gated.

    vivant quantize --bundle IN --out OUT --people DIR [--held DIR] [--stages render,encode]
                    [--formats openvino,onnx]

OpenVINO IR is quantised by NNCF (``ptq.py``), ONNX by ONNX Runtime's own quantiser (``ort.py``).

A layer stays in floating point where a measurement says so: each is quantised alone and its frames
compared; then those return that bring most error for the least arithmetic, until the frames of all
together are good enough. The gate is
on people that neither calibration nor that choice has seen.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vivant.backends import Signature
from vivant.bundle import STAGES, TENSORS, Bundle
from vivant.cli import run_module
from vivant.devices.probe import machine
from vivant.errors import BundleError, OutputError, UsageError
from vivant.export.gate import COSINE, MOTION, cosine, fidelity, run
from vivant.export.write import ArtifactData, StageData, based_on, write_bundle
from vivant.graph import CompiledGraph, compare, load_graph
from vivant.quant import calibrate, ort, ptq
from vivant.quant.calibrate import Recording
from vivant.quant.gate import BAR, compiled, draw, frame_psnr, race, write_sheet
from vivant.quant.quantiser import Quantiser
from vivant.render import GraphCall
from vivant.tensor import Array

QUANTISABLE = ("encode", "render")
QUANTISERS: dict[str, Quantiser] = {"openvino": ptq, "onnx": ort}
"""Module of each format."""
MARGIN_DB = 2.0
"""How much better than the gate the frames seen while choosing layers must be, dB."""
MARGIN_COSINE = 0.5
"""The same for a motion code: share of what its cosine may lack."""
LOOKS = 6
"""Portraits on which layers are compared: those that suffer most when all are INT8."""
SHARE = 0.05
"""Least share of a frame's error for which a layer returns to floating point."""
TOLERANCE = (2.0, 0.02)
"""Golden tolerance of an INT8 artifact: factor over the error measured here, and its least."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One layer of the sensitivity table."""

    layer: str
    """Channels, kernel, resolution."""
    weights: int
    share: float
    """Of the stage's multiplications in quantisable layers."""
    psnr_db: float
    """Of the worst frame when only this layer is INT8."""
    int8: bool
    """Whether it is INT8 in the end."""


@dataclass(frozen=True)
class Report:
    """What quantising one stage cost and brought."""

    stage: str
    format: str
    layers: list[Row]
    psnr_db: list[float]
    """Of each held-out frame against floating point."""
    float_ms: float
    """Median of a call in floating point, one thread unless asked otherwise."""
    int8_ms: float
    ratio: float
    """``float_ms / int8_ms``."""
    best_ratio: float
    """The same of each one's fastest call, which other work on the machine disturbs least."""
    float_bytes: int
    int8_bytes: int


def choose(
    bundle: Bundle,
    stage: str,
    model: Any,
    recording: Recording,
    render: CompiledGraph,
    tell: Tell,
    quantiser: Quantiser = ptq,
    original: Any = None,
) -> tuple[Any, list[Row]]:
    """The quantised model and its sensitivity table; BundleError when no layer can be INT8.

    Frames are compared with those of ``original``, which is ``model`` unless that was tuned.
    """
    layers = quantiser.layers(model)
    if not layers:
        raise BundleError(f"stage {stage} has no layer to quantise")
    names = [layer.name for layer in layers]
    tell(f"{stage}: calibrating {len(names)} layers on {len(recording)} portraits")
    full = quantiser.quantise(model, recording.inputs(stage), names)
    everyone = range(len(recording))

    plain = compiled(bundle, stage, original or model, quantiser)
    drawn = draw(stage, plain, recording, render, everyone)
    each = len(drawn) // len(recording)
    inputs = recording.inputs(stage)
    codes = [plain(one)[MOTION[stage]] for one in inputs] if stage in MOTION else []
    limit = 255**2 / 10 ** ((BAR + MARGIN_DB) / 10)

    def errors(candidate: Any, portraits: Sequence[int]) -> Array:
        """Of each portrait (rows) what its frames, and its motion code, take of what they may."""
        graph = compiled(bundle, stage, candidate, quantiser)
        wanted = [drawn[index * each + k] for index in portraits for k in range(each)]
        psnr = np.array(frame_psnr(wanted, draw(stage, graph, recording, render, portraits)))
        parts = [(255**2 / limit / 10 ** (psnr / 10)).reshape(-1, each)]
        if codes:
            name = MOTION[stage]
            turned = [1 - cosine(codes[index], graph(inputs[index])[name]) for index in portraits]
            parts.append(np.array(turned)[:, None] / (MARGIN_COSINE * (1 - COSINE)))
        return np.concatenate(parts, 1)

    def worst(taken: Array) -> float:
        """PSNR of the worst frame."""
        return float(10 * np.log10(255**2 / limit / taken[:, :each].max()))

    got = errors(full, everyone)
    tell(f"{stage}: {worst(got):.1f} dB with all layers in INT8")
    looks = sorted(np.argsort(-got.max(1), kind="stable")[:LOOKS].tolist())
    alone = {}
    for number, name in enumerate(names):
        alone[name] = errors(quantiser.restore(full, model, [n for n in names if n != name]), looks)
        tell(f"{stage}: layer {number + 1} of {len(names)}, alone {worst(alone[name]):.1f} dB")
    work = {layer.name: layer.products for layer in layers}
    chosen, int8, target = full, list(names), 1.0
    while got.max() > 1:
        if len(int8) == 1:
            raise BundleError(
                f"no layer of {stage} can be INT8",
                expected=f"frames of at least {BAR + MARGIN_DB:g} dB",
                got=f"{worst(got):.1f} dB",
                fix="Record more people, or leave the stage in floating point.",
            )
        int8 = tolerable(int8, alone, work, target)
        chosen = quantiser.restore(full, model, [n for n in names if n not in int8])
        got = errors(chosen, everyone)
        back = len(names) - len(int8)
        tell(f"{stage}: {worst(got):.1f} dB with {back} layers back in floating point")
        target *= 0.7  # the errors of layers do not quite add up
    products = sum(layer.products for layer in layers)
    rows = [
        Row(
            layer.text,
            layer.weights,
            layer.products / products,
            worst(alone[layer.name]),
            layer.name in int8,
        )
        for layer in layers
    ]
    return chosen, rows


def tolerable(
    int8: Sequence[str], alone: Mapping[str, Array], work: Mapping[str, int], target: float
) -> list[str]:
    """The layers of ``int8`` whose errors together stay below ``target`` in everything seen.

    ``alone``: square errors of each layer, an array of any shape; ``work``: its multiplications.
    Where most is, the layer leaves that brings most error for the least arithmetic. At least one
    leaves, and one stays.
    """
    left = list(int8)
    while len(left) > 1:
        total = np.sum([alone[name].ravel() for name in left], axis=0)
        most = int(np.argmax(total))
        if len(left) < len(int8) and total[most] <= target:
            break
        here = {name: float(alone[name].ravel()[most]) for name in left}
        guilty = [name for name in left if here[name] >= SHARE * total[most]]
        left.remove(max(guilty or left, key=lambda name: here[name] / work[name]))
    return left


def quantise_stage(
    bundle: Bundle,
    stage: str,
    data: StageData,
    recording: Recording,
    held: Recording,
    *,
    threads: int = 1,
    rounds: int = 60,
    sheet: Path | None = None,
    tell: Tell = lambda text: None,
    quantiser: Quantiser = ptq,
    tuned: bytes = b"",
) -> tuple[ArtifactData, Report]:
    """The stage's INT8 artifact in the quantiser's format, and its report.

    ``tuned``: an ONNX graph of weights that were tuned for INT8, to quantise in place of the
    stage's own.
    Raises BundleError when a held-out frame is below the gate or INT8 is not the faster one.
    """
    precision = calibrate.floating(bundle, stage)
    source = next(a for a in data.artifacts if (a.format, a.precision) == ("onnx", precision))
    original = quantiser.read(source.data)
    model = quantiser.read(tuned) if tuned else original
    backend = quantiser.BACKEND
    plain = load_graph(bundle, stage, backend, threads=threads, precision=precision)
    render = plain if stage == "render" else _render(bundle, backend, threads)
    chosen, rows = choose(bundle, stage, model, recording, render, tell, quantiser, original)
    graph, weights = quantiser.serialise(chosen)
    int8 = compiled(bundle, stage, chosen, quantiser, threads)

    everyone = range(len(held))
    expected = draw(stage, plain, held, render, everyone)
    got = draw(stage, int8, held, render, everyone)
    figures = frame_psnr(expected, got)
    if sheet:
        write_sheet(sheet, expected, got)
    if not min(figures) >= BAR:
        raise BundleError(
            f"the INT8 graph of {stage} draws other frames",
            expected=f"PSNR >= {BAR:g} dB for people it was not calibrated on",
            got=f"{min(figures):.1f} dB",
            fix="Calibrate on more people.",
        )
    moved = same_motion(stage, plain, int8, held.inputs(stage))
    tell(f"{stage}: measuring the speed")
    times = race({"float": plain, "int8": int8}, held.inputs(stage), rounds)
    ratio = median(times["float"]) / median(times["int8"])
    if ratio <= 1:
        raise BundleError(
            f"the INT8 graph of {stage} is not faster here",
            expected="a ratio above 1",
            got=f"{ratio:.2f}",
            fix="Quantise on a processor with 8-bit products, or when nothing else runs.",
        )
    report = Report(
        stage,
        quantiser.FORMAT,
        rows,
        figures,
        median(times["float"]),
        median(times["int8"]),
        ratio,
        min(times["float"]) / min(times["int8"]),
        len(source.data),
        len(graph) + len(weights),
    )
    inputs, wanted = data.golden
    runs = run(
        stage,
        graph,
        Signature(data.inputs, data.outputs),
        [inputs],
        "int8",
        (backend,),
        weights,
    )
    outputs = fidelity([wanted], runs)
    error = max(compare(wanted, runs[0][0]).values())
    if not TOLERANCE[0] * error <= 1:
        raise BundleError(
            f"the INT8 graph of {stage} is far from the golden output",
            expected=f"an error of at most {1 / TOLERANCE[0]:g} of an output's peak",
            got=f"{error:.2g}",
            fix="Calibrate on people like the portraits that the bundle was exported with.",
        )
    measured = {
        "psnr_db": min(outputs.values()),
        **{f"psnr_db_{name}": value for name, value in outputs.items()},
        **moved,
        "frame_psnr_db": min(figures),
        "frame_psnr_db_median": median(figures),
        "speed_ratio": ratio,
    }
    factor, floor = TOLERANCE
    tolerance = min(1.0, math.ceil(1000 * max(floor, factor * error)) / 1000)
    return ArtifactData(graph, "int8", measured, quantiser.FORMAT, tolerance, weights), report


def same_motion(
    stage: str, plain: GraphCall, int8: GraphCall, inputs: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """The least cosine of the output that carries motion, if the stage has one, over ``inputs``.

    Raises BundleError below the gate.
    """
    if stage not in MOTION:
        return {}
    name = MOTION[stage]
    least = min(cosine(plain(one)[name], int8(one)[name]) for one in inputs)
    if not least >= COSINE:
        raise BundleError(
            f"the INT8 graph of {stage} moves the face otherwise",
            expected=f"a cosine of {name} of at least {COSINE:g}",
            got=f"{least:.5f}",
            fix="Calibrate on more people.",
        )
    return {"cosine": least}


def _render(bundle: Bundle, backend: str, threads: int) -> CompiledGraph:
    precision = calibrate.floating(bundle, "render")
    return load_graph(bundle, "render", backend, threads=threads, precision=precision)


def lines(report: Report) -> list[str]:
    """The report for people."""
    head = f"{'layer':<28}{'weights':>9}{'work %':>8}{'alone dB':>10}  arithmetic"
    text = [f"{report.stage}, {report.format}: one layer in INT8 at a time, worst frame", head]
    for row in report.layers:
        kind = "int8" if row.int8 else "float"
        text.append(
            f"{row.layer:<28}{row.weights:>9}{100 * row.share:>8.1f}{row.psnr_db:>10.1f}  {kind}"
        )
    text.append(
        f"{report.stage}, {report.format}: {len(report.psnr_db)} held-out frames, PSNR least "
        f"{min(report.psnr_db):.1f}, median {median(report.psnr_db):.1f} dB; "
        f"{report.float_bytes / 1e6:.2f} MB as float, {report.int8_bytes / 1e6:.2f} MB as INT8; "
        f"{report.float_ms:.1f} / {report.int8_ms:.1f} ms, {report.ratio:.2f} times as fast "
        f"(fastest calls {report.best_ratio:.2f})"
    )
    return text


def parser() -> argparse.ArgumentParser:
    """The command line of ``vivant quantize``."""
    result = argparse.ArgumentParser(
        prog="vivant quantize", description="Add measured INT8 artifacts to a bundle."
    )
    result.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    result.add_argument("--people", type=Path, help="folder of person_*.npz to calibrate on")
    result.add_argument("--calibration", type=Path, help="recording, instead of --people")
    result.add_argument(
        "--held", type=Path, help="people for the gate (default: the last quarter of --people)"
    )
    result.add_argument("--stages", default="render", help="comma-separated (default: render)")
    result.add_argument(
        "--formats",
        default="openvino",
        help="comma-separated: openvino (by NNCF), onnx (by ONNX Runtime) (default: openvino)",
    )
    result.add_argument("--count", type=int, default=32, help="portraits to calibrate on")
    result.add_argument("--held-count", type=int, default=24, help="portraits for the gate")
    result.add_argument("--threads", type=int, default=1, help="for the speed (0: all)")
    result.add_argument("--rounds", type=int, default=60, help="turns for the speed")
    result.add_argument("--report", type=Path, help="write the figures as JSON here")
    result.add_argument(
        "--tuned", type=Path, help="checkpoint of vivant.quant.qat: quantise its render"
    )
    result.add_argument("--sheet", type=Path, help="folder for pictures of the worst frames")
    return result


def recordings(args: argparse.Namespace, bundle: Bundle) -> tuple[Recording, Recording]:
    """Calibration and held-out people of a command line; raises UsageError when one is missing."""
    people = calibrate.shards(args.people) if args.people else []
    if args.held:
        others = calibrate.shards(args.held)
    else:
        if len(people) < 2:
            raise UsageError("no people for the gate", expected="--held, or two in --people")
        split = len(people) - max(1, len(people) // 4)
        people, others = people[:split], people[split:]
    for name in ("count", "held_count", "rounds"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is too small", expected="at least 1")
    encode = calibrate.encoder(bundle)
    if args.calibration:
        recording = calibrate.load(args.calibration, bundle)
    else:
        recording = calibrate.record(encode, people, args.count)
    return recording, calibrate.record(encode, others, args.held_count, seed=1)


def graph_of(checkpoint: Path, recording: Recording) -> bytes:
    """``render`` of a checkpoint as ONNX."""
    from vivant.export.to_onnx import convert
    from vivant.export.to_onnx import serialise as save
    from vivant.export.train.face import load_face

    names, outputs = (list(group) for group in TENSORS["render"])
    example = recording.inputs("render")[0]
    _, render = load_face(checkpoint)
    return save(convert(render, [example[name] for name in names], names, outputs))


def main(argv: Sequence[str] | None = None) -> int:
    """Write a bundle with INT8 artifacts; returns the exit code."""
    args = parser().parse_args(argv)
    wanted = tuple(dict.fromkeys(args.stages.split(",")))
    if not set(wanted) <= set(QUANTISABLE):
        raise UsageError(
            "a stage that is not quantised", expected=" or ".join(QUANTISABLE), got=args.stages
        )
    formats = tuple(dict.fromkeys(args.formats.split(",")))
    if not set(formats) <= set(QUANTISERS):
        raise UsageError("--formats", expected=" or ".join(QUANTISERS), got=args.formats)
    if not (args.people or args.calibration):
        raise UsageError("nothing to calibrate on", expected="--people or --calibration")
    bundle = Bundle.open(args.bundle)
    head, stages = based_on(args.bundle)
    recording, held = recordings(args, bundle)
    tuned = graph_of(args.tuned, recording) if args.tuned else b""
    if args.sheet:
        args.sheet.mkdir(parents=True, exist_ok=True)
    reports = []
    for stage, kind in ((stage, kind) for stage in wanted for kind in formats):
        bundle.stage(stage)
        artifact, report = quantise_stage(
            bundle,
            stage,
            stages[stage],
            recording,
            held,
            threads=args.threads,
            rounds=args.rounds,
            sheet=args.sheet / f"{stage}.{kind}.int8.png" if args.sheet else None,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
            quantiser=QUANTISERS[kind],
            tuned=tuned if stage == "render" else b"",
        )
        stages[stage] = _with(stages[stage], artifact)
        reports.append(report)
        print("\n".join(lines(report)))
    write_bundle(args.out, {n: stages[n] for n in STAGES if n in stages}, head)
    if args.report:
        text = json.dumps({"machine": machine(), "stages": [asdict(r) for r in reports]}, indent=1)
        try:
            args.report.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {args.report}", got=str(error)) from None
    return 0


def _with(data: StageData, artifact: ArtifactData) -> StageData:
    """``data`` with ``artifact`` in the place of an older one of its kind, INT8 before the rest.

    A backend takes the first artifact that it reads, and OpenVINO reads ONNX too.
    """
    kind = (artifact.format, artifact.precision)
    others = [a for a in data.artifacts if (a.format, a.precision) != kind]
    ordered = sorted([artifact, *others], key=lambda a: (a.precision != "int8", a.format == "onnx"))
    return replace(data, artifacts=tuple(ordered))


if __name__ == "__main__":
    sys.exit(run_module(main))
