"""Where results go: MP4, numbered PNGs, raw RGB24, and the motion as CSV or JSON.

A sink is a context manager. Leaving it well finishes the output; leaving it by any exception,
Ctrl-C included, aborts it. Files and folders are written beside their destination under a
temporary name and renamed when they are complete, so an aborted run leaves nothing behind and an
earlier good output is kept. What cannot be written is an ``OutputError``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import disclosure, media
from .atomic import AtomicFile, Stream, check_parent, is_stream, output_errors, umask
from .audio import Sound
from .errors import OutputError
from .latent import NAMES, UNITS
from .render import RATE, Frame, exact_rate

StrPath = str | os.PathLike[str]
Item = TypeVar("Item", contravariant=True)

KINDS: dict[str, str] = {
    ".mp4": "mp4",
    ".rgb": "raw",
    ".raw": "raw",
    ".csv": "csv",
    ".json": "json",
}
"""What an output's extension asks for; a folder (a path ending in a slash) asks for ``png``."""


class Sink(Protocol[Item]):
    """Takes items in order of time: video sinks ``Frame``, motion sinks latents (n, 63)."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def open(self) -> None:
        """Claim the destination; done by ``with``."""

    def write(self, item: Item) -> None:
        """Append one item."""

    def close(self) -> None:
        """Complete the output and put it in place."""

    def abort(self) -> None:
        """Leave everything as it was before ``open``; harmless when nothing is open."""


def output_kind(path: StrPath) -> str:
    """What to write to ``path``: ``mp4``, ``png``, ``raw``, ``csv`` or ``json``.

    ``-``, and a pipe or device whose name says nothing, take raw frames. Raises OutputError for a
    missing or unknown extension.
    """
    name = os.fspath(path)
    if name == "-":
        return "raw"
    if name.endswith(("/", os.sep)) or os.path.isdir(name):
        return "png"
    suffix = Path(name).suffix.lower()
    if not suffix and is_stream(name):
        return "raw"
    if suffix not in KINDS:
        raise OutputError(
            f"The output '{name}' "
            + ("has an unknown extension" if suffix else "has no extension"),
            expected=", ".join(KINDS) + ", a folder (name/) for PNG frames, or - for raw frames",
            got=suffix or "none",
            fix=f"Try {Path(name or 'talking').with_suffix('.mp4')}.",
        )
    return KINDS[suffix]


def open_sink(
    path: StrPath,
    *,
    fps: float = 25,
    sound: Sound | None = None,
    inputs: Sequence[StrPath] = (),
    kind: str | None = None,
) -> VideoSink | MotionSink:
    """The sink for a path, not yet opened; ``kind`` overrides what ``output_kind`` says.

    ``sound`` goes into an MP4 (see ``audio.stream_sound``); ``inputs`` are files never to
    overwrite. Raises OutputError.
    """
    kind = kind or output_kind(path)
    if kind == "mp4":
        return Mp4Sink(path, fps=fps, sound=sound, inputs=inputs)
    if kind == "png":
        return PngSink(path, inputs=inputs)
    if kind == "raw":
        return RawSink(path, inputs=inputs)
    return MotionSink(path, kind, inputs=inputs)


class _Sink:
    """The life of a sink: ``with`` opens it, then closes or aborts it."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


