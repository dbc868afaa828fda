"""A saved Core ML program, read from its own protobuf: values, operators, constants.

Only the message classes of coremltools are used, none of its converter, so that what is read is
what Core ML will read. Format: ``MIL.proto`` and ``Model.proto`` of coremltools 9.0 and the blob
storage of its ``MILBlob`` library, version 2.
"""

from __future__ import annotations

import importlib
import logging
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from vivant.errors import BackendError, BundleError
from vivant.tensor import Array

SENTINEL = 0xDEADBEEF
"""First word of a blob's entry in the weight file."""
ENTRY = struct.Struct("<IIQQ")
"""A blob's entry: sentinel, element type, bytes, offset of the data."""
BLOBS = {1: np.float16, 2: np.float32, 3: np.uint8, 4: np.int8, 14: np.int32}
"""Element types of blobs, ``MILBlob/Blob/BlobDataType.hpp``."""
FIELDS = ("floats", "ints", "bools", "strings", "longInts", "doubles", "bytes")
"""Where a ``TensorValue`` may keep its elements."""


@dataclass(frozen=True)
class Value:
    """A tensor of the program."""

    name: str
    dtype: str
    """NumPy's name of the element type, or ``string``."""
    shape: tuple[int, ...]
    """-1 for a size that is not known."""


@dataclass(frozen=True)
class Operation:
    """One operator; constants are no operations here."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    """Names of values by parameter; most parameters have one."""
    outputs: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The first output's name."""
        return self.outputs[0].name


@dataclass(frozen=True)
class Program:
    """The program's main function."""

    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    """In an order in which they can run."""
    constants: Mapping[str, Any]
    """Arrays and, for options, strings, by value name."""


def load_coremltools() -> ModuleType:
    """coremltools, without its remarks on versions; raises BackendError when not installed."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("coremltools")
    except ImportError as error:
        raise BackendError(
            "coremltools is not installed", got=str(error), fix="Run: pip install coremltools"
        ) from None


def read_program(model: bytes, weights: bytes) -> Program:
    """The program of an .mlmodel file and its weight file; raises BundleError for any other."""
    load_coremltools()
    spec = importlib.import_module("coremltools.proto.Model_pb2").Model()
    try:
        spec.ParseFromString(model)
        return parse(spec, weights)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise BundleError("the Core ML program cannot be read", got=text) from error


def main_block(spec: Any) -> tuple[Any, Any]:
    """Main function of a model and its only block; raises BundleError for any other model."""
    function = spec.mlProgram.functions["main"]
    if list(function.block_specializations) != [function.opset]:
        raise BundleError("no ML program with one main block")
    return function, function.block_specializations[function.opset]


def parse(spec: Any, weights: bytes) -> Program:
    """The program of a ``Model`` message whose large constants lie in ``weights``."""
    function, block = main_block(spec)
    constants: dict[str, Any] = {}
    operations = []
    for op in block.operations:
        outputs = tuple(_value(value) for value in op.outputs)
        if op.type in CONSTANTS:
            stored = {key: _constant(value, weights) for key, value in op.attributes.items()}
            constants[outputs[0].name] = CONSTANTS[op.type](stored)
            continue
        inputs: dict[str, tuple[str, ...]] = {}
        for key, argument in op.inputs.items():
            names = []
            for index, binding in enumerate(argument.arguments):
                names.append(binding.name)
                if binding.WhichOneof("binding") == "value":
                    names[-1] = f"{outputs[0].name}.{key}.{index}"
                    constants[names[-1]] = _constant(binding.value, weights)
            inputs[key] = tuple(names)
        operations.append(Operation(op.type, inputs, outputs))
    return Program(
        inputs=tuple(_value(value) for value in function.inputs),
        outputs=tuple(block.outputs),
        operations=tuple(operations),
        constants=constants,
    )


def dequantised(stored: Mapping[str, Any]) -> Array:
    """(data - zero point) * scale, with a scale and zero point for each index of an axis."""
    data, scale = stored["quantized_data"], stored["scale"]
    along = [1] * data.ndim
    along[int(stored["axis"])] = -1
    zero = stored["zero_point"].astype(np.float32).reshape(along if scale.ndim else ())
    wide: Array = (data - zero) * scale.astype(np.float32).reshape(along if scale.ndim else ())
    return wide.astype(scale.dtype)


def looked_up(stored: Mapping[str, Any]) -> Array:
    """Entries of a palette of 2, 4, 16, 64 or 256, by packed indices, lowest bit first."""
    palette, shape = stored["lut"], stored["shape"].astype(int)
    bits = int(palette.size).bit_length() - 1
    packed = np.unpackbits(stored["indices"], bitorder="little")[: shape.prod() * bits]
    indices = packed.reshape(-1, bits).astype(int) @ (1 << np.arange(bits))
    found: Array = palette[indices].reshape(shape)
    return found


CONSTANTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "const": lambda stored: stored["val"],
    "constexpr_affine_dequantize": dequantised,
    "constexpr_lut_to_dense": looked_up,
}
"""Operators that Core ML computes when it loads a program, from what the file stores."""


def _dtype(code: int) -> str:
    name: str = importlib.import_module("coremltools.proto.MIL_pb2").DataType.Name(code)
    return name.lower()


def _value(named: Any) -> Value:
    kind = named.type.tensorType
    shape = tuple(
        int(d.constant.size) if d.WhichOneof("dimension") == "constant" else -1
        for d in kind.dimensions
    )
    return Value(named.name, _dtype(kind.dataType), shape)


def _constant(value: Any, weights: bytes) -> Any:
    kind = value.type.tensorType
    dtype = _dtype(kind.dataType)
    shape = [int(d.constant.size) for d in kind.dimensions]
    if value.WhichOneof("value") == "blobFileValue":
        return _blob(weights, value.blobFileValue.offset, dtype).reshape(shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field not in FIELDS:
        raise BundleError("unknown constant in a Core ML program", got=str(field))
    if dtype == "string":
        strings = list(tensor.strings.values)
        return strings if shape else strings[0]
    if field == "bytes":  # types that protobuf has no field for, such as float16
        return np.frombuffer(tensor.bytes.values, dtype).reshape(shape)
    return np.array(list(getattr(tensor, field).values), dtype).reshape(shape)


def _blob(weights: bytes, offset: int, dtype: str) -> Array:
    sentinel, code, size, start = ENTRY.unpack_from(weights, offset)
    if sentinel != SENTINEL or np.dtype(BLOBS.get(code, np.void)) != np.dtype(dtype):
        raise BundleError(
            "the Core ML weights do not fit the program",
            expected=f"{dtype} at byte {offset}",
            got=f"type {code} after {sentinel:#x}",
        )
    if start + size > len(weights):
        raise BundleError("the Core ML weights are cut short", got=f"{len(weights)} bytes")
    return np.frombuffer(weights[start : start + size], dtype)
