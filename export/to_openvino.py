"""A stage's ONNX graph becomes OpenVINO IR, and only when the runtime computes the same with it.

An IR is two files, the graph as XML and its constants. Names, whitespace and the history of the
conversion are left out, so that the same graph is the same bytes in every process.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ElementTree
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vivant.backends import Signature
from vivant.errors import BundleError
from vivant.export.gate import PSNR, fidelity, run
from vivant.export.write import ArtifactData, StageData

FLOATING = ("fp32", "w16")
"""Precisions of ONNX artifacts that are the network as it was trained."""

LARGE = 256
"""Elements from which a constant is worth storing in 16 bits."""


def openvino() -> Any:
    """The vendor's module, kept from reporting its use; raises BackendError without it."""
    from vivant.backends import load_backend

    load_backend("openvino")  # blocks the report before the first import
    import openvino

    return openvino


def read(model: bytes, weights: bytes = b"") -> Any:
    """The ``openvino.Model`` of an ONNX graph, made ready, or of IR with its ``weights``."""
    core = openvino().Core()
    if weights:
        return core.read_model(model, weights)
    graph = core.read_model(model)
    fold(graph)
    turn_differences(graph)
    return graph


def fold(model: Any) -> None:
    """Compute what depends on constants alone, such as shapes: every size becomes a number."""
    openvino()
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def turn_differences(model: Any) -> None:
    """Write ``constant - x`` as ``-(x - constant)`` where ``x`` is the smaller one.

    Both are equal bit for bit. The NPU's compiler in OpenVINO 2026.4 takes such a constant for
    the weights of a convolution over ``x``, and fails for a matrix of one row.
    """
    ops = openvino().opset13
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Subtract":
            continue
        left, right = (node.input(index).get_source_output() for index in range(2))
        constant = left.get_node().get_type_name() == "Constant"
        if constant and right.get_shape() != node.get_output_shape(0):
            turned = ops.negative(ops.subtract(right, left))
            node.output(0).replace(turned.output(0))
    model.validate_nodes_and_infer_types()


def to_openvino(stage: str, data: StageData) -> ArtifactData:
    """The stage's first ONNX artifact in floating point as IR, measured on the golden tensors.

    Raises BundleError when the stage has no ONNX artifact, or the IR computes something else than
    the golden output; BackendError when OpenVINO is missing or cannot run it.
    """
    kinds = [("onnx", precision) for precision in FLOATING]
    source = next((a for a in data.artifacts if (a.format, a.precision) in kinds), None)
    if source is None:
        raise BundleError(f"stage {stage} has no ONNX artifact in floating point to convert")
    graph, weights = serialise(read(source.data))
    inputs, expected = data.golden
    signature = Signature(data.inputs, data.outputs)
    runs = run(stage, graph, signature, [inputs], source.precision, ("openvino",), weights)
    figures = fidelity([expected], runs)
    worst = min(figures, key=lambda name: figures[name])
    least = PSNR[source.precision]
    if not figures[worst] >= least:
        raise BundleError(
            f"the OpenVINO graph of {stage} is not the network that was trained",
            expected=f"PSNR of {worst} >= {least:g} dB",
            got=f"{figures[worst]:.1f} dB",
        )
    measured = {"psnr_db": figures[worst], **{f"psnr_db_{n}": v for n, v in figures.items()}}
    return ArtifactData(graph, source.precision, measured, "openvino", weights=weights)


def serialise(model: Any) -> tuple[bytes, bytes]:
    """Graph (XML) and weights of an ``openvino.Model``, the same bytes for the same graph.

    Constants that 16 bits hold exactly are stored in 16 bits. ``model`` is changed: its nodes get
    short names.
    """
    halve_constants(model)
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"n{number}")
    model.set_friendly_name("graph")
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        openvino().serialize(model, str(graph), str(weights))
        root = ElementTree.fromstring(graph.read_bytes())
        # What remains of the conversion: versions, options and paths.
        for extra in root.findall("rt_info"):
            root.remove(extra)
        for element in root.iter():
            element.text = (element.text or "").strip() or None
            element.tail = None
        return ElementTree.tostring(root), weights.read_bytes()


def halve_constants(model: Any) -> None:
    """Store large float32 constants that are exact in 16 bits so; loading folds them back."""
    ops = openvino().opset13
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().to_string() != "f32":
            continue
        if prod(node.get_output_shape(0)) < LARGE:
            continue
        values = node.get_data()
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        readers = node.output(0).get_target_inputs()
        wide = ops.convert(ops.constant(half), "f32")
        for reader in readers:
            reader.replace_source_output(wide.output(0))
