"""The asset pack: one head topology, its identity and expression shapes, skins, hair, garments.

Geometry is in centimetres, x to the right of the image (the subject's left), y up, z toward the
camera. Upstream: ICT-FaceKit (MIT) for the head, its identities and expressions; the MakeHuman
community assets (CC0 1.0) for skins, hair, brows, garments and semantic shape axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivant import latent
from vivant.errors import UsageError

Array = NDArray[Any]
"""float32 unless said; OpenCV's and SciPy's stubs do not carry element types."""

SKIN, SOCKET, EYE_LEFT, EYE_RIGHT = (
    slice(0, 11248),
    slice(11248, 13294),
    slice(21451, 23021),
    slice(23021, 24591),
)
"""Vertex ranges: outer skin, mouth socket, the left and the right eyeball."""
GLOBES = (slice(21451, 22221), slice(23021, 23791))
"""Vertices of the outer globe (sclera and cornea) of the left and the right eye."""
TEETH = slice(14062, 21451)
"""Gums, tongue and teeth."""

FACE, SCALP, MOUTH, ORBIT, GUM, TONGUE, TOOTH, GLOBE_LEFT, GLOBE_RIGHT, LASH = range(10)
HAIR, GARMENT, FLYAWAY, FRAME, OCCLUDER, CAP, HAND, HELD = range(10, 18)
"""Material of a triangle; 0..9 come with the head, the others are added to a person."""

INNER = (MOUTH, ORBIT, GUM, TONGUE, TOOTH)
"""Materials behind lips and lids, which cast no shadow that is seen."""

UNPROVEN = ("afro01", "bob01")
"""Hair whose texture has no provable licence: only the shape is used, with our own strands."""


def _source_names(name: str) -> tuple[str, ...]:
    """Names, in the pack, of the shapes that sum to one shape of the latent."""
    if name in ("browInnerUp", "cheekPuff"):
        return (f"{name}_L", f"{name}_R")
    for side in ("Left", "Right"):
        if name.endswith(side) and name not in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            return (f"{name[: -len(side)]}_{side[0]}",)
    return (name,)


@dataclass
class Pack:
    """Everything persons are made of, decoded; images stay compressed until asked for."""

    mean: Array
    """Mean head, (V, 3) cm."""
    identity: Array
    """Identity modes of unit variance, (100, V, 3) cm."""
    expressions: Array
    """The latent's 55 shapes in the latent's order, (55, V, 3) cm."""
    axis_names: tuple[str, ...]
    axes: Array
    """Semantic shape axes, (A, V, 3) cm."""
    faces: NDArray[np.int64]
    """Triangles, (T, 3) vertex indices."""
    material: NDArray[np.int64]
    """Material of every triangle, (T,)."""
    uv: Array
    """Texture coordinates per triangle corner, (T, 3, 2), v up."""
    tables: dict[str, NDArray[Any]] = field(repr=False)
    """Names of the styles and every compressed image, as stored."""
    cache: dict[str, Any] = field(default_factory=dict, repr=False)
    """What is derived from the pack alone and shared by all persons."""

    def names(self, kind: str) -> tuple[str, ...]:
        """Styles of one kind: ``hairs``, ``cloths``, ``brows``."""
        return tuple(str(name) for name in self.tables[kind])

    def image(self, key: str) -> Array:
        """Decode an image: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8."""
        import cv2

        pixels: Array = cv2.imdecode(self.tables[key], cv2.IMREAD_UNCHANGED)  # type: ignore[assignment]
        if pixels.ndim == 3:
            pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        return np.ascontiguousarray(pixels)

    def mesh(self, kind: str, name: str) -> tuple[Array, NDArray[np.int64], Array]:
        """Vertices (V, 3), triangles (T, 3), texture coordinates (T, 3, 2) of hair or a garment."""
        key = f"{kind}/{name}/"
        if key not in self.cache:
            self.cache[key] = (
                np.asarray(self.tables[key + "v"], np.float32),
                np.asarray(self.tables[key + "f"], np.int64),
                np.asarray(self.tables[key + "uv"], np.float32),
            )
        return self.cache[key]


def _dequantised(table: dict[str, NDArray[Any]], key: str) -> Array:
    scale = np.asarray(table[key + "_s"], np.float32)
    return np.asarray(table[key], np.float32) * scale[:, None, None]


def load(path: str | Path) -> Pack:
    """Read an asset pack (about 1.5 s, 0.5 GB).

    Raises UsageError when the file is missing or not an asset pack.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            "the asset pack does not exist",
            expected="an .npz written by build_pack",
            got=str(path),
            fix="pass its path with --pack",
        )
    with np.load(path) as stored:
        table: dict[str, NDArray[Any]] = {k: stored[k] for k in stored.files}
    if "idm_a" not in table or "exn" not in table:
        raise UsageError(
            "the file is not an asset pack",
            expected="arrays mean, idm_a, ex, exn, ...",
            got=f"{path} with {sorted(table)[:5]}",
            fix="rebuild it with build_pack",
        )
    shapes = _dequantised(table, "ex")
    rows = {str(name): k for k, name in enumerate(table["exn"])}
    expressions = np.stack(
        [
            np.sum([shapes[rows[part]] for part in _source_names(name)], axis=0)
            for name in latent.ARKIT + latent.TONGUE
        ]
    ).astype(np.float32)
    return Pack(
        mean=np.asarray(table["mean"], np.float32),
        identity=np.concatenate([_dequantised(table, "idm_a"), _dequantised(table, "idm_b")]),
        expressions=expressions,
        axis_names=tuple(str(name) for name in table["axn"]),
        axes=_dequantised(table, "ax"),
        faces=np.asarray(table["F"], np.int64),
        material=np.asarray(table["M"], np.int64),
        uv=np.asarray(table["uv"], np.float32) / 65535,
        tables={
            k: v for k, v in table.items() if k not in ("idm_a", "idm_b", "ex", "ax", "F", "uv")
        },
    )
