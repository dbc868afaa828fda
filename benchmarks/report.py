"""Everything about a bundle's artifacts in one table: size, fidelity, speed, where each can run::

    vivant report [BUNDLE] [--json] [--png FILE] [--npu FILE]

Each artifact runs on every backend of this machine that reads it, through the runtime's own
loading: hashed, compiled, and checked on its golden output. Calls take turns, so that whatever
else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

from vivant.backends import load_backend
from vivant.benchmarks.composite import scene
from vivant.bundle import Artifact, Bundle, Stage
from vivant.composite import Compositor
from vivant.devices.probe import machine
from vivant.errors import BackendError, UsageError, VivantError
from vivant.export.gate import MOTION, cosine, fidelity, psnr
from vivant.export.npu import Compilation
from vivant.export.npu import load as load_npu
from vivant.graph import CompiledGraph, load_graph
from vivant.plan import LADDER, candidates
from vivant.quant.gate import race
from vivant.tensor import Array

OWN = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "coreml"}
"""The backend that each format is made for."""

FLOATING = ("fp32", "w16", "fp16", "bf16")
"""Precisions that others are compared with."""

COLUMNS = """\
  MB        size of the artifact's files
  dB        least PSNR of an output against the fp32 network, here on the golden tensors, the worst
            backend; in parentheses: when the artifact was made, on more examples
  motion    cosine of the output that carries motion: encode's code, listen's audio, denoise's
            velocity
  frame dB  PSNR of the 512 x 512 picture that render's outputs compose
  ms        median of a call on each backend of this machine, turns interleaved; behind it how
            many times as fast as the stage's first floating-point artifact there (fastest calls,
            which other work disturbs least); - where the backend does not run the format
  NPU       Intel's platforms that its compiler took (--npu), or whether our lint finds anything
  ANE       operators that stay on Apple's Neural Engine, of all, by our lint
"""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """An artifact on one backend."""

    psnr_db: dict[str, float]
    """Of each output on the golden tensors."""
    motion: float | None
    """Cosine of what carries the motion."""
    frame_psnr_db: float | None
    """Of the composed frame, for ``render``."""
    ms: float
    """Median of a call."""
    best_ms: float
    """The fastest call."""
    ratio: float | None
    """``best_ms`` of the first floating-point artifact here to this; None without one."""


@dataclass
class Row:
    """One artifact."""

    stage: str
    format: str
    precision: str
    bytes: int
    recorded: dict[str, float]
    """Fidelity in the manifest."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By backend and device."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a backend that reads the format, or that the format is made for, has no run."""
    npu: str = ""
    """What is known of Intel's NPU."""
    ane: str = ""
    """What is known of Apple's Neural Engine."""

    @property
    def psnr_db(self) -> float | None:
        """Worst output of the worst backend here."""
        return min((min(run.psnr_db.values()) for run in self.runs.values()), default=None)

    @property
    def motion(self) -> float | None:
        """Worst of the backends here."""
        return _least(run.motion for run in self.runs.values())

    @property
    def frame_psnr_db(self) -> float | None:
        """Worst of the backends here."""
        return _least(run.frame_psnr_db for run in self.runs.values())


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def frame(outputs: Mapping[str, Array]) -> Array:
    """What ``render``'s outputs make of a photo of smooth noise, (512, 512, 3) uint8."""
    photo = scene()[0]
    return Compositor(photo)(outputs["flow"], outputs["occlusion"], outputs["paint"]).copy()


def alone(bundle: Bundle, stage: Stage, artifact: Artifact) -> Bundle:
    """The bundle as if the stage had no other artifact."""
    stages = bundle.manifest.stages | {stage.name: replace(stage, artifacts=(artifact,))}
    return replace(bundle, manifest=replace(bundle.manifest, stages=stages))


