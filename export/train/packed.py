"""Trained weights small enough to keep beside the code, to go on training from.

    python -m vivant.export.train.packed pack motion.pt export/train/start/motion.npz
    python -m vivant.export.train.packed unpack export/train/start/motion.npz motion.pt

then ``vivant train motion --grow motion.pt`` or ``vivant train face --start face.pt``. Matrices
and kernels are kept in 8 bits with a scale for each output, which training soon evens out;
everything else, the tables of the motion space among it, as it is. The embedded bundle is not made
from these files: its graphs keep 16 bits, but some of the weights in them are folded together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivant.cli import run_module
from vivant.errors import UsageError
from vivant.export.eight_bits import eight_bits

LEAST = 16384
"""Elements from which a matrix or kernel is kept in 8 bits. The last layers have fewer; that of
``encode``'s motion code loses it 30 dB in 8 bits."""
KEPT = ("kind", "listen", "denoise", "statistics", "schedule", "guidance", "average")
"""What of a checkpoint is packed: what builds the network, and its averaged weights."""


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts that is no dict, under its keys joined by ``/``."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def pack(checkpoint: Path, out: Path) -> None:
    """Write ``out`` (.npz) from a checkpoint of ``vivant train``; raises UsageError."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"cannot read the checkpoint {checkpoint}", got=str(error)) from error
    if not isinstance(content, dict) or "average" not in content:
        raise UsageError(f"{checkpoint} is not a checkpoint", expected="averaged weights in it")
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in leaves({key: content[key] for key in KEPT if key in content}):
        if not isinstance(value, Tensor):
            plain[name] = value
            continue
        array = value.detach().numpy()
        if name.endswith("weight") and array.ndim > 1 and array.size >= LEAST:
            arrays[f"{name}:int8"], arrays[f"{name}:scale"] = eight_bits(array.astype(np.float32))
        else:
            arrays[name] = array
    out.parent.mkdir(parents=True, exist_ok=True)
    arrays[":plain"] = np.array(json.dumps(plain))
    np.savez_compressed(out, **arrays)


def unpack(packed: Path, out: Path) -> None:
    """Write the checkpoint ``out`` from a packed file; raises UsageError."""
    content: dict[str, Any] = {}
    try:
        with np.load(packed, allow_pickle=False) as file:
            values = dict(json.loads(str(file[":plain"])))
            for name in file.files:
                if name.endswith(":int8"):
                    name = name.removesuffix(":int8")
                    value = file[f"{name}:int8"].astype(np.float32) * file[f"{name}:scale"]
                    values[name] = torch.from_numpy(value)
                elif ":" not in name:
                    values[name] = torch.from_numpy(file[name])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"cannot read {packed}",
            expected="a file written by vivant.export.train.packed",
            got=f"{type(error).__name__}: {error}",
        ) from error
    for name, value in values.items():
        *folders, leaf = name.split("/")
        place = content
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    content |= {"last": content["average"], "step": 0, "seconds": 0.0}
    torch.save(content, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Pack or unpack; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path, help="checkpoint (.pt), or packed file (.npz)")
    parser.add_argument("out", type=Path, help="file to write")
    args = parser.parse_args(argv)
    (pack if args.what == "pack" else unpack)(args.source, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
