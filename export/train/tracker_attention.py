"""A second tracker, sharper at lips and lids: MediaPipe's mesh with attention, by MediaPipe itself.

The plain mesh of ``tracker.py`` has thick lids, and shut ones look to it half open. This one
refines lips and lids; its file holds operators that only MediaPipe runs, and the releases of
MediaPipe that have it need another numpy than this project. So an interpreter of its own runs it::

    python -m venv ATTENTION && ATTENTION/bin/pip install mediapipe==0.10.21

That interpreter starts this file, which therefore imports nothing else of this project.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

Array = np.ndarray
VERTICES = 468
HEAD = struct.Struct("<II")
"""Before a photo's pixels: its height and width."""
READY, FACE, NONE = b"r", b"f", b"n"
"""What the other interpreter says first of each answer."""
CONFIDENCE = 0.2
"""Least confidence of the detector: whoever evaluates shows it a face."""


def attention(python: str) -> Callable[[Array], Array | None]:
    """The tracker of an interpreter that has MediaPipe, as ``tracker.Track``.

    Raises UsageError when there is no such interpreter or it has no such mesh.
    """
    from vivant.errors import UsageError

    expected = "a Python that has mediapipe==0.10.21"
    errors = tempfile.TemporaryFile()  # noqa: SIM115, as long as the interpreter lives
    try:
        child = subprocess.Popen(
            [python, "-u", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    except OSError as error:
        raise UsageError(f"cannot start {python}", expected=expected, got=str(error)) from error
    assert child.stdin is not None
    assert child.stdout is not None
    to, answers = child.stdin, child.stdout

    def said() -> str:
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no answer"

    if answers.read(1) != READY:
        raise UsageError("no mesh with attention", expected=expected, got=said())

    def run(photo: Array) -> Array | None:
        try:
            to.write(HEAD.pack(*photo.shape[:2]) + np.ascontiguousarray(photo, np.uint8).tobytes())
            to.flush()
        except OSError:
            pass  # what ended the interpreter is told below
        kind = answers.read(1)
        if kind == NONE:
            return None
        data = answers.read(12 * VERTICES) if kind == FACE else b""
        if len(data) < 12 * VERTICES:
            raise UsageError("the tracker's interpreter ended", expected=expected, got=said())
        return np.frombuffer(data, "<f4").reshape(VERTICES, 3).copy()

    return run


def _serve(photos: IO[bytes], answers: IO[bytes]) -> None:
    """Answer every photo with its mesh, until there are no more."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    mesh = FaceMesh(
        static_image_mode=True, refine_landmarks=True, min_detection_confidence=CONFIDENCE
    )
    answers.write(READY)
    answers.flush()
    while len(head := photos.read(HEAD.size)) == HEAD.size:
        height, width = HEAD.unpack(head)
        pixels = np.frombuffer(photos.read(height * width * 3), np.uint8)
        faces = mesh.process(pixels.reshape(height, width, 3)).multi_face_landmarks
        if faces:
            points = [(p.x * width, p.y * height, -p.z * width) for p in faces[0].landmark]
            answers.write(FACE + np.array(points[:VERTICES], "<f4").tobytes())
        else:
            answers.write(NONE)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
