"""A quantised artifact is added only when its frames are right, and only OpenVINO ever sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import SIZES, Builder, golden_inputs, tiny_head, tiny_stages
from tiny_bundle import render as tiny_render

from vivant import latent
from vivant.bundle import MANIFEST, Bundle
from vivant.cli import main as vivant
from vivant.errors import BackendError, BundleError, UsageError
from vivant.export.gate import run
from vivant.export.to_openvino import read, to_openvino
from vivant.export.write import ArtifactData, StageData, write_bundle
from vivant.graph import Signature, load_graph
from vivant.plan import Plan
from vivant.quant import calibrate, gate, ort, ptq, quantize
from vivant.quant.quantiser import Quantiser


def drawing(b: Builder) -> None:
    """A render stage with convolutions: one beside the flow, one before it, two for the paint."""
    random = np.random.Generator(np.random.Philox(3))

    def weights(out: int, into: int) -> np.ndarray:
        return (random.standard_normal((out, into, 3, 3)) / np.sqrt(9 * into)).astype(np.float32)

    def conv(x: str, out: int, into: int, name: str = "") -> str:
        return b.add("Conv", x, weights(out, into), name=name, pads=[1, 1, 1, 1])

    def enlarge(x: str, step: int, name: str = "") -> str:
        scales = b.constant([1, 1, step, step])
        return b.add("Resize", x, "", scales, name=name, mode="nearest")

    change = b.add("Sub", "motion", "source")
    pushed = b.shape(b.add("MatMul", change, b.weights(63, SIZES["channels"])), [1, 4, 1, 1])
    mixed = b.add("Tanh", conv(b.add("Add", "features", pushed), 16, SIZES["channels"]))
    depth = b.add("ReduceMean", "keypoints", b.constant([1, 2], np.int64), keepdims=1)
    mixed = b.add("Add", mixed, b.add("Mul", b.shape(depth, [1, 1, 1, 1]), 0.1))
    bend = b.add("Mul", b.add("Tanh", conv(mixed, 2, 16)), 0.01)
    enlarge(bend, 2, "flow")
    centred = (np.arange(64, dtype=np.float32) + 0.5) / 32 - 1
    grid = np.stack(np.meshgrid(centred, centred), -1)[None]
    moved = b.add("Add", b.add("Transpose", bend, perm=[0, 2, 3, 1]), grid)
    warped = b.add("GridSample", mixed, moved, padding_mode="border", align_corners=0)
    shown = b.add("Tanh", conv(warped, 16, 16))
    colours = b.add("Sigmoid", b.add("Mul", conv(shown, 4, 16), 0.2))
    enlarge(b.slice(colours, 1, 0, 3), 4, "paint")
    enlarge(b.slice(colours, 1, 3, 4), 4, "occlusion")


@pytest.fixture(scope="module")
def stages() -> dict[str, StageData]:
    """The tiny stages, with a render stage that can be quantised."""
    result = tiny_stages()
    b = Builder("render")
    drawing(b)
    data = b.model()
    inputs = {name: np.clip(value, 0, 1) for name, value in golden_inputs("render").items()}
    inputs["features"] = np.float32(0.4) + inputs["features"] * np.float32(0.2)
    signature = Signature(*b.specs)  # type: ignore[arg-type]
    outputs = run("render", data, signature, [inputs], "fp32", ("onnxruntime",))[0][0]
    artifact = ArtifactData(data, "fp32", {"psnr_db": 120.0})
    result["render"] = StageData(*b.specs, (artifact,), (inputs, outputs), 1e-3)  # type: ignore[arg-type]
    return result


@pytest.fixture(scope="module")
def bundle(stages: dict[str, StageData], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle that can be quantised."""
    return write_bundle(tmp_path_factory.mktemp("quant") / "plain", stages, tiny_head())


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made-up shards."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(4):
        random = np.random.Generator(np.random.Philox(number))
        coarse = random.integers(0, 256, (5, 8, 8, 3), np.uint8)
        image = coarse.repeat(32, 1).repeat(32, 2)
        motion = random.random((5, latent.SIZE), np.float32)
        np.savez(folder / f"person_{number:06d}.npz", image=image, motion=motion)
    return folder


