"""Core ML and PyObjC as far as the backend uses them, for machines that are no Macs.

What a "program" computes is up to an ``engine``: the contract tests put ONNX files into the
packages, ``program_engine`` evaluates true Core ML programs. Everything else is kept as Apple
documents it: packages and compiled models are folders, results of calls come with an error beside
them, reserved names are refused, rows of results are padded, and a model in use refuses others.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest

from vivant.backends import coreml
from vivant.mlpackage import MANIFEST, MODEL, RESERVED, WEIGHTS
from vivant.tensor import Array

ALIGN = 16
"""Elements to a multiple of which rows of results are padded."""


class Engine(Protocol):
    """What a compiled program computes."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name."""
        ...


@dataclass
class OnnxEngine:
    """An ONNX file in the place of the program."""

    data: bytes
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._run = onnxruntime.InferenceSession(self.data, options)
        self._names = {RESERVED.get(n.name, n.name): n.name for n in self._run.get_inputs()}
        for ports, nodes in (
            (self.inputs, self._run.get_inputs()),
            (self.outputs, self._run.get_outputs()),
        ):
            for node in nodes:
                sizes = (size if isinstance(size, int) else -1 for size in node.shape)
                name = RESERVED.get(node.name, node.name) if ports is self.inputs else node.name
                ports[name] = tuple(sizes)

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        values = self._run.run(list(self.outputs), {self._names[n]: v for n, v in feeds.items()})
        return dict(zip(self.outputs, values, strict=True))


def onnx_engine(model: bytes, weights: bytes) -> Engine:
    """``model`` as an ONNX file."""
    return OnnxEngine(model)


def program_engine(model: bytes, weights: bytes) -> Engine:
    """``model`` as what it is, evaluated operator by operator."""
    from vivant.export.coreml_eval import evaluate
    from vivant.export.coreml_program import read_program

    program = read_program(model, weights)
    shapes = {v.name: v.shape for op in program.operations for v in op.outputs}

    class Evaluated:
        def __init__(self) -> None:
            self.inputs = {value.name: value.shape for value in program.inputs}
            self.outputs = {name: shapes[name] for name in program.outputs}

        def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            return evaluate(program, feeds)

    return Evaluated()


