"""Weights become smaller where a measurement allows it, and nothing else of a graph changes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_bundle import tiny_head, tiny_stages, write_tiny_bundle
from torch import Tensor, nn

from vivant.bundle import Bundle
from vivant.cli import main as vivant
from vivant.errors import BundleError
from vivant.export.coreml_program import dequantised, looked_up, read_program
from vivant.export.eight_bits import eight_bits
from vivant.export.gate import PSNR
from vivant.export.to_coreml import to_artifact
from vivant.export.write import ArtifactData, StageData, add_openvino, based_on, write_bundle
from vivant.graph import compare, load_graph
from vivant.quant import compress, coreml, weights


class Listen(nn.Module):
    """``listen`` with a convolution, two products that share a bias, and a stored grid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hear = nn.Conv1d(4, 48, 5, padding=2)
        self.read, self.keep = (nn.Linear(n, 8, bias=False) for n in (48 * 64, 108))
        self.register_buffer("grid", torch.randn(48, 64) * 30)

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 4, 64), (1, 8) -> (1, 8), (1, 8)."""
        x = torch.tanh(self.hear(mel)) + self.grid * 0.01
        x = self.read(x.reshape(1, -1))
        seen = torch.cat([x, state, torch.sin(state), state.repeat(1, 10), x[:, :4]], 1)
        return x, torch.tanh(self.keep(seen))


@pytest.fixture(scope="module")
def stage() -> StageData:
    """The stage as ONNX, IR and Core ML program."""
    data = tiny_stages()["listen"]
    inputs, _ = data.golden
    made = to_artifact("listen", Listen(), [inputs])
    with torch.no_grad():
        outputs = Listen()(*(torch.from_numpy(inputs[n]) for n in ("mel", "state")))
    golden = dict(zip(("audio", "state_out"), (v.numpy() for v in outputs), strict=True))
    return StageData(data.inputs, data.outputs, (made,), (inputs, golden))


@pytest.mark.parametrize(("precision", "share"), [("w8", 0.62), ("p6", 0.52), ("p4", 0.4)])
def test_only_weights_of_layers_become_smaller(
    stage: StageData, precision: str, share: float
) -> None:
    """The grid keeps its 16 bits to the last one, the rest shrinks, twice to the same bytes."""
    (made,) = stage.artifacts
    files = coreml.compress(made.data, made.weights, precision)
    assert len(files[1]) < share * len(made.weights)
    assert coreml.compress(made.data, made.weights, precision) == files
    grids = [
        next(v for v in read_program(*f).constants.values() if np.shape(v)[-2:] == (48, 64))
        for f in ((made.data, made.weights), files)
    ]
    np.testing.assert_array_equal(*grids)
    assert [v.name for v in read_program(*files).inputs] == ["mel", "state_in"]


def test_a_compressed_program_is_measured(stage: StageData) -> None:
    """The artifact has what its evaluation gave, and a golden tolerance to fit."""
    made = coreml.compressed("listen", stage, "w8")
    assert (made.format, made.precision) == ("coreml", "w8")
    assert 35 < made.fidelity["psnr_db"] < 80
    assert made.fidelity["cosine"] >= 0.999
    assert made.tolerance is not None


def test_a_layer_that_matters_stays(stage: StageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the gate is missed, the layer that is worst alone is left in 16 bits, and said."""
    (made,) = stage.artifacts
    program = read_program(made.data, made.weights)
    small = read_program(*coreml.compress(made.data, made.weights, "p4"))
    alone = coreml.sensitivity(program, small, *stage.golden)
    assert len(alone) == 3
    monkeypatch.setattr("vivant.export.gate.COSINE", -1.0)
    monkeypatch.setitem(PSNR, "p4", 0.0)
    bar = coreml.compressed("listen", stage, "p4").fidelity["psnr_db"] + 0.2
    monkeypatch.setitem(PSNR, "p4", bar)
    told: list[str] = []
    kept = coreml.compressed("listen", stage, "p4", told.append)
    worst = min(alone, key=lambda name: alone[name])
    assert worst in told[0]
    assert kept.fidelity["psnr_db"] >= bar
    monkeypatch.setitem(PSNR, "p4", 199.0)
    with pytest.raises(BundleError, match="not the network"):
        coreml.compressed("listen", stage, "p4")


def test_dequantising_by_hand() -> None:
    """(data - zero point) * scale, by rows or by columns."""
    stored: dict[str, Any] = {
        "quantized_data": np.array([[1, -2], [3, 127]], np.int8),
        "scale": np.array([0.5, 2.0], np.float16),
        "zero_point": np.array([0, 1], np.int8),
        "axis": np.array(0, np.int32),
    }
    assert dequantised(stored).tolist() == [[0.5, -1.0], [4.0, 252.0]]
    assert dequantised(stored).dtype == np.float16
    stored["axis"] = np.array(1, np.int32)
    assert dequantised(stored).tolist() == [[0.5, -6.0], [1.5, 252.0]]


def test_palettes_by_hand() -> None:
    """Indices of two bits lie four to a byte, the first in the lowest bits."""
    stored = {
        "lut": np.array([0.0, 1.0, 2.0, 3.0], np.float16),
        "indices": np.array([0b11_10_01_00, 0b01], np.uint8),
        "shape": np.array([1, 5], np.uint32),
    }
    assert looked_up(stored).tolist() == [[0.0, 1.0, 2.0, 3.0, 1.0]]


