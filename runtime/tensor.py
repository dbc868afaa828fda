"""Names, element types and shapes of a graph's tensors, and the check at its border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

Array = NDArray[Any]

DTYPES = ("float32",)
"""Element types a graph may take or give; every backend and device has float32."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    dtype: str
    """NumPy name of the element type."""
    shape: tuple[int, ...]
    """Static; rank at most 4."""
    unit: str = ""
    """What one number means, for people."""

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


def check_tensors(
    where: str, specs: Sequence[TensorSpec], tensors: Mapping[str, Array]
) -> list[Array]:
    """``tensors`` in the order of ``specs``, contiguous.

    Raises UsageError, with what was expected and got, on a missing or foreign name and on
    another element type or shape.
    """
    if len(tensors) != len(specs) or any(spec.name not in tensors for spec in specs):
        raise UsageError(
            f"{where}: wrong tensors",
            expected=", ".join(spec.name for spec in specs),
            got=", ".join(map(str, tensors)) or "none",
        )
    result: list[Array] = []
    for spec in specs:
        value = tensors[spec.name]
        if not isinstance(value, np.ndarray):
            raise UsageError(
                f"{where}: {spec.name}", expected="a NumPy array", got=type(value).__name__
            )
        if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            shape = ", ".join(map(str, value.shape))
            raise UsageError(
                f"{where}: wrong tensor", expected=str(spec), got=f"{value.dtype} ({shape})"
            )
        result.append(value if value.flags.c_contiguous else np.ascontiguousarray(value))
    return result