class MultiArray:
    """``MLMultiArray`` of float32."""

    def __init__(self, shape: Sequence[int], padded: bool = False) -> None:
        row = -(-shape[-1] // ALIGN) * ALIGN if padded else shape[-1]
        sizes = [*shape[:-1], row]
        self._shape = list(shape)
        self._strides = [int(np.prod(sizes[axis + 1 :], dtype=int)) for axis in range(len(sizes))]
        self._memory = bytearray(4 * int(np.prod(sizes, dtype=int)))
        self.values = np.frombuffer(self._memory, np.float32).reshape(sizes)[..., : shape[-1]]

    def shape(self) -> list[int]:
        return self._shape

    def strides(self) -> list[int]:
        return self._strides

    def dataType(self) -> int:
        return 65568

    def dataPointer(self) -> SimpleNamespace:
        def as_buffer(count: int) -> memoryview:
            assert count <= len(self._memory), "read beyond the array's end"
            return memoryview(self._memory)[:count]

        return SimpleNamespace(as_buffer=as_buffer)


class Model:
    """``MLModel``: compiles packages, loads what it compiled, predicts."""

    engine: Callable[[bytes, bytes], Engine]
    units: int | None
    """Compute units of the last load."""

    @classmethod
    def compileModelAtURL_error_(cls, url: Path, _: None) -> tuple[Any, Any]:
        """A folder of its own for the program whose package is at ``url``."""
        try:
            listed = json.loads((url / MANIFEST).read_text())
            root = listed["itemInfoEntries"][listed["rootModelIdentifier"]]["path"]
            assert url / "Data" / root == url / MODEL
            model, weights = (url / MODEL).read_bytes(), b""
            if len(listed["itemInfoEntries"]) > 1:
                weights = (url / WEIGHTS).read_bytes()
            cls.engine(model, weights)
        except Exception as error:
            return None, f"Error Domain=com.apple.CoreML Code=3 {error}"
        folder = Path(tempfile.mkdtemp()) / f"{url.stem}.mlmodelc"
        (folder / "weights").mkdir(parents=True)
        (folder / "model.mil").write_bytes(model)
        (folder / "weights" / "weight.bin").write_bytes(weights)
        return SimpleNamespace(path=lambda: str(folder)), None

    @classmethod
    def modelWithContentsOfURL_configuration_error_(
        cls, url: Path, configuration: Any, _: None
    ) -> tuple[Any, Any]:
        """The compiled program at ``url``."""
        try:
            files = [(url / name).read_bytes() for name in ("model.mil", "weights/weight.bin")]
            loaded = cls()
            loaded._program = cls.engine(*files)
        except Exception as error:
            return None, f"Error Domain=com.apple.CoreML Code=0 {error}"
        Model.units = configuration.units
        loaded._busy = threading.Lock()
        return loaded, None

    _program: Engine
    _busy: threading.Lock

    def modelDescription(self) -> SimpleNamespace:
        """Inputs and outputs with their constraints."""

        def features(ports: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
            return {
                name: SimpleNamespace(
                    multiArrayConstraint=lambda shape=shape: SimpleNamespace(
                        shape=lambda: shape, dataType=lambda: 65568
                    )
                )
                for name, shape in ports.items()
            }

        return SimpleNamespace(
            inputDescriptionsByName=lambda: features(self._program.inputs),
            outputDescriptionsByName=lambda: features(self._program.outputs),
        )

    def predictionFromFeatures_error_(
        self, feeds: Mapping[str, MultiArray], _: None
    ) -> tuple[Any, Any]:
        """Results in padded arrays."""
        assert not self._busy.locked(), "two predictions of one model at the same time"
        with self._busy:
            values = self._program({name: v.values.copy() for name, v in feeds.items()})
        arrays = {}
        for name, value in values.items():
            arrays[name] = MultiArray(value.shape, padded=True)
            arrays[name].values[...] = value

        def feature(name: str) -> SimpleNamespace:
            return SimpleNamespace(multiArrayValue=lambda: arrays[name])

        return SimpleNamespace(featureValueForName_=feature), None


class _Allocated:
    """``alloc().init...`` of the classes that the backend makes."""

    @classmethod
    def alloc(cls) -> Any:
        return cls()


class _NewArray(_Allocated):
    def initWithShape_dataType_error_(
        self, shape: Sequence[int], dtype: int, _: None
    ) -> tuple[MultiArray, None]:
        assert dtype == 65568
        return MultiArray(shape), None


class _Provider(_Allocated):
    def initWithDictionary_error_(self, values: Mapping[str, Any], _: None) -> tuple[Any, Any]:
        if bad := set(values) & set(RESERVED):
            return None, f"reserved names {bad}"
        return dict(values), None


class _Configuration(_Allocated):
    units: int | None = None

    def init(self) -> _Configuration:
        return self

    def setComputeUnits_(self, units: int) -> None:
        self.units = units


class _Device:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def isKindOfClass_(self, kind: str) -> bool:
        return kind == self._kind


@contextlib.contextmanager
def _pool() -> Iterator[None]:
    yield


def install(
    patch: pytest.MonkeyPatch,
    engine: Callable[[bytes, bytes], Engine] = onnx_engine,
    devices: Sequence[str] = ("CPU", "GPU", "NeuralEngine"),
) -> type[Model]:
    """Make this machine a Mac with macOS 14.5 for the backend; returns its ``MLModel``."""
    ml, foundation, objc = (ModuleType(name) for name in ("CoreML", "Foundation", "objc"))
    chosen: type[Model] = type("MLModel", (Model,), {"engine": staticmethod(engine)})
    kinds = {f"ML{kind}ComputeDevice": kind for kind in ("CPU", "GPU", "NeuralEngine")}
    vars(ml).update(
        kinds,
        MLModel=chosen,
        MLMultiArray=_NewArray,
        MLDictionaryFeatureProvider=_Provider,
        MLModelConfiguration=_Configuration,
        MLFeatureValue=SimpleNamespace(featureValueWithMultiArray_=lambda array: array),
        MLAllComputeDevices=lambda: [_Device(kind) for kind in devices],
        MLComputeUnitsCPUOnly=0,
        MLComputeUnitsCPUAndGPU=1,
        MLComputeUnitsAll=2,
        MLComputeUnitsCPUAndNeuralEngine=3,
    )
    vars(foundation)["NSURL"] = SimpleNamespace(fileURLWithPath_=Path)
    vars(objc)["autorelease_pool"] = _pool
    for module in (ml, foundation, objc):
        patch.setitem(sys.modules, module.__name__, module)
    patch.setattr(coreml, "_system", lambda: ("darwin", "14.5"))
    coreml._vendor.cache_clear()
    patch.setattr(coreml, "_vendor", cache(coreml._vendor.__wrapped__))
    return chosen
