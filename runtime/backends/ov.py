"""OpenVINO: Intel and other CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from ..tensor import Array
from . import Options, Signature, match

FORMATS = ("onnx", "openvino")
PACKAGE = "openvino"

# OpenVINO's own choice is bf16 on CPUs that have it and f16 on GPUs, with errors of percents.
_PRECISIONS = {"fp16": "f16", "bf16": "bf16"}


@cache
def _vendor() -> Any:
    # Importing OpenVINO sends statistics of use over the network, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def _core() -> Any:
    return _vendor().Core()


def version() -> str:
    """OpenVINO's version and build."""
    return str(_vendor().get_version())


def devices() -> tuple[str, ...]:
    """Devices of this machine, the CPU first."""
    found = [str(device) for device in _core().available_devices]
    return tuple(sorted(found, key=lambda device: device != "CPU"))


def describe(device: str) -> str:
    """The device's full name and what the plugin can do on it, which decides the code it makes."""
    name = str(_core().get_property(device, "FULL_DEVICE_NAME"))
    return f"{name} ({' '.join(_abilities(device))})"


def _abilities(device: str) -> list[str]:
    return sorted(map(str, _core().get_property(device, "OPTIMIZATION_CAPABILITIES")))


def compile(
    model: bytes, signature: Signature, options: Options, weights: bytes = b""
) -> _Compiled:
    """Compile an ONNX graph, or OpenVINO IR with its ``weights``."""
    core = _core()
    graph = core.read_model(model, weights) if weights else core.read_model(model)
    if options.precision == "int8" and options.device == "CPU" and "BF16" in _abilities("CPU"):
        shorten(graph)
    compiled = core.compile_model(graph, options.device, _config(options))
    return _Compiled(compiled, signature)


def shorten(graph: Any) -> int:
    """Let the convolutions that an INT8 graph has left in float multiply in bfloat16, and only
    them: what leads to a sampling position keeps its 32 bits. Returns how many there were.

    CPUs with tiles (AMX) multiply five times as fast so, and sums have 32 bits there too.
    """
    from openvino import opset13 as opset

    found = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]
    found = [op for op in found if _is_float(op.input_value(1))]
    for op in found:
        for port in op.inputs():
            port.replace_source_output(opset.convert(port.get_source_output(), "bf16").output(0))
        readers = list(op.output(0).get_target_inputs())
        op.validate_and_infer_types()
        back = opset.convert(op.output(0), "f32").output(0)
        for reader in readers:
            reader.replace_source_output(back)
    graph.validate_nodes_and_infer_types()
    return len(found)


def _is_float(weights: Any) -> bool:
    """Whether they are stored as floating-point numbers; of INT8 they are scaled integers."""
    source = weights.get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "Constant" and source.get_element_type().is_real())


def restore(blob: bytes, signature: Signature, options: Options) -> _Compiled:
    """Import an exported graph."""
    return _Compiled(_core().import_model(blob, options.device, _config(options)), signature)


def _config(options: Options) -> dict[str, Any]:
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISIONS.get(options.precision, "f32"),
    }
    if options.device == "CPU":
        config["NUM_STREAMS"] = 1
        if options.threads:
            config["INFERENCE_NUM_THREADS"] = options.threads
    return config


class _Compiled:
    def __init__(self, compiled: Any, signature: Signature) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._turn = Lock()  # a request that is busy refuses a second caller
        self._inputs = match("inputs", signature.inputs, [_port(p) for p in compiled.inputs])
        outputs = match("outputs", signature.outputs, [_port(p) for p in compiled.outputs])
        self._outputs = [compiled.outputs[i] for i in outputs]

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        # Sharing the inputs saves copies; outputs are copied, because the request writes its
        # next results into the same memory.
        feeds = dict(zip(self._inputs, tensors, strict=True))
        with self._turn:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        return [np.asarray(results[port]) for port in self._outputs]

    def export(self) -> bytes:
        return bytes(self._compiled.export_model().getbuffer())


def _port(port: Any) -> tuple[set[str], str, tuple[int, ...]]:
    dimensions = port.partial_shape
    shape = tuple(d.get_length() if d.is_static else -1 for d in dimensions)
    return set(port.names), str(np.dtype(port.element_type.to_dtype()).name), shape
