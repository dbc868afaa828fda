"""A torch module becomes an ONNX artifact, and only when the runtime computes the same with it.

The numeric gate is part of the conversion: the artifact runs on the runtime's own backends and
must give what the module gives, or nothing is returned.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from vivant.backends import Signature
from vivant.bundle import TENSORS
from vivant.errors import BundleError
from vivant.export.gate import PSNR, Example, fidelity, run
from vivant.export.write import ArtifactData, StageData
from vivant.graph import compare
from vivant.tensor import Array, TensorSpec

OPSET = 18
"""The newest that every backend and quantiser reads; 16 brought GridSample."""

TOLERANCES = (2e-3, 5e-2)
"""Bounds of the golden tolerance; within them it is MARGIN times the largest error measured."""
MARGIN = 4.0

LARGE = 256
"""Elements from which a constant is worth storing in 16 bits."""


def to_stage(
    stage: str,
    module: nn.Module,
    examples: Sequence[Example],
    units: Mapping[str, str],
    *,
    precision: str = "w16",
    least: float | None = None,
    backends: Sequence[str] | None = None,
) -> StageData:
    """The stage that ``module`` is, its artifact measured and its golden tensors recorded.

    ``module`` takes and gives the stage's tensors in the order of ``vivant.bundle.TENSORS``;
    ``examples`` are inputs by name, float32, the first of them becomes golden. ``precision`` is
    ``fp32`` or ``w16`` (weights stored in 16 bits, arithmetic in fp32). ``least`` overrides the
    PSNR that every output must reach on every backend (default: all that are installed). Raises
    BundleError below it, BackendError when a backend cannot run the artifact.
    """
    names = tuple(tuple(group) for group in TENSORS[stage])
    examples = [{name: rounded(example[name], 11) for name in names[0]} for example in examples]
    expected = [reference(module, example, names[1]) for example in examples]
    signature = Signature(
        *(
            tuple(TensorSpec(n, "float32", values[n].shape, units.get(n, "")) for n in group)
            for group, values in zip(names, (examples[0], expected[0]), strict=True)
        )
    )
    model = convert(module, [examples[0][name] for name in names[0]], *names)
    if precision == "w16":
        halve_constants(model)
    data = serialise(model)
    runs = run(stage, data, signature, examples, precision, backends)
    figures = fidelity(expected, runs)
    worst = min(figures, key=lambda name: figures[name])
    least = PSNR[precision] if least is None else least
    if not figures[worst] >= least:
        raise BundleError(
            f"the {precision} graph of {stage} is not the network that was trained",
            expected=f"PSNR of {worst} >= {least:g} dB",
            got=f"{figures[worst]:.1f} dB",
            fix="Use --precision fp32, or look for operators that the backends compute otherwise.",
        )
    error = max(max(compare(w, g).values()) for r in runs for w, g in zip(expected, r, strict=True))
    if error * MARGIN > TOLERANCES[1]:
        raise BundleError(
            f"the {precision} graph of {stage} is far from the network in places",
            expected=f"errors of at most {TOLERANCES[1] / MARGIN:g} of an output's peak",
            got=f"{error:.2g}",
        )
    measured = {"psnr_db": figures[worst], **{f"psnr_db_{n}": v for n, v in figures.items()}}
    return StageData(
        inputs=signature.inputs,
        outputs=signature.outputs,
        artifacts=(ArtifactData(data, precision, measured),),
        golden=(examples[0], {n: rounded(v, 14) for n, v in expected[0].items()}),
        tolerance=float(f"{max(TOLERANCES[0], error * MARGIN):.1e}"),
    )


def reference(module: nn.Module, example: Example, outputs: Sequence[str]) -> dict[str, Array]:
    """What the fp32 module computes, by name; raises BundleError for NaN or infinity."""
    module.eval()
    with torch.no_grad():
        values = module(*(torch.from_numpy(np.ascontiguousarray(v)) for v in example.values()))
    values = (values,) if isinstance(values, Tensor) else tuple(values)
    result = {}
    for name, value in zip(outputs, values, strict=True):
        array = value.detach().numpy()
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise BundleError(
                f"the network's output {name} is unusable",
                expected="finite float32",
                got=f"{array.dtype}" if array.dtype != np.float32 else "NaN or infinity",
                fix="Train longer, or export another checkpoint.",
            )
        result[name] = np.ascontiguousarray(array)
    return result


def rounded(value: Array, bits: int) -> Array:
    """``value`` with ``bits`` bits of mantissa, which deflate to half the size."""
    mantissa, exponent = np.frexp(np.asarray(value, np.float32))
    kept = np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
    return np.ascontiguousarray(kept.astype(np.float32))


def convert(
    module: nn.Module, inputs: Sequence[Array], names: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """``module`` as a static ONNX graph, nothing in it but operators, tensors and their names."""
    module.eval()
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs)
    with _quiet():
        program = torch.onnx.export(
            module,
            tensors,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    fold_constants(model)
    strip(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter prints its progress and warns of optional packages.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what follows from constants alone, whatever its size, and store the result.

    Quantisers look for the weights of a convolution right before it. And OpenVINO 2026.4 on the
    CPU packs the weights of a matrix product once for each constant, and so multiplies by the wrong
    one of ``W`` and ``W.T`` when ``W`` is square and both are used.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.input and all(name in constants for name in node.input if name):
            values = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
            results = ReferenceEvaluator(node).run(None, values)
            for name, value in zip(node.output, results, strict=True):
                array = np.ascontiguousarray(value)
                constants[name] = numpy_helper.from_array(array, name)
        else:
            kept.append(node)
    names = {name for node in kept for name in node.input} | {out.name for out in graph.output}
    used = [tensor for name, tensor in constants.items() if name in names]
    for field, items in ((graph.node, kept), (graph.initializer, used)):
        del field[:]
        field.extend(items)


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, paths and shapes of inner tensors; give inner tensors short names.

    Two exports of the same network are the same bytes, whatever was exported before them.
    """
    graph = model.graph
    model.producer_name, model.producer_version, model.doc_string = "vivant", "", ""
    graph.name = "graph"
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    model.ClearField("functions")
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"w{len(names)}")
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names.setdefault(name, f"t{len(names)}") for name in node.output]


def halve_constants(model: onnx.ModelProto, keep: Collection[str] = ()) -> None:
    """Store large float32 constants in 16 bits behind a Cast, which backends fold when loading.

    Those called one of ``keep`` stay.
    """
    casts = []
    for index, tensor in enumerate(model.graph.initializer):
        large = tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= LARGE
        if not large or tensor.name in keep:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        half = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}h")
        name = tensor.name
        model.graph.initializer[index].CopyFrom(half)
        casts.append(
            helper.make_node("Cast", [half.name], [name], name=f"{name}c", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def serialise(model: onnx.ModelProto) -> bytes:
    """The checked file, the same bytes for the same graph."""
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
