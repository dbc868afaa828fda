"""Write a bundle: all files or none, with a manifest that the runtime has read back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivant.bundle import FORMAT, MANIFEST, Bundle, Stage
from vivant.cache import write_atomic
from vivant.errors import BundleError, OutputError
from vivant.tensor import Array, TensorSpec

TOLERANCE = 1e-2
"""Golden error allowed by default, relative to each output's peak."""


@dataclass(frozen=True)
class ArtifactData:
    """One graph file to be written."""

    data: bytes
    precision: str
    fidelity: Mapping[str, float]
    """Measured against the fp32 network."""
    format: str = "onnx"
    tolerance: float | None = None
    """Overrides the golden's tolerance."""


@dataclass(frozen=True)
class StageData:
    """One stage to be written."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifacts: tuple[ArtifactData, ...]
    """In order of preference."""
    golden: tuple[Mapping[str, Array], Mapping[str, Array]]
    """Inputs and the fp32 network's outputs, by name."""
    tolerance: float = TOLERANCE


def stage_of(bundle: Bundle, stage: Stage) -> StageData:
    """A stage of an existing bundle, verified, to be written again."""
    artifacts = tuple(
        ArtifactData(bundle.read(a.file), a.precision, a.fidelity, a.format, a.tolerance)
        for a in stage.artifacts
    )
    golden = bundle.golden(stage)
    return StageData(stage.inputs, stage.outputs, artifacts, golden, stage.golden.tolerance)


def write_bundle(folder: Path, stages: Mapping[str, StageData], head: Mapping[str, Any]) -> Bundle:
    """Write ``stages`` under ``head`` (the manifest without format and stages) to ``folder``.

    The same arguments give the same bytes. Files of an older bundle in ``folder`` are replaced,
    the manifest last, and what it no longer names is removed; other files stay. Raises
    BundleError when the runtime would refuse the result and OutputError when it cannot be
    written; nothing is changed then.
    """
    folder = Path(folder)
    files: dict[str, bytes] = {}
    manifest: dict[str, Any] = {"format": FORMAT, **head}
    manifest["stages"] = {name: _stage(name, data, files) for name, data in stages.items()}
    files[MANIFEST] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bundle.", dir=folder.parent) as draft:
            for name, data in files.items():
                (Path(draft) / name).write_bytes(data)
            bundle = Bundle.open(draft)
            for stage in bundle.manifest.stages.values():
                bundle.golden(stage)
        old = _named(folder)
        for name, data in files.items():
            write_atomic(folder / name, data)
            os.chmod(folder / name, 0o644)
        for name in old - set(files):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the bundle {folder}", got=str(error)) from None
    return Bundle.open(folder)


def _named(folder: Path) -> set[str]:
    """Files that the manifest in ``folder`` names, or none when there is no readable one."""
    try:
        stages = Bundle.open(folder).manifest.stages.values()
    except BundleError:
        return set()
    return {ref.file for stage in stages for ref in stage.files}


def _stage(name: str, data: StageData, files: dict[str, bytes]) -> dict[str, Any]:
    artifacts = []
    for artifact in data.artifacts:
        stem = f"{name}.{artifact.precision}"
        entry = _file(stem, artifact.format, artifact.data, files) | {
            "format": artifact.format,
            "precision": artifact.precision,
            "fidelity": {key: round(float(v), 6) for key, v in artifact.fidelity.items()},
        }
        if artifact.tolerance is not None:
            entry["tolerance"] = artifact.tolerance
        artifacts.append(entry)
    return {
        "inputs": [_spec(spec) for spec in data.inputs],
        "outputs": [_spec(spec) for spec in data.outputs],
        "artifacts": artifacts,
        "golden": _file(f"{name}.golden", "npz", _npz(data), files) | {"tolerance": data.tolerance},
    }


def _file(stem: str, suffix: str, data: bytes, files: dict[str, bytes]) -> dict[str, Any]:
    # The name holds the content's hash, so that a new manifest never meets an old file: replacing
    # the manifest is the one step that changes the bundle.
    digest = hashlib.sha256(data).hexdigest()
    name = f"{stem}.{digest[:8]}.{suffix}"
    files[name] = data
    return {"file": name, "bytes": len(data), "sha256": digest}


def _spec(spec: TensorSpec) -> dict[str, Any]:
    shape = list(spec.shape)
    return {"name": spec.name, "dtype": spec.dtype, "shape": shape, "unit": spec.unit}


def _npz(data: StageData) -> bytes:
    """The golden tensors as a deflated .npz with fixed dates, so equal tensors are equal bytes."""
    stream = io.BytesIO()
    arrays = {f"in.{k}": v for k, v in data.golden[0].items()}
    arrays |= {f"out.{k}": v for k, v in data.golden[1].items()}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            body = io.BytesIO()
            np.lib.format.write_array(body, np.ascontiguousarray(array), version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), body.getvalue(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()
