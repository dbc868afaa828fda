"""Benchmarks measure every backend on the same work, and say so in ratios."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import portrait

from vivant.benchmarks import photos
from vivant.benchmarks.pipeline import compare, table
from vivant.bundle import Bundle
from vivant.errors import BackendError, UsageError


def test_every_backend_gets_a_row_relative_to_the_first(bundle_path: Path) -> None:
    """The same sound goes through each backend; the first one is the unit."""
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    backends = ["onnxruntime:CPU", "openvino:CPU"]
    rows = compare(Bundle.open(bundle_path), backends, portrait(), sound, rounds=1)
    assert [row.backend for row in rows] == backends
    assert rows[0].ratio == 1.0
    assert rows[1].ratio == pytest.approx(rows[1].fps / rows[0].fps)
    assert {"listen", "denoise", "render", "composite"} <= set(rows[0].stages_ms)
    assert len(table(rows).splitlines()) == 3


def test_no_usable_backend_is_an_error_with_reasons(bundle_path: Path) -> None:
    """A device that is not there is named, not replaced by another."""
    sound = np.zeros(800, np.float32)
    with pytest.raises(BackendError, match="CUDA"):
        compare(Bundle.open(bundle_path), ["onnxruntime:CUDA"], portrait(), sound)


def test_every_photo_gets_a_sheet_and_its_figures(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of photos becomes a folder of sheets; one without a face is named and left out."""
    folder, out = tmp_path / "photos", tmp_path / "sheets"
    folder.mkdir()
    portrait_file = Image.fromarray(portrait())
    portrait_file.save(folder / "one.png")
    Image.new("RGB", (300, 300), "white").save(folder / "none.png")
    options = ["--seconds", "0.4", "--bundle", str(bundle_path), "--json"]
    assert photos.main([str(folder), str(out), *options]) == 0
    told = capsys.readouterr()
    rows = json.loads(told.out)
    assert list(rows) == ["one.png"]
    assert "none.png: no face found" in told.err
    with Image.open(out / "one.png") as page:
        cells = (page.width // photos.CELL) * (page.height // photos.CELL)
        assert cells >= 1 + len(photos.GESTURES) + 10
    assert len(photos.table(rows).splitlines()) == 3


def test_background_figures_tell_a_slide_from_a_flicker() -> None:
    """A background that stands gives zero; one that slides moves, one that jumps flickers too."""
    photo = np.random.default_rng(0).integers(0, 200, (64, 64, 3), np.uint8)
    assert photos.background([photo] * 5, photo) == (0, 0)
    brighter = [photo + np.uint8(k) for k in range(5)]
    assert photos.background(brighter, photo) == (2, 0)
    jumping = [photo + np.uint8(4 * (k % 2)) for k in range(5)]
    moved, flicker = photos.background(jumping, photo)
    assert moved == pytest.approx(1.6)
    assert flicker == 8


def test_a_folder_without_photos_is_a_user_error(tmp_path: Path) -> None:
    """Nothing to look at is said before any weights are loaded."""
    with pytest.raises(UsageError, match="no photos"):
        photos.main([str(tmp_path), str(tmp_path / "out")])
