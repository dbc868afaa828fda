"""The numeric gate: what an artifact computes on the runtime's own backends, and how near it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from vivant.backends import BACKENDS, Options, Signature, load_backend
from vivant.composite import Compositor
from vivant.errors import BackendError, BundleError
from vivant.tensor import Array

PSNR = {"fp32": 80.0, "w16": 50.0, "fp16": 50.0, "w8": 30.0, "p6": 30.0, "p4": 30.0}
"""Least PSNR, dB, of each output against the module, by precision of the artifact."""

FRAMES = 38.0
"""Least PSNR, dB, of frames composed from what ``render`` gives, in any precision."""
COSINE = 0.999
"""Least cosine of what carries the motion, in any precision."""
MOTION = {"encode": "motion", "listen": "audio", "denoise": "velocity"}
"""The output that carries the motion, by stage."""

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


def check(
    what: str,
    stage: str,
    precision: str,
    expected: Sequence[Example],
    runs: Sequence[Sequence[Example]],
    least: float | None = None,
) -> dict[str, float]:
    """Fidelity of an artifact, ``what``: PSNR of outputs, of frames, cosine of motion.

    ``least`` overrides PSNR's threshold. Raises BundleError below a threshold.
    """
    outputs = fidelity(expected, runs)
    worst = min(outputs, key=lambda name: outputs[name])
    least = PSNR[precision] if least is None else least
    figures = {"psnr_db": outputs[worst], **{f"psnr_db_{n}": v for n, v in outputs.items()}}
    bars = [(f"PSNR of {worst}", outputs[worst], least, "dB")]
    pairs = [pair for each in runs for pair in zip(expected, each, strict=True)]
    if stage in MOTION:
        figures["cosine"] = min(cosine(w[MOTION[stage]], g[MOTION[stage]]) for w, g in pairs)
        bars.append((f"cosine of {MOTION[stage]}", figures["cosine"], COSINE, ""))
    if stage == "render":
        figures["frame_psnr_db"] = min(psnr(frame(w), frame(g), 255) for w, g in pairs)
        bars.append(("PSNR of frames", figures["frame_psnr_db"], FRAMES, "dB"))
    for name, value, bar, unit in bars:
        if not value >= bar:
            raise BundleError(
                f"the {what} of {stage} is not the network that was trained",
                expected=f"{name} >= {bar:g} {unit}".rstrip(),
                got=f"{value:.4g} {unit}".rstrip(),
                fix="Take a higher precision, or look for the operators that compute otherwise.",
            )
    return figures


def cosine(expected: Array, got: Array) -> float:
    """Cosine between two outputs as vectors; -1 for NaN."""
    a, b = (value.astype(np.float64).ravel() for value in (expected, got))
    value = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    return value if math.isfinite(value) else -1.0


@cache
def _compositor() -> Compositor:
    from vivant.export.examples import picture

    photo = (picture(4, 512)[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return Compositor(np.ascontiguousarray(photo))


def frame(outputs: Example) -> Array:
    """What ``render``'s outputs make of a made-up photo with detail of all sizes, uint8."""
    drawn = [np.nan_to_num(outputs[name]) for name in ("flow", "occlusion", "paint")]
    return _compositor()(*drawn).copy()


def run(
    stage: str,
    data: bytes,
    signature: Signature,
    examples: Sequence[Example],
    precision: str,
    backends: Sequence[str] | None = None,
    weights: bytes = b"",
) -> list[list[dict[str, Array]]]:
    """Outputs by name of each example on each backend (default: all here that read ONNX).

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
        if not backends and "onnx" not in vendor.FORMATS:
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
