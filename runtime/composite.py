"""The last step of a frame: warp the full-resolution photo and lay the paint over it.

``out = warp(photo, flow) * (1 - occlusion) + paint * occlusion``, where flow, occlusion and paint
are brought to the photo's size by bilinear interpolation between pixel centres
(``align_corners=False``), the photo is sampled at ``p + flow`` with its border replicated, and
coordinates are rounded to 1/64 pixel, so that no flow returns the photo exactly. It is sampled
bilinearly from a table of twice its resolution, whose new pixels are Lanczos interpolations: of a
sharp photo half a pixel away, plain bilinear sampling leaves .5 to .7 of the gradient energy, and
skin would blur and clear up as the head moves; this leaves .8 to .9 at the same speed.
A black-and-white or toned photo first lends the paint its tone: networks paint lids and lips in
colours that such a photo does not have.

Two implementations keep this contract: OpenCV's 8-bit fixed-point code (about 2 ms a frame)
and numpy for installs without it (about 7 ms). Which one runs is said by ``Compositor.name``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, BundleError, PhotoError, UsageError

Float = NDArray[np.float32]
Image = NDArray[np.uint8]
Packed = NDArray[np.uint64]

IMPLEMENTATIONS = ("opencv", "numpy")
FACE = (slice(0.33, 0.68), slice(0.35, 0.65))
"""Rows and columns of an aligned portrait that are all face, fractions of the frame."""
TONED, COLOURED = 0.008, 0.02
"""Chroma that brightness does not explain, over brightness, up to which a photo has one tone and
from which on it has colours: greyscale and toned photos .004 at most, a faded print .026."""


class _Implementation(Protocol):
    def __call__(self, flow: Float, occlusion: Float, paint: Float, out: Image) -> None: ...


class Compositor:
    """Composites frames of one photo, with the photo's own tables and buffers made once.

    ``photo``: uint8 RGB (H, W, 3). ``implementation``: ``"opencv"``, ``"numpy"``, or ``"auto"``,
    which takes OpenCV where it is installed. Not for use by two threads at once.
    Errors: ``PhotoError`` (shape, dtype), ``UsageError`` (unknown name), ``BackendError``
    (``"opencv"`` asked for and not installed).
    """

    name: str
    """The implementation that runs: ``"opencv"`` or ``"numpy"``."""

    def __init__(self, photo: Image, implementation: str = "auto") -> None:
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise PhotoError(
                "The portrait is not an RGB image",
                expected="uint8 (H, W, 3)",
                got=f"{photo.dtype} {photo.shape}",
            )
        if implementation not in (*IMPLEMENTATIONS, "auto"):
            raise UsageError(
                "Unknown compositor",
                expected=", ".join((*IMPLEMENTATIONS, "auto")),
                got=repr(implementation),
            )
        photo = np.ascontiguousarray(photo)
        self._tone = _tone(photo)
        self.shape: tuple[int, int, int] = (photo.shape[0], photo.shape[1], 3)
        cv2 = None if implementation == "numpy" else _import_opencv()
        if cv2 is None and implementation == "opencv":
            raise BackendError(
                "OpenCV is not installed",
                expected="the cv2 module",
                fix="Run: pip install opencv-python-headless, or use the numpy compositor.",
            )
        self.name = "numpy" if cv2 is None else "opencv"
        self._run: _Implementation = _Numpy(photo) if cv2 is None else _OpenCV(photo, cv2)

    def __call__(self, flow: Float, occlusion: Float, paint: Float) -> Image:
        """Return the frame, uint8 RGB (H, W, 3), as an array of its own.

        ``flow`` (1, 2, h, w): backward flow, x then y, fractions of the frame.
        ``occlusion`` (1, 1, h, w): weight of the paint, 0..1. ``paint`` (1, 3, h, w): RGB, 0..1,
        of the occlusion's size. Errors: ``BundleError`` for any other shape.
        """
        grid = occlusion.shape[2:]
        shapes = (flow.shape[:2], occlusion.shape[:2], paint.shape)
        if flow.ndim != 4 or occlusion.ndim != 4 or shapes != ((1, 2), (1, 1), (1, 3, *grid)):
            raise BundleError(
                "The render stage gave tensors that do not compose",
                expected="flow (1, 2, h, w), occlusion (1, 1, H, W), paint (1, 3, H, W)",
                got=f"{flow.shape}, {occlusion.shape}, {paint.shape}",
            )
        if self._tone is not None:
            paint = (self._tone @ paint.reshape(3, -1)).reshape(paint.shape)
        frame = np.empty(self.shape, np.uint8)
        self._run(flow, occlusion, paint, frame)
        return frame


def composite(
    photo: Image, flow: Float, occlusion: Float, paint: Float, implementation: str = "auto"
) -> Image:
    """Composite one frame; see ``Compositor`` for shapes, units and errors."""
    return Compositor(photo, implementation)(flow, occlusion, paint)


def _tone(photo: Image) -> Float | None:
    """What gives a paint's RGB the one tone of a photo, (3, 3); ``None`` for a photo in colour."""
    height, width = photo.shape[:2]
    rows, columns = (
        slice(int(part.start * n), int(part.stop * n) + 1, 2)
        for part, n in zip(FACE, (height, width), strict=True)
    )
    face = photo[rows, columns].reshape(-1, 3).astype(np.float32)
    brightness = face.mean(1)
    chroma = face - brightness[:, None]
    powers = np.vander(brightness / 255, 4)  # a toned print's curve
    rest = chroma - powers @ np.linalg.lstsq(powers, chroma, rcond=None)[0]
    mean = float(brightness.mean()) + 1
    spread = float(np.sqrt((rest * rest).mean(0).sum())) / mean
    colour = min(max((spread - TONED) / (COLOURED - TONED), 0.0), 1.0)
    if colour == 1:
        return None
    tone = 1 + chroma.mean(0) / mean
    toned = np.repeat(tone[:, None] / 3, 3, axis=1)
    return (np.eye(3) * colour + toned * (1 - colour)).astype(np.float32)


