"""A bundle: one folder with a manifest, graphs and golden tensors, believed only when verified.

The manifest says everything the runtime needs to know of the weights: tensors, the latent, the
audio front end, the sampler, licences and provenance. Nothing is executed from it, every size is
bounded before it is used, and every file is read from inside the folder and checked against its
SHA-256.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from math import prod
from pathlib import Path

from . import latent, mlpackage
from .errors import BundleError
from .golden import read_golden
from .mel import MelSpec
from .strict import Reader, parse
from .tensor import DTYPES, Array, TensorSpec

FORMAT = 1
MANIFEST = "manifest.json"

MAX_MANIFEST = 1 << 20
"""Bytes of the largest manifest read."""
MAX_ARTIFACT = 1 << 30
"""Bytes of the largest graph read."""
MAX_GOLDEN = 1 << 27
"""Bytes of the largest golden file read."""
MAX_ELEMENTS = 1 << 24
"""Elements of the largest tensor."""

FORMATS = ("onnx", "openvino", "coreml")
"""File formats of graphs: ONNX, OpenVINO IR, and Core ML's .mlpackage."""
PRECISIONS = ("fp32", "w16", "fp16", "bf16", "int8", "w8", "p6", "p4")
"""Of the arithmetic; ``w16`` and ``w8`` store the weights in 16 or 8 bits and compute in fp32.

In Core ML, whose arithmetic then is fp16, ``w8`` stores them in 8 bits, ``p6`` and ``p4`` as
indices of 6 or 4 bits into a palette.
"""

Shape = tuple[int | str, ...]

TENSORS: dict[str, tuple[dict[str, Shape], dict[str, Shape]]] = {
    "align": (
        {"image": (1, 3, 256, 256)},
        {"score": (1, 1, 32, 32), "landmarks": (1, "landmarks", 32, 32)},
    ),
    "encode": (
        {"portrait": (1, 3, 256, 256)},
        {
            "features": (1, "channels", 64, 64),
            "keypoints": (1, "keypoints", 3),
            "motion": (1, "latent"),
        },
    ),
    "listen": (
        {"mel": (1, "hops", "mels"), "state": (1, "state")},
        {"audio": (1, "audio"), "state_out": (1, "state")},
    ),
    "denoise": (
        {
            "noisy": (1, "latents"),
            "previous": (1, "latents"),
            "time": (1, 2),
            "audio": (1, "audio"),
            "conditions": (1, "conditions"),
            "cache": (1, "layers", "ticks", "width"),
            "history": (1, 1),
        },
        {"velocity": (1, "latents"), "cache_out": (1, "layers", "ticks", "width")},
    ),
    "render": (
        {
            "features": (1, "channels", 64, 64),
            "keypoints": (1, "keypoints", 3),
            "source": (1, "latent"),
            "motion": (1, "latent"),
        },
        {
            "flow": (1, 2, 128, 128),
            "occlusion": (1, 1, 256, 256),
            "paint": (1, 3, 256, 256),
        },
    ),
}
"""Inputs and outputs of each stage; a named size is free, and equal wherever it appears."""

STAGES = tuple(TENSORS)


@dataclass(frozen=True)
class FileRef:
    """One file of the bundle, as the manifest declares it."""

    file: str
    """Path inside the bundle, with forward slashes."""
    bytes: int
    sha256: str
    """64 lower-case hexadecimal digits."""


@dataclass(frozen=True)
class Artifact:
    """One graph file of a stage."""

    file: FileRef
    format: str
    precision: str
    fidelity: dict[str, float]
    """Measured against the fp32 network, such as ``psnr_db``."""
    tolerance: float | None
    """Overrides the golden's tolerance for this artifact (a quantised one)."""
    weights: FileRef | None = None
    """The second file of OpenVINO IR, and of a Core ML program with large constants."""
    package: FileRef | None = None
    """What Core ML's .mlpackage says of itself; Vivant hashes it and does not read it."""
    base: FileRef | None = None
    """Another artifact's file, whose bytes come before those of an IR's weights and are used."""

    @property
    def own(self) -> tuple[FileRef, ...]:
        """The artifact's one to three files, without what another one brings."""
        return tuple(ref for ref in (self.file, self.weights, self.package) if ref)

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Every file that the artifact needs."""
        return (*self.own, self.base) if self.base else self.own


@dataclass(frozen=True)
class Golden:
    """Recorded inputs and outputs of the fp32 network."""

    file: FileRef
    tolerance: float
    """Largest error allowed in each output, relative to that output's peak."""


