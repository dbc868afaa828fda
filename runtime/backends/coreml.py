"""Core ML: the CPU, the GPU and the Neural Engine of a Mac, through PyObjC's bindings.

Core ML opens folders by their path. Only folders that were written here, from verified bytes, are
handed to it: never the bundle's own.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..cache import cache_folder
from ..errors import BackendError
from ..mlpackage import RESERVED, SUFFIX, write_package
from ..tensor import Array
from . import Options, Signature, match

FORMATS = ("coreml",)
PACKAGE = "pyobjc-framework-CoreML"

OLDEST = 14
"""macOS whose operators our programs use."""

UNITS = {
    "CPU": "MLComputeUnitsCPUOnly",
    "CPU+GPU": "MLComputeUnitsCPUAndGPU",
    "CPU+NPU": "MLComputeUnitsCPUAndNeuralEngine",
    "ALL": "MLComputeUnitsAll",
}
"""What a program may run on; Core ML itself divides it among them."""

_DTYPES = {65552: "float16", 65568: "float32", 65600: "float64"}
"""``MLMultiArrayDataType``."""
_FLOAT32 = 65568

KEPT = 16
"""Compiled programs that stay unpacked in the cache's folder."""


def _system() -> tuple[str, str]:
    """The platform, and macOS's version or an empty string."""
    return sys.platform, platform.mac_ver()[0]


@cache
def _vendor() -> SimpleNamespace:
    import CoreML
    import Foundation
    import objc

    return SimpleNamespace(ml=CoreML, url=Foundation.NSURL, pool=objc.autorelease_pool)


def version() -> str:
    """The system's version, which is Core ML's; BackendError where there is no Core ML."""
    name, number = _system()
    if name != "darwin" or int(number.partition(".")[0] or 0) < OLDEST:
        raise BackendError(
            "coreml is not available here",
            expected=f"macOS {OLDEST} or later",
            got=f"macOS {number}" if name == "darwin" else platform.system(),
        )
    _vendor()
    return f"macOS {number}"


def devices() -> tuple[str, ...]:
    """Sets of this machine's processors."""
    found = [unit for unit, kind in (("CPU+GPU", "GPU"), ("CPU+NPU", "NeuralEngine")) if _has(kind)]
    return ("CPU", *found, "ALL")


def _has(kind: str) -> bool:
    ml = _vendor().ml
    wanted = getattr(ml, f"ML{kind}ComputeDevice")
    return any(device.isKindOfClass_(wanted) for device in ml.MLAllComputeDevices())


def describe(device: str) -> str:
    """The processor, and what the set holds."""
    return f"{platform.machine()} {platform.processor()} ({device})"


def compile(model: bytes, signature: Signature, options: Options, weights: bytes = b"") -> _Model:
    """A program on a set of processors; the number of threads is Core ML's choice."""
    vendor = _vendor()
    home = tempfile.TemporaryDirectory(prefix="vivant.")
    folder = Path(home.name) / f"stage{SUFFIX}"
    write_package(folder, model, weights)
    url, problem = vendor.ml.MLModel.compileModelAtURL_error_(_url(folder), None)
    _check("compile", url, problem)
    # Core ML puts its result into a temporary folder that it never removes.
    compiled = shutil.move(str(url.path()), Path(home.name) / "stage.mlmodelc")
    shutil.rmtree(folder)
    return _Model(Path(compiled), signature, options, home)


