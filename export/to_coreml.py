"""A torch module becomes a Core ML program, and only when it computes the same.

The numeric gate is part of the conversion. On macOS Core ML itself predicts; elsewhere the saved
program is evaluated operator by operator (``coreml_eval``).

An artifact is two files, the program (.mlmodel) and its weights; Core ML wants both in a folder
with a manifest of its own, which ``write_package`` makes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivant.bundle import TENSORS
from vivant.errors import BundleError
from vivant.export.coreml_eval import evaluate
from vivant.export.coreml_program import load_coremltools, main_block, read_program
from vivant.export.gate import Example, fidelity
from vivant.export.to_onnx import reference, rounded
from vivant.export.write import ArtifactData
from vivant.tensor import Array

FORMAT = "coreml"

TARGET = "macOS14"
"""Oldest system that runs the programs (with iOS 17): that of ONNX Runtime's wheels."""

PSNR = {"fp32": 80.0, "fp16": 50.0}
"""Least PSNR, dB, of each output against the module, by precision of the arithmetic."""

EXACT = {"encode": 8192}
"""Results of fewer elements stay in fp32 even in an fp16 program, by stage.

Keypoints lie in 0..1 and what tells an expression are differences of a hundredth of that, of which
fp16 keeps three bits: the photo's motion code has 48 dB in fp16 throughout and 64 dB so.
"""

RESERVED = {"state": "state_in"}
"""Names that Core ML keeps for itself, and what the program's inputs are called instead."""

FOLDER = "com.apple.CoreML"
MODEL, WEIGHTS = f"Data/{FOLDER}/model.mlmodel", f"Data/{FOLDER}/weights/weight.bin"
"""Where an .mlpackage keeps the two files."""
IDENTIFIERS = "7c3f0a52-6a0e-5d0c-9d6b-0d2d2b1f0001", "7c3f0a52-6a0e-5d0c-9d6b-0d2d2b1f0002"
"""Of program and weights in every package's manifest; Core ML's own tools draw them at random."""


def to_artifact(
    stage: str,
    module: nn.Module,
    examples: Sequence[Example],
    *,
    precision: str = "fp16",
    least: float | None = None,
) -> ArtifactData:
    """The Core ML artifact that ``module`` is, its fidelity measured.

    ``module`` takes and gives the stage's tensors in the order of ``vivant.bundle.TENSORS``;
    ``examples`` are inputs by name, float32. ``precision`` is that of the arithmetic, ``fp32`` or
    ``fp16``; inputs and outputs are float32. ``least`` overrides the PSNR that every output must
    reach. Raises BundleError below it and BackendError without coremltools.
    """
    names, outputs = (tuple(group) for group in TENSORS[stage])
    examples = [{name: rounded(example[name], 11) for name in names} for example in examples]
    expected = [reference(module, example, outputs) for example in examples]
    inputs = [examples[0][name] for name in names]
    model, weights = convert(module, inputs, names, outputs, precision, EXACT.get(stage, 0))
    figures = fidelity(expected, [predict(model, weights, examples)])
    worst = min(figures, key=lambda name: figures[name])
    least = PSNR[precision] if least is None else least
    if not figures[worst] >= least:
        raise BundleError(
            f"the {precision} Core ML program of {stage} is not the network that was trained",
            expected=f"PSNR of {worst} >= {least:g} dB",
            got=f"{figures[worst]:.1f} dB",
            fix="Use fp32, or see with coreml_lint what leaves the range of fp16.",
        )
    measured = {"psnr_db": figures[worst], **{f"psnr_db_{n}": v for n, v in figures.items()}}
    return ArtifactData(model, precision, measured, FORMAT, weights=weights)


