"""What is known of Intel's NPU without one: the compiler is asked, and a lint asks everywhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import Builder

from vivant.bundle import STAGES, Bundle
from vivant.errors import BackendError, UsageError
from vivant.export import npu, npu_wine
from vivant.export.npu_lint import lint
from vivant.export.to_openvino import openvino, read

Compiler = Callable[[str], list[str]]


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    """Makes a program that takes a compiler's arguments and does as it is told."""

    def make(body: str) -> list[str]:
        path = tmp_path / "compiler.py"
        path.write_text(
            "import sys, time\nfrom pathlib import Path\ngraph, blob, platform = sys.argv[1:]\n"
            + body
        )
        return [sys.executable, str(path)]

    return make


GOOD = """
assert Path(graph).name == "graph.xml" and Path("graph.bin").read_bytes() == b"weights"
print("[INFO] Current compiler ID: 7.10-fake")
print("Estimated inference latency: 1250.50 us in dpu frequency 1300.00 MHz")
print("SHAVE operations are unsupported by VPUNN, which matters: [builtin_Convert, builtin_X.y]")
Path(blob).write_bytes(platform.encode())
"""


def test_a_compiled_graph_has_size_estimate_and_what_the_estimate_leaves_out(
    compiler: Compiler,
) -> None:
    """The compiler gets both files and the platform; its log is read, colours and all."""
    got = npu.compile_graph(compiler(GOOD), b"<net/>", b"weights", "3720")
    assert got == npu.Compilation(True, 1.2505, ("Convert", "X"), 4, "7.10-fake")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('[ERROR] 1:2:3 [vpux-compiler] no Foo here'); sys.exit(1)", "1: no Foo here"),
        ("sys.exit('cannot do that')", "exit code 1: cannot do that"),
        ("import os; os.abort()", "exit code -6"),
        ("print('all is well')", "no compiled graph was written"),
        ("Path(blob).touch()", "no compiled graph was written"),
        ("sys.stdout.buffer.write(bytes(range(256)) * 999); sys.exit(2)", "exit code 2"),
    ],
)
def test_whatever_a_compiler_does_is_a_reason(compiler: Compiler, body: str, reason: str) -> None:
    """Refusals, crashes and lies are answers, and none of them is taken for success."""
    got = npu.compile_graph(compiler(body), b"<net/>", b"", "4000")
    assert not got.compiled
    assert reason in got.reason


def test_garbage_in_the_log_is_no_estimate(compiler: Compiler) -> None:
    """A figure that is none is left out; the graph still counts as compiled."""
    body = "print('Estimated inference latency: 1.2.3 us'); Path(blob).write_text('x')"
    got = npu.compile_graph(compiler(body), b"<net/>", b"", "4000")
    assert got.compiled
    assert got.estimate_ms is None


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    compiler: Compiler, tmp_path: Path
) -> None:
    """Past its time the compiler's children are gone too, and hold up no later graph."""
    trace = tmp_path / "trace"
    child = f"import time\nwhile True: open({str(trace)!r}, 'a').write('.'); time.sleep(.01)"
    body = f"""
import subprocess
subprocess.Popen([sys.executable, "-c", {child!r}])
while not Path({str(trace)!r}).exists(): time.sleep(0.01)
print("started", flush=True)
time.sleep(60)
"""
    got = npu.compile_graph(compiler(body), b"<net/>", b"", "4000", seconds=3)
    assert got.reason == "no answer within 3 s"
    size = trace.stat().st_size
    time.sleep(0.2)
    assert trace.stat().st_size == size


def test_no_compiler_is_an_error_of_the_machine(compiler: Compiler, tmp_path: Path) -> None:
    """Exit code 6 with what to do, and no table of refusals, where there is nothing to ask."""
    body = "print('cannot load the compiler'); sys.exit(3)"
    with pytest.raises(BackendError, match=r"no NPU compiler.*cannot load the compiler"):
        npu.compile_graph(compiler(body), b"<net/>", b"", "4000")
    with pytest.raises(BackendError, match="cannot be started"):
        npu.compile_graph([str(tmp_path / "none")], b"<net/>", b"", "4000")


