"""Values in 8 bits with a scale for each output of a layer."""

from __future__ import annotations

import numpy as np

from vivant.tensor import Array

LEVELS = 127


def eight_bits(values: Array, axis: int = 0) -> tuple[Array, Array]:
    """int8 integers and float32 scales, one for each index of ``axis``, that multiply to values."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    peaks = np.abs(values).max(others, keepdims=True)
    scale = (np.maximum(peaks, 1e-12) / LEVELS).astype(np.float32)
    return np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8), scale
