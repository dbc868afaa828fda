"""The imperceptible mark in every frame, its detector, and the visible label.

The mark is one fixed pattern of a level's strength, added to the luma of every frame:
spread-spectrum watermarking (Cox, Kilian, Leighton and Shamoon, IEEE Trans. Image Processing
6(12), 1997) at wavelengths of 7 to 20 pixels of 512, which video codecs at usual quality and
resizing by 0.5..2 keep. It is the sum of five carriers with random phases: a product code that is
the same everywhere, and four that are shifted around the frame by one of 1024 steps, ten bits each:
32 of an id and 8 that check it. The detector averages frames, whitens the picture and correlates;
it needs neither the original nor the id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .cache import cache_folder, write_atomic

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 512
"""The pattern is defined on a square of this many pixels and stretched to other frames."""
STRENGTH = 1.0
"""The pattern's deviation, levels of 255: marked frames keep 47 dB, and plain walls stay plain."""
THRESHOLD = 6.0
"""Score from which the mark counts as present: exp(-6**2 / 2) = 1.5e-8, see ``detect``."""

_WAVELENGTHS = (7.0, 20.0)  # pixels; shorter ones are lost at half size, longer ones in the picture
_PRODUCT = 0x56495641  # "VIVA": seeds the carriers, and so is the product's code
_SYMBOLS = 4  # carriers of the id, besides the one of the product
_STEPS = 32  # places a carrier may be shifted to along a side: 10 bits a carrier
_SHARE = 1 / 3  # of the pattern's power in the product code; the symbols share the rest
_SURE = 4.5  # deviations of a symbol's peak; the highest of 1024 places without one is 3.2
_LABEL = "AI-generated"

_STEP = SIDE // _STEPS  # pixels


@dataclass(frozen=True)
class Detection:
    """What the detector found."""

    score: float
    """Correlation with the product code, in deviations over all possible codes."""
    present: bool
    """Whether the score reaches ``THRESHOLD``."""
    id: int | None
    """The 32-bit id, when the mark is present and the id's check bits agree."""
    frames: int
    """How many frames were averaged."""


class Mark:
    """Puts the mark, and the visible label if asked for, on frames.

    ``id``: 32 bits to embed; None: this installation's own, drawn at random once.
    """

    def __init__(self, *, id: int | None = None, label: bool = False) -> None:
        self.id = install_id() if id is None else id & 0xFFFFFFFF
        self.label = label

    def __call__(self, frame: Pixels) -> Pixels:
        """Mark ``frame`` (H, W, 3) uint8, in place unless it is read-only, and return it."""
        if not frame.flags.writeable:
            frame = frame.copy()
        if self.label:
            label(frame)
        plus, minus, ceiling = _levels(self.id, frame.shape[1], frame.shape[0])
        # Saturating sums of bytes: nothing wraps at black and white, and nothing is widened.
        np.minimum(frame, ceiling, out=frame)
        np.add(frame, plus, out=frame)
        np.maximum(frame, minus, out=frame)
        np.subtract(frame, minus, out=frame)
        return frame


def install_id() -> int:
    """This installation's 32-bit id, random, kept in the cache folder; 0 where none can be kept."""
    file = cache_folder() / "mark-id"
    with suppress(OSError, ValueError):
        return int(file.read_text("ascii"), 16) & 0xFFFFFFFF
    fresh = secrets.randbits(32)
    try:
        write_atomic(file, b"%08x" % fresh)
    except OSError:
        return 0
    return fresh