def test_the_command_prints_every_stage_on_every_platform(
    bundle_path: Path,
    compiler: Compiler,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One row a graph; the same as JSON can be read back; exit code 0."""
    call = " ".join(compiler("Path(blob).write_text('x'); print('OpenVINO 1-fake')"))
    arguments = ["--bundle", str(bundle_path), "--compiler", call, "--platforms", "3720,5010"]
    assert npu.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"\n{stage}" in f"\n{out}" for stage in STAGES)
    assert out.count(" none ") == len(STAGES)
    assert npu.main([*arguments, "--json"]) == 0
    table = tmp_path / "npu.json"
    table.write_text(capsys.readouterr().out)
    digest = Bundle.open(bundle_path).stage("listen").artifacts[0].file.sha256
    assert npu.load(table)[digest]["5010"].compiled
    table.write_text('{"graphs": [{"sha256": 1}]}')
    with pytest.raises(UsageError, match="holds no NPU table"):
        npu.load(table)


def test_the_operator_that_is_refused_is_found(
    bundle_path: Path, compiler: Compiler, capsys: pytest.CaptureFixture[str]
) -> None:
    """A compiler without Tanh refuses two stages; both are named with the operator; exit code 6."""
    body = "if 'type=\"Tanh\"' in Path(graph).read_text(): sys.exit(1)\nPath(blob).write_text('x')"
    call = " ".join(compiler(body))
    arguments = ["--bundle", str(bundle_path), "--compiler", call, "--platforms", "4000"]
    assert npu.main([*arguments, "--json"]) == 6
    found = {
        g["stage"]: g["platforms"]["4000"] for g in json.loads(capsys.readouterr().out)["graphs"]
    }
    refused = {stage: got["elsewhere"] for stage, got in found.items() if not got["compiled"]}
    assert refused == {"listen": "Tanh of (1, 8)", "denoise": "Tanh of (1, 126)"}


def test_bad_arguments_are_told(bundle_path: Path) -> None:
    """A platform that is no number and an empty command are errors of usage."""
    for wrong in (["--platforms", "4000,lunar"], ["--compiler", " "]):
        with pytest.raises(UsageError):
            npu.main(["--bundle", str(bundle_path), *wrong])


def test_setting_up_names_the_tool_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without Wine nothing is fetched, and the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"wine is not installed.*apt-get install"):
        npu_wine.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_the_embedded_bundle_suits_the_npu(stage: str) -> None:
    """Static, at most four axes, known operators, constants that half precision holds, and no
    picture of full size: warping the photo is ``composite``, which is not a graph."""
    bundle = Bundle.open()
    artifact = next(a for a in bundle.stage(stage).artifacts if a.format == "onnx")
    assert lint(read(bundle.read(artifact.file))) == []


def graph(build: Callable[[object, object], object], *shape: int) -> object:
    """A model of one input ``x``."""
    ops = openvino().opset13
    x = ops.parameter(list(shape), np.float32, name="x")
    return openvino().Model([build(ops, x)], [x], "x")


@pytest.mark.parametrize(
    ("build", "shape", "rule"),
    [
        (lambda o, x: o.atan(x), (1, 4), "never seen to compile"),
        (lambda o, x: o.relu(x), (-1, 4), "size not known"),
        (lambda o, x: o.relu(x), (1, 1, 2, 2, 2), "more than 4 axes"),
        (lambda o, x: o.relu(x), (1, 3, 512, 512), "larger than 256"),
        (lambda o, x: o.add(x, np.float32([7e4, 1])), (1, 2), "overflows"),
        (lambda o, x: o.add(x, np.float32([np.inf, 1])), (1, 2), "overflows"),
        (lambda o, x: o.add(x, np.float32(1e-9)), (1, 2), "vanishes"),
        (lambda o, x: o.subtract(np.float32([[1, 2]]), x), (1, 1), "refused"),
    ],
)
def test_each_rule_finds_what_it_is_for(
    build: Callable[[object, object], object], shape: tuple[int, ...], rule: str
) -> None:
    """The lint is not silent: one graph for each rule breaks that rule."""
    assert any(rule in finding.rule for finding in lint(graph(build, *shape)))


def test_conversion_turns_a_difference_that_the_compiler_refuses() -> None:
    """``constant - x`` with a smaller ``x`` is written another way, equal bit for bit."""
    b = Builder("listen")
    row = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    small = b.slice("state", 1, 0, 1)
    b.add("Sub", b.constant(row), small, name="state_out")
    b.add("Add", b.slice(b.shape("mel", [1, 256]), 1, 0, 8), "state", name="audio")
    plain = openvino().Core().read_model(b.model())
    ready = read(b.model())
    assert any("refused" in finding.rule for finding in lint(plain))
    assert not lint(ready)
    feeds = {"mel": np.zeros((1, 4, 64), np.float32), "state": row[:, ::-1].copy()}
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    outputs = [openvino().compile_model(m, "CPU", hint)(feeds)["state_out"] for m in (plain, ready)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(outputs[0], row - row[:, -1:])
