"""Whether a changed ``listen`` or ``denoise`` still moves the face the same.

Golden tensors are one tick. A whole recording is run, with the same noise, twice: with every tick
on the past that floating point made, which is how well the network is kept, and as a stream, in
which every error of a tick is the past of the next. With the matrices of ``denoise``'s linear
prediction in 8 bits, one evaluation keeps 57 dB and the stream of twelve seconds a cosine of .2.
A stream also magnifies chance: a blink that comes one tick later makes another, equally good,
performance (``denoise`` with all but its trigonometry in fp32 keeps .92), so it is held to staying
near, and its lips to closing as often. Two backends that compute the same network agree in nine
digits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vivant.audio import embedded_speech
from vivant.backends import Options, Signature, load_backend
from vivant.bundle import Bundle
from vivant.errors import BundleError
from vivant.export.gate import COSINE, cosine
from vivant.export.synth.speech.articulation import aperture
from vivant.export.synth.speech.metrics import CLOSED as SHUT
from vivant.export.write import ArtifactData, StageData
from vivant.graph import load_graph
from vivant.motion import LIDS, GraphCall, MotionStream
from vivant.quant import calibrate
from vivant.tensor import Array

STAGES = ("listen", "denoise")
"""Stages that are judged."""

CLOSED = 0.01
"""Most by which the share of frames with closed lips may change."""

FOLLOWS = 0.9
"""Least cosine of the stream's motion, lids left out: it has gone nowhere else."""

RANKED = 4.0
"""Seconds of the recording that are enough to rank layers by."""

BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "coreml"}
"""Where an artifact of each format runs."""


class Judge:
    """The motion that a bundle's floating-point graphs make of a recording, to compare with."""

    def __init__(
        self, bundle: Bundle, sound: Array | None = None, backend: str = "onnxruntime"
    ) -> None:
        """``sound``: (n,) mono at 16 kHz (default: the embedded sentence)."""
        self._bundle = bundle
        self._sound = embedded_speech() if sound is None else sound
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
        """Of the recording's first ``seconds``: ``motion_cosine`` on floating point's own past and
        ``stream_cosine`` on the changed network's, without lids, both about the mean and in
        normalised units; ``closed_change``, of the share of frames whose lips are closed."""
        head = self._bundle.manifest
        sound = self._sound[: round(min(seconds * head.audio.rate, len(self._sound)))]
        graphs = self._plain | {stage: changed}
        after = motion(self._bundle, graphs, sound)
        told = self._told(graphs, sound)
        before = self._before[: len(after)]
        mean, std = before.mean(0), np.asarray(head.latent.std, np.float32)
        kept = np.delete(np.arange(before.shape[1]), LIDS)
        shares = [float((aperture(frames) < SHUT).mean()) for frames in (before, after)]
        first, stream, second = ((frames - mean) / std for frames in (before, after, told))
        return {
            "motion_cosine": cosine(first, second),
            "stream_cosine": cosine(first[:, kept], stream[:, kept]),
            "closed_change": abs(shares[1] - shares[0]),
        }

    def _told(self, graphs: Mapping[str, GraphCall], sound: Array) -> Array:
        """(n, 63), motion whose every tick is told floating point's past instead of its own."""
        plain, other = (_stream(self._bundle, part) for part in (self._plain, graphs))
        audio = self._bundle.manifest.audio
        silence = np.zeros(-len(sound) % audio.tick + audio.look_ahead, np.float32)
        heard, made = np.concatenate([sound, silence]), []
        for start in range(0, len(heard), audio.tick):
            part = heard[start : start + audio.tick]
            plain.push(part)
            made.append(other.push(part))
            _share_past(plain, other)
        return np.concatenate(made)

    def check(self, stage: str, changed: GraphCall) -> dict[str, float]:
        """The figures; raises BundleError when the face is moved otherwise."""
        figures = self.figures(stage, changed)
        if not (
            figures["motion_cosine"] >= COSINE
            and figures["stream_cosine"] >= FOLLOWS
            and figures["closed_change"] <= CLOSED
        ):
            raise BundleError(
                f"the changed {stage} moves the face otherwise",
                expected=f"a motion cosine of at least {COSINE:g}, the stream's of at least "
                f"{FOLLOWS:g}, and the share of closed lips within {CLOSED:g}",
                got=", ".join(f"{value:.4f}" for value in figures.values()),
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
    stream = _stream(bundle, graphs)
    return np.concatenate([stream.push(sound), stream.close()])


def _stream(bundle: Bundle, graphs: Mapping[str, GraphCall]) -> MotionStream:
    return MotionStream(graphs["listen"], graphs["denoise"], bundle.manifest)


def _share_past(plain: MotionStream, other: MotionStream) -> None:
    """Let ``other`` go on from the motion that ``plain`` made, with its own ears."""
    other.state.previous, other.state.cache = plain.state.previous, plain.state.cache
    other.state.blink = replace(plain.state.blink)