def test_rounding_by_hand() -> None:
    """The largest magnitude of each channel is 127; a channel of zeros stays zero."""
    small, scale = eight_bits(np.array([[1.0, -2.0], [0.0, 0.0]]), 0)
    assert small.tolist() == [[64, -127], [0, 0]]
    assert scale[0, 0] == pytest.approx(2 / 127)
    small, _ = eight_bits(np.array([[1.0, -2.0], [0.5, 1.0]]), 1)
    assert small.tolist() == [[127, -127], [64, 64]]


@pytest.mark.parametrize("needed", [[], ["b"], ["b", "c"]])
def test_as_few_layers_as_the_gate_allows_are_kept(needed: list[str]) -> None:
    """The worst layers return one by one, and none is measured when all pass."""
    asked = []

    def attempt(kept: Sequence[str]) -> ArtifactData:
        if not set(needed) <= set(kept):
            raise BundleError("short", got="1 dB")
        return ArtifactData(" ".join(kept).encode(), "w8", {})

    def alone() -> dict[str, float]:
        asked.append(1)
        return {"a": 50.0, "b": 10.0, "c": 20.0, "d": 40.0}

    assert weights.keep_worst(attempt, alone, lambda text: None).data.decode().split() == needed
    assert len(asked) == bool(needed)


def big_listen() -> StageData:
    """The tiny ``listen`` stage as ONNX and IR."""
    stages = {"listen": tiny_stages()["listen"]}
    add_openvino(stages)
    return stages["listen"]


def test_onnx_and_ir_in_8_bits(tmp_path: Path) -> None:
    """Both are smaller, share one file, run on every backend here, and still hear the same."""
    data = big_listen()
    before = {a.format: len(a.data) + len(a.weights) for a in data.artifacts}
    for make in (weights.compressed_onnx, weights.compressed_openvino):
        artifact = make("listen", data, "w8", print)
        data = compress.put(data, artifact, alone=True)
        assert len(artifact.data) + len(artifact.weights) < 0.75 * before[artifact.format]
        assert artifact.fidelity["cosine"] >= 0.999
    assert [(a.format, a.precision) for a in data.artifacts] == [("openvino", "w8"), ("onnx", "w8")]
    bundle = write_bundle(tmp_path / "bundle", {"listen": data}, tiny_head())
    ir, graph = bundle.stage("listen").artifacts
    assert ir.base == graph.file
    inputs, outputs = bundle.golden(bundle.stage("listen"))
    for backend in ("openvino", "onnxruntime"):
        loaded = load_graph(bundle, "listen", backend)
        assert loaded.artifact.precision == "w8"
        assert max(compare(outputs, loaded(inputs)).values()) < 3e-2
    stored = onnx.load_from_string(bundle.read(graph.file)).graph.initializer
    assert {t.data_type for t in stored} >= {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}


def test_what_carries_motion_from_tick_to_tick_stays() -> None:
    """Of ``denoise`` every matrix over motion keeps its 16 bits, in every format."""
    stages = {"denoise": tiny_stages()["denoise"]}
    add_openvino(stages)
    data = stages["denoise"]
    assert weights.carries(data, (126, 126))
    assert weights.carries(data, (72, 126))
    assert not weights.carries(data, (192, 192))
    assert not weights.carries(tiny_stages()["listen"], (126, 126))
    graph = onnx.load_from_string(weights.compressed_onnx("denoise", data, "w8", print).data).graph
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in graph.initializer}
    made = weights.compressed_openvino("denoise", data, "w8", print)
    stored = [d.attrib for d in ElementTree.fromstring(made.data).iter("data")]
    assert "i8" not in {d.get("element_type") for d in stored}


def test_compressing_twice_gives_the_same_bytes() -> None:
    """Neither graph depends on the process."""
    data = big_listen()
    for make in (weights.compressed_onnx, weights.compressed_openvino):
        assert make("listen", data, "w8", print) == make("listen", data, "w8", print)


def test_the_verb_writes_a_smaller_bundle(
    stage: StageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--replace`` the large artifact is gone, without it the small one comes after it."""
    base = write_bundle(tmp_path / "base", {"listen": stage}, tiny_head()).path
    size = sum(p.stat().st_size for p in base.rglob("*") if p.is_file())
    for extra, kinds in (([], ["fp16", "w8"]), (["--replace"], ["w8"])):
        out = tmp_path / "out"
        assert vivant(["compress", "--bundle", str(base), "--out", str(out), *extra]) == 0
        artifacts = Bundle.open(out).stage("listen").artifacts
        assert [a.precision for a in artifacts] == kinds
        assert "listen   coreml w8" in capsys.readouterr().err
    assert sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) < 0.75 * size
    assert based_on(out)[1]["listen"].golden[0].keys() == {"mel", "state"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--formats", "pickle"], 2, "expected coreml or onnx or openvino; got pickle"),
        (["--stages", "paint"], 2, "expected align or encode"),
        (["--formats", "onnx", "--precision", "p4"], 2, "onnx has no p4; expected w8"),
        (["--count", "0"], 2, "--count is too small"),
        (["--stages", "listen"], 5, "no Core ML program in fp16.*vivant export --coreml"),
        (["--formats", "openvino", "--stages", "listen"], 5, "no openvino artifact"),
    ],
)
def test_what_cannot_be_compressed_is_said(
    arguments: list[str], code: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unknown formats, stages and precisions, and missing artifacts; nothing is written."""
    base = write_tiny_bundle(tmp_path / "base").path
    out = tmp_path / "out"
    assert vivant(["compress", "--bundle", str(base), "--out", str(out), *arguments]) == code
    assert re.search(message, capfd.readouterr().err)
    assert not out.exists()
