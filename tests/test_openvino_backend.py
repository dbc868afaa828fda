"""What the OpenVINO backend makes of a graph before it compiles it."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from vivant.backends import Options, Signature, ov
from vivant.tensor import TensorSpec

SHAPE = (1, 8, 16, 16)


def convolved(x: Any, weights: Any) -> Any:
    """Three by three, same size."""
    return opset.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])


def mixed(seed: int = 0) -> Any:
    """Two convolutions with weights in float, of 32 and of 16 bits, and between them one in INT8;
    the input times itself beside them."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.1, (3, 8, 8, 3, 3)).astype(np.float32)
    x = opset.parameter(list(SHAPE), np.float32, name="x")
    x.output(0).set_names({"x"})
    first = opset.relu(convolved(x, opset.constant(weights[0])))
    limits = [opset.constant(np.float32(v)) for v in (0, 4, 0, 4)]
    whole = np.round(weights[1] / weights[1].max() * 127).astype(np.int8)
    scaled = opset.multiply(
        opset.convert(opset.constant(whole), "f32"), np.float32(weights[1].max() / 127)
    )
    second = convolved(opset.fake_quantize(first, *limits, 256), scaled)
    half = opset.convert(opset.constant(weights[2].astype(np.float16)), "f32")
    y = opset.add(convolved(second, half), opset.multiply(x, x))
    y.output(0).set_names({"y"})
    return openvino.Model([y], [x], "mixed")


def convolutions(graph: Any) -> list[str]:
    """In which type each convolution multiplies."""
    ops = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [op.get_input_element_type(0).get_type_name() for op in ops]


def test_what_int8_leaves_in_float_is_shortened_and_nothing_else() -> None:
    """Convolutions with weights in float multiply in bfloat16; the INT8 one, what else there is,
    inputs and outputs stay as they were, and so does the result, nearly."""
    graph, x = mixed(), np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    before = openvino.compile_model(mixed(), "CPU", config)(x)[0]
    assert ov.shorten(graph) == 2
    assert convolutions(graph) == ["bf16", "f32", "bf16"]
    kinds = {op.get_type_name(): op.get_output_element_type(0) for op in graph.get_ops()}
    assert kinds["Parameter"] == kinds["Multiply"] == kinds["Result"] == openvino.Type.f32
    after = openvino.compile_model(graph, "CPU", config)(x)[0]
    assert after == pytest.approx(before, abs=0.03 * float(np.abs(before).max()))


@pytest.mark.parametrize("precision", ["int8", "w16", "fp32"])
@pytest.mark.parametrize("able", [True, False])
def test_only_int8_is_shortened_and_only_where_it_helps(
    precision: str, able: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Other artifacts compute in 32 bits, as they say, and so do CPUs without bfloat16."""
    openvino.save_model(mixed(), tmp_path / "m.xml", compress_to_fp16=False)
    seen: list[int] = []
    monkeypatch.setattr(ov, "shorten", lambda graph: seen.append(len(graph.get_ops())))
    monkeypatch.setattr(ov, "_abilities", lambda device: ["BF16", "FP32"] if able else ["FP32"])
    spec = TensorSpec("x", "float32", SHAPE), TensorSpec("y", "float32", SHAPE)
    signature = Signature((spec[0],), (spec[1],))
    model = (tmp_path / "m.xml").read_bytes(), (tmp_path / "m.bin").read_bytes()
    graph = ov.compile(model[0], signature, Options(precision=precision), model[1])
    assert bool(seen) == (able and precision == "int8")
    assert graph.run([np.ones(SHAPE, np.float32)])[0].shape == SHAPE
