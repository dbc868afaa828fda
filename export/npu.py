"""Compile every stage for Intel's NPU, on a machine that has none::

    python -m vivant.export.npu [--bundle BUNDLE] [--compiler COMMAND] [--json]

The plugin compiles a graph as a whole or refuses it, so a graph that compiles has no operator
that runs elsewhere; of one that is refused, the first such operator is looked for. Milliseconds
are the compiler's own estimate, which nobody has calibrated against hardware: they rank graphs.

OpenVINO has the compiler on Windows only. Elsewhere name a program that takes the arguments of
``npu_compile.py``; ``python -m vivant.export.npu_wine`` makes one for Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vivant.bundle import STAGES, Artifact, Bundle
from vivant.cli import run_module
from vivant.errors import BackendError, UsageError
from vivant.export.npu_compile import NO_COMPILER

PLATFORMS = {"3720": "Meteor Lake, Arrow Lake", "4000": "Lunar Lake", "5010": "Panther Lake"}
"""NPU generations that the compiler knows, and the processors that have them."""

SECONDS = 300.0
"""Time for one graph; the largest takes 13 s here."""

LOG = 16 << 20
"""Bytes of the compiler's log that are read."""


@dataclass(frozen=True)
class Compilation:
    """One graph on one platform."""

    compiled: bool
    estimate_ms: float | None = None
    """The compiler's own, uncalibrated."""
    left_out: tuple[str, ...] = ()
    """Operators whose time it does not know."""
    bytes: int = 0
    """Of the compiled graph."""
    compiler: str = ""
    """Its identity."""
    reason: str = ""
    """Why the graph was refused."""
    elsewhere: str = ""
    """The first operator that the platform cannot run."""


@dataclass(frozen=True)
class Row:
    """One graph of the bundle."""

    stage: str
    precision: str
    sha256: str
    """Of the artifact that the graph comes from."""
    platforms: dict[str, Compilation]


def command(text: str | None) -> list[str]:
    """The compiler's command line; None is this Python."""
    if text is None:
        return [sys.executable, str(Path(__file__).with_name("npu_compile.py"))]
    parts = shlex.split(text, posix=os.name == "posix")
    if not parts:
        raise UsageError("--compiler is empty", expected="a program")
    return parts


def compile_graph(
    compiler: Sequence[str],
    graph: bytes,
    weights: bytes,
    platform: str,
    seconds: float = SECONDS,
) -> Compilation:
    """One graph (IR) on one platform, in a process of its own.

    Whatever the compiler does is an answer; BackendError only when there is none.
    """
    with tempfile.TemporaryDirectory(prefix="vivant-npu.") as name:
        folder = Path(name)
        (folder / "graph.xml").write_bytes(graph)
        (folder / "graph.bin").write_bytes(weights)
        log = folder / "log"
        call = [*compiler, "graph.xml", "graph.blob", platform]
        code = _call(call, folder, log, seconds)
        with log.open("rb") as file:
            text = re.sub(r"\x1b\[[0-9;]*m", "", file.read(LOG).decode(errors="replace"))
        blob = folder / "graph.blob"
        size = blob.stat().st_size if blob.is_file() else 0
    identity = _found(r"Current compiler ID: (\S+)", text) or _found(r"^OpenVINO (\S+)", text)
    if code is None:
        return Compilation(False, compiler=identity, reason=f"no answer within {seconds:g} s")
    if code == NO_COMPILER:
        raise BackendError(
            "this OpenVINO has no NPU compiler",
            got=_last(text),
            fix="Use OpenVINO on Windows, or --compiler; see: python -m vivant.export.npu --help",
        )
    if code or not size:
        said = f"exit code {code}: {_error(text)}" if code else "no compiled graph was written"
        return Compilation(False, compiler=identity, reason=said)
    estimate = _found(r"Estimated inference latency: ([0-9.]+) us", text)
    unknown = _found(r"unsupported by VPUNN[^\[\n]*\[([^\]\n]*)\]", text)
    try:
        milliseconds = float(estimate) / 1e3 if estimate else None
    except ValueError:
        milliseconds = None
    kinds = {part.strip().removeprefix("builtin_").partition(".")[0] for part in unknown.split(",")}
    return Compilation(True, milliseconds, tuple(sorted(kinds - {""})), size, identity)


