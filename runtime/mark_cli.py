"""``vivant detect``: does a video, picture or folder of frames carry the mark?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import media
from .disclosure import DIGITAL_SOURCE_TYPE
from .errors import PhotoError
from .files import check_readable, describe
from .mark import THRESHOLD, Detection, detect
from .photo import load_photo

GROUP = 100
"""Frames averaged at once; a longer video is searched group by group until the mark is found."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif")
_ENDS = 1 << 20  # bytes at a file's start and end in which the declaration is sought


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``detect`` to the command line."""
    verb = verbs.add_parser(
        "detect",
        help="look for the mark in a video or picture",
        description="Look for the imperceptible mark that Vivant puts on every frame. "
        "Exit code 0: found; 1: not found. Not finding it does not prove that a picture is real.",
    )
    verb.add_argument("file", metavar="FILE", help="a video, a picture, or a folder of frames")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``detect``; returns 0 when the mark is found, else 1. Raises PhotoError."""
    found = search(open_frames(args.file))
    declared = declares(args.file)
    ident = None if found.id is None else f"{found.id:08x}"
    if args.json:
        facts = {
            "present": found.present,
            "score": round(found.score, 3),
            "threshold": THRESHOLD,
            "id": ident,
            "frames": found.frames,
            "declared": declared,
        }
        print(json.dumps(facts))
    else:
        verdict = "made with Vivant" if found.present else "no mark found"
        owner = f", id {ident}" if ident else ""
        print(f"{verdict}{owner} (score {found.score:.1f}, {THRESHOLD:g} needed)")
        if declared:
            print("its metadata declare it as AI-generated", file=sys.stderr)
    return 0 if found.present else 1


def search(frames: Iterator[NDArray[np.uint8]]) -> Detection:
    """Detect in groups of ``GROUP`` frames: the first that has the mark, else the best one."""
    best = Detection(0.0, False, None, 0)
    for first in frames:
        found = detect(islice(chain([first], frames), GROUP))
        if found.score > best.score or not best.frames:
            best = found
        if best.present:
            break
    return best


def open_frames(path: str) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video, a picture, or a folder of pictures in the order of their names.

    Raises PhotoError when there is none.
    """
    folder = Path(path).expanduser()
    if os.path.isdir(folder):
        try:
            names = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES)
        except OSError as cause:
            raise PhotoError(
                f"The folder '{path}' cannot be read",
                got=cause.strerror or str(cause),
                fix="Change its permissions.",
            ) from None
        if not names:
            raise PhotoError(f"The folder '{path}' has no pictures", expected="PNG or JPEG frames")
        return map(load_photo, names)
    file = check_readable(path, noun="file", error=PhotoError)
    try:
        return iter([load_photo(file)])
    except PhotoError as no_picture:
        with file.open("rb") as stream:
            if describe(stream.read(512)).endswith("image"):
                raise
        if not media.available():
            raise PhotoError(
                f"The file '{path}' cannot be decoded",
                expected="a picture, unless PyAV is installed",
                got=str(no_picture.got or no_picture.what),
                fix="Install it with: pip install av.",
            ) from no_picture
    return media.decode_video(file.open("rb"), f"The file '{path}'")


def declares(path: str) -> bool:
    """Whether a file's metadata name the IPTC source type of AI-generated media."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        start = stream.read(_ENDS)
        stream.seek(max(stream.tell(), file.stat().st_size - _ENDS))
        return DIGITAL_SOURCE_TYPE.encode() in start + stream.read(_ENDS)
