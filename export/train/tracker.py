"""An independent face tracker, to evaluate with: where someone else's network sees a face.

A folder holds MediaPipe's face detector and mesh as ONNX files, ``face_detection_short_range`` and
``face_landmark``. Evaluation alone uses them; nothing of them is trained on or shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from vivant.errors import UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray
Track = Callable[[Array], Array | None]
"""From a photo (H, W, 3) u8 RGB to a mesh (468, 3) or, without a face, None. A vertex is x to the
right and y down, pixels of the photo, and z toward the camera in the same scale."""

VERTICES = 468
RIGHT, LEFT = 33, 263
"""Outer corners of the eyes."""
ROUNDS = 3
"""Times that the mesh is found: in the crop about the detector's box, then, as MediaPipe does in a
video, in the one about the mesh itself."""
CROP = 1.5
"""Side of a crop, of the longer side of the box that it is about, as in MediaPipe's graphs
(``face_detection_front_detection_to_roi``, ``face_landmark_landmarks_to_roi``)."""


class Region(NamedTuple):
    """A square of a photo."""

    middle: Array
    """(2,) pixels."""
    half: float
    """Half its side, pixels."""
    angle: float
    """By which it is turned, degrees clockwise."""


def tracker(folder: Path) -> Track:
    """The tracker of a folder. Raises UsageError when one of its files is missing."""
    detector, mesh = (
        _session(folder, "face_detection_short_range"),
        _session(folder, "face_landmark"),
    )
    # BlazeFace: 2 anchors a cell at stride 8, 6 at stride 16, centred on the cells of 128 px.
    anchors = np.concatenate(
        [
            np.repeat(np.stack(np.meshgrid(*2 * [np.arange(n) + 0.5]), -1).reshape(-1, 2) / n, k, 0)
            for n, k in ((16, 2), (8, 6))
        ]
    )

    def detect(photo: Array) -> Region | None:
        """Where the likeliest face is."""
        height, width = photo.shape[:2]
        half = max(height, width) / 2
        middle = np.array([width / 2, height / 2])
        best: tuple[float, Array] | None = None
        for zoom in (1.0, 0.6, 0.4):  # the short-range model is blind to small faces
            for dx in (-1, 0, 1) if zoom < 1 else (0,):
                for dy in (-1, 0, 1) if zoom < 1 else (0,):
                    at = middle + np.array([dx, dy]) * half * (1 - zoom)
                    image, turn = _cut(photo, Region(at, half * zoom, 0), 128)
                    feed = image[None] / np.float32(127.5) - 1
                    boxes, scores = detector.run(None, {"input": feed})
                    k = int(scores[0, :, 0].argmax())
                    if best is None or scores[0, k, 0] > best[0]:
                        # Two corners of the box, then the right and the left eye.
                        box, eyes = boxes[0, k, :4].reshape(2, 2), boxes[0, k, 4:8].reshape(2, 2)
                        corners = box[0] + np.array([[-0.5], [0.5]]) * box[1]
                        points = np.concatenate([corners, eyes]) + anchors[k] * 128
                        back = cv2.invertAffineTransform(turn)
                        best = scores[0, k, 0], points @ back[:, :2].T + back[:, 2]
        return None if best is None or best[0] < 0 else _about(best[1][:2], *best[1][2:])

    def run(photo: Array) -> Array | None:
        region = detect(photo)
        if region is None:
            return None
        for _ in range(ROUNDS):
            crop, turn = _cut(photo, region, 192)
            points, _ = mesh.run(None, {"input_1": crop[None] / np.float32(255)})
            vertices = uncut(points.reshape(VERTICES, 3), turn)
            region = _about(vertices[:, :2], vertices[RIGHT, :2], vertices[LEFT, :2])
        return vertices + np.array([0.5, 0.5, 0], np.float32)

    return run


def uncut(points: Array, turn: Array) -> Array:
    """A mesh (468, 3) in pixels of a crop, z away from the camera, as it lies in the photo that
    ``turn`` (2, 3) cut the crop from: turned, moved and scaled back, z toward the camera."""
    back = cv2.invertAffineTransform(turn)
    plane = points[:, :2] @ back[:, :2].T + back[:, 2]
    scale = math.sqrt(abs(np.linalg.det(back[:, :2])))
    return np.concatenate([plane, -scale * points[:, 2:]], 1).astype(np.float32)


def _session(folder: Path, name: str) -> InferenceSession:
    import onnxruntime

    path = folder / f"{name}.onnx"
    if not path.exists():
        raise UsageError(
            f"no {path.name} in the tracker's folder",
            expected="face_detection_short_range.onnx and face_landmark.onnx of MediaPipe",
            got=str(folder),
        )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1  # too small to gain by more
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def _about(points: Array, right: Array, left: Array) -> Region:
    """The crop about the upright box of ``points`` (N, 2), turned as the eyes (2,) are."""
    low, high = points.min(0), points.max(0)
    across = left - right
    angle = math.degrees(math.atan2(across[1], across[0]))
    return Region((low + high) / 2, CROP / 2 * float((high - low).max()), angle)


def _cut(photo: Array, region: Region, size: int) -> tuple[Array, Array]:
    """A region as a picture of ``size`` pixels a side, and its transform (2, 3)."""
    turn = cv2.getRotationMatrix2D(region.middle.tolist(), region.angle, size / (2 * region.half))
    turn[:, 2] = turn[:, 2] + size / 2 - region.middle
    return cv2.warpAffine(photo, turn, (size, size), flags=cv2.INTER_AREA), turn