def report(
    bundle: Bundle,
    stages: Sequence[str],
    *,
    backends: Sequence[tuple[str, str]] | None = None,
    rounds: int = 40,
    threads: int = 1,
    npu: Mapping[str, Mapping[str, Compilation]] | None = None,
    tell: Tell = lambda text: None,
) -> tuple[list[Row], int]:
    """A row for every artifact of ``stages``, and the exit code that the worst of them deserves.

    ``backends`` are pairs of backend and device (default: this system's); ``npu`` is what
    ``vivant.export.npu.load`` gives.
    """
    pairs = backends or [pair for rung in LADDER for pair in candidates(rung)]
    rows: list[Row] = []
    code = 0
    for name in stages:
        tell(name)
        stage = bundle.stage(name)
        graphs: dict[tuple[int, str], CompiledGraph] = {}
        first = len(rows)
        for index, artifact in enumerate(stage.artifacts):
            size = sum(ref.bytes for ref in artifact.own)
            row = Row(name, artifact.format, artifact.precision, size, artifact.fidelity)
            rows.append(row)
            for backend, device in pairs:
                where = f"{backend}:{device}"
                try:
                    if artifact.format not in load_backend(backend).FORMATS:
                        continue
                    graphs[index, where] = load_graph(
                        alone(bundle, stage, artifact),
                        name,
                        backend,
                        device=device,
                        threads=threads,
                        precision=artifact.precision,
                    )
                except BackendError as error:
                    if OWN[artifact.format] == backend or artifact.format == "onnx":
                        row.reasons[where] = str(error)
                except VivantError as error:
                    row.reasons[where] = str(error)
                    code = code or error.exit_code
            own = OWN[artifact.format]
            if not any(
                key.partition(":")[0] == own for key in (*row.reasons, *_wheres(graphs, index))
            ):
                row.reasons[own] = _missing(own)
            row.npu = _npu(bundle, artifact, (npu or {}).get(artifact.file.sha256))
            row.ane = _ane(artifact)
        inputs, expected = bundle.golden(stage)
        calls = {f"{index} {where}": graph for (index, where), graph in graphs.items()}
        times = race(calls, [inputs], rounds) if calls else {}
        taken = {key: times[f"{key[0]} {key[1]}"] for key in graphs}
        for (index, where), graph in graphs.items():
            base = next(
                (
                    min(taken[i, where])
                    for i, artifact in enumerate(stage.artifacts)
                    if (i, where) in taken and artifact.precision in FLOATING
                ),
                None,
            )
            rows[first + index].runs[where] = _run(
                name, expected, graph(inputs), taken[index, where], base
            )
    return rows, code


def _wheres(graphs: Mapping[tuple[int, str], object], index: int) -> list[str]:
    return [where for i, where in graphs if i == index]


def _run(
    stage: str,
    expected: Mapping[str, Array],
    got: Mapping[str, Array],
    times: Sequence[float],
    base: float | None,
) -> Run:
    key = MOTION.get(stage)
    return Run(
        fidelity([expected], [[got]]),
        cosine(expected[key], got[key]) if key else None,
        psnr(frame(expected), frame(got), 255) if stage == "render" else None,
        median(times),
        min(times),
        base / min(times) if base else None,
    )


def _missing(backend: str) -> str:
    """Why a backend cannot be used here."""
    try:
        load_backend(backend)
    except VivantError as error:
        return str(error)
    return "not asked"


def _npu(bundle: Bundle, artifact: Artifact, known: Mapping[str, Compilation] | None) -> str:
    """Intel's NPU: what its compiler said of the artifact, else what the lint says; then why."""
    if artifact.format == "coreml":
        return "-"
    if known:
        good = [platform for platform, got in known.items() if got.compiled]
        bad = {platform: got for platform, got in known.items() if platform not in good}
        if not bad:
            return " ".join(good)
        why = "; ".join(
            f"{platform} {got.elsewhere or got.reason}" for platform, got in bad.items()
        )
        return f"{' '.join(good) or 'refused'}: refused by {why}"
    from vivant.export.npu_lint import lint
    from vivant.export.to_openvino import read

    try:
        findings = lint(read(*bundle.graph(artifact)))
    except VivantError as error:
        return f"not checked: {error}"
    rules = sorted({f"{found.kind} {found.rule}" for found in findings})
    return f"{len(findings)} by lint: {'; '.join(rules)}" if rules else "fits by lint"


def _ane(artifact: Artifact) -> str:
    """Apple's Neural Engine: what the converter's lint counted; then what leaves it."""
    total = artifact.fidelity.get("operators")
    if artifact.format != "coreml" or total is None:
        return "-"
    away = {
        key.removeprefix("off_engine_"): int(value)
        for key, value in artifact.fidelity.items()
        if key.startswith("off_engine_")
    }
    stays = f"{int(total) - sum(away.values())} of {int(total)}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in away.items())
    return f"{stays}: may leave the Neural Engine: {kinds}" if kinds else stays