def label(frame: Pixels) -> Pixels:
    """Write "AI-generated" into the lower left corner of ``frame``, (H, W, 3) uint8, in place."""
    text, weight = _text(max(10, frame.shape[0] // 26))
    margin = text.shape[0] // 3
    height = min(text.shape[0], frame.shape[0] - margin)
    width = min(text.shape[1], frame.shape[1] - margin)
    if height > 0 and width > 0:
        region = frame[-margin - height : -margin, margin : margin + width]
        w = weight[:height, :width].astype(np.uint16)
        region[:] = (region * (255 - w) + text[:height, :width] * w + 127) // 255
    return frame


def detect(frames: Iterable[Pixels]) -> Detection:
    """Look for the mark in frames of one video or picture, (H, W, 3) or (H, W) uint8.

    All frames given are averaged: the more there are, and the more they move, the less the picture
    itself disturbs. Of a frame that is not square the central square is taken. For an unmarked
    picture, whatever it shows, a random code scores ``t`` with a probability below exp(-t**2 / 2)
    (Hoeffding's inequality for the random signs of the code).
    """
    total = np.zeros((SIDE, SIDE), np.float32)
    count = 0
    for frame in frames:
        total += _luma(frame)
        count += 1
    if not count:
        return Detection(0.0, False, None, 0)
    rows, columns = _band()
    spectrum = np.fft.rfft2(_whitened(total / np.float32(count)))[rows, columns]  # (bins,)
    deviation = float(np.sqrt((np.abs(spectrum) ** 2).sum() / 2)) + 1e-9
    product, *symbols = _carriers().conj() * (spectrum / deviation)  # (bins,) each
    score = float(product.real.sum())
    present = score >= THRESHOLD
    return Detection(score, present, _decoded(symbols) if present else None, count)


@lru_cache(maxsize=1)
def _band() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the band's bins in a real 2-D transform of the square."""
    v = np.fft.fftfreq(SIDE)[:, None]
    h = np.fft.rfftfreq(SIDE)[None, :]
    radius = np.hypot(v, h)
    # The columns of the half plane that are their own mirror images would count twice.
    inside = (radius >= 1 / _WAVELENGTHS[1]) & (radius <= 1 / _WAVELENGTHS[0]) & (h > 0)
    rows, columns = np.nonzero(inside)
    return rows, columns


@lru_cache(maxsize=1)
def _carriers() -> NDArray[np.complex64]:
    """(1 + symbols, bins) of (+-1 +-1j) / sqrt(2): the product code, then one for each symbol.

    From the raw words of Philox, which every version of numpy draws alike.
    """
    bins = len(_band()[0])
    words = np.random.Philox(key=_PRODUCT).random_raw((1 + _SYMBOLS) * -(-bins // 32))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(1 + _SYMBOLS, -1, 2)[:, :bins]
    signs = 1 - 2 * bits.astype(np.float32)
    carriers: NDArray[np.complex64] = (signs[..., 0] + 1j * signs[..., 1]).astype(np.complex64)
    return carriers / np.float32(np.sqrt(2))


@lru_cache(maxsize=4)
def _pattern(id: int) -> Floats:
    """(512, 512) the mark before it is rounded to levels; mean 0."""
    rows, columns = _band()
    product, *symbols = _carriers()
    total = np.sqrt(_SHARE) * product
    for k, carrier in enumerate(symbols):
        down, right = divmod(_coded(id) >> 10 * k & 1023, _STEPS)
        turn = np.exp(-2j * np.pi / _STEPS * (rows * down + columns * right))
        total = total + np.sqrt((1 - _SHARE) / _SYMBOLS) * carrier * turn
    return _picture(total)


def _picture(bins: NDArray[np.complexfloating]) -> Floats:
    """(bins,) of the band -> (512, 512) pixels."""
    spectrum = np.zeros((SIDE, SIDE // 2 + 1), np.complex64)
    spectrum[_band()] = bins
    return np.fft.irfft2(spectrum, (SIDE, SIDE)).astype(np.float32)


@lru_cache(maxsize=4)
def _levels(id: int, width: int, height: int) -> tuple[Pixels, Pixels, Pixels]:
    """(H, W, 3) what to add, what to subtract, and the most that can bear the addition."""
    pattern = _pattern(id)
    if (width, height) != (SIDE, SIDE):
        image = Image.fromarray(pattern)
        pattern = np.array(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    levels = np.rint(pattern * (STRENGTH / max(float(pattern.std()), 1e-9))).astype(np.int16)
    levels = np.repeat(levels[:, :, None], 3, axis=2)
    plus = np.maximum(levels, 0).astype(np.uint8)
    minus = np.maximum(-levels, 0).astype(np.uint8)
    return plus, minus, 255 - plus


def _coded(id: int) -> int:
    """The id's 32 bits and above them 8 that check it: CRC-8 with the polynomial 0x07."""
    crc = 0
    for byte in id.to_bytes(4, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc << 32 | id


def _decoded(symbols: Iterable[NDArray[np.complex64]]) -> int | None:
    """The id from each symbol's correlation at its 1024 places; None when one is not sure."""
    code = 0
    for k, product in enumerate(symbols):
        # The inverse transform counts every bin twice and divides by the pixels.
        places = _picture(product)[::_STEP, ::_STEP] * (SIDE * SIDE / 2)
        if places.max() < _SURE:
            return None
        code |= int(places.argmax()) << 10 * k
    id = code & 0xFFFFFFFF
    return id if _coded(id) == code else None


def _luma(frame: Pixels) -> Floats:
    """(512, 512) BT.601 luma of the central square of a frame of any size."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(frame[top : top + side, left : left + side])
    image = Image.fromarray(square).convert("L")
    if side != SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.array(image, np.float32)


def _whitened(luma: Floats) -> Floats:
    """Band-passed, with the spectrum's and then the picture's own strength divided out.

    For a known pattern in noise whose deviation differs from place to place the best detector
    divides by the variance there: smooth areas speak, hair and edges do not.
    """
    power = _blurred(np.abs(np.fft.fft2(luma)) ** 2, 7)[:, : SIDE // 2 + 1]
    spectrum = np.fft.rfft2(luma) / np.sqrt(power + 1e-9 * float(power.mean()) + 1e-12)
    band = _picture(spectrum[_band()])
    energy = _blurred(band**2, 17)
    flat = 1e-3 * float(energy.mean()) + 1e-12  # a painted background has no noise at all
    return (band / (energy + flat)).astype(np.float32)


def _blurred(image: NDArray[Any], side: int) -> Floats:
    """Mean of the (512, 512) square's values over ``side`` x ``side`` around each; edges wrap."""
    mean: NDArray[Any] = image
    for axis in (0, 1):
        padded = np.concatenate([mean, np.take(mean, range(side), axis)], axis)
        sums = np.cumsum(padded, axis, dtype=np.float64)
        spans = np.take(sums, range(side, SIDE + side), axis) - np.take(sums, range(SIDE), axis)
        mean = np.roll(spans / side, side // 2 + 1, axis)
    blurred: Floats = np.maximum(mean, 0).astype(np.float32)
    return blurred


@lru_cache(maxsize=4)
def _text(size: int) -> tuple[Pixels, Pixels]:
    """(h, w, 3) the label's pixels and (h, w, 1) their opacity: white letters in a dark box."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(_LABEL)
    pad = size // 3
    box = Image.new("L", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad), 0)
    ImageDraw.Draw(box).text((pad - left, pad - top), _LABEL, fill=255, font=font)
    letters = np.asarray(box)[:, :, None]
    opacity = np.maximum(letters, np.uint8(110))
    return np.repeat(letters, 3, axis=2), opacity
