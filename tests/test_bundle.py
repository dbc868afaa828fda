"""A bundle is believed only when every byte of it is as its manifest says."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import tiny_head, tiny_stages, write_tiny_bundle

from vivant import bundle_cli
from vivant.bundle import (
    MANIFEST,
    MAX_MANIFEST,
    Bundle,
    Manifest,
    default_path,
    parse_manifest,
)
from vivant.errors import BackendError, BundleError, OutputError
from vivant.export.write import stage_of, write_bundle


@pytest.fixture
def folder(bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest as plain JSON."""
    result: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return result


def artifact(folder: Path, stage: str = "render") -> Path:
    """A stage's graph file."""
    name = manifest_of(folder)["stages"][stage]["artifacts"][0]["file"]
    return folder / name


def test_every_stage_reads_back(bundle_path: Path) -> None:
    """What was written is what is read: stages, tensors, golden arrays, head."""
    bundle = Bundle.open(bundle_path)
    assert list(bundle.manifest.stages) == ["align", "encode", "listen", "denoise", "render"]
    assert bundle.manifest.audio.tick == 640
    assert bundle.manifest.sampler.schedule == (1.0, 0.5, 0.0)
    for stage in bundle.manifest.stages.values():
        inputs, outputs = bundle.golden(stage)
        assert {k: v.shape for k, v in inputs.items()} == {s.name: s.shape for s in stage.inputs}
        assert {k: v.shape for k, v in outputs.items()} == {s.name: s.shape for s in stage.outputs}


def test_the_embedded_bundle_is_a_folder() -> None:
    """Without a path, the bundle inside the package is meant."""
    assert default_path().is_dir()
    assert (default_path() / "__init__.py").is_file()


@pytest.mark.parametrize("bit", [0, 17, 4001])
def test_a_flipped_bit_is_found(folder: Path, bit: int) -> None:
    """One wrong bit in a graph is an error that names the file and both hashes."""
    path = artifact(folder)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"damaged.*expected sha256 .*got sha256") as error:
        bundle.read(bundle.stage("render").artifacts[0].file)
    assert path.name in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "expected .* bytes; got .* bytes"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "expected .* bytes; got .* bytes"),
        (lambda p: p.write_bytes(b""), "got 0 bytes"),
        (lambda p: p.unlink(), "is missing"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot be read|not a regular file"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "not a regular file"),
    ],
    ids=["truncated", "longer", "empty", "missing", "folder", "pipe"],
)
def test_a_wrong_file_is_named(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    """A truncated, grown, empty, missing or special file is an error that names it."""
    path = artifact(folder)
    damage(path)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=message) as error:
        bundle.read(bundle.stage("render").artifacts[0].file)
    assert path.name in str(error.value)


def test_a_foreign_graph_is_found(folder: Path) -> None:
    """A file from another stage in the place of a graph is an error."""
    shutil.copy(artifact(folder, "encode"), artifact(folder))
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="damaged"):
        bundle.read(bundle.stage("render").artifacts[0].file)


@pytest.mark.parametrize("inside", [True, False])
def test_symbolic_links_are_refused(folder: Path, tmp_path: Path, inside: bool) -> None:
    """A link never leads out of the bundle, even to a file with the right hash."""
    path = artifact(folder)
    target = (folder if inside else tmp_path) / "elsewhere.onnx"
    path.rename(target)
    path.symlink_to(target)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="symbolic link"):
        bundle.read(bundle.stage("render").artifacts[0].file)


def test_no_bundle_is_said_plainly(tmp_path: Path) -> None:
    """A folder without a manifest, and no folder at all, are errors that say so."""
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "nothing")


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """An edit: set the value at a dotted path of keys and indices."""

    def edit(manifest: dict[str, Any]) -> None:
        *way, last = (int(p) if p.isdigit() else p for p in path.split("."))
        at: Any = manifest
        for step in way:
            at = at[step]
        at[last] = value

    return edit


