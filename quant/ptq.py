"""Post-training INT8 quantisation of convolutions, layer by layer where that is asked.

Only convolutions are quantised, with the activations that enter them: they hold most of the
arithmetic. Everything that leads to a sampling position stays in floating point, because an error
of a position is a shift of the picture: the flow output, and every grid of a GridSample back to
the convolution that its correction comes from, that convolution included.
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

_NO_OPERATION = frozenset({"Parameter", "Constant", "Result"})


def read(data: bytes) -> Any:
    """The ``openvino.Model`` of an ONNX artifact."""
    return to_openvino.read(data)


def serialise(model: Any) -> tuple[bytes, bytes]:
    """Graph and weights of a model, which stays as it is."""
    return to_openvino.serialise(model.clone())


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


def positions(model: Any) -> set[str]:
    """Nodes that lead to a sampling position, back to and with the nearest convolutions."""
    todo = [_source(node, 1) for node in model.get_ops() if node.get_type_name() == "GridSample"]
    for result in model.get_results():
        if "flow" in result.get_output_tensor(0).get_names():
            todo.append(_source(result, 0))
    found: set[str] = set()
    while todo:
        node = todo.pop()
        if node.get_friendly_name() in found or node.get_type_name() in _NO_OPERATION:
            continue
        found.add(node.get_friendly_name())
        if node.get_type_name() != "Convolution":
            todo += [_source(node, index) for index in range(node.get_input_size())]
    return found


def layers(model: Any) -> list[Layer]:
    """The convolutions that may be quantised, in the order of their calls."""
    kept = positions(model)
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "Convolution" or name in kept:
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
    with _quiet():
        result = vendor.quantize(
            model.clone(),
            vendor.Dataset(list(inputs)),
            subset_size=len(inputs),
            preset=vendor.QuantizationPreset.MIXED,
            ignored_scope=vendor.IgnoredScope(names=sorted(ignored), validate=False),
            # The corrections are far below the gate's bar, and without them the layers do not
            # depend on each other: one may return to floating point while the others stay.
            advanced_parameters=vendor.AdvancedQuantizationParameters(disable_bias_correction=True),
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
