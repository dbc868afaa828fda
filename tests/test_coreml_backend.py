"""Core ML's backend hands over only what was verified, and is never in the way elsewhere."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_coreml
import numpy as np
import pytest
from tiny_bundle import tiny_head, tiny_stages, write_tiny_bundle

from vivant import mlpackage
from vivant.backends import Options, Signature, coreml, load_backend
from vivant.bundle import MANIFEST, STAGES, Bundle, parse_manifest
from vivant.cache import Cache, cache_folder
from vivant.cli import main as vivant
from vivant.devices.probe import probe
from vivant.errors import BackendError, BundleError
from vivant.export.write import write_bundle
from vivant.graph import load_graph
from vivant.plan import Plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of packages that a test may damage."""
    return write_tiny_bundle(tmp_path / "bundle", "coreml").path


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[fake_coreml.Model]:
    """A Mac, as far as the backend sees, with an empty cache."""
    monkeypatch.setenv("VIVANT_CACHE", str(tmp_path / "cache"))
    return fake_coreml.install(monkeypatch)


def refs(folder: Path) -> dict[str, Path]:
    """The files of ``listen``'s package: file, weights, package."""
    artifact = Bundle.open(folder).stage("listen").artifacts[0]
    return {
        "file": folder / artifact.file.file,
        "weights": folder / artifact.weights.file,  # type: ignore[union-attr]
        "package": folder / artifact.package.file,  # type: ignore[union-attr]
    }


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Drop the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    """Put a link to the very same content in the file's place."""
    real = path.rename(path.with_name("real"))
    path.symlink_to(real)


