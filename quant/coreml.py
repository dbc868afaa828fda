"""Weights of a Core ML program in fewer bits: linear in 8, or as indices into a palette.

Only the weights of convolutions and products with constants are stored so. Every other constant,
the grid of sampling positions first of all, stays in 16 bits: in 8, the frames had 34 dB instead
of 59. The arithmetic stays fp16: Core ML unpacks the weights when it loads the program, or on the
Neural Engine while it computes. Activations cannot be quantised off macOS, because coremltools
finds their ranges by running the program.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vivant.errors import BundleError
from vivant.export.coreml_eval import evaluate
from vivant.export.coreml_program import Program, load_coremltools, main_block, read_program
from vivant.export.gate import Example, fidelity
from vivant.export.to_coreml import measure, quiet, strip
from vivant.export.write import ArtifactData, StageData
from vivant.mlpackage import RESERVED, SUFFIX, write_package
from vivant.quant.moves import Judge
from vivant.quant.weights import carries, keep_worst

PALETTES = {"p6": 6, "p4": 4}
"""Bits of an index, by precision."""
PRECISIONS = ("w8", *PALETTES)

OPERATORS = ("conv", "linear")
"""Whose weights are compressed."""
LARGE = 512
"""Weights from which a tensor is worth it."""


def compress(
    model: bytes, weights: bytes, precision: str, kept: Collection[str] = ()
) -> tuple[bytes, bytes]:
    """A program and its weights with the weights in ``precision``, the same bytes each time.

    ``w8`` is symmetric with a scale for each output channel; a palette is one for each tensor.
    Operators called one of ``kept`` stay as they are, as do those whose weights operators of
    another kind read too.
    """
    tools = load_coremltools()
    import coremltools.optimize.coreml as optimize

    if precision == "w8":
        rule = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=LARGE
        )
        run = optimize.linear_quantize_weights
    else:
        rule = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=PALETTES[precision], weight_threshold=LARGE
        )
        run = optimize.palettize_weights
    program = read_program(model, weights)
    free = {layer.name for layer in layers(program)} - set(kept)
    others = [op.name for op in program.operations if op.name not in free]
    config = optimize.OptimizationConfig(
        op_type_configs=dict.fromkeys(OPERATORS, rule), op_name_configs=dict.fromkeys(others)
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        package = write_package(Path(folder) / f"stage{SUFFIX}", unshared(model), weights)
        result = run(tools.models.MLModel(str(package), skip_model_load=True), config)
        spec: Any = result.get_spec()
        blobs = Path(result.weights_dir) / "weight.bin"
        stored = blobs.read_bytes() if blobs.exists() else b""
    function, block = main_block(spec)
    strip(spec, [value.name for value in function.inputs], list(block.outputs))
    return spec.SerializeToString(deterministic=True), stored


def unshared(model: bytes) -> bytes:
    """The program with constants of their own for every layer.

    coremltools takes a rule for a constant from its readers and wants them to agree, also on a
    bias that several layers have in common.
    """
    spec: Any = importlib.import_module("coremltools.proto.Model_pb2").Model()
    spec.ParseFromString(model)
    _, block = main_block(spec)
    constants = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
    operations: list[Any] = []
    for op in block.operations:
        arguments = op.inputs.values() if op.type in OPERATORS else ()
        for binding in (binding for argument in arguments for binding in argument.arguments):
            if binding.name in constants:
                own = type(op).FromString(constants[binding.name].SerializeToString())
                own.outputs[0].name = binding.name = f"{binding.name}_{len(operations)}"
                own.attributes["name"].immediateValue.tensor.strings.values[:] = [binding.name]
                operations.append(own)
        operations.append(op)
    copies = [type(op).FromString(op.SerializeToString()) for op in operations]
    del block.operations[:]
    block.operations.extend(copies)
    data: bytes = spec.SerializeToString(deterministic=True)
    return data


@dataclass(frozen=True)
class Layer:
    """An operator whose weights can be compressed."""

    name: str
    weights: str
    """Name of the constant."""


def layers(program: Program) -> list[Layer]:
    """The operators whose weights can be compressed, in the program's order."""
    kinds: dict[str, set[str]] = {}
    for op in program.operations:
        for name in (name for names in op.inputs.values() for name in names):
            kinds.setdefault(name, set()).add(op.kind)
    found = []
    for op in program.operations:
        if op.kind in OPERATORS:
            name = op.inputs["weight"][0]
            constant = program.constants.get(name)
            if constant is not None and constant.size >= LARGE and kinds[name] <= set(OPERATORS):
                found.append(Layer(op.name, name))
    return found


def sensitivity(
    program: Program, small: Program, inputs: Example, outputs: Example
) -> dict[str, float]:
    """PSNR, dB, of the worst output when only one layer is as in ``small``, by layer."""
    feeds = {RESERVED.get(name, name): value for name, value in inputs.items()}
    stored = [op.inputs["weight"][0] for op in small.operations if op.kind in OPERATORS]
    names = [op.name for op in program.operations if op.kind in OPERATORS]
    weights = dict(zip(names, stored, strict=True))
    alone = {}
    for layer in layers(program):
        changed = {**program.constants, layer.weights: small.constants[weights[layer.name]]}
        got = evaluate(replace(program, constants=changed), feeds)
        alone[layer.name] = min(fidelity([outputs], [[got]]).values())
    return alone


def compressed(
    stage: str,
    data: StageData,
    precision: str,
    tell: Callable[[str], None] = lambda text: None,
    judge: Judge | None = None,
) -> ArtifactData:
    """The stage's fp16 program with its weights in ``precision``, measured on the golden tensors.

    When it falls short of the gate, each layer is compressed alone, and the worst ones stay as
    they are until the gate is passed; ``tell`` hears which. ``judge`` compares the motion of a
    whole recording too. Raises BundleError when the stage has no such program, or no layer is
    left.
    """
    kind = ("coreml", "fp16")
    source = next((a for a in data.artifacts if (a.format, a.precision) == kind), None)
    if source is None:
        raise BundleError(
            f"stage {stage} has no Core ML program in fp16", fix="Run: vivant export --coreml"
        )
    inputs, outputs = data.golden
    program = read_program(source.data, source.weights)
    shapes = {layer.name: program.constants[layer.weights].shape for layer in layers(program)}
    exact = [name for name, shape in shapes.items() if carries(data, shape)]
    names = [name for name in shapes if name not in exact]

    def attempt(kept: Sequence[str]) -> ArtifactData:
        files = compress(source.data, source.weights, precision, [*exact, *kept])
        artifact = measure(stage, *files, precision, [inputs], [outputs])
        return judge.checked(stage, data, artifact) if judge else artifact

    def alone() -> dict[str, float]:
        if judge:
            found = {}
            for name in names:
                kept = [other for other in shapes if other != name]
                graph, weights = compress(source.data, source.weights, precision, kept)
                artifact = replace(source, data=graph, weights=weights)
                found[name] = judge.decibels(stage, data, artifact)
            return found
        small = read_program(*compress(source.data, source.weights, precision))
        figures = sensitivity(program, small, inputs, outputs)
        return {name: figures[name] for name in names}

    return keep_worst(attempt, alone, tell)