@dataclass(frozen=True)
class Stage:
    """One graph of the pipeline: its tensors, its files, its golden output."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifacts: tuple[Artifact, ...]
    """In order of preference."""
    golden: Golden

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Every file of the stage."""
        refs = [ref for artifact in self.artifacts for ref in artifact.files]
        return (*dict.fromkeys(refs), self.golden.file)

    def input(self, name: str) -> TensorSpec:
        """The input called ``name``."""
        return next(spec for spec in self.inputs if spec.name == name)

    def output(self, name: str) -> TensorSpec:
        """The output called ``name``."""
        return next(spec for spec in self.outputs if spec.name == name)


@dataclass(frozen=True)
class Provenance:
    """One source that the weights were trained on."""

    name: str
    origin: str
    license: str
    use: str


@dataclass(frozen=True)
class Latent:
    """The motion latent; network values are ``(x - mean) / std``."""

    kind: str
    rate: int
    """Frames per second."""
    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Sampler:
    """Rectified-flow sampling."""

    kind: str
    schedule: tuple[float, ...]
    """Times from 1 (noise) down to 0 (motion); one network evaluation between neighbours."""
    noise_correlation: float
    """AR(1) coefficient of the noise from tick to tick."""
    guidance: str = "two-pass"
    """How emotions are guided: ``two-pass`` (with and without them), or ``condition``: the network
    is told the scale."""


@dataclass(frozen=True)
class PortraitFormat:
    """The framing the face network was trained on."""

    size: int
    """Pixels, square."""
    eyes: tuple[float, float]
    """Midpoint of the eyes, frame fractions (x, y)."""
    interpupillary: float
    """Distance of the pupils, fraction of the width."""


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``, parsed and checked."""

    name: str
    version: str
    license: str
    description: str
    provenance: tuple[Provenance, ...]
    latent: Latent
    audio: MelSpec
    sampler: Sampler
    conditions: tuple[str, ...]
    portrait: PortraitFormat
    keypoints: tuple[str, ...]
    """Names of the keypoints, or none."""
    stages: dict[str, Stage]


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data`` (UTF-8 JSON); raises BundleError on anything out of form."""
    if len(data) > MAX_MANIFEST:
        raise BundleError(
            f"{MANIFEST} is too large", expected=f"at most {MAX_MANIFEST} bytes", got=str(len(data))
        )
    root = Reader(parse(data, MANIFEST), MANIFEST)
    version = root.integer("format", 1, 1 << 31)
    if version != FORMAT:
        raise BundleError(
            f"{MANIFEST}: unknown format",
            expected=str(FORMAT),
            got=str(version),
            fix="Update vivant, or use a bundle made for this version.",
        )
    manifest = Manifest(
        name=root.text("name"),
        version=root.text("version"),
        license=root.text("license"),
        description=root.text("description"),
        provenance=tuple(_provenance(r) for r in root.readers("provenance", 0, 64)),
        latent=_latent(root.reader("latent")),
        audio=_audio(root.reader("audio")),
        sampler=_sampler(root.reader("sampler")),
        conditions=_unique(root, "conditions", 64),
        portrait=_portrait(root.reader("portrait")),
        keypoints=_unique(root, "keypoints", 1024),
        stages=_stages(root.reader("stages")),
    )
    root.done()
    _check_shapes(manifest)
    return manifest


