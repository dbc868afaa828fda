"""What is installed is what is here: every package is listed, and the base install stays thin."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import vivant

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]


def test_every_package_is_in_the_wheel() -> None:
    """A folder with code that the build forgets would break only on a user's machine."""
    found = set()
    for name, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([name, *inner]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_base_install_is_thin_and_pinned() -> None:
    """No training library and no vendor but ONNX Runtime; every range has two ends."""
    project = PROJECT["project"]
    names = {re.split(r"[^\w-]", d)[0] for d in project["dependencies"]}
    assert names == {"numpy", "onnxruntime", "pillow", "soundfile", "soxr"}
    extras = project["optional-dependencies"]
    others = [wanted for name, wants in extras.items() if name != "dev" for wanted in wants]
    for wanted in project["dependencies"] + others:
        assert ">=" in wanted, wanted
        assert "<" in wanted, wanted


def test_the_embedded_bundle_is_complete_and_small() -> None:
    """Weights, demo portrait and demo speech come with the package, at most 40 MiB of them."""
    from vivant.bundle import STAGES, Bundle, default_path

    folder = default_path()
    assert set(Bundle.open().manifest.stages) == set(STAGES)
    files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {"portrait.jpg", "speech.flac", "manifest.json"} <= {p.name for p in files}
    assert sum(p.stat().st_size for p in files) <= 40 << 20


def test_public_names_exist() -> None:
    """Everything that ``vivant`` promises can be imported."""
    assert all(hasattr(vivant, name) for name in vivant.__all__)


def test_readme_commands_match_the_command_line() -> None:
    """Every verb that the README shows is a verb."""
    from vivant.cli import parser

    text = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"^\| `vivant ([a-z|\\]+)", text, re.M))
    verbs = {verb for cell in shown for verb in cell.replace("\\", "").split("|")}
    known = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    assert verbs
    assert verbs <= known
