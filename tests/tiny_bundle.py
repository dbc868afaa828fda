"""A kilobyte-size bundle with every stage, so that tests run the true path in milliseconds.

Nothing is learned, everything behaves: ``align`` finds one bright disc (``portrait`` draws one)
and no face in a photo without; ``encode`` pools the photo; ``listen`` remembers; ``denoise``
leads to motion that follows sound, conditions and past, with a little of the noise left;
``render`` bends the photo by the difference of two motion codes, so that a photo driven by its
own code stays as it is.

    python tests/tiny_bundle.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vivant import latent
from vivant.bundle import TENSORS, Bundle
from vivant.controls import CONDITIONS
from vivant.export.write import ArtifactData, StageData, write_bundle
from vivant.tensor import TensorSpec

LANDMARKS = np.array(
    # x and y of align's twelve points, in disc radii (one IPD) from the disc's centre
    [
        [-0.5, 0.5, 0.0, -0.4, 0.4, 0.0, 0.0, 0.0, -0.9, 0.9, 0.0, 0.0],
        [-0.3, -0.3, 0.1, 0.45, 0.45, 0.4, 0.55, 0.95, 0.0, 0.0, -0.95, -0.35],
    ],
    np.float32,
)
SIZES = {
    "landmarks": 24,
    "channels": 4,
    "keypoints": 4,
    "latent": latent.SIZE,
    "latents": 2 * latent.SIZE,
    "hops": 4,
    "mels": 64,
    "state": 8,
    "audio": 8,
    "conditions": len(CONDITIONS),
    "layers": 2,
    "ticks": 4,
    "width": 6,
}


def portrait(
    size: tuple[int, int] = (320, 256),
    centre: tuple[float, float] = (0.5, 0.5),
    radius: float = 40.0,
) -> NDArray[np.uint8]:
    """A "person", (height, width, 3) RGB: a bright disc on a dark gradient.

    ``size`` is height and width, ``centre`` x and y in fractions, ``radius`` in pixels is also
    the interpupillary distance that ``align`` reports.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    image = np.stack([60 + 40 * x / size[1], 50 + 50 * y / size[0], 0 * x + 90], -1)
    far = np.hypot(x + 0.5 - centre[0] * size[1], y + 0.5 - centre[1] * size[0])
    inside = np.clip(radius - far + 0.5, 0, 1)[..., None]
    return (image * (1 - inside) + np.array([255, 245, 235]) * inside).round().astype(np.uint8)


