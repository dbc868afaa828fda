"""Whether a changed ``listen`` or ``denoise`` still moves the face the same.

Golden tensors are one tick. In a stream every error of a tick is the past of the next: with the
matrices of ``denoise``'s linear prediction in 8 bits, one evaluation keeps 57 dB and a sentence of
twelve seconds a cosine of .2. So a whole recording is run, with the same noise; two backends that
compute the same network agree in nine digits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources

import numpy as np

from vivant.audio import load_audio
from vivant.backends import Options, Signature, load_backend
from vivant.bundle import Bundle
from vivant.errors import BundleError
from vivant.export.gate import COSINE, cosine
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.metrics import CLOSED as SHUT
from vivant.export.write import ArtifactData, StageData
from vivant.graph import load_graph
from vivant.motion import GraphCall, MotionStream
from vivant.quant import calibrate
from vivant.tensor import Array

STAGES = ("listen", "denoise")
"""Stages that are judged."""

CLOSED = 0.01
"""Most by which the share of frames with closed lips may change."""


RANKED = 4.0
"""Seconds of the recording that are enough to rank layers by."""

BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "coreml"}
"""Where an artifact of each format runs."""


def speech() -> Array:
    """The embedded sentence, (n,) mono at 16 kHz."""
    return load_audio((resources.files("vivant.default") / "speech.flac").read_bytes()).samples


class Judge:
    """The motion that a bundle's floating-point graphs make of a recording, to compare with."""

    def __init__(
        self, bundle: Bundle, sound: Array | None = None, backend: str = "onnxruntime"
    ) -> None:
        """``sound``: (n,) mono at 16 kHz (default: ``speech``)."""
        self._bundle = bundle
        self._sound = speech() if sound is None else sound
        self._plain: dict[str, GraphCall] = {
            name: load_graph(
                bundle, name, backend, threads=1, precision=calibrate.floating(bundle, name)
            )
            for name in STAGES
        }
        self._before = motion(bundle, self._plain, self._sound)

    def figures(
        self, stage: str, changed: GraphCall, seconds: float = math.inf
    ) -> dict[str, float]:
        """``motion_cosine``, about the mean and in normalised units, and ``closed_change``, of
        the share of frames whose lips are closed; of the recording's first ``seconds``."""
        head = self._bundle.manifest
        sound = self._sound[: round(min(seconds * head.audio.rate, len(self._sound)))]
        after = motion(self._bundle, self._plain | {stage: changed}, sound)
        before = self._before[: len(after)]
        mean, std = before.mean(0), np.asarray(head.latent.std, np.float32)
        shares = [float((aperture(frames) < SHUT).mean()) for frames in (before, after)]
        return {
            "motion_cosine": cosine((before - mean) / std, (after - mean) / std),
            "closed_change": abs(shares[1] - shares[0]),
        }

    def check(self, stage: str, changed: GraphCall) -> dict[str, float]:
        """The figures; raises BundleError when the face is moved otherwise."""
        figures = self.figures(stage, changed)
        if not (figures["motion_cosine"] >= COSINE and figures["closed_change"] <= CLOSED):
            raise BundleError(
                f"the changed {stage} moves the face otherwise",
                expected=f"a motion cosine of at least {COSINE:g}, and the share of closed lips "
                f"within {CLOSED:g}",
                got=f"{figures['motion_cosine']:.4f}, {figures['closed_change']:.4f}",
                fix="Keep more of its layers as they are.",
            )
        return figures

    def checked(self, stage: str, data: StageData, artifact: ArtifactData) -> ArtifactData:
        """The artifact with the figures; raises BundleError when it moves the face otherwise."""
        figures = self.check(stage, graph(data, artifact))
        return replace(artifact, fidelity={**artifact.fidelity, **figures})

    def decibels(self, stage: str, data: StageData, artifact: ArtifactData) -> float:
        """Motion to its error, dB, by which layers are ranked: 27 is a cosine of .999."""
        figures = self.figures(stage, graph(data, artifact), RANKED)
        return -10 * math.log10(max(2 * (1 - figures["motion_cosine"]), 1e-12))


def graph(data: StageData, artifact: ArtifactData) -> GraphCall:
    """An artifact with its tensors by name; Core ML programs are evaluated without a Mac."""
    signature = Signature(data.inputs, data.outputs)
    if artifact.format == "coreml" and sys.platform != "darwin":
        from vivant.export.coreml_eval import evaluate
        from vivant.export.coreml_program import read_program
        from vivant.mlpackage import RESERVED

        program = read_program(artifact.data, artifact.weights)
        return lambda tensors: evaluate(
            program, {RESERVED.get(name, name): value for name, value in tensors.items()}
        )
    vendor = load_backend(BACKENDS[artifact.format])
    options = Options(threads=1, precision=artifact.precision)
    executable = vendor.compile(artifact.data, signature, options, artifact.weights)

    def run(tensors: Mapping[str, Array]) -> dict[str, Array]:
        values = executable.run([tensors[spec.name] for spec in signature.inputs])
        return {s.name: v for s, v in zip(signature.outputs, values, strict=True)}

    return run


def motion(bundle: Bundle, graphs: Mapping[str, GraphCall], sound: Array) -> Array:
    """(n, 63), how a recording moves the face, with the seed 0."""
    stream = MotionStream(graphs["listen"], graphs["denoise"], bundle.manifest)
    return np.concatenate([stream.push(sound), stream.close()])
