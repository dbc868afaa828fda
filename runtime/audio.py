"""Recordings of any common format and rate, decoded block by block to what the networks hear.

Nothing is normalised: the networks were trained on quiet and loud voices, and a level that follows
the sound would move with what is said. Samples are clipped to -1..1. WAV, FLAC, Ogg, Opus, MP3 and
AIFF are read by libsndfile; every other container through ``vivant.media`` when PyAV is installed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from . import media
from .errors import AudioError
from .files import check_readable, describe

Floats = NDArray[np.float32]
AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | tuple[NDArray[Any], int]

RATE = 16000
"""What the networks hear, Hz."""
MIN_RATE, MAX_RATE = 1, 768_000
"""Sampling rates accepted, Hz."""
MAX_CHANNELS = 256
"""Channels accepted; they are averaged."""
MAX_SECONDS = 7200.0
"""Longest recording that is held in memory at once (460 MB at 16 kHz); streaming has no limit."""

_BLOCK = 1 << 18  # values decoded at once: 1 MiB of float32
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SAMPLE_TYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32")
_ACCEPTED = "a WAV, FLAC, Ogg, Opus, MP3, M4A, MP4, MOV or WebM file"


@dataclass(frozen=True)
class Recording:
    """Sound held in memory."""

    samples: Floats
    """(n,) mono or (n, channels), -1..1."""
    rate: int
    """Sampling rate, Hz."""

    @property
    def duration(self) -> float:
        """Length, seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Sound:
    """Sound as it is decoded, to be read once."""

    blocks: Iterator[Floats]
    """(n, channels) float32 blocks, -1..1; raises AudioError where the file is damaged."""
    rate: int
    """Sampling rate, Hz."""
    channels: int
    """Number of channels."""
    seconds: float | None
    """Length that the file claims, for a progress bar; None when it claims none."""


def open_audio(source: AudioSource) -> Sound:
    """Open sound at its own rate and channels, checked (finite) and clipped to -1..1.

    ``source``: a path, an encoded file's bytes, or ``(samples, rate)`` with samples (n,) or
    (n, channels): floats in -1..1 or integers over their type's whole range. The content decides
    the format, not the name. Raises AudioError: here for what cannot be opened or holds no sample,
    from the blocks for what is damaged further on.
    """
    if isinstance(source, tuple):
        sound, name = _from_array(source), "The sound"
    elif isinstance(source, bytes | bytearray | memoryview):
        name = "The recording"
        sound = _from_file(_Memory(source), name, bytes(source[:512]))
    elif isinstance(source, str | os.PathLike):
        path = check_readable(source, noun="recording", error=AudioError)
        name = f"The recording '{os.fspath(source)}'"
        sound = _from_path(path, name)
    else:
        raise AudioError(
            "The recording has a type that cannot be read",
            expected="a path, bytes or (samples, rate)",
            got=type(source).__name__,
        )
    if not (MIN_RATE <= sound.rate <= MAX_RATE and 1 <= sound.channels <= MAX_CHANNELS):
        raise AudioError(
            f"{name} has a strange format",
            expected=f"{MIN_RATE}..{MAX_RATE} Hz and 1..{MAX_CHANNELS} channels",
            got=f"{sound.rate} Hz and {sound.channels} channels",
            fix="Convert it to WAV.",
        )
    blocks = _checked(sound, name)
    first = next(blocks, None)
    if first is None:
        raise AudioError(f"{name} is empty", got="0 samples", fix="Record it again.")
    return Sound(chain([first], blocks), sound.rate, sound.channels, sound.seconds)


def stream_audio(source: AudioSource) -> Iterator[Floats]:
    """Yield (n,) float32 mono blocks at 16 kHz of any length of sound, in bounded memory.

    Channels are averaged. The blocks together hold round(samples * 16000 / rate) samples, at
    least one. ``source`` and errors as for ``open_audio``; what cannot be opened raises here.
    """
    sound = open_audio(source)
    return (block[:, 0] for block in _resampled(sound, RATE, 1))


def load_audio(source: AudioSource, max_seconds: float = MAX_SECONDS) -> Recording:
    """The whole sound as (n,) float32 mono at 16 kHz.

    As ``stream_audio``; also raises AudioError when it is longer than ``max_seconds``.
    """
    blocks = _limited(stream_audio(source), RATE, max_seconds)
    return Recording(np.concatenate(list(blocks)), RATE)