def _call(call: Sequence[str], folder: Path, log: Path, seconds: float) -> int | None:
    """The exit code, or None past the time; what the process started ends with it."""
    with log.open("wb") as file:
        try:
            # Its own group: a wrapper's child would go on, and keep a pipe open, after a kill.
            process = subprocess.Popen(
                call,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
        except OSError as error:
            raise BackendError(
                f"the compiler {call[0]} cannot be started", got=str(error), fix="Check --compiler."
            ) from None
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                if os.name == "posix":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                process.wait()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1][:500] if match else ""


def _error(text: str) -> str:
    """What the compiler says is wrong: its first error, else its last words."""
    return (_found(r"^\[ERROR\][^\[\n]*\[[\w-]+\] (.+)$", text) or _last(text))[:300]


def _last(text: str) -> str:
    return " ".join("\n".join(text.strip().splitlines()[-3:]).split())[-300:] or "no message"


def graphs(bundle: Bundle, stage: str) -> list[tuple[Artifact, bytes, bytes]]:
    """Artifact, graph and weights of every IR of a stage; its ONNX artifact made IR if none is."""
    artifacts = bundle.stage(stage).artifacts
    found = [a for a in artifacts if a.format == "openvino"]
    if found:
        return [(a, *bundle.graph(a)) for a in found]
    from vivant.export.to_openvino import FLOATING, read, serialise

    return [
        (a, *serialise(read(bundle.read(a.file))))
        for a in artifacts
        if a.format == "onnx" and a.precision in FLOATING
    ][:1]


def refused(graph: bytes, weights: bytes, works: Callable[[bytes, bytes], bool]) -> str:
    """The first operator, in the order of calls, with which the graph does not compile."""
    from vivant.export.to_openvino import openvino, read

    def calls(model: object) -> list[object]:
        kept = ("Result", "Parameter", "Constant")
        return [n for n in model.get_ordered_ops() if n.get_type_name() not in kept]  # type: ignore[attr-defined]

    def beginning(count: int) -> tuple[bytes, bytes]:
        """The graph of the first ``count`` calls; what none of them reads is its output."""
        model = read(graph, weights)
        first = calls(model)[:count]
        names = {node.get_friendly_name() for node in first}  # type: ignore[attr-defined]
        ends = [
            output
            for node in first
            for output in node.outputs()  # type: ignore[attr-defined]
            if not any(
                reader.get_node().get_friendly_name() in names
                for reader in output.get_target_inputs()
            )
        ]
        part = openvino().Model(ends, model.get_parameters(), "part")
        with tempfile.TemporaryDirectory() as folder:
            xml, data = Path(folder) / "part.xml", Path(folder) / "part.bin"
            openvino().serialize(part, str(xml), str(data))
            return xml.read_bytes(), data.read_bytes()

    nodes = calls(read(graph, weights))
    good, bad = 0, len(nodes)
    while bad - good > 1:
        middle = (good + bad) // 2
        if works(*beginning(middle)):
            good = middle
        else:
            bad = middle
    node = nodes[bad - 1]
    shapes = [tuple(value.get_shape()) for value in node.inputs()]  # type: ignore[attr-defined]
    return f"{node.get_type_name()} of {', '.join(map(str, shapes))}"  # type: ignore[attr-defined]


