"""The .mlpackage that Core ML reads: a folder of a program, its weights, and a list of the two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .errors import BundleError

SUFFIX = ".mlpackage"

FOLDER = "com.apple.CoreML"
MANIFEST = "Manifest.json"
MODEL = f"Data/{FOLDER}/model.mlmodel"
WEIGHTS = f"Data/{FOLDER}/weights/weight.bin"
"""Paths inside the folder; Core ML knows no other layout."""

IDENTIFIERS = "7c3f0a52-6a0e-5d0c-9d6b-0d2d2b1f0001", "7c3f0a52-6a0e-5d0c-9d6b-0d2d2b1f0002"
"""Of program and weights in every package's list; Core ML's own tools draw them at random."""

RESERVED = {"state": "state_in"}
"""Names that Core ML keeps for itself, and what a program's inputs are called instead."""


def package_files(model: bytes, weights: bytes) -> dict[str, bytes]:
    """Content by path of the package of a program; equal arguments give equal bytes.

    A program whose constants are all small has no ``weights`` and its package no such file.
    """
    items = [(IDENTIFIERS[0], MODEL, "Specification")]
    if weights:
        items.append((IDENTIFIERS[1], WEIGHTS.rpartition("/")[0], "Weights"))
    listed = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {
                "author": FOLDER,
                "description": f"CoreML Model {what}",
                "name": path.rpartition("/")[2],
                "path": path.removeprefix("Data/"),
            }
            for key, path, what in items
        },
        "rootModelIdentifier": IDENTIFIERS[0],
    }
    files = {MANIFEST: json.dumps(listed, indent=1).encode(), MODEL: model}
    return files | ({WEIGHTS: weights} if weights else {})


def write_package(folder: Path, model: bytes, weights: bytes) -> Path:
    """Write the package ``folder``; raises OSError."""
    for name, content in package_files(model, weights).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def check_layout(where: str, paths: Sequence[str]) -> None:
    """Raise BundleError, with ``where``, unless ``paths`` are the parts of one package."""
    folder = paths[0].partition("/")[0]
    layouts = [(MODEL, WEIGHTS, MANIFEST), (MODEL, MANIFEST)]
    known = [[f"{folder}/{path}" for path in layout] for layout in layouts]
    if list(paths) not in known or not folder.endswith(SUFFIX):
        raise BundleError(
            f"{where} is no package",
            expected=", ".join(f"NAME{SUFFIX}/{path}" for path in layouts[0]),
            got=", ".join(paths),
        )
