"""Fixtures that every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The generator is a script beside the tests; with pytest's importlib mode nothing else is found.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle's folder, written once; tests must not change it."""
    from tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache of compiled graphs."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("VIVANT_CACHE", str(folder))
