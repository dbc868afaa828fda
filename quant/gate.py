"""What quantisation costs and brings: frames against frames, and turns against turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from vivant.backends import Executable, Options, Signature, load_backend
from vivant.bundle import Bundle, Stage
from vivant.composite import Compositor
from vivant.export.gate import BEST
from vivant.graph import Graph
from vivant.quant import ptq
from vivant.quant.calibrate import Recording
from vivant.quant.quantiser import Quantiser
from vivant.render import GraphCall
from vivant.tensor import Array

Image = NDArray[np.uint8]

BAR = 38.0
"""Least PSNR, dB, of every held-out frame against the floating-point one."""
WARM, RUN = 3, 3
"""Calls of a turn of ``race`` that do not count, and that do."""
SIZE = 512
"""Side of the composed frames, pixels."""


def call(stage: Stage, executable: Executable) -> GraphCall:
    """An executable with its tensors by name."""
    names = [spec.name for spec in stage.outputs]

    def run(tensors: Mapping[str, Array]) -> dict[str, Array]:
        values = executable.run([tensors[spec.name] for spec in stage.inputs])
        return dict(zip(names, values, strict=True))

    return run


def compiled(
    bundle: Bundle, stage: str, model: Any, quantiser: Quantiser = ptq, threads: int = 1
) -> GraphCall:
    """A quantiser's model of a stage through the runtime's own backend."""
    graph, weights = quantiser.serialise(model)
    part = bundle.stage(stage)
    signature = Signature(part.inputs, part.outputs)
    options = Options(threads=threads, precision="int8")
    backend = load_backend(quantiser.BACKEND)
    return call(part, backend.compile(graph, signature, options, weights))


def draw(
    stage: str, graph: GraphCall, recording: Recording, render: Graph, portraits: Sequence[int]
) -> list[Image]:
    """Composed frames (SIZE, SIZE, 3) of all motions of some portraits.

    ``graph`` is the stage that is judged; when it is ``encode``, ``render`` draws what it gives.
    """
    frames = []
    for index in portraits:
        photo = Pillow.fromarray(recording.portrait[index])
        photo = photo.resize((SIZE, SIZE), Pillow.Resampling.BICUBIC)
        compositor = Compositor(np.asarray(photo))
        one = recording.only(index)
        inputs = one.inputs("render")
        if stage == "encode":
            coded = graph(one.inputs("encode")[0])
            for values in inputs:
                values["motion"] = values["motion"] + coded["motion"] - values["source"]
                values |= {
                    "features": coded["features"],
                    "keypoints": coded["keypoints"],
                    "source": coded["motion"],
                }
        drawer: Callable[[Mapping[str, Array]], Mapping[str, Array]]
        drawer = render if stage == "encode" else graph
        for values in inputs:
            drawn = drawer(values)
            frames.append(
                compositor(drawn["flow"], drawn["occlusion"], drawn["paint"]).copy(),
            )
    return frames


def frame_psnr(expected: Sequence[Image], got: Sequence[Image]) -> list[float]:
    """PSNR of each frame, dB against 255, at most BEST; -inf where a frame is missing pixels."""
    figures = []
    for want, have in zip(expected, got, strict=True):
        error = float(np.mean((want.astype(np.float64) - have) ** 2))
        figures.append(min(BEST, 10 * math.log10(255**2 / error)) if error else BEST)
    return figures


def race(
    graphs: Mapping[str, GraphCall], inputs: Sequence[Mapping[str, Array]], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of at least ``rounds`` calls of each graph, in turns, so that all share the
    machine's moods.

    A turn is a run of calls, as in a stream of frames. The first WARM of it find another graph's
    data in the processor's caches and do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(math.ceil(rounds / RUN)):
        for name, graph in graphs.items():
            for number in range(WARM + RUN):
                tensors = inputs[(turn * RUN + number) % len(inputs)]
                start = time.perf_counter()
                graph(tensors)
                if number >= WARM:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return times


def write_sheet(
    path: Path, expected: Sequence[Image], got: Sequence[Image], rows: int = 6, size: int = 320
) -> None:
    """A PNG of the frames that differ most: floating point, INT8, and their difference times 8."""
    figures = frame_psnr(expected, got)
    worst = sorted(range(len(figures)), key=lambda index: figures[index])[:rows]
    lines = []
    for index in worst:
        difference = np.abs(expected[index].astype(np.int16) - got[index]) * 8
        row = (expected[index], got[index], np.minimum(difference, 255).astype(np.uint8))
        pictures = [
            np.asarray(Pillow.fromarray(cell).resize((size, size), Pillow.Resampling.LANCZOS))
            for cell in row
        ]
        lines.append(np.concatenate(pictures, 1))
    Pillow.fromarray(np.concatenate(lines, 0)).save(path)