def _unique(reader: Reader, key: str, most: int) -> tuple[str, ...]:
    names = reader.texts(key, 0, most)
    if len(set(names)) != len(names):
        raise BundleError(f"{reader.where}.{key}", expected="names that differ")
    return names


def _provenance(reader: Reader) -> Provenance:
    result = Provenance(
        reader.text("name"), reader.text("origin"), reader.text("license"), reader.text("use")
    )
    reader.done()
    return result


def _latent(reader: Reader) -> Latent:
    kind = reader.text("kind", one_of=("arkit63",))
    size = latent.SIZE
    result = Latent(
        kind=kind,
        rate=reader.integer("rate", 1, 1000),
        names=reader.texts("names", size, size),
        units=reader.texts("units", size, size),
        mean=reader.numbers("mean", (size, size), -1e6, 1e6),
        std=reader.numbers("std", (size, size), 1e-6, 1e6),
    )
    reader.done()
    for key, got, expected in (
        ("names", result.names, latent.NAMES),
        ("units", result.units, latent.UNITS),
    ):
        for index, (a, b) in enumerate(zip(got, expected, strict=True)):
            if a != b:
                raise BundleError(f"{reader.where}.{key}[{index}]", expected=b, got=ascii(a)[:80])
    return result


def _audio(reader: Reader) -> MelSpec:
    mels = reader.integer("mels", 1, 1024)
    result = MelSpec(
        rate=reader.integer("rate", 1000, 384_000),
        hop=reader.integer("hop", 1, 1 << 16),
        window=reader.integer("window", 1, 1 << 16),
        fft=reader.integer("fft", 2, 1 << 16),
        mels=mels,
        fmin=reader.number("fmin", 0, 1e6),
        fmax=reader.number("fmax", 1, 1e6),
        floor=reader.number("floor", 1e-30, 1e6),
        tick=reader.integer("tick", 1, 1 << 20),
        look_ahead=reader.integer("look_ahead", 0, 1 << 20),
        mean=reader.numbers("mean", (mels, mels), -1e6, 1e6),
        std=reader.numbers("std", (mels, mels), 1e-6, 1e6),
    )
    reader.done()
    for holds, rule in (
        (result.tick % result.hop == 0, "tick a multiple of hop"),
        (result.look_ahead % result.hop == 0, "look_ahead a multiple of hop"),
    ):
        if not holds:
            raise BundleError(f"{reader.where} does not fit together", expected=rule)
    return result


def _sampler(reader: Reader) -> Sampler:
    result = Sampler(
        kind=reader.text("kind", one_of=("flow",)),
        schedule=reader.numbers("schedule", (2, 1001), 0, 1),
        noise_correlation=reader.number("noise_correlation", 0, 0.9999),
        guidance=(
            reader.text("guidance", one_of=("two-pass", "condition"))
            if reader.has("guidance")
            else "two-pass"
        ),
    )
    reader.done()
    times = result.schedule
    falling = all(a > b for a, b in itertools.pairwise(times))
    if not falling or times[0] != 1 or times[-1] != 0:
        raise BundleError(f"{reader.where}.schedule", expected="times falling from 1 to 0")
    return result


def _portrait(reader: Reader) -> PortraitFormat:
    x, y = reader.numbers("eyes", (2, 2), 0, 1)
    result = PortraitFormat(
        size=reader.integer("size", 64, 4096),
        eyes=(x, y),
        interpupillary=reader.number("interpupillary", 0.01, 0.9),
    )
    reader.done()
    return result


# Portable on every file system: no drive, no stream, no separator but "/", no part that starts
# or ends in a dot.
_PART = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_])?"
_PATH = rf"{_PART}(/{_PART}){{0,4}}"


def _file(reader: Reader, most: int) -> FileRef:
    return FileRef(
        file=reader.text("file", pattern=_PATH),
        bytes=reader.integer("bytes", 1, most),
        sha256=reader.text("sha256", pattern=r"[0-9a-f]{64}"),
    )