@pytest.mark.parametrize("part", ["file", "weights", "package"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(flip, "damaged.*sha256"), (cut, "damaged.*bytes"), (Path.unlink, "missing"), (link, "link")],
    ids=["one bit", "truncated", "missing", "link"],
)
def test_a_damaged_package_is_never_opened(
    folder: Path,
    mac: type[fake_coreml.Model],
    part: str,
    damage: Callable[[Path], Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of its files is damaged, Core ML sees nothing of it, and the exit code is 5."""
    monkeypatch.setattr(mac, "engine", lambda *_: pytest.fail("Core ML opened it"))
    path = refs(folder)[part]
    damage(path)
    with pytest.raises(BundleError, match=message) as error:
        load_graph(Bundle.open(folder), "listen", "coreml", device="ALL")
    assert path.name in str(error.value)
    assert error.value.exit_code == 5


def test_a_foreign_package_is_never_opened(folder: Path, mac: type[fake_coreml.Model]) -> None:
    """Another stage's package in the place of this one is found by its hashes."""
    packages = {s: Bundle.open(folder).stage(s).artifacts[0].file.file for s in STAGES}
    ours, other = (folder / packages[s].partition("/")[0] for s in ("listen", "denoise"))
    shutil.rmtree(ours)
    shutil.copytree(other, ours)
    with pytest.raises(BundleError, match="damaged"):
        load_graph(Bundle.open(folder), "listen", "coreml", device="ALL")


def test_what_lies_beside_the_package_files_is_not_handed_over(
    folder: Path, mac: type[fake_coreml.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core ML gets a folder of verified bytes and no more, whatever was added to the bundle's."""
    (refs(folder)["weights"].parent / "more.bin").write_bytes(b"x")
    seen: list[str] = []
    compile_ = mac.compileModelAtURL_error_

    def spy(url: Path, error: None) -> Any:
        seen.extend(sorted(p.relative_to(url).as_posix() for p in url.rglob("*") if p.is_file()))
        assert folder not in url.parents
        return compile_(url, error)

    monkeypatch.setattr(mac, "compileModelAtURL_error_", spy)
    load_graph(Bundle.open(folder), "listen", "coreml")
    assert seen == sorted([mlpackage.MANIFEST, mlpackage.MODEL, mlpackage.WEIGHTS])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_verify_says_which_package_is_damaged(
    folder: Path,
    mac: type[fake_coreml.Model],
    damage: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``vivant bundle verify`` names the file and exits with 5; without damage it exits with 0."""
    assert vivant(["bundle", "verify", str(folder)]) == 0
    damage(refs(folder)["weights"])
    capsys.readouterr()
    assert vivant(["bundle", "verify", str(folder)]) == 5
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("FAIL")]
    assert [line.split()[1] for line in lines] == ["listen"] * 2
    assert all("weight.bin" in line for line in lines)


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The manifest with another entry for ``listen``'s package."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest["stages"]["listen"]["artifacts"][0])
    return json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("package"), "package is missing"),
        (lambda e: e.update(file="render.mlmodel"), "no package"),
        (lambda e: e["weights"].update(file="x.mlpackage/" + mlpackage.WEIGHTS), "no package"),
        (lambda e: e["package"].update(file="../" + mlpackage.MANIFEST), "form"),
        (lambda e: e.update(file=e["file"].replace(".mlpackage", ".mlmodelc")), "no package"),
        (lambda e: e.update(file=e["file"].replace("Data", "data")), "no package"),
        (lambda e: e.update(file=e["file"] + "/x"), "no package"),
        (lambda e: e["package"].update(surprise=1), "unknown key"),
        (lambda e: e.update(format="onnx"), "unknown key"),
    ],
)
def test_a_package_is_one_folder_of_known_parts(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """Parts of different folders, other layouts and other keys are refused by the manifest."""
    with pytest.raises(BundleError, match=message):
        parse_manifest(edited(folder, change))


def test_a_program_without_large_constants_has_no_weights(
    tmp_path: Path, mac: type[fake_coreml.Model]
) -> None:
    """Then package and manifest have no weight file, and the program runs."""
    stages = tiny_stages("coreml")
    artifact = stages["listen"].artifacts[0]
    object.__setattr__(artifact, "weights", b"")
    bundle = write_bundle(tmp_path / "bundle", {"listen": stages["listen"]}, tiny_head())
    assert len(bundle.stage("listen").artifacts[0].files) == 2
    assert not list(bundle.path.rglob("weight*"))
    assert load_graph(bundle, "listen", "coreml").loading.error < 1e-4


def test_packages_of_an_older_bundle_are_removed(folder: Path) -> None:
    """Writing a bundle over another leaves no folders of the old one, but what is the user's."""
    (refs(folder)["weights"].parent / "mine.txt").write_text("mine")
    write_bundle(folder, {"denoise": tiny_stages("coreml")["denoise"]}, tiny_head())
    left = {path.name.split(".")[0] for path in folder.glob("*.mlpackage")}
    assert left == {"denoise", "listen"}
    assert [p.name for p in folder.glob("listen*/**/*") if p.is_file()] == ["mine.txt"]


def test_packages_are_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    """Nothing of a package is drawn at random or dated."""
    again = write_tiny_bundle(tmp_path / "again", "coreml").path
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
             for f in (folder, again)]  # fmt: skip
    assert files[0] == files[1]


def test_a_compiled_program_is_found_at_the_same_place(
    folder: Path, mac: type[fake_coreml.Model]
) -> None:
    """Core ML keeps what it prepares by path, so a program from the cache has one for good."""
    bundle, cache = Bundle.open(folder), Cache()
    first = load_graph(bundle, "listen", "coreml", cache=cache)
    places = []
    for _ in range(2):
        graph = load_graph(bundle, "listen", "coreml", cache=cache)
        assert (first.loading.cached, graph.loading.cached) == (False, True)
        places.append(graph._executable._folder)  # type: ignore[attr-defined]
    assert places[0] == places[1]
    assert cache_folder() in places[0].parents
    inputs, _ = bundle.golden(bundle.stage("listen"))
    for name, value in first(inputs).items():
        np.testing.assert_array_equal(value, graph(inputs)[name])


@pytest.mark.parametrize("damage", ["flip", "cut", "more", "gone", "link"])
def test_an_unpacked_program_that_was_damaged_is_unpacked_again(
    folder: Path, mac: type[fake_coreml.Model], damage: str, tmp_path: Path
) -> None:
    """What lies in the cache's folder is used only when it is the sealed content, byte by byte."""
    bundle, cache = Bundle.open(folder), Cache()
    load_graph(bundle, "denoise", "coreml", cache=cache)
    place = load_graph(bundle, "denoise", "coreml", cache=cache)._executable._folder  # type: ignore[attr-defined]
    program = place / "model.mil"
    good = program.read_bytes()
    if damage == "more":
        (place / "model.espresso").write_bytes(b"x")
    elif damage == "gone":
        shutil.rmtree(place)
    else:
        {"flip": flip, "cut": cut, "link": link}[damage](program)
    again = load_graph(bundle, "denoise", "coreml", cache=cache)
    assert again.loading.cached
    assert program.read_bytes() == good
    assert not program.is_symlink()
    assert sorted(p.name for p in place.iterdir()) == ["model.mil", "weights"]


def test_few_unpacked_programs_stay(
    folder: Path, mac: type[fake_coreml.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest folders go when there are more than the limit."""
    monkeypatch.setattr(coreml, "KEPT", 2)
    bundle, cache = Bundle.open(folder), Cache()
    for stage in STAGES:
        for _ in range(2):
            load_graph(bundle, stage, "coreml", cache=cache)
    assert len(list((cache_folder() / "coreml").iterdir())) == 2


@pytest.mark.parametrize(
    ("device", "units"), [("CPU", 0), ("CPU+GPU", 1), ("ALL", 2), ("CPU+NPU", 3)]
)
def test_a_device_is_a_set_of_processors(
    folder: Path, mac: type[fake_coreml.Model], device: str, units: int
) -> None:
    """Each device's name is the set that Core ML is told to stay in."""
    load_graph(Bundle.open(folder), "listen", "coreml", device=device)
    assert fake_coreml.Model.units == units


def test_only_processors_that_are_there_are_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Mac without Neural Engine has no device of that name."""
    fake_coreml.install(monkeypatch, devices=("CPU", "GPU"))
    assert load_backend("coreml").devices() == ("CPU", "CPU+GPU", "ALL")
    with pytest.raises(BackendError, match=r"no device CPU\+NPU"):
        load_graph(Bundle.open(folder), "listen", "coreml", device="CPU+NPU")


def test_nothing_is_left_behind(
    folder: Path, mac: type[fake_coreml.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cache, all temporary files of a program go with it, also when it cannot load."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    graph = load_graph(Bundle.open(folder), "listen", "coreml")
    assert len(list(temporary.glob("vivant.*"))) == 1
    del graph
    stage = Bundle.open(folder).stage("listen")
    with pytest.raises(RuntimeError, match="Core ML cannot compile: Error Domain"):
        coreml.compile(b"no program", Signature(stage.inputs, stage.outputs), Options())
    assert not list(temporary.glob("vivant.*"))


@pytest.mark.parametrize(
    ("system", "got"), [(("linux", ""), "got "), (("darwin", "13.6"), "got macOS 13.6")]
)
def test_elsewhere_it_is_not_available(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, system: tuple[str, str], got: str
) -> None:
    """Off macOS 14 the reason says what is needed, names no package, and the exit code is 6."""
    monkeypatch.setattr(coreml, "_system", lambda: system)
    with pytest.raises(BackendError, match="expected macOS 14 or later; " + got) as error:
        Plan("coreml:ALL", cache=None).load(Bundle.open(bundle_path), "listen")
    assert "not available here" in str(error.value)
    assert "pip" not in str(error.value)
    assert error.value.exit_code == 6


def test_on_a_mac_without_bindings_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Core ML exists and PyObjC does not, the error says what to install."""
    fake_coreml.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "CoreML", None)
    with pytest.raises(BackendError, match="Run: pip install pyobjc-framework-CoreML"):
        load_backend("coreml")


def test_devices_are_listed_without_a_mac() -> None:
    """``vivant devices`` has a line for Core ML wherever it runs, and never fails for it."""
    found = probe("coreml")
    assert found.devices or "coreml is not" in found.reason


def test_noise_as_compiled_program_is_compiled_again(
    folder: Path, mac: type[fake_coreml.Model]
) -> None:
    """Whatever a cache entry holds, the answer is a graph that gives its golden output."""
    bundle, cache = Bundle.open(folder), Cache()
    load_graph(bundle, "listen", "coreml", cache=cache)
    (entry,) = cache.folder.iterdir()
    chance = random.Random(3)
    good = entry.read_bytes()
    for _ in range(40):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        entry.write_bytes(bad[: chance.choice([len(bad), 50, 500])])
        assert load_graph(bundle, "listen", "coreml", cache=cache).loading.error < 1e-4
