"""The numeric gate: what an artifact computes on the runtime's own backends, and how near it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vivant.backends import BACKENDS, Options, Signature, load_backend
from vivant.errors import BackendError, BundleError
from vivant.tensor import Array

PSNR = {"fp32": 80.0, "w16": 50.0}
"""Least PSNR, dB, of each output against the module, by precision of the artifact."""

BEST = 200.0
"""PSNR recorded for equal outputs, dB."""

SCALE = {"score": 1.0, "occlusion": 1.0, "paint": 1.0, "features": 1.0}
"""Least peak for the PSNR of outputs whose range is known, for examples that stay far below."""

Example = Mapping[str, Array]


def psnr(expected: Array, got: Array, peak: float = 0.0) -> float:
    """Peak signal-to-noise ratio, dB, at most BEST, -inf for NaN.

    The peak is that of ``expected``, at least ``peak``.
    """
    error = float(np.sqrt(np.mean((got.astype(np.float64) - expected) ** 2)))
    peak = max(float(np.abs(expected).max()), peak, 1e-12)
    if not math.isfinite(error):
        return -math.inf
    return min(BEST, 20 * math.log10(peak / error)) if error else BEST


def fidelity(expected: Sequence[Example], runs: Sequence[Sequence[Example]]) -> dict[str, float]:
    """Least PSNR, dB, of each output over the examples and the backends' ``runs`` of them."""
    figures: dict[str, float] = {}
    for got in (pair for each in runs for pair in zip(expected, each, strict=True)):
        for name, want in got[0].items():
            value = round(psnr(want, got[1][name], SCALE.get(name, 0.0)), 2)
            figures[name] = min(figures.get(name, BEST), value)
    return figures


def run(
    stage: str,
    data: bytes,
    signature: Signature,
    examples: Sequence[Example],
    precision: str,
    backends: Sequence[str] | None = None,
    weights: bytes = b"",
) -> list[list[dict[str, Array]]]:
    """Outputs by name of each example on each backend (default: all that are installed).

    Raises BackendError when none is installed or one cannot run the artifact.
    """
    runs = []
    for name in backends or BACKENDS:
        try:
            vendor = load_backend(name)
        except BackendError:
            if backends:
                raise
            continue
        try:
            graph = vendor.compile(
                data, signature, Options(threads=1, precision=precision), weights
            )
        except BundleError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise BackendError(f"{name} cannot compile the graph of {stage}", got=text) from error
        outputs = [spec.name for spec in signature.outputs]
        runs.append(
            [
                dict(zip(outputs, graph.run([e[s.name] for s in signature.inputs]), strict=True))
                for e in examples
            ]
        )
    if not runs:
        raise BackendError("no backend is installed", expected=" or ".join(BACKENDS))
    return runs