def _stages(reader: Reader) -> dict[str, Stage]:
    stages = {name: _stage(name, reader.reader(name)) for name in STAGES if reader.has(name)}
    reader.done()
    return stages


def _stage(name: str, reader: Reader) -> Stage:
    golden = reader.reader("golden")
    stage = Stage(
        name=name,
        inputs=_tensors(reader, "inputs", TENSORS[name][0]),
        outputs=_tensors(reader, "outputs", TENSORS[name][1]),
        artifacts=tuple(_artifact(r) for r in reader.readers("artifacts", 1, 32)),
        golden=Golden(_file(golden, MAX_GOLDEN), golden.number("tolerance", 1e-9, 1)),
    )
    golden.done()
    reader.done()
    return stage


def _artifact(reader: Reader) -> Artifact:
    measured, kind = reader.reader("fidelity"), reader.text("format", one_of=FORMATS)
    weighed = kind == "openvino" or (kind == "coreml" and reader.has("weights"))
    weights = reader.reader("weights") if weighed else None
    package = reader.reader("package") if kind == "coreml" else None
    base = reader.reader("base") if kind == "openvino" and reader.has("base") else None
    result = Artifact(
        file=_file(reader, MAX_ARTIFACT),
        format=kind,
        precision=reader.text("precision", one_of=PRECISIONS),
        fidelity={key[:64]: measured.number(key, -1e9, 1e9) for key in measured.left()},
        tolerance=reader.number("tolerance", 1e-9, 1) if reader.has("tolerance") else None,
        weights=_file(weights, MAX_ARTIFACT) if weights else None,
        package=_file(package, MAX_MANIFEST) if package else None,
        base=_file(base, MAX_ARTIFACT) if base else None,
    )
    for part in (weights, package, base, reader):
        if part:
            part.done()
    if kind == "coreml":
        mlpackage.check_layout(reader.where, [ref.file for ref in result.own])
    return result


