"""Every backend keeps the same contract, and a graph runs only when it is the right one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_coreml
import numpy as np
import onnx
import pytest
from tiny_bundle import write_tiny_bundle

from vivant import backends, graph, plan
from vivant import cache as caches
from vivant.backends import BACKENDS, Executable, Options, Signature, load_backend
from vivant.bundle import MANIFEST, STAGES, Bundle
from vivant.cache import Cache
from vivant.errors import BackendError, BundleError, UsageError
from vivant.graph import CompiledGraph, GoldenError, compare, load_graph
from vivant.plan import LADDER, Plan, candidates

every_backend = pytest.mark.parametrize("backend", list(BACKENDS))


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its graphs in Core ML's packages."""
    return write_tiny_bundle(tmp_path_factory.mktemp("coreml") / "tiny", "coreml").path


@pytest.fixture
def bundle(
    bundle_path: Path,
    packaged: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Bundle:
    """The tiny bundle in the format of the test's backend; Core ML's with a vendor to fit."""
    callspec = getattr(request.node, "callspec", None)
    if callspec and callspec.params.get("backend") == "coreml":
        fake_coreml.install(monkeypatch)
        return Bundle.open(packaged)
    return Bundle.open(bundle_path)


def changed(bundle: Bundle, folder: Path, change: Callable[[onnx.ModelProto], Any]) -> Bundle:
    """A copy whose ``listen`` graph was changed and hashed again, as a careless author would."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = manifest["stages"]["listen"]["artifacts"][0]
    model = onnx.load(folder / entry["file"])
    change(model)
    data = model.SerializeToString()
    (folder / entry["file"]).write_bytes(data)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


def wrong_weights(model: onnx.ModelProto) -> None:
    """Change one weight of hundreds."""
    weights = next(t for t in model.graph.initializer if list(t.dims) == [8, 8])
    values = np.frombuffer(weights.raw_data, np.float32).copy()
    values[0] += 0.5
    weights.raw_data = values.tobytes()


def not_a_number(model: onnx.ModelProto) -> None:
    """Make one weight NaN."""
    weights = next(t for t in model.graph.initializer if list(t.dims) == [8, 8])
    values = np.frombuffer(weights.raw_data, np.float32).copy()
    values[0] = np.nan
    weights.raw_data = values.tobytes()


def unknown_operator(model: onnx.ModelProto) -> None:
    """Ask for an operator that does not exist."""
    model.graph.node[0].op_type = "Cubism"


def renamed_input(model: onnx.ModelProto) -> None:
    """Call the input ``mel`` something else, everywhere."""
    model.graph.input[0].name = "sound"
    for node in model.graph.node:
        node.input[:] = ["sound" if name == "mel" else name for name in node.input]


@every_backend
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs(bundle: Bundle, backend: str, stage: str) -> None:
    """Outputs have the names, element types and shapes of the manifest and the golden values."""
    loaded = load_graph(bundle, stage, backend)
    inputs, expected = bundle.golden(bundle.stage(stage))
    outputs = loaded(inputs)
    specs = bundle.stage(stage).outputs
    assert [(k, v.dtype.name, v.shape) for k, v in outputs.items()] == [
        (s.name, s.dtype, s.shape) for s in specs
    ]
    assert max(compare(expected, outputs).values()) < 1e-4


@every_backend
def test_outputs_belong_to_the_caller(bundle: Bundle, backend: str) -> None:
    """A later call never changes what an earlier one returned, and inputs stay as they were."""
    listen = load_graph(bundle, "listen", backend)
    inputs, _ = bundle.golden(bundle.stage("listen"))
    kept = {name: value.copy() for name, value in inputs.items()}
    first = listen(inputs)
    copies = {name: value.copy() for name, value in first.items()}
    listen({name: value * 2 for name, value in inputs.items()})
    for name, value in first.items():
        np.testing.assert_array_equal(value, copies[name])
    for name, value in inputs.items():
        np.testing.assert_array_equal(value, kept[name])


@every_backend
def test_outputs_can_be_fed_back(bundle: Bundle, backend: str) -> None:
    """State given back as the next input gives what a copy of it gives."""
    listen = load_graph(bundle, "listen", backend)
    mel = np.ones((1, 4, 64), np.float32)
    state = plain = np.zeros((1, 8), np.float32)
    for _ in range(5):
        plain = listen({"mel": mel, "state": plain.copy()})["state_out"].copy()
        state = listen({"mel": mel, "state": state})["state_out"]
    np.testing.assert_array_equal(state, plain)
    assert np.abs(state).max() > 0


@every_backend
def test_the_same_call_gives_the_same_numbers(bundle: Bundle, backend: str) -> None:
    """A graph has no memory of its own."""
    denoise = load_graph(bundle, "denoise", backend)
    inputs, _ = bundle.golden(bundle.stage("denoise"))
    first, second = denoise(inputs), denoise(inputs)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@every_backend
def test_threads_may_share_a_graph(bundle: Bundle, backend: str) -> None:
    """Callers at the same time get what each would get alone."""
    render = load_graph(bundle, "render", backend)
    inputs, _ = bundle.golden(bundle.stage("render"))
    feeds = [inputs | {"motion": inputs["motion"] * np.float32(k)} for k in range(4)]
    alone = [render(feed) for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(render, feeds * 8))
    for expected, got in zip(alone * 8, together, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value)


@every_backend
def test_strided_inputs_are_taken(bundle: Bundle, backend: str) -> None:
    """A transposed or sliced array counts as its values, not as its memory."""
    listen = load_graph(bundle, "listen", backend)
    inputs, _ = bundle.golden(bundle.stage("listen"))
    strided = dict(inputs, mel=inputs["mel"].transpose(0, 2, 1).copy().transpose(0, 2, 1))
    assert not strided["mel"].flags.c_contiguous
    np.testing.assert_array_equal(listen(strided)["audio"], listen(inputs)["audio"])


@every_backend
def test_one_thread_can_be_asked_for(bundle: Bundle, backend: str) -> None:
    """The number of threads changes no result beyond rounding."""
    one = load_graph(bundle, "encode", backend, threads=1)
    inputs, expected = bundle.golden(bundle.stage("encode"))
    assert max(compare(expected, one(inputs)).values()) < 1e-4


MEL = np.zeros((1, 4, 64), np.float32)
STATE = np.zeros((1, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mel": MEL}, "expected mel, state; got mel"),
        ({"mel": MEL, "stat": STATE}, "expected mel, state; got mel, stat"),
        ({"mel": MEL, "state": STATE, "more": STATE}, "got mel, state, more"),
        ({"mel": MEL[:, :3], "state": STATE}, r"float32 \(1, 4, 64\); got float32 \(1, 3, 64\)"),
        ({"mel": MEL[0], "state": STATE}, r"got float32 \(4, 64\)"),
        ({"mel": MEL, "state": STATE.astype(float)}, r"got float64 \(1, 8\)"),
        ({"mel": MEL, "state": [[0.0] * 8]}, "expected a NumPy array; got list"),
    ],
)
def test_wrong_tensors_are_refused(bundle: Bundle, inputs: Any, message: str) -> None:
    """A wrong name, shape or element type is told with what was expected and got."""
    with pytest.raises(UsageError, match=message):
        load_graph(bundle, "listen", "onnxruntime")(inputs)


@every_backend
@pytest.mark.parametrize("change", [wrong_weights, not_a_number])
def test_a_wrong_output_is_found(
    bundle: Bundle, tmp_path: Path, backend: str, change: Callable[[onnx.ModelProto], Any]
) -> None:
    """A graph that compiles and computes something else, or NaN, never gets to run."""
    other = changed(bundle, tmp_path / "bundle", change)
    cache = Cache(tmp_path / "cache")
    with pytest.raises(GoldenError, match="output audio differs"):
        load_graph(other, "listen", backend, cache=cache)
    assert not list(cache.folder.glob("*"))


@every_backend
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.output.pop(),
        lambda m: (
            m.graph.input[0]
            .type.tensor_type.shape.dim[1]
            .CopyFrom(onnx.TensorShapeProto.Dimension(dim_param="N"))
        ),
        renamed_input,
        unknown_operator,
        lambda m: m.graph.node.pop(),
        lambda m: m.ClearField("graph"),
    ],
    ids=["missing output", "dynamic", "renamed input", "unknown op", "no node", "empty"],
)
def test_a_graph_that_does_not_fit_is_refused(
    bundle: Bundle, tmp_path: Path, backend: str, change: Callable[[onnx.ModelProto], Any]
) -> None:
    """A graph with other tensors than the manifest's, or no graph at all, is a typed error."""
    other = changed(bundle, tmp_path / "bundle", change)
    with pytest.raises((BundleError, BackendError), match="listen"):
        load_graph(other, "listen", backend)


@every_backend
def test_a_device_is_never_replaced(bundle: Bundle, backend: str) -> None:
    """Asking for a device this machine lacks fails; it does not run on the CPU in silence."""
    with pytest.raises(BackendError, match="no device TPU"):
        load_graph(bundle, "listen", backend, device="TPU")


def test_the_cache_is_sealed_after_the_golden_output(bundle: Bundle, tmp_path: Path) -> None:
    """The second load comes from the cache and computes the same."""
    cache = Cache(tmp_path)
    first = load_graph(bundle, "listen", "openvino", cache=cache)
    second = load_graph(bundle, "listen", "openvino", cache=cache)
    assert (first.loading.cached, second.loading.cached) == (False, True)
    inputs, _ = bundle.golden(bundle.stage("listen"))
    for name, value in first(inputs).items():
        np.testing.assert_array_equal(value, second(inputs)[name])


def test_what_was_compiled_in_another_way_is_built_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that changes graphs otherwise before it compiles them takes none of the former."""
    cache = Cache(tmp_path)
    load_graph(bundle, "listen", "openvino", cache=cache)
    monkeypatch.setattr(caches, "REVISION", caches.REVISION + 1)
    assert not load_graph(bundle, "listen", "openvino", cache=cache).loading.cached
    assert load_graph(bundle, "listen", "openvino", cache=cache).loading.cached


def test_a_damaged_cache_is_built_again(bundle: Bundle, tmp_path: Path) -> None:
    """An entry with 64 bytes zeroed is thrown away, compiled anew, and sealed again."""
    cache = Cache(tmp_path)
    load_graph(bundle, "listen", "openvino", cache=cache)
    (entry,) = cache.folder.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(good[:2000] + bytes(64) + good[2064:])
    again = load_graph(bundle, "listen", "openvino", cache=cache)
    assert not again.loading.cached
    assert load_graph(bundle, "listen", "openvino", cache=cache).loading.cached


def test_a_wrong_graph_in_the_cache_is_not_run(bundle: Bundle, tmp_path: Path) -> None:
    """An entry that is well sealed but computes something else fails its golden output."""
    cache = Cache(tmp_path / "cache")
    other = changed(bundle, tmp_path / "bundle", wrong_weights)
    blob = compiled(other, "openvino").export()
    assert blob is not None
    load_graph(bundle, "listen", "openvino", cache=cache)
    (entry,) = cache.folder.iterdir()
    key = next(k for k in keys_of(bundle) if cache.path(k) == entry)
    cache.put(key, blob)
    assert not load_graph(bundle, "listen", "openvino", cache=cache).loading.cached


def compiled(bundle: Bundle, backend: str) -> Executable:
    """The ``listen`` graph, compiled without any check."""
    stage = bundle.stage("listen")
    signature = Signature(stage.inputs, stage.outputs)
    model = bundle.read(stage.artifacts[0].file)
    return load_backend(backend).compile(model, signature, Options())


def keys_of(bundle: Bundle) -> list[graph.Key]:
    """The cache keys that ``listen`` may have on OpenVINO's CPU."""
    vendor = load_backend("openvino")
    sha256 = bundle.stage("listen").artifacts[0].file.sha256
    return [graph.Key(sha256, "openvino", vendor.version(), vendor.describe("CPU"), str(Options()))]


def test_a_cache_that_cannot_be_written_is_noted(bundle: Bundle, tmp_path: Path) -> None:
    """A read-only home costs start-up time and leaves a note; the graph runs."""
    (tmp_path / "file").write_text("")
    loaded = load_graph(bundle, "listen", "openvino", cache=Cache(tmp_path / "file"))
    assert "cache not written" in loaded.loading.note


def test_the_ladder_takes_the_first_that_works(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is not installed is turned down with its reason, and the next one runs."""
    monkeypatch.setitem(BACKENDS, "openvino", "vivant.absent")
    monkeypatch.setattr(backends.importlib, "import_module", absent(backends.importlib))
    chosen = Plan(cache=None)
    assert chosen.load(bundle, "listen").backend == "onnxruntime"
    chosen.load(bundle, "denoise")
    (reason,) = (r for r in chosen.rejected if "openvino" in r)  # said once, not for each stage
    assert "openvino is not installed" in reason


def absent(importlib: Any) -> Callable[[str], Any]:
    """``import_module`` in a world without OpenVINO."""
    real = importlib.import_module

    class Module:
        PACKAGE = "openvino"

        @staticmethod
        def version() -> str:
            raise ImportError("No module named 'openvino'")

    return lambda name: Module if name == "vivant.absent" else real(name)


def test_when_nothing_works_every_reason_is_in_one_error(bundle: Bundle, tmp_path: Path) -> None:
    """One error lists each candidate with its own reason."""
    broken = changed(bundle, tmp_path / "bundle", unknown_operator)
    with pytest.raises(BackendError) as error:
        Plan(cache=None).load(broken, "listen")
    for candidate in LADDER:
        assert f"{candidate}: " in str(error.value)
    assert "Cubism" in str(error.value)


def test_when_every_output_is_wrong_it_is_the_bundles_fault(bundle: Bundle, tmp_path: Path) -> None:
    """A graph whose golden output fails on every backend is a BundleError with all reasons."""
    other = changed(bundle, tmp_path / "bundle", wrong_weights)
    with pytest.raises(BundleError, match=r"openvino:CPU: .*onnxruntime:CPU: ") as error:
        Plan(cache=None).load(other, "listen")
    assert error.value.exit_code == 5


def test_damage_is_not_blamed_on_backends(bundle: Bundle, tmp_path: Path) -> None:
    """A damaged file stops at once with its name, instead of trying the next backend."""
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    path = copy / bundle.stage("listen").artifacts[0].file.file
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match="damaged"):
        Plan(cache=None).load(Bundle.open(copy), "listen")


def test_a_preference_is_never_replaced() -> None:
    """Asking for a backend or device tries that one and nothing else; unknown ones are refused."""
    rungs = (("openvino", "CPU"), ("onnxruntime", "CPU"))
    assert candidates(None)[-2:] == candidates("auto")[-2:] == rungs
    assert candidates("onnxruntime") == (("onnxruntime", "CPU"),)
    assert candidates("openvino:GPU") == (("openvino", "GPU"),)
    with pytest.raises(UsageError, match="unknown backend"):
        candidates("tensorflow")


def test_a_missing_precision_is_named(bundle: Bundle) -> None:
    """Asking for a precision the bundle lacks tells which it has."""
    with pytest.raises(BackendError, match="expected onnx int8; got onnx fp32"):
        Plan("onnxruntime", precision="int8", cache=None).load(bundle, "listen")


def test_a_plan_tells_what_runs_where(bundle: Bundle) -> None:
    """One line a stage, with backend, device and precision."""
    chosen = Plan("onnxruntime", cache=None)
    graphs = chosen.load_all(bundle, ["listen", "denoise"])
    assert all(isinstance(g, CompiledGraph) for g in graphs.values())
    assert [line.split(",")[0] for line in chosen.lines()] == [
        "listen: onnxruntime CPU fp32",
        "denoise: onnxruntime CPU fp32",
    ]


def test_loading_one_backend_leaves_the_other_alone(bundle: Bundle) -> None:
    """Running on ONNX Runtime imports neither OpenVINO nor torch nor onnx."""
    code = (
        "import sys; from vivant.bundle import Bundle; from vivant.plan import Plan\n"
        f"Plan('onnxruntime', cache=None).load(Bundle.open({str(bundle.path)!r}), 'listen')\n"
        "print(sorted({'openvino', 'torch', 'onnx', 'openvino_telemetry'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_ladder_names_known_backends() -> None:
    """Every rung can be asked for by name, and on a Mac the first is Core ML."""
    assert [candidates(rung)[0] for rung in plan.LADDER] == list(candidates(None))
    assert candidates(plan.ladder("darwin")[0]) == (("coreml", "ALL"),)
    assert not any(rung.startswith("coreml") for rung in plan.ladder("linux"))
