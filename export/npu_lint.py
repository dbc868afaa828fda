"""What in an OpenVINO graph Intel's NPU would refuse or compute wrongly, without its compiler.

The NPU takes static shapes and computes in half precision. Which operators it has is known from
compiling them: every one of KNOWN compiled for the platforms 3720, 4000 and 5010 with the compiler
of OpenVINO 2026.4.1, alone or in the stages of a bundle. ``npu.py`` asks the compiler itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

KNOWN = frozenset(
    "Parameter Result Constant Abs Add AvgPool Broadcast Ceiling Clamp Concat Convert "
    "Convolution ConvolutionBackpropData Cos CumSum DepthToSpace Divide Elu Equal Erf Exp "
    "FakeQuantize Floor FloorMod Gather Gelu Greater GreaterEqual GridSample GroupConvolution "
    "GroupNormalization HSigmoid HSwish HardSigmoid Interpolate Less LessEqual Log LogSoftmax "
    "MVN MatMul MaxPool Maximum Minimum Mish Mod Multiply Negative NotEqual PRelu Pad Power "
    "Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round "
    "ScaledDotProductAttention Select ShapeOf Sigmoid Sign Sin Slice SoftPlus Softmax "
    "SpaceToDepth Split Sqrt SquaredDifference Squeeze StridedSlice Subtract Swish Tan Tanh "
    "Tile TopK Transpose Unsqueeze VariadicSplit".split()
)
"""Operators that were compiled."""

RANK = 4
"""Axes of a tensor. Core ML's ``resample`` has no more; this compiler took five and refused six."""

SIDE = 256
"""Largest side of a picture inside a stage: what is larger belongs to ``composite``."""

HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Finding:
    """One rule that one operator breaks."""

    kind: str
    """The operator's type."""
    name: str
    rule: str


def lint(model: Any) -> list[Finding]:
    """Findings in an ``openvino.Model``, in the order of its operators."""
    return [
        Finding(node.get_type_name(), node.get_friendly_name(), rule)
        for node in model.get_ordered_ops()
        for rule in _rules(node)
    ]


def _rules(node: Any) -> Iterator[str]:
    kind = node.get_type_name()
    if kind not in KNOWN:
        yield "never seen to compile"
    for output in node.outputs():
        shape = output.get_partial_shape()
        if shape.is_dynamic:
            yield f"size not known before it runs: {shape}"
        elif len(shape) > RANK:
            yield f"more than {RANK} axes: {shape}"
        elif len(shape) == 4 and max(tuple(output.get_shape())[2:]) > SIDE:
            yield f"larger than {SIDE} x {SIDE}: {shape}"
    if kind == "Constant" and node.get_element_type().is_real():
        yield from _range(np.asarray(node.get_data(), np.float64))
    if kind == "Subtract" and _kind(node, 0) == "Constant":
        small = node.get_input_partial_shape(1)
        if small != node.get_output_partial_shape(0):
            yield "a constant less something smaller: refused for a matrix of one row"


def _range(values: Any) -> Iterator[str]:
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > HALF:
        yield "a constant overflows half precision"
    with np.errstate(over="ignore"):
        lost = (values != 0) & (values.astype(np.float16) == 0)
    if values.size and lost.all():
        yield "a constant vanishes in half precision"


def _kind(node: Any, index: int) -> str:
    """Type of the operator that an input comes from, past a conversion of stored weights."""
    source = node.input(index).get_source_output().get_node()
    while source.get_type_name() == "Convert":
        source = source.input(0).get_source_output().get_node()
    return str(source.get_type_name())
