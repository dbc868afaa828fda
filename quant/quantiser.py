"""What a quantiser's module holds; ``ptq`` (OpenVINO) and ``ort`` (ONNX Runtime) are the two."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vivant.tensor import Array


@dataclass(frozen=True)
class Layer:
    """A convolution that can be quantised."""

    name: str
    """Of its node."""
    text: str
    """Channels, kernel and resolution, for people."""
    weights: int
    """Number of weights."""
    products: int
    """Multiplications of one call."""


class Quantiser(Protocol):
    """Models are the module's own; none is changed by any of its functions."""

    FORMAT: str
    """Format of the artifacts that it makes."""
    BACKEND: str
    """Backend that runs them, and on which they are measured."""

    def read(self, data: bytes) -> Any:
        """The model of an ONNX file in floating point."""
        ...

    def layers(self, model: Any) -> list[Layer]:
        """What may be quantised, in the order of calls."""
        ...

    def quantise(
        self, model: Any, inputs: Sequence[dict[str, Array]], chosen: Collection[str]
    ) -> Any:
        """``model`` with its ``chosen`` layers in INT8, calibrated on ``inputs`` by name."""
        ...

    def restore(self, model: Any, original: Any, names: Iterable[str]) -> Any:
        """The quantised ``model`` with the layers ``names`` as in ``original``."""
        ...

    def quantised(self, model: Any) -> list[str]:
        """Names of the layers in INT8."""
        ...

    def serialise(self, model: Any) -> tuple[bytes, bytes]:
        """Graph and weights (empty in formats of one file), the same bytes for the same model."""
        ...
