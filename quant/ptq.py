"""Post-training INT8 quantisation of convolutions, layer by layer where that is asked.

Only convolutions are quantised, with the activations that enter them: they hold most of the
arithmetic. What leads from them to a sampling position (products, sums, the grid of a GridSample)
stays in floating point, because an error of a position is a shift of the picture.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from vivant.errors import BackendError, BundleError
from vivant.export import to_openvino
from vivant.export.to_openvino import openvino
from vivant.quant.quantiser import Layer
from vivant.tensor import Array

FORMAT = "openvino"
BACKEND = "openvino"

MANY = 32
"""Channels of a concatenation that ``turn_out`` is worth for."""

_NO_OPERATION = frozenset({"Parameter", "Constant", "Result"})


def read(data: bytes) -> Any:
    """The ``openvino.Model`` of an ONNX artifact."""
    return to_openvino.read(data)


def serialise(model: Any) -> tuple[bytes, bytes]:
    """Graph and weights of a model, which stays as it is."""
    copy = model.clone()
    turn_out(copy)
    return to_openvino.serialise(copy)


def turn_out(model: Any) -> None:
    """Put the channels of large concatenations last before they are rounded to 8 bits.

    Integer convolutions want them so, and OpenVINO 2026.4 takes ten times as long to turn over
    bytes as to turn over floats.
    """
    ops = openvino().opset13
    turned = {}
    for name in quantised(model):
        fake = _source(next(n for n in model.get_ops() if n.get_friendly_name() == name), 0)
        source = fake.input(0).get_source_output()
        batch, channels, high, wide = source.get_shape()
        if source.get_node().get_type_name() != "Concat" or channels < MANY or batch > 1:
            continue
        key = source.get_node().get_friendly_name()
        if key not in turned:
            # Two steps, because a transposition and its opposite would be taken out.
            flat = ops.reshape(source, [channels, high, wide], False)
            last = ops.reshape(ops.transpose(flat, [1, 2, 0]), [1, high, wide, channels], False)
            turned[key] = ops.transpose(last, [0, 3, 1, 2])
        fake.input(0).replace_source_output(turned[key].output(0))
    model.validate_nodes_and_infer_types()


def nncf() -> Any:
    """The quantiser, kept from reporting its use; raises BackendError when not installed."""
    openvino()  # blocks the report of both before the first import
    try:
        import nncf  # type: ignore[import-untyped]
    except ImportError as error:
        raise BackendError(
            "NNCF is not installed", got=str(error), fix="Run: pip install nncf"
        ) from None
    return nncf


def layers(model: Any) -> list[Layer]:
    """The convolutions that may be quantised, in the order of their calls."""
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "Convolution":
            continue
        out, into, *kernel = node.get_input_shape(1)
        batch, _, *size = node.get_output_shape(0)
        weights = out * into * kernel[0] * kernel[1]
        text = f"{into}>{out} {kernel[0]}x{kernel[1]} at {size[0]}x{size[1]}"
        found.append(Layer(name, text, weights, weights * batch * size[0] * size[1]))
    return found


def quantise(model: Any, inputs: Sequence[dict[str, Array]], chosen: Collection[str]) -> Any:
    """A copy of ``model`` whose ``chosen`` convolutions compute in INT8.

    ``inputs``: calibration samples by name. Weights are symmetric with a scale for each channel,
    activations asymmetric with one for each tensor, from the extremes seen. Raises BundleError when
    NNCF quantises something else.
    """
    vendor = nncf()
    ignored = {
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() not in _NO_OPERATION
    } - set(chosen)
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    ranges = RangeEstimatorParametersSet.MINMAX
    with _quiet():
        result = vendor.quantize(
            model.clone(),
            vendor.Dataset(list(inputs)),
            subset_size=len(inputs),
            preset=vendor.QuantizationPreset.MIXED,
            ignored_scope=vendor.IgnoredScope(names=sorted(ignored), validate=False),
            advanced_parameters=vendor.AdvancedQuantizationParameters(
                # The corrections are far below the gate's bar, and without them the layers do not
                # depend on each other: one may return to floating point while the others stay.
                disable_bias_correction=True,
                # By default the extremes are averaged over the samples, and what is seldom, a wide
                # mouth or a far turn, is cut off: 36.9 dB in the worst frame instead of 48.5.
                activations_range_estimator_params=ranges,
            ),
        )
    if (got := set(quantised(result))) != set(chosen):
        raise BundleError(
            "the quantiser chose other layers",
            expected=", ".join(sorted(chosen)),
            got=", ".join(sorted(got)),
        )
    return result


def quantised(model: Any) -> list[str]:
    """Convolutions whose input passes through a quantiser."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
        and _source(node, 0).get_type_name() == "FakeQuantize"
    ]


def restore(model: Any, original: Any, names: Iterable[str]) -> Any:
    """A copy of the quantised ``model`` in which the convolutions ``names`` are ``original``'s."""
    copy = model.clone()
    first = {node.get_friendly_name(): node for node in original.get_ops()}
    nodes = {node.get_friendly_name(): node for node in copy.get_ops()}
    ops = openvino().opset13
    for name in names:
        node = nodes[name]
        node.input(0).replace_source_output(_source(node, 0).input(0).get_source_output())
        weights = _values(first[name])
        node.input(1).replace_source_output(ops.constant(weights).output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _values(convolution: Any) -> Array:
    """The float32 weights of a convolution, stored in 16 bits or in 32."""
    node = _source(convolution, 1)
    while node.get_type_name() == "Convert":
        node = _source(node, 0)
    values: Array = node.get_data().astype("float32")
    return values


def _source(node: Any, index: int) -> Any:
    return node.input(index).get_source_output().get_node()


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF tells its progress to the log and draws a bar on stdout."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