def compile_bundle(
    bundle: Bundle,
    compiler: Sequence[str],
    platforms: Sequence[str],
    *,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Every graph on every platform; raises BackendError when there is no compiler."""
    rows = []
    for stage in (name for name in STAGES if name in bundle.manifest.stages):
        for artifact, graph, weights in graphs(bundle, stage):
            found = {}
            for platform in platforms:
                tell(f"{stage} {artifact.precision} for {platform}")
                got = compile_graph(compiler, graph, weights, platform, seconds)
                if got.reason.startswith("exit code"):

                    def works(graph: bytes, weights: bytes, platform: str = platform) -> bool:
                        return compile_graph(compiler, graph, weights, platform, seconds).compiled

                    tell(f"{stage}: refused; looking for the operator")
                    fields = asdict(got) | {"elsewhere": refused(graph, weights, works)}
                    got = Compilation(**fields)
                found[platform] = got
            rows.append(Row(stage, artifact.precision, artifact.file.sha256, found))
    return rows


def lines(rows: Sequence[Row]) -> list[str]:
    """The table for people."""
    platforms = list(rows[0].platforms) if rows else []
    head = f"{'stage':<9}{'graph':<7}" + "".join(f"{'NPU ' + p:>14}" for p in platforms)
    text = [head + "  elsewhere  not in the estimate"]
    for row in rows:
        cells, unknown = "", set()
        for got in row.platforms.values():
            unknown |= set(got.left_out)
            known = f"{got.estimate_ms:.2f} ms" if got.estimate_ms is not None else "compiled"
            cells += f"{known if got.compiled else 'REFUSED':>14}"
        others = {got.elsewhere for got in row.platforms.values()} - {""}
        failed = any(not got.compiled for got in row.platforms.values())
        elsewhere = ", ".join(sorted(others)) or ("unknown" if failed else "none")
        text.append(
            f"{row.stage:<9}{row.precision:<7}{cells}  {elsewhere:<9}  {', '.join(sorted(unknown))}"
        )
    for row in rows:
        for platform, got in row.platforms.items():
            if not got.compiled:
                text.append(f"{row.stage} {row.precision}, NPU {platform}: {got.reason}")
    made = {got.compiler for row in rows for got in row.platforms.values()} - {""}
    text.append("milliseconds: the compiler's own estimate, uncalibrated; they rank graphs")
    text += [f"compiler {name}" for name in sorted(made)]
    return text


def load(path: Path) -> dict[str, dict[str, Compilation]]:
    """What ``--json`` printed: compilations by platform, by SHA-256 of the artifact.

    Raises UsageError for any other file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["graphs"]
        return {
            row["sha256"]: {p: Compilation(**got) for p, got in row["platforms"].items()}
            for row in found
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} holds no NPU table",
            expected="the output of python -m vivant.export.npu --json",
            got=str(error)[:100],
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 0, or 6 when a graph was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m vivant.export.npu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 every graph compiled, 5 the bundle is corrupt, 6 a graph was refused "
        "or there is no compiler",
    )
    parser.add_argument("--bundle", type=Path, help="folder (default: the embedded bundle)")
    parser.add_argument(
        "--compiler",
        help="program called as COMMAND GRAPH.xml BLOB PLATFORM, such as "
        "'wine C:/python/python.exe npu_compile.py' (default: this Python's OpenVINO)",
    )
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help="; ".join(f"{name}: {chips}" for name, chips in PLATFORMS.items()),
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"for one graph (default: {SECONDS:g})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    platforms = args.platforms.split(",")
    if not all(re.fullmatch(r"[0-9]{4}", name) for name in platforms):
        raise UsageError("--platforms", expected=",".join(PLATFORMS), got=args.platforms)
    rows = compile_bundle(
        Bundle.open(args.bundle),
        command(args.compiler),
        platforms,
        seconds=args.seconds,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.json:
        print(json.dumps({"graphs": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join(lines(rows)))
    compiled = all(got.compiled for row in rows for got in row.platforms.values())
    return 0 if compiled else BackendError.exit_code


if __name__ == "__main__":
    sys.exit(run_module(main))
