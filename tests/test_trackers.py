"""Promises of the tracker that another interpreter runs; its MediaPipe is made up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vivant.errors import UsageError
from vivant.export.train.tracker_attention import VERTICES, attention

MESH = """
import os
from types import SimpleNamespace as Name

class FaceMesh:
    def __init__(self, **options):
        print("chatter", flush=True, file=__import__("sys").stderr)
        assert options["refine_landmarks"]

    def process(self, image):
        colour = image[0, 0] / 200
        if colour[0] > 1:
            os.write(2, b"the mesh broke\\n")
            os._exit(3)
        points = [Name(x=colour[0], y=colour[1], z=-k / 478) for k in range(478)]
        faces = [Name(landmark=points)] if colour[2] < 1 else None
        return Name(multi_face_landmarks=faces)
"""


@pytest.fixture
def mediapipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package by that name, which finds a face where the first pixel says."""
    folder = tmp_path / "mediapipe" / "python" / "solutions"
    folder.mkdir(parents=True)
    (folder / "face_mesh.py").write_text(MESH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def photo(*colour: int) -> np.ndarray:
    return np.full((40, 60, 3), colour, np.uint8)


def test_a_mesh_comes_from_another_interpreter(mediapipe: None) -> None:
    """Fractions of the photo are pixels here, depth points to the camera in the same scale, extra
    vertices are left out, and where there is no face there is none; every photo has its own
    answer."""
    track = attention(sys.executable)
    mesh = track(photo(100, 50, 0))
    assert mesh is not None
    assert mesh.shape == (VERTICES, 3)
    assert mesh[-1] == pytest.approx([30, 10, 60 * 467 / 478], rel=1e-5)
    assert track(photo(0, 0, 255)) is None
    again = track(photo(20, 100, 0)[:, ::-1])
    assert again is not None
    assert again[0] == pytest.approx([6, 20, 0], rel=1e-5)


def test_a_tracker_that_cannot_run_says_why(
    mediapipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No interpreter, one without MediaPipe, and one that ends while it works each end in a clear
    error that names what is needed."""
    track = attention(sys.executable)
    with pytest.raises(UsageError, match=r"ended.*mediapipe==.*the mesh broke"):
        track(photo(255, 0, 0))
    with pytest.raises(UsageError, match=r"cannot start .*mediapipe=="):
        attention(str(tmp_path / "python"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mediapipe"))
    with pytest.raises(UsageError, match=r"no mesh with attention.*No module named 'mediapipe"):
        attention(sys.executable)
