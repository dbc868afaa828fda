"""ONNX Runtime: the backend of the base install."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..tensor import Array
from . import Options, Signature, match

FORMATS = ("onnx",)
PACKAGE = "onnxruntime"

_PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


@cache
def _vendor() -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def version() -> str:
    """ONNX Runtime's version."""
    return str(_vendor().__version__)


def devices() -> tuple[str, ...]:
    """Devices whose execution provider is in this build."""
    available = _vendor().get_available_providers()
    return tuple(device for device, name in _PROVIDERS.items() if name in available)


def describe(device: str) -> str:
    """The processor's name."""
    return f"{device} {platform.machine()} {platform.processor()}"


def compile(model: bytes, signature: Signature, options: Options, weights: bytes = b"") -> _Session:
    """A session on one execution provider."""
    return _Session(model, signature, options)


def restore(blob: bytes, signature: Signature, options: Options) -> _Session:
    """Never called: nothing is exported."""
    raise NotImplementedError("ONNX Runtime keeps no compiled graphs")


class _Session:
    def __init__(self, model: bytes, signature: Signature, options: Options) -> None:
        ort = _vendor()
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.log_severity_level = 3
        # Spinning threads burn the cores that the rest of a live pipeline needs.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
        provider = _PROVIDERS[options.device]
        if provider != _PROVIDERS["CPU"]:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = ort.InferenceSession(model, settings, providers=[provider])
        # An unknown provider is replaced by the CPU's with no more than a warning.
        if (got := self._session.get_providers()[0]) != provider:
            raise RuntimeError(f"expected {provider}, got {got}")
        match("inputs", signature.inputs, [_port(node) for node in self._session.get_inputs()])
        match("outputs", signature.outputs, [_port(node) for node in self._session.get_outputs()])
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        feeds = dict(zip(self._inputs, tensors, strict=True))
        return [np.asarray(value) for value in self._session.run(self._outputs, feeds)]

    def export(self) -> None:
        # A stored copy of the optimised graphs would save .3 s of .6 s for all stages, and cost
        # most of it again for reading and hashing 64 MB of unfolded weights.
        return None


def _port(node: Any) -> tuple[set[str], str, tuple[int, ...]]:
    # A size that is not static has a name or None in its place.
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return {node.name}, _DTYPES.get(node.type, node.type), shape