FILE = "stages.render.artifacts.0"
SHAPE = "stages.denoise.inputs.0.shape"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("surprise", 1), "unknown key 'surprise'"),
        (put("stages.render.surprise", 1), "unknown key"),
        (put("stages.paint", {}), "unknown key 'paint'"),
        (put("format", 2), "unknown format.*Update vivant"),
        (put("format", "1"), "expected an integer"),
        (put("name", 7), "expected a string"),
        (put("name", "a\x1b[31m"), "printable"),
        (put("description", "x" * 5000), "4096 characters"),
        (put("provenance", {}), "expected an array"),
        (put("latent.kind", "implicit21"), "expected arkit63"),
        (put("latent.names.0", "eyeblink"), "expected eyeBlinkLeft"),
        (put("latent.std.3", 0), "std"),
        (put("latent.mean", [0.0]), "expected 63 entries"),
        (put("audio.hop", True), "expected an integer"),
        (put("audio.fmax", 9000.0), "fmax"),
        (put("audio.tick", 641), "multiple of hop"),
        (put("audio.floor", -1e-5), "floor"),
        (put("sampler.schedule", [1.0, 0.5]), "falling from 1 to 0"),
        (put("sampler.schedule", [1.0, 1.0, 0.0]), "falling from 1 to 0"),
        (put("sampler.kind", "ddpm"), "expected flow"),
        (put("sampler.guidance", "three-pass"), "guidance.*two-pass"),
        (put("conditions.1", "gaze_yaw"), "differ"),
        (put("portrait.eyes", [0.5]), "expected 2 entries"),
        (put("keypoints", ["one"]), "does not fit"),
        (put(f"{FILE}.file", "../render.onnx"), "form"),
        (put(f"{FILE}.file", "/etc/passwd"), "form"),
        (put(f"{FILE}.file", "a\\..\\b"), "form"),
        (put(f"{FILE}.file", "C:render.onnx"), "form"),
        (put(f"{FILE}.file", "a//b"), "form"),
        (put(f"{FILE}.file", "a/./b"), "form"),
        (put(f"{FILE}.file", "a\n"), "form"),
        (put(f"{FILE}.file", ""), "form"),
        (put(f"{FILE}.bytes", -1), "bytes"),
        (put(f"{FILE}.bytes", 1 << 62), "bytes"),
        (put(f"{FILE}.bytes", 10.5), "expected an integer"),
        (put(f"{FILE}.sha256", "0" * 63), "form"),
        (put(f"{FILE}.format", "pickle"), "expected onnx"),
        (put(f"{FILE}.precision", "fp8"), "expected fp32"),
        (put("stages.render.artifacts", []), "entries"),
        (put("stages.render.golden.tolerance", 0), "tolerance"),
        (put(SHAPE, [1, 125]), "does not fit"),
        (put(SHAPE, [1, 126, 1]), "does not fit"),
        (put(SHAPE, [1, -126]), "expected 1 to"),
        (put(SHAPE, [1 << 19, 1 << 19]), "too large"),
        (put("stages.denoise.inputs.0.name", "noise"), "expected noisy or"),
        (put("stages.denoise.inputs.0.name", "time"), "differ"),
        (put("stages.denoise.inputs.0.dtype", "object"), "expected float32"),
    ],
)
def test_a_malformed_manifest_is_refused(
    bundle_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Unknown keys, wrong types, sizes out of bounds and unsafe paths are errors that say where."""
    manifest = manifest_of(bundle_path)
    edit(manifest)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[]", "expected an object"),
        (b"null", "expected an object"),
        (b'{"format": 1, "format": 1}', "appears twice"),
        (b'{"format": NaN}', "finite"),
        (b'{"format": -Infinity}', "finite"),
        (b'{"format": 1e999}', "expected an integer"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (MAX_MANIFEST + 1), "too large"),
        (b'{"format": 1, "name": "\\ud800"}', "printable"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_hostile_json_is_refused(text: bytes, message: str) -> None:
    """JSON that other parsers take, or choke on, is one clear error."""
    with pytest.raises(BundleError, match=message):
        parse_manifest(text)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:4]
    return [path] * bool(path) + [p for key, item in items for p in places(item, (*path, key))]


STRANGE = [
    *(None, True, 0, -1, 1, 2, 63, 1 << 31, 1 << 64, 10**400, -0.0, 1e-300, 1e300, 0.5),
    *("", "x", "\x00", "..", "/", "\ud800", "é" * 5000, [], [[]], {}, {"a": {}}, [None] * 70),
    *([1] * 63, ["a"] * 16, {"name": 1}),
]


def test_mutated_manifests_never_crash(bundle_path: Path) -> None:
    """Of 600 mutations, of values and of bytes, each is a typed error or a valid manifest."""
    good = manifest_of(bundle_path)
    text = (bundle_path / MANIFEST).read_bytes()
    everywhere = places(good)
    chance = random.Random(1)
    refusals = []
    for number in range(600):
        if number % 3 == 0:
            data = bytearray(text)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data))
                data[at : at + chance.choice([0, 1, 1, 20])] = chance.randbytes(
                    chance.choice([0, 1, 1, 5])
                )
            mutant = bytes(data)
        else:
            changed = copy.deepcopy(good)
            *way, last = chance.choice(everywhere)
            at_value: Any = changed
            for step in way:
                at_value = at_value[step]
            kind = chance.random()
            if kind < 0.2:
                del at_value[last]
            elif kind < 0.3 and isinstance(at_value, dict):
                at_value[f"{last}2"] = at_value[last]
            else:
                at_value[last] = chance.choice(STRANGE)
            mutant = json.dumps(changed).encode()
        try:
            assert isinstance(parse_manifest(mutant), Manifest)
        except BundleError as error:
            refusals.append(str(error))
    assert len(refusals) > 400
    assert all(len(line) < 2000 and line.isprintable() for line in refusals)


def golden_with(folder: Path, change: Callable[[dict[str, bytes]], None]) -> Bundle:
    """The bundle, with another golden file for ``listen`` whose hash is right."""
    manifest = manifest_of(folder)
    entry = manifest["stages"]["listen"]["golden"]
    with zipfile.ZipFile(folder / entry["file"]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return golden_bytes(folder, stream.getvalue())


def golden_bytes(folder: Path, data: bytes) -> Bundle:
    """The bundle, with ``data`` as the golden file of ``listen``."""
    import hashlib

    manifest = manifest_of(folder)
    entry = manifest["stages"]["listen"]["golden"]
    (folder / entry["file"]).write_bytes(data)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """An array as a .npy file, pickled when it holds objects."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("in.mel.npy"),
        lambda m: m.update({"in.other.npy": b""}),
        lambda m: m.update({"in.mel.npy": b"not an array"}),
        lambda m: m.update({"in.mel.npy": npy(np.zeros((1, 4, 63), np.float32))}),
        lambda m: m.update({"in.mel.npy": npy(np.zeros((1, 4, 64)))}),
        lambda m: m.update({"in.mel.npy": npy(np.array([print], object))}),
        lambda m: m.update({"in.mel.npy": m["in.mel.npy"][:-1]}),
        lambda m: m.update({"in.mel.npy": m["in.mel.npy"] + bytes(1 << 26)}),
    ],
    ids=["missing", "foreign", "noise", "shape", "dtype", "pickle", "short", "bomb"],
)
def test_wrong_golden_tensors_are_refused(
    folder: Path, change: Callable[[dict[str, bytes]], Any]
) -> None:
    """Golden arrays are exactly those of the stage; nothing is unpickled or inflated beyond."""
    bundle = golden_with(folder, change)
    with pytest.raises(BundleError):
        bundle.golden(bundle.stage("listen"))


