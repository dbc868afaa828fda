"""Write a bundle: all files or none, with a manifest that the runtime has read back.

    vivant export --face CKPT --motion CKPT --align CKPT --out DIR [--base DIR]

Stages without a checkpoint, and the manifest's head, are taken from the bundle in ``--base``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivant import latent, mlpackage
from vivant.bundle import FORMAT, MANIFEST, STAGES, Bundle, Stage
from vivant.cache import write_atomic
from vivant.cli import run_module
from vivant.controls import CONDITIONS
from vivant.errors import BundleError, OutputError, UsageError
from vivant.export.share import SHARED, share
from vivant.mel import MelSpec
from vivant.tensor import Array, TensorSpec

UNITS = {
    "image": "RGB 0..1",
    "score": "probability",
    "landmarks": "pixels from the cell's centre, x then y",
    "portrait": "RGB 0..1",
    "features": "own",
    "keypoints": "frame fractions, z toward the camera",
    "motion": "latent",
    "source": "latent",
    "mel": "normalised log power",
    "state": "own",
    "state_out": "own",
    "audio": "own",
    "noisy": "normalised latent",
    "previous": "normalised latent",
    "time": "t, r in 0..1",
    "conditions": "0 when not given",
    "cache": "own",
    "cache_out": "own",
    "history": "ticks",
    "velocity": "normalised latent",
    "flow": "frame fractions, x then y",
    "occlusion": "weight 0..1",
    "paint": "RGB 0..1",
}
"""Units of the tensors we export, for people; ``own`` means nothing outside the networks."""

PROVENANCE = (
    {
        "name": "ICT-FaceKit",
        "origin": "USC Institute for Creative Technologies",
        "license": "MIT",
        "use": "head mesh, identities and expressions of the synthetic people",
    },
    {
        "name": "MakeHuman",
        "origin": "makehumancommunity.org",
        "license": "CC0-1.0",
        "use": "skins, hair, brows and garments of the synthetic people",
    },
    {
        "name": "espeak-ng, Flite, Festival",
        "origin": "their projects' speech synthesisers",
        "license": "GPL-3.0-or-later and BSD-like programs; only their audio output was used",
        "use": "synthetic speech",
    },
    {
        "name": "Public-domain texts",
        "origin": "United States government, United Nations",
        "license": "public domain",
        "use": "what the synthetic speech says",
    },
)
"""What our networks are trained on."""

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
    weights: bytes = b""
    """The second file of the formats that have one."""


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
    artifacts = []
    for a in stage.artifacts:
        graph, weights = bundle.graph(a)
        artifacts.append(
            ArtifactData(graph, a.precision, a.fidelity, a.format, a.tolerance, weights)
        )
    golden = bundle.golden(stage)
    return StageData(stage.inputs, stage.outputs, tuple(artifacts), golden, stage.golden.tolerance)


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
                (Path(draft) / name).parent.mkdir(parents=True, exist_ok=True)
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
            for empty in (folder / name).relative_to(folder).parents[:-1]:
                with contextlib.suppress(OSError):  # something else is in it
                    (folder / empty).rmdir()
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
        entry = _graph(name, artifact, data, files) | {
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


def _graph(
    name: str, artifact: ArtifactData, data: StageData, files: dict[str, bytes]
) -> dict[str, Any]:
    stem = f"{name}.{artifact.precision}"
    if artifact.format == "onnx":
        return _file(stem, "onnx", artifact.data, files)
    if artifact.format == "openvino":
        twin = next((a for a in data.artifacts if _shares(a, artifact)), None)
        if twin is None:
            entry = _file(stem, "xml", artifact.data, files)
            return entry | {"weights": _file(stem, "bin", artifact.weights, files)}
        graph, rest = share(artifact.data, artifact.weights, twin.data)
        return _file(stem, "xml", graph, files) | {
            "weights": _file(stem, "bin", rest, files),
            "base": _graph(name, twin, data, files),
        }
    # A true package on disk, for whoever builds an app with it; each of its files is verified.
    digest = hashlib.sha256(artifact.data + artifact.weights).hexdigest()
    parts = {}
    for path, content in mlpackage.package_files(artifact.data, artifact.weights).items():
        inside = f"{stem}.{digest[:8]}{mlpackage.SUFFIX}/{path}"
        files[inside] = content
        parts[path] = _entry(inside, content)
    entry = parts[mlpackage.MODEL] | {"package": parts[mlpackage.MANIFEST]}
    if artifact.weights:
        entry["weights"] = parts[mlpackage.WEIGHTS]
    return entry


def _shares(a: ArtifactData, artifact: ArtifactData) -> bool:
    """Whether ``a`` is the ONNX file of which ``artifact`` is the IR, and so has its constants."""
    return (a.format, a.precision) == ("onnx", artifact.precision) and a.precision in SHARED


def _file(stem: str, suffix: str, data: bytes, files: dict[str, bytes]) -> dict[str, Any]:
    # The name holds the content's hash, so that a new manifest never meets an old file: replacing
    # the manifest is the one step that changes the bundle.
    name = f"{stem}.{hashlib.sha256(data).hexdigest()[:8]}.{suffix}"
    files[name] = data
    return _entry(name, data)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


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


def first_head() -> dict[str, Any]:
    """The manifest's head of a first bundle, before any network's statistics are known."""
    audio = dataclasses.asdict(MelSpec())
    return {
        "name": "vivant",
        "version": "0.1.0",
        "license": "Apache-2.0",
        "description": "A portrait that speaks: trained on synthetic people and synthetic speech.",
        "provenance": list(PROVENANCE),
        "latent": {
            "kind": "arkit63",
            "rate": 50,
            "names": list(latent.NAMES),
            "units": list(latent.UNITS),
            "mean": [0.0] * latent.SIZE,
            "std": [1.0] * latent.SIZE,
        },
        "audio": audio | {"mean": [0.0] * audio["mels"], "std": [1.0] * audio["mels"]},
        "sampler": {"kind": "flow", "schedule": [1.0, 0.5, 0.0], "noise_correlation": 0.0},
        "conditions": list(CONDITIONS),
        "portrait": {"size": 512, "eyes": [0.5, 0.42], "interpupillary": 0.165},
        "keypoints": [],
    }


def based_on(folder: Path) -> tuple[dict[str, Any], dict[str, StageData]]:
    """Head and stages of the bundle in ``folder``; raises BundleError."""
    bundle = Bundle.open(folder)
    head = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del head["format"], head["stages"]
    return head, {name: stage_of(bundle, s) for name, s in bundle.manifest.stages.items()}


def from_checkpoints(
    head: dict[str, Any],
    stages: dict[str, StageData],
    *,
    face: Path | None = None,
    motion: Path | None = None,
    align: Path | None = None,
    photos: Sequence[Path] = (),
    precision: str = "w16",
    coreml: str | None = None,
) -> None:
    """Put the checkpoints' stages into ``stages``, and what they say of themselves into ``head``.

    ``photos`` are aligned portraits for the numeric gate and the golden tensors; made-up pictures
    are used beside them. ``precision`` is that of ONNX, ``coreml`` that of Core ML, where it is
    wanted. Raises BundleError when a graph does not compute what its network does, BackendError
    when a converter is missing.
    """
    from vivant.export import examples
    from vivant.export.to_onnx import to_stage

    pictures = [*map(examples.read_picture, photos), examples.picture(1), examples.picture(2)]

    def add(name: str, module: Any, inputs: Sequence[Mapping[str, Array]]) -> None:
        data = to_stage(name, module, inputs, UNITS, precision=precision)
        if coreml:
            from vivant.export.to_coreml import to_artifact

            program = to_artifact(name, module, inputs, precision=coreml)
            data = dataclasses.replace(data, artifacts=(*data.artifacts, program))
        stages[name] = data

    if align:
        from vivant.export.train.align import load_align

        add("align", load_align(align), [{"image": picture} for picture in pictures])
    if face:
        from vivant.export.nets.pose import load_rig
        from vivant.export.train.face import load_face

        encode, render = load_face(face)
        seen, driven = examples.face_examples(encode, pictures)
        add("encode", encode, seen)
        add("render", render, driven)
        head["keypoints"] = list(load_rig().names)
    if motion:
        from vivant.export.train.motion import load_motion

        listen, denoise, facts = load_motion(motion)
        head["latent"] |= facts["latent"]
        head["audio"] |= facts["audio"]
        head["sampler"] = facts["sampler"]
        audio = head["audio"]
        steps = head["latent"]["rate"] * audio["tick"] // audio["rate"]
        sizes = {
            "mel": (1, audio["tick"] // audio["hop"], audio["mels"]),
            "state": (1, facts["sizes"]["state"]),
            "noisy": (1, steps * latent.SIZE),
            "conditions": (1, len(head["conditions"])),
            "cache": (1, *facts["sizes"]["cache"]),
        }
        heard, moved = examples.motion_examples(listen, denoise, sizes)
        add("listen", listen, heard)
        add("denoise", denoise, moved)


def add_openvino(stages: dict[str, StageData]) -> None:
    """Put OpenVINO IR before the ONNX artifact of every stage, after what is quantised.

    Raises BundleError when an IR computes something else, BackendError without OpenVINO.
    """
    from vivant.export.to_openvino import to_openvino

    for name, data in stages.items():
        new = to_openvino(name, data)
        kind = (new.format, new.precision)
        others = [a for a in data.artifacts if (a.format, a.precision) != kind]
        artifacts = sorted(
            [new, *others], key=lambda a: (a.precision != "int8", a.format == "onnx")
        )
        stages[name] = dataclasses.replace(data, artifacts=tuple(artifacts))


def parser() -> argparse.ArgumentParser:
    """The command line of ``vivant export``."""
    result = argparse.ArgumentParser(
        prog="vivant export", description="Turn checkpoints into a bundle."
    )
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    result.add_argument("--base", type=Path, help="bundle to take everything else from")
    result.add_argument("--face", type=Path, help="checkpoint of encode and render")
    result.add_argument("--motion", type=Path, help="checkpoint of listen and denoise")
    result.add_argument("--align", type=Path, help="checkpoint of align")
    result.add_argument(
        "--photo", type=Path, action="append", default=[], help="aligned portrait for the gate"
    )
    result.add_argument(
        "--precision", choices=("w16", "fp32"), default="w16", help="how weights are stored"
    )
    result.add_argument(
        "--openvino",
        action="store_true",
        help="add each stage as OpenVINO IR, which then goes first",
    )
    result.add_argument(
        "--coreml",
        nargs="?",
        choices=("fp16", "fp32"),
        const="fp16",
        help="add each stage as Core ML package, with this arithmetic (default: fp16)",
    )
    result.add_argument("--version", help="version written into the manifest")
    result.add_argument("--description", help="description written into the manifest")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Write a bundle from checkpoints; returns the exit code."""
    args = parser().parse_args(argv)
    if not (args.face or args.motion or args.align or args.base):
        raise UsageError("nothing to export", expected="--face, --motion, --align or --base")
    head, stages = based_on(args.base) if args.base else (first_head(), {})
    from_checkpoints(
        head,
        stages,
        face=args.face,
        motion=args.motion,
        align=args.align,
        photos=args.photo,
        precision=args.precision,
        coreml=args.coreml,
    )
    if args.coreml:
        _check_programs(stages)
    if args.openvino:
        add_openvino(stages)
    head |= {k: v for k in ("version", "description") if (v := getattr(args, k))}
    bundle = write_bundle(args.out, {n: stages[n] for n in STAGES if n in stages}, head)
    print("\n".join(table(bundle)), file=sys.stderr)
    return 0


def _check_programs(stages: Mapping[str, StageData]) -> None:
    """Refuse stages that have no Core ML artifact and no checkpoint to make it from."""
    for name, data in stages.items():
        if not any(artifact.format == "coreml" for artifact in data.artifacts):
            raise UsageError(
                f"Core ML programs are made from checkpoints, and stage {name} has none",
                expected="--align, --face and --motion, or a --base with Core ML",
            )


def table(bundle: Bundle) -> list[str]:
    """Every artifact with its size and figures, and the bundle's size, for people."""
    lines, size = [], 0
    for stage in bundle.manifest.stages.values():
        size += sum(ref.bytes for ref in stage.files)
        for artifact in stage.artifacts:
            figures = ", ".join(f"{k} {v:g}" for k, v in artifact.fidelity.items())
            megabytes = sum(ref.bytes for ref in artifact.own) / 1e6
            kind = f"{artifact.format} {artifact.precision}"
            lines.append(f"{stage.name:8} {kind:14} {megabytes:6.2f} MB  {figures}")
    return [*lines, f"{bundle.path}: {size / 1e6:.1f} MB"]


if __name__ == "__main__":
    sys.exit(run_module(main))