LANCZOS = np.sinc(np.arange(-2.5, 3)) * np.sinc(np.arange(-2.5, 3) / 3)
"""Weights of the six pixels around a point half way between two (Lanczos, three lobes)."""


def _doubled(photo: Image) -> Image:
    """The photo (H, W, 3) with a row and a column between any two: (2H - 1, 2W - 1, 3)."""
    wide = _between(photo.astype(np.float32)).swapaxes(0, 1)
    pixels = _between(wide).swapaxes(0, 1)
    return np.ascontiguousarray(np.rint(np.clip(pixels, 0, 255)), np.uint8)


def _between(pixels: Float) -> Float:
    """Interpolated rows between those of (n, ...): (2n - 1, ...)."""
    count = len(pixels)
    padded = np.pad(pixels, [(2, 2), *[(0, 0)] * (pixels.ndim - 1)], mode="edge")
    weights = (LANCZOS / LANCZOS.sum()).astype(np.float32)
    out = np.empty((2 * count - 1, *pixels.shape[1:]), np.float32)
    out[::2] = pixels
    out[1::2] = sum(w * padded[k : k + count - 1] for k, w in enumerate(weights))
    return out


def _import_opencv() -> Any | None:
    try:
        import cv2
    except ImportError:
        return None
    return cv2


class _OpenCV:
    """Flow to a fixed-point map, 8-bit remap of the doubled photo, 8-bit blend."""

    def __init__(self, photo: Image, cv2: Any) -> None:
        height, width = photo.shape[:2]
        self._cv2, self._photo, self._size = cv2, _doubled(photo), (width, height)
        columns, rows = (2 * np.arange(side, dtype=np.float32) for side in (width, height))
        x, y = np.meshgrid(columns, rows)
        self._identity_x, self._identity_y = x, y
        self._x, self._y = np.empty_like(x), np.empty_like(y)
        self._map = np.empty((height, width, 2), np.int16)
        self._map_fraction = np.empty((height, width), np.uint16)
        self._paint = np.empty_like(photo)
        self._weight = np.empty((height, width), np.uint8)
        self._weights = np.empty_like(photo)

    def __call__(self, flow: Float, occlusion: Float, paint: Float, out: Image) -> None:
        cv2, size = self._cv2, self._size
        cv2.resize(flow[0, 0], size, dst=self._x)
        cv2.resize(flow[0, 1], size, dst=self._y)
        cv2.scaleAdd(self._x, float(2 * size[0]), self._identity_x, dst=self._x)
        cv2.scaleAdd(self._y, float(2 * size[1]), self._identity_y, dst=self._y)
        cv2.convertMaps(self._x, self._y, cv2.CV_16SC2, self._map, self._map_fraction)
        cv2.remap(
            self._photo,
            self._map,
            self._map_fraction,
            cv2.INTER_LINEAR,
            dst=out,
            borderMode=cv2.BORDER_REPLICATE,
        )
        planes = [self._bytes(plane) for plane in paint[0]]
        cv2.resize(cv2.merge(planes), size, dst=self._paint)
        cv2.resize(self._bytes(occlusion[0, 0]), size, dst=self._weight)
        cv2.merge([self._weight] * 3, dst=self._weights)
        cv2.multiply(self._paint, self._weights, dst=self._paint, scale=1 / 255)
        cv2.bitwise_not(self._weights, dst=self._weights)
        cv2.multiply(out, self._weights, dst=out, scale=1 / 255)
        cv2.add(out, self._paint, dst=out)

    def _bytes(self, plane: Float) -> Image:
        """0..1 to 0..255, rounded and saturated."""
        result: Image = self._cv2.multiply(plane, 255.0, dtype=self._cv2.CV_8U)
        return result