class Mp4Sink(_Sink):
    """H.264 video with AAC sound, constant frame rate, playable while it downloads.

    ``fps``: frames a second. ``sound``: rate that AAC knows, 1 or 2 channels; what outlasts the
    video is cut. Needs PyAV. Raises OutputError, and what ``sound.blocks`` raises.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        fps: float = 25,
        sound: Sound | None = None,
        inputs: Sequence[StrPath] = (),
    ) -> None:
        self._file = AtomicFile(path, inputs)
        self._fps = exact_rate(fps)
        self._sound = sound
        self._blocks: Iterator[NDArray[np.float32]] = iter(sound.blocks if sound else ())
        self._left = np.empty((0, sound.channels if sound else 1), np.float32)
        self._writer: media.Mp4Writer | None = None
        self._frames = self._samples = 0

    def open(self) -> None:
        if not media.available():
            raise OutputError(
                f"{self._file} needs PyAV, which is not installed",
                expected="the av module",
                fix="Run: pip install av, or write PNG frames: -o frames/",
            )
        self._file.open()

    def write(self, frame: Frame) -> None:
        height, width = frame.rgb.shape[:2]
        if height % 2 or width % 2:
            raise OutputError(
                "H.264 with 4:2:0 colour needs even sides", expected="even", got=f"{width}x{height}"
            )
        with self._file.errors():
            if self._writer is None:
                self._writer = media.Mp4Writer(
                    os.fspath(self._file.temporary),
                    size=(width, height),
                    fps=self._fps,
                    sound=(self._sound.rate, self._sound.channels) if self._sound else None,
                    metadata={
                        "title": disclosure.TITLE,
                        "comment": disclosure.COMMENT,
                        "encoder": disclosure.SOFTWARE,
                    },
                )
            self._writer.picture(frame.rgb)
        self._frames += 1
        self._play()

    def close(self) -> None:
        if self._writer is None:
            raise OutputError(f"{self._file} would be empty", expected="at least one frame")
        writer, self._writer = self._writer, None
        with self._file.errors():
            try:
                writer.close()
            except OSError:
                writer.close(complete=False)
                raise
            with self._file.temporary.open("ab") as file:
                file.write(disclosure.mp4_box())
        self._file.commit()

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.close(complete=False)
            self._writer = None
        self._file.discard()

    def _play(self) -> None:
        """Write the sound up to the end of the last frame."""
        if self._sound is None or self._writer is None:
            return
        until = math.ceil(self._frames / self._fps * self._sound.rate)
        while self._samples < until:
            if not len(self._left):
                block = next(self._blocks, None)
                if block is None:
                    return
                self._left = block
            part, self._left = np.split(self._left, [until - self._samples])
            with self._file.errors():
                self._writer.sound(part)
            self._samples += len(part)


class PngSink(_Sink):
    """A new folder of numbered frames, ``000000.png`` on, each with the disclosure as text.

    An empty folder is used, one with files is refused, for a folder cannot be replaced at once.
    """

    def __init__(self, path: StrPath, *, inputs: Sequence[StrPath] = ()) -> None:
        self._path = Path(path).expanduser()
        self._temporary: Path | None = None
        self._frames = 0
        self._text = PngInfo()
        self._text.add_text("Title", disclosure.TITLE)
        self._text.add_text("Comment", disclosure.COMMENT)
        self._text.add_text("Software", disclosure.SOFTWARE)
        self._text.add_itxt("XML:com.adobe.xmp", disclosure.xmp().decode())

    def open(self) -> None:
        check_parent(self._path)
        if self._path.exists() and not self._path.is_dir():
            raise OutputError(
                f"The output '{self._path}' is a file", expected="a folder", fix="Choose another."
            )
        with output_errors(self._path):
            used = self._path.is_dir() and any(self._path.iterdir())
        if used:
            raise OutputError(
                f"The folder '{self._path}' is not empty",
                expected="a new or empty folder",
                fix="Choose another, or empty it first.",
            )
        with output_errors(self._path):
            self._temporary = Path(tempfile.mkdtemp(".part", ".vivant-", self._path.parent))
            self._temporary.chmod(0o777 & ~umask())

    def write(self, frame: Frame) -> None:
        if self._temporary is None:
            raise ValueError("the sink is not open")
        with output_errors(self._path):
            file = self._temporary / f"{self._frames:06}.png"
            Image.fromarray(frame.rgb).save(file, pnginfo=self._text, compress_level=3)
        self._frames += 1

    def close(self) -> None:
        if self._temporary is None:
            raise ValueError("the sink is not open")
        with output_errors(self._path):
            if self._path.is_dir():
                self._path.rmdir()
            self._temporary.rename(self._path)
        self._temporary = None

    def abort(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None


class RawSink(_Sink):
    """Frames as bare RGB24 bytes, to a file, a pipe or (``-``) standard output.

    A reader that leaves early raises BrokenPipeError, like any Unix filter.
    """

    def __init__(self, path: StrPath, *, inputs: Sequence[StrPath] = ()) -> None:
        self._file: AtomicFile | Stream
        self._file = Stream(path) if is_stream(path) else AtomicFile(path, inputs)

    def open(self) -> None:
        self._file.open()

    def write(self, frame: Frame) -> None:
        with self._file.errors():
            self._file.stream.write(np.ascontiguousarray(frame.rgb).data)

    def close(self) -> None:
        self._file.commit()

    def abort(self) -> None:
        self._file.discard()


class MotionSink(_Sink):
    """The motion as a table: a row for each motion frame with its PTS, seconds and 63 values.

    ``kind``: ``csv`` (comment lines with the units, a header, rows) or ``json`` (one object with
    names, units and frames). ``rate``: motion frames a second.
    """

    def __init__(
        self, path: StrPath, kind: str, *, rate: int = 50, inputs: Sequence[StrPath] = ()
    ) -> None:
        self._file: AtomicFile | Stream
        self._file = Stream(path) if is_stream(path) else AtomicFile(path, inputs)
        self._json, self._rate, self._frames = kind == "json", rate, 0

    def open(self) -> None:
        self._file.open()
        self._put(self._json_head() if self._json else self._csv_head())

    def write(self, latents: NDArray[np.float32]) -> None:
        """Append motion frames, (n, 63)."""
        for latent in latents:
            pts = self._frames * RATE // self._rate
            seconds = round(pts / RATE, 6)
            values = ",".join(f"{value:.6g}" for value in latent.tolist())
            if self._json:
                start = ",\n" if self._frames else ""
                self._put(f'{start}{{"pts":{pts},"seconds":{seconds},"values":[{values}]}}')
            else:
                self._put(f"{pts},{seconds},{values}\n")
            self._frames += 1

    def close(self) -> None:
        if self._json:
            self._put("\n]}\n")
        self._file.commit()

    def abort(self) -> None:
        self._file.discard()

    def _csv_head(self) -> str:
        others = [f"{n} {u}" for n, u in zip(NAMES, UNITS, strict=True) if u != "weight"]
        return (
            f"# {disclosure.TITLE} ({disclosure.SOFTWARE}); {disclosure.DIGITAL_SOURCE_TYPE}\n"
            f"# units: pts samples at {RATE} Hz, {', '.join(others)}, all else weight 0..1\n"
            f"pts,seconds,{','.join(NAMES)}\n"
        )

    def _json_head(self) -> str:
        head = {
            "format": "vivant-motion",
            "version": 1,
            "title": disclosure.TITLE,
            "software": disclosure.SOFTWARE,
            "digitalSourceType": disclosure.DIGITAL_SOURCE_TYPE,
            "rate": self._rate,
            "ptsRate": RATE,
            "names": NAMES,
            "units": UNITS,
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        return "{" + ",\n".join(lines) + ',\n"frames": [\n'

    def _put(self, text: str) -> None:
        with self._file.errors():
            self._file.stream.write(text.encode())


VideoSink = Mp4Sink | PngSink | RawSink