class Builder:
    """An ONNX graph written node by node; every tensor is known by its name."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.specs = [
            tuple(
                TensorSpec(name, "float32", tuple(SIZES.get(str(n), n) for n in shape), "tiny")  # type: ignore[misc]
                for name, shape in shapes.items()
            )
            for shapes in TENSORS[stage]
        ]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._random = np.random.Generator(np.random.Philox(len(stage)))

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A constant tensor."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weights(self, rows: int, columns: int) -> str:
        """Random weights that keep a signal's size, (rows, columns)."""
        return self.constant(self._random.standard_normal((rows, columns)) / np.sqrt(rows))

    def add(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """A node; inputs are names, or values that become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def shape(self, tensor: str, shape: list[int], name: str = "") -> str:
        """A tensor in another shape."""
        return self.add("Reshape", tensor, self.constant(shape, np.int64), name=name)

    def slice(self, tensor: str, axis: int, start: int, stop: int) -> str:
        """A part of a tensor along one axis."""
        parts = [self.constant([value], np.int64) for value in (start, stop, axis)]
        return self.add("Slice", tensor, *parts)

    def total(self, tensor: str) -> str:
        """Sum of everything, (1, 1, 1, 1)."""
        axes = self.constant([0, 1, 2, 3], np.int64)
        return self.add("ReduceSum", tensor, axes, keepdims=1)

    def model(self) -> bytes:
        """The graph as an ONNX file, opset 18."""
        inputs, outputs = (
            [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in specs]
            for specs in self.specs
        )
        graph = helper.make_graph(self._nodes, self.stage, inputs, outputs, self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="tiny"
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def align(b: Builder) -> None:
    """Moments of the bright pixels give a disc's centre and radius; only a compact disc scores."""
    grey = b.add("ReduceMean", "image", b.constant([1], np.int64), keepdims=1)  # (1, 1, 256, 256)
    bright = b.add("Clip", b.add("Mul", b.add("Sub", grey, 0.7), 8.0), 0.0, 1.0)
    at = np.arange(256, dtype=np.float32) + 0.5
    area = b.add("Add", b.total(bright), 1e-3)
    centre, spread = [], []
    for ramp in (at.reshape(1, 1, 1, 256), at.reshape(1, 1, 256, 1)):
        mean = b.add("Div", b.total(b.add("Mul", bright, ramp)), area)
        away = b.add("Sub", ramp, mean)
        square = b.total(b.add("Mul", bright, b.add("Mul", away, away)))
        centre.append(mean)
        spread.append(b.add("Div", square, area))
    # A disc of area A has the variance A / 2 pi, and no shape has less.
    compact = b.add("Div", b.add("Add", *spread), b.add("Mul", area, 1 / (2 * np.pi)))
    good = b.add("Clip", b.add("Mul", b.add("Sub", 1.15, compact), 20.0), 0.0, 1.0)
    part = b.add("Clip", b.add("Mul", b.add("Sub", 30000.0, area), 0.01), 0.0, 1.0)
    enough = b.add("Clip", b.add("Mul", b.add("Sub", area, 150.0), 0.1), 0.0, 1.0)
    cell = at[:32] * 8
    x = b.add("Sub", centre[0], cell.reshape(1, 1, 1, 32))  # (1, 1, 1, 32)
    y = b.add("Sub", centre[1], cell.reshape(1, 1, 32, 1))  # (1, 1, 32, 1)
    far = b.add("Add", b.add("Mul", x, x), b.add("Mul", y, y))
    near = b.add("Relu", b.add("Sub", 1.0, b.add("Mul", far, 1 / 24**2)))
    good = b.add("Mul", b.add("Mul", good, part), enough)
    b.add("Mul", near, good, name="score")
    radius = b.add("Sqrt", b.add("Mul", area, 1 / np.pi))
    heads = []
    for offset, points in zip((x, y), LANDMARKS, strict=True):
        grid = b.add("Add", offset, b.add("Mul", radius, points.reshape(1, 12, 1, 1)))
        heads.append(b.add("Add", grid, np.zeros((1, 1, 32, 32))))  # (1, 12, 32, 32)
    b.add("Concat", *heads, name="landmarks", axis=1)


def encode(b: Builder) -> None:
    """Features are the photo at a quarter of its size; the code says how bright it is."""
    kernel = {"kernel_shape": [4, 4], "strides": [4, 4]}
    small = b.add("AveragePool", "portrait", **kernel)  # (1, 3, 64, 64)
    grey = b.add("ReduceMean", small, b.constant([1], np.int64), keepdims=1)
    b.add("Concat", small, grey, name="features", axis=1)
    mean = b.shape(b.add("Mul", b.total(grey), 1 / 64**2), [1, 1, 1])
    points = np.array([[[0.42, 0.42, 0], [0.58, 0.42, 0], [0.5, 0.52, 0.1], [0.5, 0.62, 0]]])
    b.add("Add", points, b.add("Mul", mean, 1e-3), name="keypoints")
    code = np.zeros((1, latent.SIZE))
    code[0, latent.INDEX["jawOpen"]] = 0.05
    b.add("Mul", b.shape(mean, [1, 1]), code, name="motion")


def listen(b: Builder) -> None:
    """A leaky memory of the mel frames."""
    mel = b.shape("mel", [1, 256])
    kept = b.add("Mul", "state", 0.6)
    state = b.add("Tanh", b.add("Add", b.add("MatMul", mel, b.weights(256, 8)), kept))
    b.add("Identity", state, name="state_out")
    b.add("MatMul", state, b.weights(8, 8), name="audio")


def denoise(b: Builder) -> None:
    """Nine tenths of the way from the noise to a target made of sound, conditions and past."""
    layers, ticks, width = (SIZES[key] for key in ("layers", "ticks", "width"))
    seen = b.shape("cache", [1, layers * ticks * width])
    parts = [
        b.add("MatMul", "audio", b.weights(8, 126)),
        b.add("MatMul", "conditions", b.weights(len(CONDITIONS), 126)),
        b.add("MatMul", "previous", b.weights(126, 126)),
        b.add("MatMul", seen, b.weights(layers * ticks * width, 126)),
        b.add("Mul", "history", 0.01),
    ]
    total = parts[0]
    for part in parts[1:]:
        total = b.add("Add", total, b.add("Mul", part, 0.3))
    target = b.add("Tanh", total)
    time = b.add("Max", b.slice("time", 1, 0, 1), 1e-2)
    b.add("Div", b.add("Mul", b.add("Sub", "noisy", target), 0.9), time, name="velocity")
    fresh = b.add("MatMul", "previous", b.weights(126, layers * width))
    fresh = b.shape(fresh, [1, layers, 1, width])
    b.add("Concat", b.slice("cache", 2, 1, ticks), fresh, name="cache_out", axis=2)


def render(b: Builder) -> None:
    """The head shifts the middle of the frame, the jaw paints over the mouth."""
    change = b.add("Sub", "motion", "source")
    pull = np.zeros((latent.SIZE, 2))
    pull[latent.INDEX["headX"], 0], pull[latent.INDEX["headY"], 1] = -0.165, 0.165
    pull[latent.INDEX["headYaw"], 0], pull[latent.INDEX["headPitch"], 1] = -0.004, 0.004
    shift = b.shape(b.add("MatMul", change, b.constant(pull)), [1, 2, 1, 1])
    depth = b.add("ReduceMean", "keypoints", b.constant([1, 2], np.int64), keepdims=1)
    shift = b.add("Mul", shift, b.add("Add", b.shape(depth, [1, 1, 1, 1]), 0.75))
    tent = 1 - np.abs(np.linspace(-1, 1, 128, dtype=np.float32))
    b.add(
        "Mul",
        b.add("Mul", shift, tent.reshape(1, 1, 1, 128)),
        tent.reshape(1, 1, 128, 1),
        name="flow",
    )
    jaw = latent.INDEX["jawOpen"]
    opened = b.add("Clip", b.add("Mul", b.slice(change, 1, jaw, jaw + 1), 4.0), 0.0, 1.0)
    at = (np.arange(256, dtype=np.float32) + 0.5) / 256
    wide = np.clip(1 - np.abs(at - 0.5) / 0.1, 0, 1).reshape(1, 1, 1, 256)
    tall = np.clip(1 - np.abs(at - 0.62) / 0.06, 0, 1).reshape(1, 1, 256, 1)
    mouth = b.add("Mul", b.add("Mul", b.shape(opened, [1, 1, 1, 1]), wide), tall)
    b.add("Identity", mouth, name="occlusion")
    big = b.shape(b.slice("features", 1, 0, 3), [192, 64, 1])
    big = b.add("Expand", big, b.constant([192, 64, 4], np.int64))
    big = b.shape(big, [192, 1, 256])
    big = b.add("Expand", big, b.constant([192, 4, 256], np.int64))
    b.shape(b.add("Mul", big, 0.3), [1, 3, 256, 256], name="paint")


def golden_inputs(stage: str) -> dict[str, NDArray[np.float32]]:
    """Small numbers from a fixed seed; images repeat, so that the golden file stays small."""
    random = np.random.Generator(np.random.Philox(7))
    inputs = {}
    for name, shape in TENSORS[stage][0].items():
        size = tuple(SIZES.get(str(n), n) for n in shape)
        inputs[name] = random.standard_normal(size).astype(np.float32)  # type: ignore[arg-type]
    if stage == "align":
        image = portrait((256, 256), (0.45, 0.55), 30.0)
        inputs["image"] = (image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    elif stage == "encode":
        tile = random.integers(0, 256, (1, 3, 8, 8)) / np.float32(255)
        inputs["portrait"] = np.tile(tile, (1, 1, 32, 32)).astype(np.float32)
    elif stage == "render":
        inputs["features"] = np.tile(inputs["features"][..., :4, :4], (1, 1, 16, 16))
    elif stage == "denoise":
        inputs["time"] = np.array([[0.5, 0.25]], np.float32)
        inputs["history"] = np.array([[3.0]], np.float32)
    return inputs


def tiny_stages(kind: str = "onnx") -> dict[str, StageData]:
    """Every stage, ready to be written; goldens come from ONNX's own reference evaluator.

    The graphs are ONNX even where ``kind`` says otherwise: for the tests' own Core ML.
    """
    stages = {}
    weights = b"no weights" if kind == "coreml" else b""
    for write in (align, encode, listen, denoise, render):
        b = Builder(write.__name__)
        write(b)
        model = b.model()
        inputs = golden_inputs(b.stage)
        values = ReferenceEvaluator(model).run(None, inputs)
        outputs = {s.name: v for s, v in zip(b.specs[1], values, strict=True)}  # type: ignore[arg-type]
        artifact = ArtifactData(model, "fp32", {"psnr_db": 120.0}, kind, weights=weights)
        stages[b.stage] = StageData(b.specs[0], b.specs[1], (artifact,), (inputs, outputs), 1e-3)
    return stages


def tiny_head() -> dict[str, Any]:
    """The manifest without its format and stages."""
    scale = {"weight": 0.2, "degree": 4.0, "ipd": 0.05}
    return {
        "name": "tiny",
        "version": "1",
        "license": "Apache-2.0",
        "description": "Nothing learned; for tests.",
        "provenance": [{"name": "none", "origin": "written", "license": "CC0-1.0", "use": "test"}],
        "latent": {
            "kind": "arkit63",
            "rate": 50,
            "names": list(latent.NAMES),
            "units": list(latent.UNITS),
            "mean": [0.1 if unit == "weight" else 0.0 for unit in latent.UNITS],
            "std": [scale[unit] for unit in latent.UNITS],
        },
        "audio": {
            **{"rate": 16000, "hop": 160, "window": 400, "fft": 512, "mels": 64},
            **{"fmin": 60.0, "fmax": 7600.0, "floor": 1e-5, "tick": 640, "look_ahead": 960},
            "mean": [-6.0] * 64,
            "std": [3.0] * 64,
        },
        "sampler": {"kind": "flow", "schedule": [1.0, 0.5, 0.0], "noise_correlation": 0.9},
        "conditions": list(CONDITIONS),
        "portrait": {"size": 512, "eyes": [0.5, 0.42], "interpupillary": 0.165},
        "keypoints": ["rightEye", "leftEye", "nose", "mouth"],
    }


def write_tiny_bundle(folder: Path, kind: str = "onnx") -> Bundle:
    """Write the tiny bundle to ``folder``."""
    return write_bundle(folder, tiny_stages(kind), tiny_head())


if __name__ == "__main__":
    print(write_tiny_bundle(Path(sys.argv[1])).path)
