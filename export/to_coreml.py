"""A torch module becomes a Core ML program, and only when it computes the same.

The numeric gate is part of the conversion. On macOS Core ML itself predicts; elsewhere the saved
program is evaluated operator by operator (``coreml_eval``).

An artifact is two files, the program (.mlmodel) and its weights, the parts of an .mlpackage.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivant.backends import Signature
from vivant.bundle import TENSORS
from vivant.export.coreml_eval import evaluate
from vivant.export.coreml_lint import TYPES, lint
from vivant.export.coreml_program import Program, load_coremltools, main_block, read_program
from vivant.export.gate import Example, check, run
from vivant.export.to_onnx import reference, rounded
from vivant.export.write import ArtifactData
from vivant.graph import compare
from vivant.mlpackage import RESERVED
from vivant.tensor import Array, TensorSpec

FORMAT = "coreml"

TARGET = "macOS14"
"""Oldest system that runs the programs (with iOS 17): that of ONNX Runtime's wheels."""

MARGIN, TOLERANCES = 4.0, (1e-2, 0.2)
"""The golden tolerance is the error measured here times MARGIN, within TOLERANCES.

The Neural Engine accumulates otherwise than the evaluator does.
"""

EXACT = {"encode": 8192}
"""Results of fewer elements stay in fp32 even in an fp16 program, by stage.

Keypoints lie in 0..1 and what tells an expression are differences of a hundredth of that, of which
fp16 keeps three bits: the photo's motion code has 48 dB in fp16 throughout and 64 dB so.
"""


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
    ``examples`` are inputs by name, float32, the first of them is the golden one. ``precision`` is
    that of the arithmetic, ``fp32`` or ``fp16``; inputs and outputs are float32. ``least``
    overrides the PSNR that every output must reach. Raises BundleError when the program falls
    short of the gate and BackendError without coremltools.
    """
    names, outputs = (tuple(group) for group in TENSORS[stage])
    examples = [{name: rounded(example[name], 11) for name in names} for example in examples]
    expected = [reference(module, example, outputs) for example in examples]
    inputs = [examples[0][name] for name in names]
    model, weights = convert(module, inputs, names, outputs, precision, EXACT.get(stage, 0))
    return measure(stage, model, weights, precision, examples, expected, least=least)


def measure(
    stage: str,
    model: bytes,
    weights: bytes,
    precision: str,
    examples: Sequence[Example],
    expected: Sequence[Example],
    *,
    least: float | None = None,
) -> ArtifactData:
    """A program as an artifact, run on ``examples`` and held against the outputs ``expected``.

    Beside the fidelity, the figures count the operators that may leave the Neural Engine of the
    oldest Mac, by kind. Raises BundleError when it falls short of the gate.
    """
    got = predict(model, weights, examples, expected[0])
    figures = check(f"{precision} Core ML program", stage, precision, expected, [got], least)
    error = max(max(compare(w, g).values()) for w, g in zip(expected, got, strict=True))
    tolerance = float(f"{min(max(TOLERANCES[0], error * MARGIN), TOLERANCES[1]):.1e}")
    figures |= off_engine(read_program(model, weights))
    return ArtifactData(model, precision, figures, FORMAT, tolerance, weights)


def off_engine(program: Program) -> dict[str, float]:
    """How many operators there are, and how many of each kind may leave the Neural Engine.

    Those that compute in another type than fp16 are counted by that type.
    """
    found = [f for f in lint(program) if f.level in ("off", "doubtful")]
    away = {f.name: f.rule.split()[0] if f.source == TYPES else f.kind for f in reversed(found)}
    counts = Counter(f"off_engine_{kind}" for kind in away.values())
    figures = {"operators": len(program.operations), **dict(sorted(counts.items()))}
    return {key: float(value) for key, value in figures.items()}


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
    with quiet(), torch.no_grad():
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
def quiet() -> Iterator[None]:
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


def predict(
    model: bytes, weights: bytes, examples: Sequence[Example], outputs: Example
) -> list[dict[str, Array]]:
    """Outputs by name for inputs by name: Core ML's own on macOS, the evaluator's elsewhere.

    ``outputs`` has the names and shapes of what comes out.
    """
    if sys.platform == "darwin":
        specs = (
            tuple(TensorSpec(name, "float32", value.shape) for name, value in group.items())
            for group in (examples[0], outputs)
        )
        return run(FORMAT, model, Signature(*specs), examples, "", (FORMAT,), weights)[0]
    program = read_program(model, weights)
    feeds = [{RESERVED.get(name, name): v for name, v in each.items()} for each in examples]
    return [evaluate(program, each) for each in feeds]