@pytest.fixture(scope="module")
def recording(bundle: Bundle, people: Path) -> calibrate.Recording:
    """Six portraits of them."""
    return calibrate.record(calibrate.encoder(bundle), calibrate.shards(people), 6)


@pytest.fixture(scope="module")
def quantised(bundle: Bundle, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of it."""
    out = tmp_path_factory.mktemp("quant") / "int8"
    patch = pytest.MonkeyPatch()
    # Which one is faster is a question about the machine that runs the tests.
    patch.setattr(quantize, "race", lambda *_: {"float": [2.0, 3.0], "int8": [1.0, 1.0]})
    arguments = ["--bundle", str(bundle.path), "--out", str(out), "--people", str(people)]
    arguments += ["--count", "4", "--held-count", "2", "--sheet", str(out.parent)]
    try:
        assert vivant(["quantize", *arguments, "--report", str(out.parent / "report.json")]) == 0
    finally:
        patch.undo()
    return out


@pytest.mark.parametrize("quantiser", [ptq, ort])
def test_layers_are_listed_as_called(bundle: Bundle, quantiser: Quantiser) -> None:
    """Of four convolutions, ONNX Runtime's quantiser, which rounds what a convolution gives too,
    leaves out the one that bends the flow and the grid."""
    model = quantiser.read(bundle.read(bundle.stage("render").artifacts[0].file))
    texts = ["4>16 3x3 at 64x64", "16>16 3x3 at 64x64", "16>4 3x3 at 64x64"]
    if quantiser is ptq:
        texts.append("16>2 3x3 at 64x64")
    assert sorted(layer.text for layer in quantiser.layers(model)) == sorted(texts)


def test_nothing_between_a_convolution_and_a_position_is_rounded(
    bundle: Bundle, recording: calibrate.Recording
) -> None:
    """Between convolutions and the flow or a grid, no value of the INT8 graph is quantised."""
    model = ptq.read(bundle.read(bundle.stage("render").artifacts[0].file))
    names = [layer.name for layer in ptq.layers(model)]
    full = ptq.quantise(model, recording.inputs("render"), names)
    todo = [node.input_value(1) for node in full.get_ops() if node.get_type_name() == "GridSample"]
    todo += [result.input_value(0) for result in full.get_results()]
    kinds = set()
    while todo:
        node = todo.pop().get_node()
        kinds.add(node.get_type_name())
        if node.get_type_name() != "Convolution":
            todo += node.input_values()
    assert "Convolution" in kinds
    assert "FakeQuantize" not in kinds


def test_channels_last_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A concatenation that is turned over before it is rounded gives the same output."""
    ops = ptq.openvino().opset13
    random = np.random.default_rng(0)
    parts = [ops.parameter([1, 20, 16, 16], np.float32, name=name) for name in "ab"]
    weights = random.standard_normal((8, 40, 3, 3)).astype(np.float32)
    out = ops.convolution(ops.concat(parts, 1), weights, [1, 1], [1, 1], [1, 1], [1, 1])
    model = ptq.openvino().Model([out], parts, "m")
    inputs = [{n: random.random((1, 20, 16, 16), np.float32) for n in "ab"} for _ in range(2)]
    for part, name in zip(parts, "ab", strict=True):
        part.output(0).set_names({name})
    full = ptq.quantise(model, inputs, [layer.name for layer in ptq.layers(model)])
    results = []
    for many in (ptq.MANY, 1000):
        monkeypatch.setattr(ptq, "MANY", many)
        graph = read(*ptq.serialise(full))
        kinds = [node.get_type_name() for node in graph.get_ops()]
        assert kinds.count("Transpose") == (2 if many < 1000 else 0)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # bfloat16 is the default where there is any
        compiled = ptq.openvino().compile_model(graph, "CPU", exact)
        results.append(next(iter(compiled(inputs[0]).values())))
    np.testing.assert_allclose(*results, atol=1e-4)


@pytest.mark.parametrize("quantiser", [ptq, ort])
def test_a_layer_returns_to_floating_point_alone(
    bundle: Bundle, recording: calibrate.Recording, quantiser: Quantiser
) -> None:
    """What is restored computes as before, bit for bit; what is not stays INT8."""
    model = quantiser.read(bundle.read(bundle.stage("render").artifacts[0].file))
    names = [layer.name for layer in quantiser.layers(model)]
    inputs = recording.inputs("render")
    full = quantiser.quantise(model, inputs, names)
    assert quantiser.quantised(full) == names
    assert quantiser.quantised(quantiser.restore(full, model, names[1:])) == names[:1]
    assert quantiser.serialise(full) == quantiser.serialise(full)

    def outputs(model: object) -> dict[str, np.ndarray]:
        return dict(gate.compiled(bundle, "render", model, quantiser)(inputs[0]))

    plain, all_three = outputs(model), outputs(full)
    none = outputs(quantiser.restore(full, model, names))
    for name, value in plain.items():
        np.testing.assert_array_equal(none[name], value)
        assert name == "flow" or not np.array_equal(all_three[name], value)


def test_the_command_adds_int8_for_openvino_alone(quantised: Path) -> None:
    """OpenVINO takes the INT8 artifact first; ONNX Runtime still takes the ONNX one."""
    bundle = Bundle.open(quantised)
    first, second = bundle.stage("render").artifacts
    assert (first.format, first.precision) == ("openvino", "int8")
    assert (second.format, second.precision) == ("onnx", "fp32")
    assert first.weights is not None
    assert first.weights in bundle.stage("render").files
    assert first.fidelity["frame_psnr_db"] >= gate.BAR
    assert first.fidelity["speed_ratio"] == 2.5
    loaded = Plan(backend="openvino", cache=None).load(bundle, "render")
    assert loaded.artifact == first
    assert 0 < loaded.loading.error <= first.tolerance  # type: ignore[operator]
    other = Plan(backend="onnxruntime", cache=None).load(bundle, "render")
    assert other.artifact == second
    assert len(bundle.stage("encode").artifacts) == 1


def test_each_backend_takes_the_int8_artifact_that_was_measured_on_it(
    quantised: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own INT8 graph joins OpenVINO's; neither backend loads the other's."""
    monkeypatch.setattr(quantize, "race", lambda *_: {"float": [3.0], "int8": [2.0]})
    arguments = ["--bundle", str(quantised), "--out", str(tmp_path), "--people", str(people)]
    arguments += ["--count", "4", "--held-count", "2", "--formats", "onnx"]
    assert vivant(["quantize", *arguments]) == 0
    bundle = Bundle.open(tmp_path)
    kinds = [(a.format, a.precision) for a in bundle.stage("render").artifacts]
    assert kinds == [("openvino", "int8"), ("onnx", "int8"), ("onnx", "fp32")]
    for backend, kind in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        artifact = Plan(backend=backend, cache=None).load(bundle, "render").artifact
        assert (artifact.format, artifact.precision) == (kind, "int8")
        assert artifact.fidelity["frame_psnr_db"] >= gate.BAR
    assert vivant(["quantize", *arguments, "--formats", "gguf"]) == 2


def test_every_layer_has_a_row_in_the_report(quantised: Path) -> None:
    """The report says what each layer costs alone, and what all together cost and brought."""
    report = json.loads((quantised.parent / "report.json").read_text())["stages"][0]
    assert len(report["layers"]) == 4
    assert all(row["psnr_db"] > gate.BAR and row["int8"] for row in report["layers"])
    assert sum(row["share"] for row in report["layers"]) == pytest.approx(1)
    assert len(report["psnr_db"]) == 2 * calibrate.DRIVEN
    assert report["ratio"] == 2.5
    assert (quantised.parent / "render.openvino.int8.png").stat().st_size > 0


def test_verify_and_info_know_both_files(
    quantised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``bundle verify`` hashes the weights too, and runs each artifact where it can be read."""
    assert vivant(["bundle", "verify", str(quantised)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " render " in line]
    assert len(lines) == 4 + 3  # four files; INT8 and fp32 on OpenVINO, fp32 on ONNX Runtime
    assert sum("int8" in line and "golden" in line for line in lines) == 1
    assert vivant(["bundle", "info", str(quantised)]) == 0
    assert "openvino int8" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_flipped_bit_in_either_file_is_refused(
    quantised: Path, tmp_path: Path, suffix: str
) -> None:
    """The graph and its weights are both hashed before OpenVINO sees them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in quantised.iterdir():
        data = bytearray(path.read_bytes())
        if path.suffix == suffix:
            data[len(data) // 2] ^= 1
        (copy / path.name).write_bytes(data)
    with pytest.raises(BundleError, match=r"damaged"):
        load_graph(Bundle.open(copy), "render", "openvino")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda entry: entry.pop("weights"), "weights"),
        (lambda entry: entry["weights"].update(offset=0), "unknown key"),
        (lambda entry: entry["weights"].update(file="../render.bin"), "form"),
        (lambda entry: entry.update(format="onnx"), "unknown key 'weights'"),
    ],
)
def test_weights_belong_to_ir_and_to_nothing_else(
    quantised: Path, tmp_path: Path, edit: object, message: str
) -> None:
    """The manifest names a second file exactly where the format has one."""
    manifest = json.loads((quantised / MANIFEST).read_text())
    edit(manifest["stages"]["render"]["artifacts"][0])  # type: ignore[operator]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path)


def test_frames_that_differ_are_refused(
    bundle: Bundle,
    stages: dict[str, StageData],
    recording: calibrate.Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that was calibrated on too small a range fails the gate, and nothing is returned."""
    original = ptq.quantise

    def spoiled(model: object, inputs: Sequence[dict[str, np.ndarray]], names: object) -> object:
        dark = [{k: v * np.float32(1e-3) for k, v in one.items()} for one in inputs]
        return original(model, dark, names)  # type: ignore[arg-type]

    monkeypatch.setattr(ptq, "quantise", spoiled)
    monkeypatch.setattr(quantize, "MARGIN_DB", -1000.0)
    with pytest.raises(BundleError, match="draws other frames"):
        quantize.quantise_stage(bundle, "render", stages["render"], recording, recording)


def test_a_portraits_motion_code_must_stay_the_same() -> None:
    """INT8 ``encode`` is refused for its motion code, whatever the frames look like."""

    def plain(tensors: object) -> dict[str, np.ndarray]:
        return {"motion": np.float32([[1, 0, 0.5]])}

    def turned(tensors: object) -> dict[str, np.ndarray]:
        return {"motion": np.float32([[1, 0.1, 0.5]])}

    assert quantize.same_motion("encode", plain, plain, [{}]) == {"cosine": pytest.approx(1)}
    assert quantize.same_motion("render", plain, turned, [{}]) == {}
    with pytest.raises(BundleError, match="moves the face otherwise"):
        quantize.same_motion("encode", plain, turned, [{}])


def test_sensitive_layers_return_until_the_frames_are_right(
    bundle: Bundle, recording: calibrate.Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bar that not all can keep, some are left in float and the frames keep it; with one
    that none can keep, that is said."""
    model = read(bundle.read(bundle.stage("render").artifacts[0].file))
    plain = load_graph(bundle, "render", "openvino", precision="fp32")
    everyone = range(len(recording))
    wanted = gate.draw("render", plain, recording, plain, everyone)

    def least(candidate: object) -> float:
        graph = gate.compiled(bundle, "render", candidate)
        return min(gate.frame_psnr(wanted, gate.draw("render", graph, recording, plain, everyone)))

    chosen, rows = quantize.choose(bundle, "render", model, recording, plain, lambda text: None)
    assert all(row.int8 for row in rows)
    # Between what all of them give together and what the best gives alone.
    bar = (least(chosen) + max(row.psnr_db for row in rows)) / 2
    monkeypatch.setattr(quantize, "MARGIN_DB", bar - gate.BAR)
    chosen, rows = quantize.choose(bundle, "render", model, recording, plain, lambda text: None)
    assert 0 < len(ptq.quantised(chosen)) == sum(row.int8 for row in rows) < len(rows)
    assert least(chosen) >= bar
    monkeypatch.setattr(quantize, "MARGIN_DB", gate.BEST)
    with pytest.raises(BundleError, match="no layer of render can be INT8"):
        quantize.choose(bundle, "render", model, recording, plain, lambda text: None)


def test_recorded_heads_turn_no_farther_than_streams_do(
    bundle: Bundle, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A far turn would widen the ranges of every layer; it is recorded as the farthest allowed."""
    at = latent.INDEX["headYaw"]
    encoder, shards = calibrate.encoder(bundle), calibrate.shards(people)
    free = calibrate.record(encoder, shards, 6).motion[..., at]
    limit = float(np.abs(free).max()) / 2
    monkeypatch.setitem(calibrate.TURNS, "headYaw", limit)
    held = calibrate.record(encoder, shards, 6).motion[..., at]
    np.testing.assert_allclose(held, free.clip(-limit, limit), atol=1e-5)
    assert np.abs(held).max() == pytest.approx(limit)


def test_the_layer_that_costs_most_for_its_work_returns_first() -> None:
    """In the worst frame, error counts by arithmetic; a layer with hardly any stays."""
    alone = {
        "large": np.array([6.0, 1.0]),
        "small": np.array([5.0, 1.0]),
        "tiny": np.array([0.1, 0.2]),
    }
    work = {"large": 100, "small": 10, "tiny": 1}
    names = list(alone)
    assert quantize.tolerable(names, alone, work, 100.0) == ["large", "tiny"]
    assert quantize.tolerable(names, alone, work, 2.0) == ["tiny"]
    assert quantize.tolerable(names, alone, work, 0.0) == ["tiny"]


def test_a_golden_output_that_int8_cannot_give_is_refused(
    bundle: Bundle,
    stages: dict[str, StageData],
    recording: calibrate.Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the runtime would turn down when loading is not written in the first place."""
    monkeypatch.setattr(quantize, "race", lambda *_: {"float": [2.0], "int8": [1.0]})
    inputs, outputs = stages["render"].golden
    other = (inputs, {name: value[..., ::-1, :].copy() for name, value in outputs.items()})
    data = replace(stages["render"], golden=other)
    with pytest.raises(BundleError, match="far from the golden"):
        quantize.quantise_stage(bundle, "render", data, recording, recording)


def test_slower_is_refused(
    bundle: Bundle,
    stages: dict[str, StageData],
    recording: calibrate.Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An INT8 artifact that is not faster is not worth its bytes."""
    monkeypatch.setattr(quantize, "race", lambda *_: {"float": [1.0], "int8": [1.5]})
    with pytest.raises(BundleError, match="not faster"):
        quantize.quantise_stage(bundle, "render", stages["render"], recording, recording)


def test_a_recording_reads_back_and_drives_from_the_portraits_own_code(
    bundle: Bundle, recording: calibrate.Recording, people: Path, tmp_path: Path
) -> None:
    """Weights stay within 0..1, and the file holds what was recorded."""
    path = tmp_path / "calibration.npz"
    arguments = ["--bundle", str(bundle.path), "--people", str(people), "--out", str(path)]
    assert calibrate.main([*arguments, "--count", "6"]) == 0
    again = calibrate.load(path, bundle)
    for one, other in zip(again.inputs("render"), recording.inputs("render"), strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])
    assert len(again.inputs("encode")) == 6
    assert recording.motion[..., :55].min() >= 0
    assert recording.motion[..., :55].max() <= 1
    calibrate.save(replace(recording, features=recording.features[:, :2]), path)
    with pytest.raises(UsageError, match="other networks"):
        calibrate.load(path, bundle)


def test_what_cannot_be_recorded_is_named(people: Path, tmp_path: Path, bundle: Bundle) -> None:
    """An empty folder, a foreign shard and a stage without recordings are errors of usage."""
    with pytest.raises(UsageError, match="no people"):
        calibrate.shards(tmp_path)
    (tmp_path / "person_000000.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UsageError, match="not a person's shard"):
        calibrate.record(calibrate.encoder(bundle), calibrate.shards(tmp_path), 1)
    arguments = ["--bundle", str(bundle.path), "--out", str(tmp_path / "out")]
    assert vivant(["quantize", *arguments, "--people", str(people), "--stages", "listen"]) == 2
    assert vivant(["quantize", *arguments]) == 2
    assert not (tmp_path / "out").exists()


def test_ir_is_the_same_network_and_the_same_bytes(stages: dict[str, StageData]) -> None:
    """Conversion to OpenVINO IR passes its gate and does not depend on what was done before."""
    first = to_openvino("denoise", stages["denoise"])
    assert first.fidelity["psnr_db"] > 80
    assert to_openvino("denoise", stages["denoise"]) == first
    assert b"rt_info" not in first.data
    bare = replace(stages["denoise"], artifacts=())
    with pytest.raises(BundleError, match="no ONNX artifact"):
        to_openvino("denoise", bare)


def test_export_adds_ir_behind_what_is_quantised(quantised: Path, tmp_path: Path) -> None:
    """``vivant export --openvino`` gives every stage an IR; INT8 stays the first choice."""
    out = tmp_path / "out"
    for base in (quantised, out):  # a second time changes nothing
        assert vivant(["export", "--base", str(base), "--out", str(out), "--openvino"]) == 0
        found = Bundle.open(out).manifest.stages
        kinds = {n: [(a.format, a.precision) for a in s.artifacts] for n, s in found.items()}
        plain = [("openvino", "fp32"), ("onnx", "fp32")]
        assert kinds.pop("render") == [("openvino", "int8"), *plain]
        assert all(kind == plain for kind in kinds.values())
    assert Plan(backend="onnxruntime", cache=None).load(Bundle.open(out), "listen")


def test_ir_that_computes_something_else_is_refused(stages: dict[str, StageData]) -> None:
    """A golden output that the IR does not give stops the conversion."""
    inputs, outputs = stages["denoise"].golden
    wrong = {name: value + np.float32(0.01) for name, value in outputs.items()}
    with pytest.raises(BundleError, match="not the network"):
        to_openvino("denoise", replace(stages["denoise"], golden=(inputs, wrong)))


def test_openvino_reports_nothing_to_its_maker() -> None:
    """Neither OpenVINO nor NNCF can load the package that sends statistics over the network."""
    code = (
        "import sys\n"
        "from vivant.backends import load_backend\n"
        "load_backend('openvino')\n"
        "from vivant.quant import ptq\n"
        "ptq.nncf()\n"
        "import openvino.tools.ovc\n"
        "print([m for m, v in sys.modules.items() if m.startswith('openvino_telemetry') and v])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_missing_quantiser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NNCF the error says what to install."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BackendError, match="pip install nncf"):
        ptq.nncf()


def test_a_stage_without_convolutions_cannot_be_quantised(
    bundle_path: Path, recording: calibrate.Recording
) -> None:
    """The tiny render stage has nothing that INT8 would speed up, and that is said."""
    bundle = Bundle.open(bundle_path)
    b = Builder("render")
    tiny_render(b)
    plain = load_graph(bundle, "render", "openvino")
    with pytest.raises(BundleError, match="no layer to quantise"):
        quantize.choose(bundle, "render", read(b.model()), recording, plain, lambda text: None)


def test_graphs_are_measured_in_turns_of_warm_calls() -> None:
    """Each graph is called in runs, on the same inputs as the other, and the first calls of a run
    are not counted."""
    calls: list[tuple[str, float]] = []

    def graph(name: str) -> gate.GraphCall:
        def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            calls.append((name, float(tensors["x"])))
            return {}

        return run

    inputs = [{"x": np.float32(value)} for value in range(4)]
    times = gate.race({"a": graph("a"), "b": graph("b")}, inputs, 5)
    each = gate.WARM + gate.RUN
    assert [name for name, _ in calls] == ["a"] * each + ["b"] * each + ["a"] * each + ["b"] * each
    assert [value for name, value in calls if name == "a"] == [
        value for name, value in calls if name == "b"
    ]
    assert all(len(measured) == 2 * gate.RUN for measured in times.values())