def restore(blob: bytes, signature: Signature, options: Options) -> _Model:
    """The compiled program in ``blob``, unpacked where Core ML will find it the next time too.

    What Core ML prepares for the GPU and the Neural Engine, it keeps by the program's path
    (Apple, "Improve Core ML integration with async prediction", 2023).
    """
    top = cache_folder() / "coreml"
    folder = top / hashlib.sha256(blob).hexdigest()[:32] / "stage.mlmodelc"
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if _contents(folder) != files:
        _place(folder.parent, files)
    with suppress(OSError):
        os.utime(folder.parent)
        by_age = sorted(top.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in by_age[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    return _Model(folder, signature, options)


def _contents(folder: Path) -> dict[str, bytes]:
    """Files by path with forward slashes; none where there is no folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _place(folder: Path, files: dict[str, bytes]) -> None:
    """Put ``files`` into ``folder``/stage.mlmodelc, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft.", dir=folder.parent) as draft:
        for name, content in files.items():
            path = Path(draft) / "new" / "stage.mlmodelc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with suppress(FileNotFoundError):
            folder.rename(Path(draft) / "old")
        (Path(draft) / "new").rename(folder)


def _url(path: Path) -> Any:
    return _vendor().url.fileURLWithPath_(str(path))


def _check(what: str, result: Any, problem: Any) -> None:
    if result is None:
        raise RuntimeError(f"Core ML cannot {what}: {problem}")


class _Model:
    def __init__(
        self,
        folder: Path,
        signature: Signature,
        options: Options,
        home: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._folder = folder
        self._home = home  # removed with this object
        vendor = _vendor()
        settings = vendor.ml.MLModelConfiguration.alloc().init()
        settings.setComputeUnits_(getattr(vendor.ml, UNITS[options.device]))
        load = vendor.ml.MLModel.modelWithContentsOfURL_configuration_error_
        self._model, problem = load(_url(folder), settings, None)
        _check("load", self._model, problem)
        self._turn = Lock()  # a model takes one prediction at a time
        description = self._model.modelDescription()
        inputs = description.inputDescriptionsByName()
        outputs = description.outputDescriptionsByName()
        match("inputs", signature.inputs, [_port(n, inputs[n]) for n in inputs])
        match("outputs", signature.outputs, [_port(n, outputs[n]) for n in outputs])
        self._inputs = [RESERVED.get(spec.name, spec.name) for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        vendor = _vendor()
        with vendor.pool():
            values = {
                name: vendor.ml.MLFeatureValue.featureValueWithMultiArray_(_array(tensor))
                for name, tensor in zip(self._inputs, tensors, strict=True)
            }
            make = vendor.ml.MLDictionaryFeatureProvider.alloc().initWithDictionary_error_
            feeds, problem = make(values, None)
            _check("take the inputs", feeds, problem)
            with self._turn:
                results, problem = self._model.predictionFromFeatures_error_(feeds, None)
            _check("predict", results, problem)
            return [
                _view(results.featureValueForName_(name).multiArrayValue()).astype(
                    np.float32, order="C"
                )
                for name in self._outputs
            ]

    def export(self) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:  # with fixed dates, so equal is equal
            for name, content in _contents(self._folder).items():
                archive.writestr(zipfile.ZipInfo(name), content)
        return stream.getvalue()


def _port(name: Any, feature: Any) -> tuple[set[str], str, tuple[int, ...]]:
    rule = feature.multiArrayConstraint()
    if rule is None:
        return {str(name)}, "no tensor", ()
    names = {kept: ours for ours, kept in RESERVED.items()}
    shape = tuple(int(size) for size in rule.shape())
    dtype = _DTYPES.get(int(rule.dataType()), f"type {rule.dataType()}")
    return {names.get(str(name), str(name))}, dtype, shape


def _array(tensor: Array) -> Any:
    """``tensor`` as an MLMultiArray of its own memory."""
    make = _vendor().ml.MLMultiArray.alloc().initWithShape_dataType_error_
    array, problem = make([int(size) for size in tensor.shape], _FLOAT32, None)
    _check("make an array", array, problem)
    _view(array)[...] = tensor
    return array


def _view(array: Any) -> Array:
    """The elements of an MLMultiArray, whose rows may be padded, in its own memory."""
    dtype = np.dtype(_DTYPES[int(array.dataType())])
    shape = tuple(int(size) for size in array.shape())
    strides = tuple(int(step) for step in array.strides())
    span = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    flat = np.frombuffer(array.dataPointer().as_buffer(span * dtype.itemsize), dtype, span)
    steps = tuple(step * dtype.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, steps)