class _Numpy:
    """The same arithmetic on whole pixels: three channels ride in one 64-bit integer.

    Lanes are 21 bits apart, and the largest intermediate is 255 * 2**10 (18 bits), so a sum of
    weighted pixels never carries into the next channel and each operation does three channels.
    """

    _SHIFTS = (0, 21, 42)
    _ONES = np.uint64(sum(1 << shift for shift in _SHIFTS))
    _MASK = np.uint64(sum(0xFF << shift for shift in _SHIFTS))
    _BAND = 64
    """Rows done at once: a band's arrays stay in the cache of one core."""

    def __init__(self, photo: Image) -> None:
        height, width = photo.shape[:2]
        self._height, self._width = height, width
        # One replicated row and column more, so that the right and lower neighbour always exist.
        padded = np.pad(_doubled(photo), ((0, 1), (0, 1), (0, 0)), mode="edge")
        self._photo = self._pack(padded.transpose(2, 0, 1)).ravel()
        self._x = np.arange(width, dtype=np.float32)[None, :]
        self._y = np.arange(height, dtype=np.float32)[:, None]

    def __call__(self, flow: Float, occlusion: Float, paint: Float, out: Image) -> None:
        small = self._pack(np.rint(np.clip(paint[0], 0, 1) * np.float32(255)).astype(np.uint8))
        weight = np.clip(occlusion[0, 0], 0, 1) * np.float32(256)
        for top in range(0, self._height, self._BAND):
            rows = slice(top, min(top + self._BAND, self._height))
            warped = self._warp(flow[0], rows)
            over = self._enlarge_packed(small, rows)
            share = np.rint(self._enlarge(weight, rows)).astype(np.uint64)
            over *= share
            np.subtract(np.uint64(256), share, out=share)
            warped *= share
            warped += over
            warped += self._ONES * np.uint64(128)
            for channel, shift in enumerate(self._SHIFTS):
                # The cast to uint8 keeps the low byte: the channel itself.
                out[rows, :, channel] = warped >> np.uint64(shift + 8)

    def _warp(self, flow: Float, rows: slice) -> Packed:
        """The rows of the photo sampled at p + flow, packed."""
        height, width = self._height, self._width
        x = self._fixed(self._enlarge(flow[0], rows) * np.float32(width) + self._x, width)
        y = self._fixed(self._enlarge(flow[1], rows) * np.float32(height) + self._y[rows], height)
        stride = 2 * width
        at = (y >> 5) * stride + (x >> 5)
        right, down = (x & 31).astype(np.uint64), (y & 31).astype(np.uint64)
        left, up = np.uint64(32) - right, np.uint64(32) - down
        photo = self._photo
        result: Packed = photo.take(at) * (left * up)
        result += photo.take(at + 1) * (right * up)
        result += photo.take(at + stride) * (left * down)
        result += photo.take(at + stride + 1) * (right * down)
        result += self._ONES * np.uint64(512)
        result >>= np.uint64(10)
        result &= self._MASK
        return result

    @staticmethod
    def _fixed(pixels: Float, count: int) -> NDArray[np.int32]:
        """Coordinates in 1/32 pixel of the doubled photo; outside becomes its border."""
        fixed = np.nan_to_num(np.rint(pixels * np.float32(64)), copy=False)
        result: NDArray[np.int32] = np.clip(fixed, 0, (count - 1) * 64).astype(np.int32)
        return result

    def _enlarge(self, plane: Float, rows: slice) -> Float:
        """Bilinear enlargement of float (h, w) to the photo's width; only the rows asked for."""
        low, high, part = _positions(plane.shape[0], self._height)
        down = part[rows, None]
        tall = plane[low[rows]] * (1 - down) + plane[high[rows]] * down  # (rows, w)
        low, high, part = _positions(plane.shape[1], self._width)
        wide = tall.take(low, axis=1) * (1 - part) + tall.take(high, axis=1) * part
        return wide.astype(np.float32, copy=False)

    def _enlarge_packed(self, pixels: Packed, rows: slice) -> Packed:
        """The same for packed pixels, with weights in sixteenths: exact up to a factor of 8."""
        low, high, part = _positions(pixels.shape[0], self._height)
        share = np.rint(part[rows, None] * 16).astype(np.uint64)
        tall = pixels[low[rows]] * (np.uint64(16) - share) + pixels[high[rows]] * share
        low, high, part = _positions(pixels.shape[1], self._width)
        share = np.rint(part * 16).astype(np.uint64)
        wide = tall.take(low, axis=1) * (np.uint64(16) - share) + tall.take(high, axis=1) * share
        wide += self._ONES * np.uint64(128)
        wide >>= np.uint64(8)
        wide &= self._MASK
        result: Packed = wide
        return result

    @classmethod
    def _pack(cls, planes: Image) -> Packed:
        """uint8 (3, h, w) to uint64 (h, w)."""
        red, green, blue = (
            plane.astype(np.uint64) << np.uint64(shift)
            for plane, shift in zip(planes, cls._SHIFTS, strict=True)
        )
        packed: Packed = red | green | blue
        return packed


@cache
def _positions(count: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    """Where ``size`` pixel centres fall among ``count``: lower, upper neighbour, upper's share."""
    at = np.clip((np.arange(size) + 0.5) * (count / size) - 0.5, 0, count - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)
