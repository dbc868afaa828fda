"""Opening what a user hands over: one clear line for what is missing, empty, or something else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import VivantError

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"WAVE", "a WAV recording"),
    (8, b"AVI ", "an AVI video"),
    (0, b"fLaC", "a FLAC recording"),
    (0, b"OggS", "an Ogg recording"),
    (0, b"ID3", "an MP3 recording"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftyphevc", "a HEIC image"),
    (4, b"ftypheim", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypM4A", "an M4A recording"),
    (4, b"ftypcrx", "a camera's raw image"),
    (4, b"ftyp", "an MP4 or MOV video"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive or office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BM", "a BMP image"),
    (0, b"II*\x00", "a TIFF or camera's raw image"),
    (0, b"MM\x00*", "a TIFF or camera's raw image"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"<?xml", "an XML document"),
)


def describe(data: bytes) -> str:
    """What a file is by its first bytes, in words that fit into an error message."""
    head = data[:512]
    for offset, magic, words in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return words
    if not head.strip(b"\0"):
        return "nothing but zeros"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "text"
    return "unknown data"


def check_readable(
    path: str | os.PathLike[str], *, noun: str, error: type[VivantError], limit: int | None = None
) -> Path:
    """Return ``path`` when it is a regular, readable, non-empty file of at most ``limit`` bytes.

    ``noun`` names the input in the message ("photo"); any objection is raised as ``error``.
    """
    shown = f"The {noun} '{os.fspath(path)}'"
    try:
        file = Path(path).expanduser()
        info = file.stat()
        if stat.S_ISREG(info.st_mode):
            with file.open("rb"):
                pass
    except FileNotFoundError:
        fix = f"Check the path to the {noun}."
        if os.fspath(path) == "-":
            fix = "Standard input is not read: save it to a file first."
        if "://" in os.fspath(path):
            fix = "Download it first: Vivant reads local files only."
        raise error(f"{shown} does not exist", expected="a local file", fix=fix) from None
    except PermissionError:
        raise error(f"{shown} may not be read", fix="Change the file's permissions.") from None
    except (OSError, ValueError, RuntimeError) as cause:
        raise error(f"{shown} cannot be opened", got=str(cause), fix="Check the path.") from None
    if stat.S_ISDIR(info.st_mode):
        raise error(f"{shown} is a folder", expected="a file", fix="Name a file in it.")
    if not stat.S_ISREG(info.st_mode):
        raise error(
            f"{shown} is a device or pipe",
            expected="a regular file",
            fix="Save it to a file first.",
        )
    if info.st_size == 0:
        raise error(
            f"{shown} is empty", expected=f"a {noun}", got="0 bytes", fix="Copy the file again."
        )
    if limit is not None and info.st_size > limit:
        raise error(
            f"{shown} is too large",
            expected=f"at most {limit >> 20} MiB",
            got=f"{info.st_size >> 20} MiB",
            fix="Save it smaller.",
        )
    return file