def test_damaged_archives_are_refused(folder: Path) -> None:
    """200 damaged golden archives with matching hashes are each a typed error or read well."""
    entry = manifest_of(folder)["stages"]["listen"]["golden"]
    text = (folder / entry["file"]).read_bytes()
    chance = random.Random(2)
    for _ in range(200):
        data = bytearray(text)
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        bundle = golden_bytes(folder, bytes(data[: chance.choice([len(data), 40, 900])]))
        try:
            inputs, _ = bundle.golden(bundle.stage("listen"))
            assert inputs["mel"].shape == (1, 4, 64)
        except BundleError:
            pass


def test_writing_twice_gives_the_same_bytes(bundle_path: Path, tmp_path: Path) -> None:
    """Equal stages are equal bundles, byte for byte."""
    write_tiny_bundle(tmp_path / "again")
    first = {p.name: p.read_bytes() for p in bundle_path.iterdir()}
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}


def test_a_stage_can_be_taken_over(bundle_path: Path, tmp_path: Path) -> None:
    """A stage read from one bundle and written to another is the same stage."""
    old = Bundle.open(bundle_path)
    stages = {"listen": stage_of(old, old.stage("listen"))}
    new = write_bundle(tmp_path / "part", stages, tiny_head())
    assert new.manifest.stages == {"listen": old.stage("listen")}
    with pytest.raises(BundleError, match="no stage render"):
        new.stage("render")


def test_a_bad_bundle_never_replaces_a_good_one(folder: Path) -> None:
    """When the result would be refused or cannot be written, the old bundle stays as it was."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(BundleError):
        write_bundle(folder, tiny_stages(), tiny_head() | {"name": 7})
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    file = folder.parent / "file"
    file.write_text("")
    with pytest.raises(OutputError):
        write_bundle(file / "bundle", tiny_stages(), tiny_head())


def test_rewriting_removes_only_the_old_bundle(folder: Path) -> None:
    """Files that the new manifest no longer names go; files that are not the bundle's stay."""
    (folder / "notes.txt").write_text("mine")
    old = Bundle.open(folder)
    write_bundle(folder, {"listen": stage_of(old, old.stage("listen"))}, tiny_head())
    kept = {MANIFEST, "notes.txt", *(ref.file for ref in old.stage("listen").files)}
    assert {p.name for p in folder.iterdir()} == kept


def test_info_describes_the_bundle(bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``bundle info`` names every stage, tensor and file, for people and as JSON."""
    assert bundle_cli.info(bundle_path) == 0
    text = capsys.readouterr().out
    for word in ("tiny 1", "Apache-2.0", "render", "occlusion float32 (1, 1, 256, 256)"):
        assert word in text
    assert bundle_cli.info(bundle_path, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["stages"]) == ["align", "encode", "listen", "denoise", "render"]


def test_verify_passes_a_whole_bundle(
    bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``bundle verify`` checks two hashes and every backend's golden output for each stage."""
    assert bundle_cli.verify(bundle_path, as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert len(report["checks"]) == 5 * (2 + 2)


def test_verify_names_what_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``bundle verify`` goes on after a damaged file, names it, and exits with 5."""
    path = artifact(folder, "encode")
    path.write_bytes(path.read_bytes()[:-1])
    assert bundle_cli.verify(folder, backend="onnxruntime") == BundleError.exit_code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("FAIL")] == ["encode", "encode"]
    assert any(line.startswith("ok") and "render" in line for line in lines)


def test_verify_reports_a_device_that_is_not_there(
    bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for a device this machine lacks fails with 6, and never runs elsewhere instead."""
    code = bundle_cli.verify(bundle_path, backend="openvino:TPU")
    assert code == BackendError.exit_code
    assert "no device TPU" in capsys.readouterr().out