def embedded_speech() -> Floats:
    """The embedded bundle's sentence, (n,) mono at 16 kHz."""
    return load_audio((resources.files("vivant.default") / "speech.flac").read_bytes()).samples


def stream_sound(source: AudioSource) -> Sound:
    """The sound for an AAC track: its own rate up to 48 kHz, mono or stereo, in blocks.

    A rate that AAC lacks becomes the next higher one, more than two channels become their mean.
    """
    sound = open_audio(source)
    rate = next((r for r in _AAC_RATES if r >= sound.rate), _AAC_RATES[-1])
    channels = 2 if sound.channels == 2 else 1
    return Sound(_resampled(sound, rate, channels), rate, channels, sound.seconds)


class Resampler:
    """Streaming conversion of (n, channels) blocks at one rate to another rate and 1..2 channels.

    Band-limited (soxr HQ). Its memory is the filter's and two counters; after ``finish`` exactly
    round(samples * output / rate) samples have come out, and it is spent.
    """

    def __init__(self, rate: int, output: int = RATE, channels: int = 1) -> None:
        self.rate, self.output, self.channels = rate, output, channels
        self.taken = 0  # samples in
        self.given = 0  # samples out
        self._soxr = None
        if rate != output:
            self._soxr = soxr.ResampleStream(rate, output, channels, dtype="float32", quality="HQ")

    def push(self, block: Floats) -> Floats:
        """(n, any channels) -> (m, channels) that are complete; the rest stays in the filter."""
        x = block if block.shape[1] == self.channels else block.mean(axis=1, keepdims=True)
        x = np.ascontiguousarray(np.broadcast_to(x, (len(x), self.channels)), np.float32)
        self.taken += len(x)
        out = x if self._soxr is None else self._soxr.resample_chunk(x)
        return self._clipped(out)

    def finish(self) -> Floats:
        """(m, channels): what the filter still holds."""
        total = max(1, round(self.taken * self.output / self.rate)) if self.taken else 0
        left = total - self.given
        out = np.zeros((0, self.channels), np.float32)
        if self._soxr is not None:
            out = self._soxr.resample_chunk(out, last=True)[:left]
        return self._clipped(np.pad(out, ((0, max(0, left - len(out))), (0, 0))))

    def _clipped(self, out: Floats) -> Floats:
        out = out.reshape(-1, self.channels)
        self.given += len(out)
        return np.clip(out, -1, 1)  # the filter overshoots at steps