def convert(
    module: nn.Module,
    inputs: Sequence[Array],
    names: Sequence[str],
    outputs: Sequence[str],
    precision: str,
    exact: int = 0,
) -> tuple[bytes, bytes]:
    """``module`` as a Core ML program of static shapes and its weights, the same bytes each time.

    ``inputs`` in the order of ``names``; ``outputs`` name what the module returns. Results of fewer
    than ``exact`` elements are computed in fp32 in any case.
    """
    tools = load_coremltools()
    module.eval()
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs)
    kinds = {
        "fp32": tools.precision.FLOAT32,
        "fp16": tools.transform.FP16ComputePrecision(
            lambda op: max(math.prod(value.shape) for value in op.outputs) >= exact
        ),
    }
    with _quiet(), torch.no_grad():
        # An undecomposed program is refused; the default decompositions lose grid_sampler.
        program = torch.export.export(module, tensors).run_decompositions(REPLACED)
        model = tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(tools.target, TARGET),
            compute_precision=kinds[precision],
            outputs=[tools.TensorType(name, dtype=np.float32) for name in outputs],
            skip_model_load=True,
        )
        spec = model.get_spec()
        blobs = Path(model.weights_dir) / "weight.bin"  # not there when all constants are small
        weights = blobs.read_bytes() if blobs.exists() else b""
    strip(spec, [RESERVED.get(name, name) for name in names], outputs)
    return spec.SerializeToString(deterministic=True), weights


def _product(x: Tensor, y: Tensor) -> Tensor:
    if y.ndim != 1:
        return NotImplemented  # stays as it is
    return nn.functional.linear(x, y[None])[..., 0]


REPLACED = {torch.ops.aten.matmul.default: _product}
"""Products with a vector, which Core ML has not."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # coremltools draws progress bars and warns of versions and of renamed inputs.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def strip(spec: Any, names: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs as asked, other values by operator and place; drop dates and paths.

    ``names`` and ``outputs`` are in the program's order. Two conversions of the same network
    become the same message.
    """
    function, block = main_block(spec)
    known = dict(zip([value.name for value in function.inputs], names, strict=True))
    known |= dict(zip(block.outputs, outputs, strict=True))
    for op in block.operations:
        for value in op.outputs:
            known.setdefault(value.name, f"{op.type}_{len(known)}")
    for value in function.inputs:
        value.name = known[value.name]
    block.outputs[:] = [known[name] for name in block.outputs]
    for op in block.operations:
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = known[binding.name]
        for value in op.outputs:
            value.name = known[value.name]
        op.attributes["name"].immediateValue.tensor.strings.values[:] = [op.outputs[0].name]
    for feature in (*spec.description.input, *spec.description.output):
        feature.name = known[feature.name]
    spec.description.ClearField("metadata")


def write_package(folder: Path, model: bytes, weights: bytes) -> Path:
    """Write the two files as the .mlpackage ``folder``, the same bytes for the same files."""
    items = zip(IDENTIFIERS, (MODEL, WEIGHTS.rpartition("/")[0]), strict=True)
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {
                "author": FOLDER,
                "description": "CoreML Model " + ("Specification" if path == MODEL else "Weights"),
                "name": path.rpartition("/")[2],
                "path": path.removeprefix("Data/"),
            }
            for key, path in items
        },
        "rootModelIdentifier": IDENTIFIERS[0],
    }
    for name, content in ((MODEL, model), (WEIGHTS, weights)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "Manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def predict(model: bytes, weights: bytes, examples: Sequence[Example]) -> list[dict[str, Array]]:
    """Outputs by name for inputs by name: Core ML's on macOS, the evaluator's elsewhere."""
    feeds = [{RESERVED.get(name, name): v for name, v in each.items()} for each in examples]
    if sys.platform != "darwin":
        program = read_program(model, weights)
        return [evaluate(program, each) for each in feeds]
    with tempfile.TemporaryDirectory() as folder:
        path = write_package(Path(folder) / "stage.mlpackage", model, weights)
        native = load_coremltools().models.MLModel(str(path))
        return [
            {name: np.asarray(v, np.float32) for name, v in native.predict(each).items()}
            for each in feeds
        ]
