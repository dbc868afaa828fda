"""Photos as people have them, decoded to upright sRGB pixels within bounded memory."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from .errors import PhotoError
from .files import check_readable, describe

Pixels = NDArray[np.uint8]
PhotoSource = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | Image.Image

MIN_SIDE = 64
"""Shortest side that can hold a face of 40 pixels, the smallest that is found; pixels."""
MAX_SIDE = 4096
"""Longer photos are averaged down to this; pixels."""
MAX_PIXELS = 64_000_000
"""Most pixels decoded at once (a JPEG may hold 64 times as many: it is reduced as it is read)."""
MAX_BYTES = 256 << 20
"""Largest file read."""
BACKGROUND = (128, 128, 128)
"""Grey that shows through transparent parts, sRGB."""

# Only formats that hold one raster image and are decoded by Pillow's own libraries. Pillow also
# knows formats that start other programs (EPS) or have no signature, so that anything is one.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ACCEPTED = "a JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or JPEG 2000 image"

# A progressive JPEG has about ten scans; each one more costs a pass over all the pixels, so a
# small file can ask for hours.
_MAX_SCANS = 100

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112 (Orientation) -> what makes the photo upright."""


def load_photo(source: PhotoSource) -> Pixels:
    """Decode a photo to (H, W, 3) uint8 sRGB, upright, opaque, 64..4096 pixels a side.

    ``source``: a path, an encoded file's bytes, an array (H, W), (H, W, 1|2|3|4) of uint8,
    uint16, bool or float in 0..1 (sRGB), or a Pillow image. The content decides the format, not
    the name. EXIF orientation is applied, colour profiles are converted to sRGB (one that cannot
    be read counts as sRGB), transparency shows ``BACKGROUND``, of an animation the first frame is
    taken. Raises PhotoError.
    """
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), "The photo")
    if isinstance(source, Image.Image):
        return _from_pillow(source, "The photo")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "The photo")
    if isinstance(source, str | os.PathLike):
        path = check_readable(source, noun="photo", error=PhotoError, limit=MAX_BYTES)
        name = f"The photo '{os.fspath(source)}'"
        try:
            data = path.read_bytes()
        except OSError as cause:
            raise PhotoError(
                f"{name} cannot be read", got=str(cause), fix="Copy it again."
            ) from cause
        return _from_bytes(data, name)
    raise PhotoError(
        "The photo has a type that cannot be read",
        expected="a path, bytes, a numpy array or a Pillow image",
        got=type(source).__name__,
    )


def _from_bytes(data: bytes, name: str) -> Pixels:
    if not data:
        raise PhotoError(f"{name} is empty", expected=_ACCEPTED, got="0 bytes")
    if len(data) > MAX_BYTES:
        raise PhotoError(
            f"{name} is too large",
            expected=f"at most {MAX_BYTES >> 20} MiB",
            got=f"{len(data) >> 20} MiB",
            fix="Save it smaller.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large and odd files; limits are ours
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError as cause:
            raise _too_many_pixels(name, "more") from cause
        except Exception as cause:  # a damaged header raises almost anything in Pillow
            raise _unreadable(name, data, cause) from cause
        with image:
            return _from_pillow(image, name, data)


def _from_pillow(image: Image.Image, name: str, data: bytes = b"") -> Pixels:
    """Decode within bounds, then turn, reduce and convert; ``data`` is the encoded file."""
    size = image.size
    _check_sides(size, name)
    progressive = bool(image.info.get("progressive"))
    if progressive and data.count(b"\xff\xda") > _MAX_SCANS:
        raise PhotoError(
            f"{name} is a progressive JPEG with too many scans",
            expected=f"at most {_MAX_SCANS}",
            fix="Save it as a plain JPEG or PNG.",
        )
    try:
        if (
            data and not progressive
        ):  # the scans of a progressive one are kept whole whatever is asked for
            image.draft(None, _within(size, MAX_SIDE))
        if image.width * image.height > MAX_PIXELS:
            raise _too_many_pixels(name, f"{size[0]} x {size[1]}")
        image.load()
        turn = _turn(image)
        flat = _flatten(image, image.info)
        return _finish(flat if turn is None else flat.transpose(turn), name)
    except PhotoError:
        raise
    except Exception as cause:  # a damaged body raises almost anything in Pillow
        raise _unreadable(name, data, cause) from cause


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Check an array's shape, type and range, and wrap it as an opaque image."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise PhotoError(
            "The photo's array has the wrong shape",
            expected="(H, W) or (H, W, 1|2|3|4)",
            got=str(array.shape),
        )
    _check_sides((array.shape[1], array.shape[0]), "The photo")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_many_pixels("The photo", f"{array.shape[1]} x {array.shape[0]}")
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype == np.uint16:
        pixels = _narrow(array)
    elif array.dtype == np.bool_:
        pixels = array * np.uint8(255)
    elif array.dtype.kind == "f":
        # Written so that NaN fails too.
        if not (float(array.min()) >= -1e-3 and float(array.max()) <= 1 + 1e-3):
            raise PhotoError(
                "The photo's array has values out of range",
                expected="0..1 for floating point",
                got=f"{array.min()}..{array.max()}",
                fix="Divide by the white value, or give uint8.",
            )
        pixels = _scaled(array, 255)
    else:
        raise PhotoError(
            "The photo's array has a type that cannot be read",
            expected="uint8, uint16, bool or float",
            got=str(array.dtype),
        )
    pixels = np.ascontiguousarray(pixels if channels > 1 else pixels.reshape(array.shape[:2]))
    return _flatten(Image.fromarray(pixels), {})


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the photo upright, after loading (some decoders turn it themselves)."""
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return None


def _flatten(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """Any mode -> opaque sRGB "RGB" of at most ``MAX_SIDE``."""
    if image.mode.startswith("I"):
        image = Image.fromarray(_narrow(np.asarray(image)))
    elif image.mode == "F":
        image = Image.fromarray(_from_floats(np.asarray(image)))
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("L", "RGB") and image.has_transparency_data:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode in ("YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    size = _within(image.size, MAX_SIDE)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    image = _to_srgb(image, info.get("icc_profile"))
    if alpha is None:
        return image
    if alpha.getextrema()[1] == 0:
        raise PhotoError(
            "The photo is fully transparent",
            expected="a visible face",
            fix="Save it without transparency.",
        )
    return Image.composite(image, Image.new("RGB", image.size, BACKGROUND), alpha)


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """L, RGB, CMYK or LAB in the profile's colours (ICC.1:2010) -> RGB in sRGB."""
    if image.mode == "LAB":
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if isinstance(profile, bytes) and profile:
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "L" and given.profile.xcolor_space.strip() == "RGB":
                image = image.convert("RGB")
            return _converted(image, given)
        except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
            pass  # a damaged or foreign profile counts as sRGB, as in browsers
    return image.convert("RGB")