def lines(rows: Sequence[Row]) -> list[str]:
    """The table for people, and below it what has no room in it."""
    backends = list(dict.fromkeys(where for row in rows for where in row.runs))
    head = f"{'stage':<9}{'format':<10}{'precision':<11}{'MB':>5}{'dB':>15}{'motion':>9}"
    head += f"{'frame dB':>10}" + "".join(f"{where + ' ms':>22}" for where in backends)
    text = [f"{head}  {'NPU':<16}ANE"]
    notes: dict[str, list[str]] = {}
    for row in rows:
        made = row.recorded.get("psnr_db")
        fidelity = "" if row.psnr_db is None else f"{row.psnr_db:.1f}"
        fidelity += "" if made is None else f" ({made:.1f})"
        motion = "" if row.motion is None else f"{row.motion:.5f}"
        frames = "" if row.frame_psnr_db is None else f"{row.frame_psnr_db:.1f}"
        line = f"{row.stage:<9}{row.format:<10}{row.precision:<11}{row.bytes / 1e6:>5.2f}"
        line += f"{fidelity:>15}{motion:>9}{frames:>10}"
        line += "".join(f"{speed(row.runs.get(where)):>22}" for where in backends)
        npu, ane = (value.partition(": ")[0] for value in (row.npu, row.ane))
        text.append(f"{line}  {npu:<16}{ane}".rstrip())
        where = f"{row.stage} {row.format} {row.precision}"
        for note in (*(f"{k}: {v}" for k, v in row.reasons.items()), row.npu, row.ane):
            if ": " in note:
                notes.setdefault(note, []).append(where)
    for note, owners in notes.items():
        whose = ", ".join(owners) if len(owners) < 4 else f"{len(owners)} artifacts"
        text.append(f"{note} ({whose})")
    return text


def speed(run: Run | None) -> str:
    """Milliseconds and ratio."""
    if run is None:
        return "-"
    return f"{run.ms:.2f}" + ("" if run.ratio is None else f" x{run.ratio:.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="vivant report",
        description="Size, fidelity and speed of every artifact of a bundle, and where it can run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"columns:\n{COLUMNS}\nexit codes: 0 done, 2 a flag is wrong, 5 an artifact is "
        "damaged or its golden output wrong, 7 the picture cannot be written",
    )
    parser.add_argument("bundle", nargs="?", type=Path, help="folder (default: the embedded one)")
    parser.add_argument("--stages", help="comma-separated (default: all)")
    parser.add_argument("--backend", help="only this backend, such as openvino:GPU")
    parser.add_argument("--rounds", type=int, default=40, help="turns for the speed (default: 40)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads a graph may use (default: 1; 0: all)"
    )
    parser.add_argument(
        "--npu", type=Path, help="what python -m vivant.export.npu --json printed for the bundle"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--png", type=Path, help="draw the table into this file (needs matplotlib)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise UsageError("--rounds is too small", expected="at least 1", got=str(args.rounds))
    bundle = Bundle.open(args.bundle)
    stages = args.stages.split(",") if args.stages else list(bundle.manifest.stages)
    known = load_npu(args.npu) if args.npu else None
    if args.png:
        from vivant.benchmarks.report_figure import check

        check(args.png)
    rows, code = report(
        bundle,
        stages,
        backends=candidates(args.backend) if args.backend else None,
        rounds=args.rounds,
        threads=args.threads,
        npu=known,
        tell=lambda text: print(f"measuring {text}", file=sys.stderr, flush=True),
    )
    here = machine()
    title = f"{bundle.manifest.name} {bundle.manifest.version}, " + ", ".join(
        f"{key} {value}" for key, value in here.items()
    )
    if args.png:
        from vivant.benchmarks.report_figure import draw

        draw(rows, title, args.png)
    if args.json:
        facts = {"bundle": title, "machine": here, "threads": args.threads, "rounds": args.rounds}
        print(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(f"{title}, {args.threads or 'all'} threads")
        print("\n".join(lines(rows)))
    return code
