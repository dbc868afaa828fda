"""INT8 for ONNX Runtime by its own quantiser, layer by layer: QDQ, U8 activations, S8 weights.

The same seam as ``ptq.py``, which has the reasons for what is quantised and what is not. NNCF's
QDQ graphs run slower than floating point in ONNX Runtime; its own run on integer convolutions,
because the output of each is quantised too.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper, shape_inference

from vivant.export.to_onnx import halve_constants, strip
from vivant.export.to_onnx import serialise as save
from vivant.quant.quantiser import Layer
from vivant.tensor import Array

FORMAT = "onnx"
BACKEND = "onnxruntime"

_OPERATORS = ("Conv",)


@dataclass(frozen=True)
class Model:
    """A graph, what was seen of its tensors, and which layers are INT8."""

    proto: onnx.ModelProto
    """In floating point."""
    ranges: Any = None
    """ONNX Runtime's record of each tensor's extremes."""
    int8: tuple[str, ...] = ()
    """Names of layers."""


def read(data: bytes) -> Model:
    """The graph of an artifact, its weights in fp32."""
    model = onnx.load_from_string(data)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            values = numpy_helper.to_array(stored[node.input[0]]).astype("float32")
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)
    for number, node in enumerate(graph.node):
        node.name = node.name or f"n{number}"
    return Model(model)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def positions(proto: onnx.ModelProto) -> set[str]:
    """Nodes that lead to a sampling position, back to and with the nearest convolutions."""
    made = {name: node for node in proto.graph.node for name in node.output}
    todo = [node.input[1] for node in proto.graph.node if node.op_type == "GridSample"]
    todo += [value.name for value in proto.graph.output if value.name == "flow"]
    found: set[str] = set()
    while todo:
        node = made.get(todo.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if node.op_type != "Conv":
            todo += node.input
    return found


def layers(model: Model) -> list[Layer]:
    """The convolutions that may be quantised, in the order of their calls."""
    kept = positions(model.proto)
    inferred = shape_inference.infer_shapes(model.proto, strict_mode=True)
    sizes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    weights = {tensor.name: tensor.dims for tensor in model.proto.graph.initializer}
    found = []
    for node in model.proto.graph.node:
        if node.op_type not in _OPERATORS or node.name in kept or node.input[1] not in weights:
            continue
        out, into, *kernel = weights[node.input[1]]
        batch, _, *size = sizes[node.output[0]]
        count = out * into * kernel[0] * kernel[1]
        text = f"{into}>{out} {kernel[0]}x{kernel[1]} at {size[0]}x{size[1]}"
        found.append(Layer(node.name, text, count, count * batch * size[0] * size[1]))
    return found


def quantise(model: Model, inputs: Sequence[dict[str, Array]], chosen: Collection[str]) -> Model:
    """``model`` with its ``chosen`` convolutions in INT8.

    ``inputs``: calibration samples by name. Ranges are the extremes seen.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "graph.onnx"
        onnx.save(model.proto, source)
        calibrator = create_calibrator(
            source,
            list(_OPERATORS),
            str(Path(folder) / "seen.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_Samples(inputs))
        ranges = calibrator.compute_data()
        del calibrator  # holds the file that is removed now
    return Model(model.proto, ranges, tuple(chosen))


class _Samples:
    """ONNX Runtime's interface of a calibration set."""

    def __init__(self, inputs: Iterable[dict[str, Array]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._inputs, None)


def quantised(model: Model) -> list[str]:
    """Names of the layers in INT8."""
    return list(model.int8)


def restore(model: Model, original: Model, names: Iterable[str]) -> Model:
    """``model`` in which the convolutions ``names`` are in floating point as in ``original``."""
    left = set(names)
    return Model(original.proto, model.ranges, tuple(n for n in model.int8 if n not in left))


def serialise(model: Model) -> tuple[bytes, bytes]:
    """The file of a model, the same bytes for the same graph; what is not INT8 is as ``w16``."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if model.int8:
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it warns of every tensor that it leaves alone
        try:
            quantiser = QDQQuantizer(
                proto,
                True,
                False,
                QuantType.QInt8,
                QuantType.QUInt8,
                model.ranges,
                list(model.int8),
                [],
                list(_OPERATORS),
                {},
            )
            quantiser.quantize_model()
            quantiser.model.topological_sort()
        finally:
            logging.root.setLevel(level)
        proto = quantiser.model.model
    _drop_unused(proto.graph)
    strip(proto)
    scales = {
        name
        for node in proto.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input
    }
    halve_constants(proto, keep=scales)
    return save(proto), b""