def _resampled(sound: Sound, output: int, channels: int) -> Iterator[Floats]:
    """(n, channels) blocks at the rate ``output``."""
    converter = Resampler(sound.rate, output, channels)
    # Bounds what comes out as well, when the rate rises a thousandfold.
    step = max(1, _BLOCK * sound.rate // max(output, sound.rate))
    for block in sound.blocks:
        for start in range(0, len(block), step):
            out = converter.push(block[start : start + step])
            if len(out):
                yield out
    out = converter.finish()
    if len(out):
        yield out


def _limited(blocks: Iterator[Floats], rate: int, max_seconds: float) -> Iterator[Floats]:
    count = 0
    for block in blocks:
        count += len(block)
        if count > max_seconds * rate:
            raise AudioError(
                "The recording is too long",
                expected=f"at most {max_seconds:g} s in memory",
                got="more",
                fix="Cut it into parts, or use stream_audio.",
            )
        yield block


def _checked(sound: Sound, name: str) -> Iterator[Floats]:
    """Refuse NaN and infinity with their position; clip; drop empty blocks."""
    done = 0  # samples
    for block in sound.blocks:
        bad = ~np.isfinite(block)
        if bad.any():
            sample, channel = np.argwhere(bad)[0]
            at = done + int(sample)
            raise AudioError(
                f"{name} has a sample that is not a number",
                expected="finite values",
                got=f"{block[sample, channel]} in channel {channel + 1} at sample {at} "
                f"({at / sound.rate:.3f} s)",
                fix="Export it again as 16-bit WAV.",
            )
        done += len(block)
        if len(block):
            yield np.clip(block, -1, 1)


def _from_array(source: tuple[Any, ...]) -> Sound:
    if len(source) != 2:
        raise AudioError("The sound has the wrong form", expected="(samples, rate)", got="a tuple")
    try:
        samples, rate = np.asarray(source[0]), float(source[1])
    except (TypeError, ValueError) as cause:
        raise AudioError(
            "The sound has the wrong form", expected="(samples, rate)", got=str(cause)[:80]
        ) from None
    if not (MIN_RATE <= rate <= MAX_RATE and rate == int(rate)):
        raise AudioError(
            "The sound's rate makes no sense",
            expected=f"a whole number, {MIN_RATE}..{MAX_RATE} Hz",
            got=f"{rate:g}",
        )
    if samples.ndim not in (1, 2) or (
        samples.ndim == 2 and not 0 < samples.shape[1] <= MAX_CHANNELS
    ):
        raise AudioError(
            "The sound's array has the wrong shape",
            expected=f"(n,) or (n, channels) with at most {MAX_CHANNELS} channels",
            got=str(samples.shape),
            fix="Transpose it when the channels come first.",
        )
    if samples.dtype.name not in _SAMPLE_TYPES:
        raise AudioError(
            "The sound's array has a type that cannot be read",
            expected=f"one of {', '.join(_SAMPLE_TYPES)}",
            got=str(samples.dtype),
        )
    table = samples if samples.ndim == 2 else samples[:, None]
    if samples.dtype.kind == "f" and samples.size:
        # Integers that were only cast to float would be clipped to noise.
        peak = max(float(np.abs(b[np.isfinite(b)]).max(initial=0)) for b in _slices(table))
        if peak > 100:
            raise AudioError(
                "The sound's array has values out of range",
                expected="-1..1 for floating point",
                got=f"a peak of {peak:g}",
                fix="Divide 16-bit samples by 32768.",
            )
    offset, scale = (128.0, 128.0) if samples.dtype == np.uint8 else (0.0, 1.0)
    if samples.dtype.kind == "i":
        scale = float(np.iinfo(samples.dtype).max) + 1
    blocks = (((b - offset) / scale).astype(np.float32) for b in _slices(table))
    return Sound(blocks, int(rate), table.shape[1], len(table) / rate)


def _slices(table: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, _BLOCK // table.shape[1])
    return (table[start : start + step] for start in range(0, len(table), step))


class _Memory(io.BytesIO):
    """A file in memory that stays where it is when told to go before its start.

    libsndfile asks for that in damaged files, and cffi prints what a callback raises.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _from_path(path: Path, name: str) -> Sound:
    with path.open("rb") as file:
        head = file.read(512)
    try:
        return _from_soundfile(soundfile.SoundFile(os.fspath(path)), name)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as cause:
        # TypeError: the name ends in ".raw", which says nothing about the content.
        return _from_media(path.open("rb"), name, head, cause)


def _from_file(file: _Memory, name: str, head: bytes) -> Sound:
    if not head:
        raise AudioError(f"{name} is empty", expected=_ACCEPTED, got="0 bytes")
    try:
        return _from_soundfile(soundfile.SoundFile(file), name)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as cause:
        file.seek(0)
        return _from_media(file, name, head, cause)


def _from_soundfile(file: Any, name: str) -> Sound:
    # Formats that stream claim the largest number there is.
    known = 0 < file.frames < 2**60
    seconds = file.frames / max(1, file.samplerate) if known else None
    return Sound(_soundfile_blocks(file, name), file.samplerate, file.channels, seconds)


def _soundfile_blocks(file: Any, name: str) -> Iterator[Floats]:
    step = max(1, _BLOCK // max(1, file.channels))
    done = 0  # samples
    with file:
        while True:
            try:
                block = file.read(step, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as cause:
                raise AudioError(
                    f"{name} is damaged after {done / max(1, file.samplerate):.2f} s",
                    expected="sound that decodes to its end",
                    got=str(cause)[:80],
                    fix="Copy the file again.",
                ) from cause
            if not len(block):
                return
            done += len(block)
            yield block


def _from_media(file: Any, name: str, head: bytes, refused: Exception) -> Sound:
    """What libsndfile refuses: through PyAV, or an error that says what the file is."""
    kind = describe(head)
    if kind.endswith(("text", "zeros", "page", "document", "program", "image", "drawing")):
        file.close()
        raise AudioError(
            f"{name} is not a recording", expected=_ACCEPTED, got=kind, fix="Choose a recording."
        )
    if not media.available():
        file.close()
        raise AudioError(
            f"{name} is damaged or needs a further decoder",
            expected="a WAV, FLAC, Ogg, Opus or MP3 file",
            got=f"{kind} ({str(refused)[-60:]})",
            fix="Install one with: pip install av, or convert it to WAV.",
        )
    rate, channels, seconds, blocks = media.decode_audio(file, name)
    return Sound(blocks, rate, channels, seconds)
