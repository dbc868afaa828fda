"""Generated hostile photos: each ends in a valid picture or in one typed line, within bounds."""

from __future__ import annotations

import faulthandler
import io
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from mutate import flipped, truncated
from PIL import Image

from vivant.errors import PhotoError
from vivant.photo import MAX_SIDE, MIN_SIDE, load_photo

MEMORY = 1 << 30  # bytes that the process may grow by while it reads all of them


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def _good() -> dict[str, bytes]:
    """One good photo of each kind that people have."""
    y, x = np.mgrid[0:120, 0:100]
    rgb = np.stack([x * 2, y * 2, (x * y) % 251], -1).astype(np.uint8)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [image.rotate(90 * i) for i in range(1, 3)]
    return {
        "jpeg": _save(image, "JPEG", exif=exif.tobytes()),
        "progressive": _save(image, "JPEG", progressive=True),
        "cmyk": _save(image.convert("CMYK"), "JPEG"),
        "mpo": _save(image, "MPO", save_all=True, append_images=frames),
        "png": _save(image, "PNG"),
        "png-alpha": _save(image.convert("RGBA"), "PNG"),
        "png-palette": _save(image.quantize(40), "PNG", transparency=3),
        "png-16": _save(Image.fromarray((x * y * 5).astype(np.uint16)), "PNG"),
        "gif": _save(image, "GIF", save_all=True, append_images=frames),
        "webp": _save(image, "WEBP"),
        "webp-lossless": _save(image, "WEBP", lossless=True),
        "tiff": _save(image, "TIFF"),
        "tiff-lzw": _save(image, "TIFF", compression="tiff_lzw"),
        "tiff-float": _save(Image.fromarray((x / 99).astype(np.float32)), "TIFF"),
        "bmp": _save(image, "BMP"),
        "ppm": _save(image, "PPM"),
        "jp2": _save(image, "JPEG2000"),
        "avif": _save(image, "AVIF"),
    }


def _mislabelled() -> Iterator[tuple[str, bytes]]:
    goods = list(_good().items())
    for (kind, data), (other, body) in zip(goods, goods[1:] + goods[:1], strict=True):
        yield f"{kind} head on {other} body", data[:16] + body[16:]
        yield f"{kind} after 512 zeros", bytes(512) + data
        yield f"{kind} followed by rubbish", data + b"\xff\xd8\xff" * 900


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(extra) + data + _chunk(b"IEND", b"")
    )


def _resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    """Claim another size in the frame header (SOF0 or SOF2)."""
    at = max(data.find(b"\xff\xc0\x00\x11"), data.find(b"\xff\xc2\x00\x11"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated ``count`` times."""
    data = _good()["progressive"]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _lossless_webp(width: int, height: int) -> bytes:
    """Claim another size in the VP8L header (14 bits a side)."""
    data = bytearray(_good()["webp-lossless"])
    at = data.index(b"VP8L") + 9
    bits = struct.unpack("<I", data[at : at + 4])[0] >> 28 << 28
    data[at : at + 4] = struct.pack("<I", bits | (width - 1) | (height - 1) << 14)
    return bytes(data)


def _bombs() -> Iterator[tuple[str, bytes]]:
    for width, height in ((30000, 30000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 0), (1, 1)):
        yield f"png of {width} x {height}", _png(width, height)
    for side in (9000, 13000):
        yield f"png of {side} x {side}, 16 bits", _png(side, side, depth=16, colour=6)
    bomb = zlib.compress(bytes(50_000_000), 9)
    yield "png with a text bomb", _png(80, 80, _chunk(b"zTXt", b"a\0\0" + bomb))
    yield "png with a profile bomb", _png(80, 80, _chunk(b"iCCP", b"a\0\0" + bomb))
    yield "png with an animation bomb", _png(80, 80, _chunk(b"acTL", b"\xff" * 8))
    yield "png with a data bomb", _png(80, 80, _chunk(b"IDAT", bomb))
    for depth, colour in ((1, 2), (3, 0), (16, 3), (255, 255)):
        yield f"png of depth {depth}, colour {colour}", _png(80, 80, depth=depth, colour=colour)
    for kind in ("jpeg", "progressive", "cmyk"):
        for width, height in ((65500, 65500), (12000, 12000), (65535, 64), (0, 0)):
            yield f"{kind} of {width} x {height}", _resized_jpeg(_good()[kind], width, height)
    yield "jpeg of 5000 scans", _scans(5000)
    yield "jpeg of 90 scans", _scans(90)
    yield "webp of 16384 x 16384", _lossless_webp(16384, 16384)
    yield "gif of 65535 x 65535", b"GIF89a" + b"\xff" * 4 + _good()["gif"][10:]
    for width, height in ((40000, 40000), (2**31 - 1, 1), (-5, -5)):
        bmp = _good()["bmp"]
        yield f"bmp of {width} x {height}", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    for size in (b"99999 99999", b"9999999999999999999 1", b"-3 -3", b"0 0", b"x y"):
        yield f"ppm of {size.decode()}", b"P6\n" + size + b"\n255\n" + bytes(999)
    yield "ppm of 100000 digits", b"P6\n" + b"9" * 100_000
    tags = struct.pack("<HHIIHHIIHHIII", 256, 4, 1, 60000, 257, 4, 1, 60000, 273, 4, 2**30, 8, 0)
    yield "tiff of 60000 x 60000", b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + tags
    yield "tiff whose directory is itself", b"II*\0\x08\0\0\0" + b"\x01\0" * 40 + b"\x08\0\0\0"
    yield "bigtiff", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60)


def _strangers() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    for size in (1, 16, 5000):
        yield f"{size} zeros", bytes(size)
        yield f"{size} random bytes", rng.bytes(size)
    yield "nothing", b""
    for kind, data in _good().items():
        yield f"{kind} signature and noise", data[:12] + rng.bytes(3000)
    for text in (
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) run\n",
        "version https://git-lfs.github.com/spec/v1\n",
        "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'bbb'>]><a>&b;</a>",
        "/* XPM */ static char *a[] = {",
        "#define w_width 9999999\n#define w_height 9999999\nstatic char w[] = {",
    ):
        yield text[:24], text.encode()
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.bytes(900)


CASES = [
    *truncated(_good(), (0.02, 0.4, 0.97)),
    *flipped(_good(), 64, 400),
    *_mislabelled(),
    *_bombs(),
    *_strangers(),
]


@pytest.fixture(scope="module", autouse=True)
def _bounded() -> Iterator[None]:
    """Abort the run when decoding hangs; compare the memory before and after."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < MEMORY


@pytest.mark.parametrize("data", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_hostile_photo(data: bytes) -> None:
    """A hostile file is a picture or a PhotoError of one readable line, never anything else."""
    try:
        photo = load_photo(data)
    except PhotoError as error:
        line = str(error)
        assert "\n" not in line
        assert 20 < len(line) < 400
    else:
        assert photo.dtype == np.uint8
        assert photo.ndim == 3
        assert photo.shape[2] == 3
        assert MIN_SIDE <= min(photo.shape[:2]) <= max(photo.shape[:2]) <= MAX_SIDE


def test_there_are_enough() -> None:
    """At least 200 hostile photos are tried, and the untouched ones do load."""
    assert len(CASES) >= 200
    for data in _good().values():
        assert load_photo(data).shape in ((120, 100, 3), (100, 120, 3))
