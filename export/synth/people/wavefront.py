"""The upstream files of the asset pack: Wavefront meshes, MakeHuman targets and proxies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vivant.errors import UsageError
from vivant.export.synth.people.pack import Array


@dataclass
class Mesh:
    """A triangulated mesh as its file has it."""

    points: Array  # (V, 3)
    faces: NDArray[np.int64]  # (T, 3)
    uv: Array  # (T, 3, 2), v up
    corner: NDArray[np.int64]  # (T, 3) which of the file's texture coordinates
    group: NDArray[np.int64]  # (T,) index into groups
    groups: list[str]


def _lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise UsageError(
            "an upstream file is missing",
            expected=f"{path.parent.name}/{path.name}",
            got="no such file",
            fix="check out the whole upstream repository",
        )
    return [
        words for words in map(str.split, path.read_text(errors="replace").splitlines()) if words
    ]


def read_points(path: Path) -> Array:
    """Vertex positions alone, (V, 3)."""
    return np.array([w[1:4] for w in _lines(path) if w[0] == "v"], np.float32)


def read_mesh(path: Path, label: str = "g") -> Mesh:
    """A mesh whose polygons are fanned into triangles; ``label``: the statement naming groups."""
    points, texture, faces, corner, group = [], [], [], [], []
    groups: list[str] = []
    current = 0
    for words in _lines(path):
        if words[0] == "v":
            points.append(words[1:4])
        elif words[0] == "vt":
            texture.append(words[1:3])
        elif words[0] == label and len(words) > 1:
            if words[1] not in groups:
                groups.append(words[1])
            current = groups.index(words[1])
        elif words[0] == "f":
            ring = [[int(n) - 1 for n in word.split("/")[:2]] for word in words[1:]]
            for a, b in pairwise(ring[1:]):
                faces.append((ring[0][0], a[0], b[0]))
                corner.append((ring[0][1], a[1], b[1]))
                group.append(current)
    corners = np.array(corner, np.int64)
    return Mesh(
        np.array(points, np.float32),
        np.array(faces, np.int64),
        np.array(texture, np.float32)[corners],
        corners,
        np.array(group, np.int64),
        groups,
    )


def read_target(path: Path, count: int) -> Array:
    """A MakeHuman target as displacement of ``count`` vertices, (V, 3)."""
    change = np.zeros((count, 3), np.float32)
    for words in _lines(path):
        if words[0].isdigit():
            change[int(words[0])] = [float(v) for v in words[1:4]]
    return change


@dataclass
class Proxy:
    """Hair, brows or a garment bound to the MakeHuman base mesh."""

    index: NDArray[np.int64]  # (N, 3) base vertices
    weight: Array  # (N, 3)
    offset: Array  # (N, 3)
    scale: dict[int, tuple[int, int, float]]
    """Per axis: two base vertices and their distance for which the offsets were made."""
    mesh: Mesh

    def fitted(self, base: Array, unit: float) -> Array:
        """Its vertices on a deformed base mesh (V, 3); ``unit`` scales axes without reference."""
        offset = self.offset.copy()
        for axis in range(3):
            gain = unit
            if axis in self.scale:
                a, b, distance = self.scale[axis]
                gain = abs(float(base[a, axis] - base[b, axis])) / distance
            offset[:, axis] *= gain
        return ((base[self.index] * self.weight[..., None]).sum(1) + offset).astype(np.float32)


def read_proxy(path: Path) -> Proxy:
    """A ``.mhclo`` file and the mesh it names."""
    rows: list[list[float]] = []
    scale: dict[int, tuple[int, int, float]] = {}
    name, inside = "", False
    for words in _lines(path):
        if words[0] == "obj_file":
            name = words[1]
        elif words[0] in ("x_scale", "y_scale", "z_scale"):
            scale["xyz".index(words[0][0])] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0] in ("verts", "delete_verts"):
            inside = words[0] == "verts"  # other statements may stand between
        elif inside and words[0].isdigit():
            if len(words) >= 9:
                rows.append([float(v) for v in words[:9]])
            elif len(words) == 1:  # lies on one base vertex
                rows.append([float(words[0])] * 3 + [1.0, 0, 0, 0, 0, 0])
    table = np.array(rows)
    return Proxy(
        table[:, :3].astype(np.int64),
        table[:, 3:6].astype(np.float32),
        table[:, 6:].astype(np.float32),
        scale,
        read_mesh(path.parent / name),
    )


def read_picture(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) u8 RGB(A), area-reduced to ``size`` squared.

    Raises ``UsageError`` when the picture is missing or a Git LFS pointer.
    """
    if path.is_file() and path.read_bytes()[:7] == b"version":
        raise UsageError(
            f"{path.name} was not downloaded",
            expected="a picture",
            got="a Git LFS pointer",
            fix="run `git lfs pull` in that repository",
        )
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3:
        raise UsageError(
            "an upstream picture cannot be read",
            expected=f"colours in {path.parent.name}/{path.name}",
            got="nothing" if image is None else "a grey picture",
        )
    image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    if size is not None:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image, np.uint8)
