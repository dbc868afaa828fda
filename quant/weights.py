"""Weights of ONNX graphs and of OpenVINO IR in 8 bits, unpacked when the graph is loaded.

Symmetric, with a scale for each output channel, for the weights of convolutions and of products
with constants alone; every other large constant is stored in 16 bits. The arithmetic stays fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from vivant.backends import Signature
from vivant.errors import BundleError
from vivant.export import to_openvino
from vivant.export.eight_bits import eight_bits
from vivant.export.gate import check, fidelity, run
from vivant.export.to_onnx import halve_constants, serialise, strip
from vivant.export.write import ArtifactData, StageData
from vivant.graph import compare
from vivant.quant import ort
from vivant.quant.moves import Judge
from vivant.tensor import Array

Tell = Callable[[str], None]

LARGE = 512
"""Weights from which a tensor is worth it."""
TOLERANCE = (4.0, 1e-2)
"""Golden tolerance of an artifact: factor over the error measured here, and its least."""


def keep_worst(
    attempt: Callable[[Sequence[str]], ArtifactData],
    alone: Callable[[], Mapping[str, float]],
    tell: Tell,
) -> ArtifactData:
    """What ``attempt`` makes with as few layers kept as they are as its gate allows.

    ``alone`` gives each layer's quality, dB, when only that one is compressed; it is asked when not
    all layers can be. Raises the gate's BundleError when no layer is left.
    """
    figures: Mapping[str, float] = {}
    kept: list[str] = []
    while True:
        try:
            return attempt(kept)
        except BundleError as short:
            figures = figures or alone()
            if len(kept) + 1 >= len(figures):
                raise
            kept.append(min(set(figures) - set(kept), key=lambda name: figures[name]))
            tell(f"  {short.got}: {kept[-1]} stays in 16 bits, {figures[kept[-1]]:.1f} dB alone")


def carries(data: StageData, shape: Sequence[int]) -> bool:
    """Whether weights of this shape lead out of or into one tick's motion, and so to the next one.

    They stay in 16 bits: their rounding adds up from tick to tick. With every layer of ``denoise``
    in 8 bits the head drifted by six standard deviations within twelve seconds and the motion's
    cosine was .2; with the square ones alone in 16 bits it was .998. They are 3 % of the weights.
    """
    return any(spec.name == "previous" and spec.shape[-1] in shape for spec in data.inputs)


def onnx_layers(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Constant and axis of the output channels of every layer, by the layer's name."""
    constants = {t.name: math.prod(t.dims) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        if constants.get(node.input[1], 0) >= LARGE:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if node.op_type == "Conv" or turned else -1
            found[node.name] = (node.input[1], axis)
    return found


def compress_onnx(model: onnx.ModelProto, chosen: Collection[str]) -> bytes:
    """The graph, weights in fp32, with those of ``chosen`` layers in 8 bits."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    axes = {name: axis for layer, (name, axis) in onnx_layers(model).items() if layer in chosen}
    nodes = []
    for index, tensor in enumerate(graph.initializer):
        if tensor.name in axes:
            values = numpy_helper.to_array(tensor)
            small, scale = eight_bits(values, axes[tensor.name] % values.ndim)
            name = tensor.name
            graph.initializer[index].CopyFrom(numpy_helper.from_array(small, f"{name}q"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}s"))
            nodes += [
                helper.make_node("Cast", [f"{name}q"], [f"{name}f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}f", f"{name}s"], [name]),
            ]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    halve_constants(model, {f"{name}s" for name in axes})
    strip(model)
    return serialise(model)


def compressed_onnx(
    stage: str, data: StageData, precision: str, tell: Tell, judge: Judge | None = None
) -> ArtifactData:
    """The stage's floating-point ONNX artifact with its weights in 8 bits, measured.

    ``judge`` compares the motion of a whole recording too. Raises BundleError when there is none,
    or the result falls short of the gate.
    """
    source = _floating(stage, data, "onnx")
    model = ort.read(source.data).proto
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names = [n for n, (name, _) in onnx_layers(model).items() if not carries(data, shapes[name])]

    return _compressed(
        stage, data, precision, "onnx", names, lambda n: (compress_onnx(model, n),), tell, judge
    )


def compress_openvino(model: Any, chosen: Collection[str]) -> tuple[bytes, bytes]:
    """Graph and weights of a copy of an ``openvino.Model`` with ``chosen`` layers in 8 bits."""
    copy = model.clone()
    ops = to_openvino.openvino().opset13
    axes = openvino_layers(copy)
    for node in copy.get_ordered_ops():
        name = node.get_friendly_name()
        if name in axes and name in chosen:
            values = node.input_value(1).get_node().get_data()
            small, scale = eight_bits(values, axes[name] % values.ndim)
            wide = ops.multiply(ops.convert(ops.constant(small), "f32"), ops.constant(scale))
            node.input(1).replace_source_output(wide.output(0))
    return to_openvino.serialise(copy)


def openvino_layers(model: Any) -> dict[str, int]:
    """Axis of the output channels of every layer with constant weights, by the layer's name."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "MatMul"):
            continue
        weights = node.input_value(1).get_node()
        if (
            weights.get_type_name() == "Constant"
            and math.prod(weights.get_output_shape(0)) >= LARGE
        ):
            first = node.get_type_name() == "Convolution" or node.get_attributes()["transpose_b"]
            found[node.get_friendly_name()] = 0 if first else -1
    return found


def compressed_openvino(
    stage: str, data: StageData, precision: str, tell: Tell, judge: Judge | None = None
) -> ArtifactData:
    """The stage's floating-point IR with its weights in 8 bits, measured.

    ``judge`` compares the motion of a whole recording too. Raises BundleError when there is none,
    or the result falls short of the gate.
    """
    source = _floating(stage, data, "openvino")
    model = to_openvino.read(source.data, source.weights)
    to_openvino.fold(model)
    nodes = {n.get_friendly_name(): n for n in model.get_ordered_ops()}
    names = [
        name for name in openvino_layers(model) if not carries(data, nodes[name].get_input_shape(1))
    ]

    return _compressed(
        stage,
        data,
        precision,
        "openvino",
        names,
        lambda n: compress_openvino(model, n),
        tell,
        judge,
    )


def _compressed(
    stage: str,
    data: StageData,
    precision: str,
    kind: str,
    names: Sequence[str],
    compress: Callable[[Collection[str]], tuple[bytes, ...]],
    tell: Tell,
    judge: Judge | None,
) -> ArtifactData:
    """An artifact whose layers ``names`` are in 8 bits as far as its gate allows.

    ``compress`` gives the files of the graph with the chosen ones in 8 bits.
    """

    def attempt(kept: Sequence[str]) -> ArtifactData:
        files = compress(set(names) - set(kept))
        return _measured(judge, stage, data, precision, kind, *files)

    def alone() -> dict[str, float]:
        return {n: _quality(judge, stage, data, kind, *compress([n])) for n in names}

    return keep_worst(attempt, alone, tell)


def _floating(stage: str, data: StageData, kind: str) -> ArtifactData:
    for artifact in data.artifacts:
        if artifact.format == kind and artifact.precision in to_openvino.FLOATING:
            return artifact
    raise BundleError(f"stage {stage} has no {kind} artifact in floating point to compress")


def _runs(
    stage: str, data: StageData, kind: str, graph: bytes, weights: bytes = b""
) -> list[list[dict[str, Array]]]:
    backends = None if kind == "onnx" else (kind,)
    signature = Signature(data.inputs, data.outputs)
    return run(stage, graph, signature, [data.golden[0]], "w8", backends, weights)


def _quality(
    judge: Judge | None, stage: str, data: StageData, kind: str, graph: bytes, weights: bytes = b""
) -> float:
    """Of the motion, where it is judged, else of the worst output on the golden tensors, dB."""
    if judge:
        artifact = ArtifactData(graph, "w8", {}, kind, weights=weights)
        return judge.decibels(stage, data, artifact)
    runs = _runs(stage, data, kind, graph, weights)
    return min(fidelity([data.golden[1]], runs).values())


def _measured(
    judge: Judge | None,
    stage: str,
    data: StageData,
    precision: str,
    kind: str,
    graph: bytes,
    weights: bytes = b"",
) -> ArtifactData:
    expected = data.golden[1]
    runs = _runs(stage, data, kind, graph, weights)
    figures = check(f"{precision} {kind} graph", stage, precision, [expected], runs)
    error = max(max(compare(expected, got[0]).values()) for got in runs)
    factor, floor = TOLERANCE
    tolerance = float(f"{min(1.0, max(floor, factor * error)):.1e}")
    artifact = ArtifactData(graph, precision, figures, kind, tolerance, weights)
    return judge.checked(stage, data, artifact) if judge else artifact