def _converted(image: Image.Image, given: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    result = ImageCms.profileToProfile(image, given, srgb, intent, "RGB", flags=flags)
    return image.convert("RGB") if result is None else result


def _narrow(wide: NDArray[Any]) -> Pixels:
    """Integers of 16 bits (or more, when some are larger) -> 8 bits."""
    return _scaled(wide, 255 / max(65535, int(wide.max())))


def _from_floats(values: NDArray[Any]) -> Pixels:
    """A floating-point greyscale file: white is 1, or 255 when something is brighter than 1."""
    if not np.isfinite(values).all():
        raise PhotoError(
            "The photo has pixels that are not numbers",
            expected="finite values",
            got="NaN or infinity",
            fix="Save it as an 8-bit PNG.",
        )
    return _scaled(values, 255.0 if values.max() <= 1 else 1.0)


def _scaled(values: NDArray[Any], gain: float) -> Pixels:
    """round(values * gain) in 0..255, row by row: a large photo's float copy would be GiBs."""
    out = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):
        out[row] = np.rint(np.clip(line * gain, 0, 255))
    return out


def _finish(image: Image.Image, name: str) -> Pixels:
    _check_sides(image.size, name)
    pixels: Pixels = np.array(image)  # (H, W, 3)
    return pixels


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(*size, 1))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _check_sides(size: tuple[int, int], name: str) -> None:
    if min(_within(size, MAX_SIDE)) < MIN_SIDE:
        raise PhotoError(
            f"{name} is too small",
            expected=f"at least {MIN_SIDE} pixels a side and no side {MAX_SIDE // MIN_SIDE} times "
            "the other",
            got=f"{size[0]} x {size[1]}",
            fix="Use a larger photo; 512 pixels and more look best.",
        )


def _too_many_pixels(name: str, got: str) -> PhotoError:
    return PhotoError(
        f"{name} has too many pixels",
        expected=f"at most {MAX_PIXELS // 1_000_000} million",
        got=got,
        fix="Save it smaller: 2000 pixels a side are plenty.",
    )


def _unreadable(name: str, data: bytes, cause: Exception) -> PhotoError:
    kind = describe(data) if data else "an image that does not decode"
    if kind.startswith("a HEI"):
        return PhotoError(
            f"{name} is {kind}, which cannot be read",
            expected=_ACCEPTED,
            fix="Export it as JPEG (iPhone: Settings > Camera > Formats > Most Compatible).",
        )
    if not kind.endswith("image"):
        fix = "Choose a photo."
        return PhotoError(f"{name} is not an image", expected=_ACCEPTED, got=kind, fix=fix)
    unknown = isinstance(cause, UnidentifiedImageError) or not str(cause)
    return PhotoError(
        f"{name} is damaged or cut short",
        expected="a complete image",
        got=kind if unknown else f"{kind} ({str(cause)[:80]})",
        fix="Copy the file again, or open it in a viewer and save it as PNG.",
    )
