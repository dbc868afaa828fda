"""An independent face tracker, to evaluate with: where someone else's network sees a face.

A folder holds MediaPipe's face detector and mesh as ONNX files, ``face_detection_short_range`` and
``face_landmark``. Evaluation alone uses them; nothing of them is trained on or shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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
ROUNDS = 2
"""Times that the mesh is found: in the detector's crop, then in the one that it asks for itself."""


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

    def detect(photo: Array) -> Array | None:
        """Right and left eye, nose, mouth and ears of the likeliest face, (6, 2) pixels."""
        height, width = photo.shape[:2]
        half = max(height, width) / 2
        middle = np.array([width / 2, height / 2])
        best: tuple[float, Array] | None = None
        for zoom in (1.0, 0.6, 0.4):  # the short-range model is blind to small faces
            for dx in (-1, 0, 1) if zoom < 1 else (0,):
                for dy in (-1, 0, 1) if zoom < 1 else (0,):
                    at = middle + np.array([dx, dy]) * half * (1 - zoom)
                    image, turn = _cut(photo, at, half * zoom, 0, 128)
                    feed = image[None] / np.float32(127.5) - 1
                    boxes, scores = detector.run(None, {"input": feed})
                    k = int(scores[0, :, 0].argmax())
                    points = boxes[0, k, 4:].reshape(6, 2) / 128 + anchors[k]
                    if best is None or scores[0, k, 0] > best[0]:
                        back = cv2.invertAffineTransform(turn)
                        best = scores[0, k, 0], points * 128 @ back[:, :2].T + back[:, 2]
        return None if best is None or best[0] < 0 else best[1]

    def run(photo: Array) -> Array | None:
        six = detect(photo)
        if six is None:
            return None
        for _ in range(ROUNDS):
            across = six[1] - six[0]
            angle = math.degrees(math.atan2(across[1], across[0]))
            half = 2.3 * float(np.linalg.norm(across))
            crop, turn = _cut(photo, six[:4].mean(0), half, angle, 192)
            points, _ = mesh.run(None, {"input_1": crop[None] / np.float32(255)})
            vertices = uncut(points.reshape(VERTICES, 3), turn)
            eyes_nose_mouth = ([33, 133], [362, 263], [1], [13, 14])
            six = np.stack([vertices[v, :2].mean(0) for v in eyes_nose_mouth])
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


def _cut(photo: Array, middle: Array, half: float, angle: float, size: int) -> tuple[Array, Array]:
    """A square about ``middle``, turned back by ``angle`` degrees, and its transform (2, 3)."""
    turn = cv2.getRotationMatrix2D(middle.tolist(), angle, size / (2 * half))
    turn[:, 2] = turn[:, 2] + size / 2 - middle
    return cv2.warpAffine(photo, turn, (size, size), flags=cv2.INTER_AREA), turn