def _tensors(reader: Reader, key: str, expected: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
    specs = []
    for item in reader.readers(key, len(expected), len(expected)):
        spec = TensorSpec(
            name=item.text("name", one_of=expected),
            dtype=item.text("dtype", one_of=DTYPES),
            shape=item.integers("shape", (1, 4), 1, 1 << 20),
            unit=item.text("unit"),
        )
        item.done()
        if prod(spec.shape) > MAX_ELEMENTS:
            raise BundleError(
                f"{item.where}: the tensor is too large",
                expected=f"at most {MAX_ELEMENTS} elements",
                got=str(spec),
            )
        specs.append(spec)
    if len({spec.name for spec in specs}) != len(specs):
        raise BundleError(f"{reader.where}.{key}", expected="names that differ")
    return tuple(specs)


def _check_shapes(manifest: Manifest) -> None:
    """Refuse stages whose tensors fit neither the manifest's head nor each other."""
    audio, size = manifest.audio, len(manifest.latent.names)
    samples = manifest.latent.rate * audio.tick
    if samples % audio.rate:
        raise BundleError(f"{MANIFEST}: a tick must hold whole motion frames")
    known: dict[str, int] = {
        "latent": size,
        "latents": size * (samples // audio.rate),
        "hops": audio.tick // audio.hop,
        "mels": audio.mels,
        "conditions": len(manifest.conditions),
    }
    if manifest.keypoints:
        known["keypoints"] = len(manifest.keypoints)
    for stage in manifest.stages.values():
        for specs, shapes in zip((stage.inputs, stage.outputs), TENSORS[stage.name], strict=True):
            for spec in specs:
                shape = shapes[spec.name]
                fits = len(shape) == len(spec.shape) and all(
                    (known.setdefault(want, got) if isinstance(want, str) else want) == got
                    for want, got in zip(shape, spec.shape, strict=True)
                )
                if not fits:
                    wanted = ", ".join(str(known.get(str(n), n)) for n in shape)
                    raise BundleError(
                        f"{MANIFEST}: stage {stage.name} does not fit the rest",
                        expected=f"{spec.name} ({wanted})",
                        got=str(spec),
                    )
    if (stage_align := manifest.stages.get("align")) and known["landmarks"] % 2:
        raise BundleError(
            f"{MANIFEST}: landmarks come in pairs x, y", got=str(stage_align.output("landmarks"))
        )


@dataclass(frozen=True)
class Bundle:
    """A folder whose manifest has been read; files are verified when they are read."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Bundle:
        """The bundle in folder ``path``, or the embedded one; raises BundleError."""
        folder = Path(path).expanduser() if path is not None else default_path()
        if not folder.is_dir():
            expected, fix = f"a folder with {MANIFEST}", "Check the path."
            raise BundleError(f"{folder} is not a bundle", expected=expected, fix=fix)
        data = _read_inside(folder, MANIFEST, MAX_MANIFEST)
        try:
            return cls(folder, parse_manifest(data))
        except BundleError as error:
            raise BundleError(
                f"{folder}: {error.what}", expected=error.expected, got=error.got, fix=error.fix
            ) from None

    def stage(self, name: str) -> Stage:
        """The stage called ``name``; raises BundleError when the bundle has none."""
        try:
            return self.manifest.stages[name]
        except KeyError:
            raise BundleError(
                f"bundle {self.manifest.name} has no stage {name}",
                expected=", ".join(STAGES),
                got=", ".join(self.manifest.stages) or "none",
                fix="Use a complete bundle.",
            ) from None

    def read(self, ref: FileRef) -> bytes:
        """The content of ``ref``, its size and SHA-256 checked; raises BundleError."""
        data = _read_inside(self.path, ref.file, ref.bytes)
        if len(data) != ref.bytes:
            raise BundleError(
                f"{self.path / ref.file} is damaged",
                expected=f"{ref.bytes} bytes",
                got=f"{len(data)} bytes",
                fix=_AGAIN,
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != ref.sha256:
            raise BundleError(
                f"{self.path / ref.file} is damaged",
                expected=f"sha256 {ref.sha256}",
                got=f"sha256 {digest}",
                fix=_AGAIN,
            )
        return data

    def graph(self, artifact: Artifact) -> tuple[bytes, bytes]:
        """Graph and weights of an artifact, every one of its files checked; raises BundleError."""
        known = {ref: self.read(ref) for ref in artifact.files}
        parts = [known[ref] for ref in (artifact.base, artifact.weights) if ref]
        return known[artifact.file], parts[0] if len(parts) == 1 else b"".join(parts)

    def golden(self, stage: Stage) -> tuple[dict[str, Array], dict[str, Array]]:
        """Recorded inputs and outputs of ``stage``, by name; raises BundleError."""
        where = str(self.path / stage.golden.file.file)
        return read_golden(self.read(stage.golden.file), stage.inputs, stage.outputs, where)


_AGAIN = "Fetch the bundle again."


def _read_inside(folder: Path, name: str, most: int) -> bytes:
    """At most ``most`` + 1 bytes of the regular file ``name``, not through symbolic links."""
    path = folder
    for part in name.split("/"):
        path = path / part
        if os.path.islink(path):
            raise BundleError(
                f"{path} is a symbolic link",
                expected="a file inside the bundle",
                got=f"a link to {ascii(os.readlink(path))[:200]}",
                fix="Copy the file into the bundle.",
            )
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{path} is not a regular file", fix=_AGAIN)
            return file.read(most + 1)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", fix=_AGAIN) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read", got=str(error), fix=_AGAIN) from None


def default_path() -> Path:
    """The folder of the bundle that comes with the package."""
    manifest = resources.files("vivant.default").joinpath(MANIFEST)
    if not isinstance(manifest, Path):
        raise BundleError(
            "the embedded bundle is not a folder",
            got=str(manifest),
            fix="Install vivant unzipped, or pass --bundle.",
        )
    return manifest.resolve().parent  # setuptools' strict editable install is a farm of links
