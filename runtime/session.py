"""Photo and sound in, frames out: the one pipeline behind the Python API and the command line."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from numbers import Integral, Real
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import RATE, AudioSource, stream_audio
from .bundle import Bundle
from .composite import Compositor
from .controls import Controls
from .errors import BundleError, UsageError
from .mark import Mark
from .motion import MotionStream
from .photo import PhotoSource, load_photo
from .plan import Plan, candidates
from .portrait import Framing, Portrait, make_portrait
from .render import Frame, Marker, MotionTrack, Renderer, exact_rate, frame_pts
from .retarget import hold_head
from .stats import Stats

Array = NDArray[np.float32]

MAX_THREADS = 256
"""Threads of a graph that can be asked for; vendors start as many as they are told."""
FPS = (1.0, 120.0)
"""Lowest and highest frame rate that can be asked for, frames a second."""
PHOTO_STAGES = ("align", "encode")
"""Graphs that run once per photo; loaded when the first photo comes."""
BLOCK = 16 * 640
"""Samples of sound handed to the motion network at once; frames follow each block."""


class Session:
    """A bundle on this machine's best backends, with one portrait in it.

    Use it as a context manager, or call ``close``. It can be used again and again, for other
    sounds and other photos; what was animated before is not remembered. Several threads may
    animate at the same time. ``stats`` holds the time spent in each stage.
    """

    def __init__(
        self, bundle: Bundle, plan: Plan | None = None, *, stats: Stats | None = None
    ) -> None:
        self.bundle, self.plan = bundle, plan or Plan()
        self.stats = stats or Stats()
        self._graphs: dict[str, Any] = {}
        self._portrait: Portrait | None = None
        if bundle.manifest.audio.rate != RATE:
            raise BundleError(
                "the bundle listens at another sampling rate",
                expected=f"{RATE} Hz",
                got=f"{bundle.manifest.audio.rate} Hz",
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphs and the portrait; used again, the session loads what it needs anew."""
        self._graphs.clear()
        self._portrait = None

    def _graph(self, stage: str) -> Any:
        """A stage, verified and compiled on first use."""
        if stage not in self._graphs:
            with self.stats.stage("load"):
                graph = self.plan.load(self.bundle, stage)
            self._graphs[stage] = self.stats.timed(stage, graph)
        return self._graphs[stage]

    @property
    def portrait(self) -> Portrait:
        """The portrait that is animated; raises UsageError when none was given."""
        if self._portrait is None:
            raise UsageError("there is no portrait yet", fix="Call use_portrait(photo) first.")
        return self._portrait

    def use_portrait(self, photo: PhotoSource, *, face: int | None = None) -> Portrait:
        """Find the face in a photo, align and encode it; ``face`` picks one of several, from 0.

        Raises PhotoError when the photo cannot be read or shows no usable face, and UsageError
        when there is no such face; the portrait before then stays.
        """
        if face is not None and not isinstance(face, Integral):
            raise UsageError("face is not a number", expected="0, 1, ...", got=repr(face)[:60])
        pixels = load_photo(photo)  # before any graph is compiled: mistakes come back at once
        graphs = {name: self._graph(name) for name in PHOTO_STAGES}
        form = self.bundle.manifest.portrait
        framing = Framing(form.size, form.eyes, form.interpupillary)
        self._portrait = make_portrait(pixels, graphs, framing, face)
        return self._portrait

    def motion(
        self, sound: AudioSource, *, controls: Controls | None = None, seed: int = 0
    ) -> Generator[Array, None, None]:
        """Motion latents of a recording at 50 Hz, in blocks of (n, 63) as they are computed.

        Frame ``j`` of all blocks has PTS ``320 j`` samples. A still head is at rest here, and its
        eyes make up for it. Raises UsageError, and AudioError when the recording cannot be read,
        or on the way where it is damaged.
        """
        stream = self._stream(controls, seed)
        return self._moves(stream, _blocks(stream_audio(sound)))

    def _moves(self, stream: MotionStream, blocks: Iterator[Array]) -> Generator[Array, None, None]:
        settle = hold_head if stream.controls.still_head else None
        for block in blocks:
            frames = stream.push(block)
            yield settle(frames) if settle else frames
        frames = stream.close()
        yield settle(frames) if settle else frames

    def animate(
        self,
        sound: AudioSource,
        *,
        fps: float = 25,
        controls: Controls | None = None,
        seed: int = 0,
        marker: Marker | None = None,
    ) -> Generator[Frame, None, None]:
        """Every frame of the portrait speaking a recording: uint8 (512, 512, 3) with its PTS.

        Never drops a frame; the same arguments give the same frames. ``marker`` replaces the
        standard mark of AI-generated frames. Raises UsageError, and AudioError when the recording
        cannot be read, or on the way where it is damaged.
        """
        rate = frame_rate(fps)
        portrait = self.portrait
        blocks = _blocks(stream_audio(sound))
        stream = self._stream(controls, seed)
        renderer = Renderer(
            self._graph("render"),
            portrait,
            Compositor(portrait.photo),
            controls=controls,
            marker=marker or Mark(),
            stats=self.stats,
        )
        return self._frames(renderer, stream, blocks, rate)

    def _frames(
        self, renderer: Renderer, stream: MotionStream, blocks: Iterator[Array], rate: Fraction
    ) -> Generator[Frame, None, None]:
        track = MotionTrack(RATE // self.bundle.manifest.latent.rate)
        number = 0
        while True:
            block = next(blocks, None)
            track.append(stream.close() if block is None else stream.push(block))
            # The last motion frame stands still until the sound's last sample.
            end = stream.heard if block is None else min(track.end, stream.heard)
            while (pts := frame_pts(number, rate)) < end:
                yield renderer.frame(track, pts)
                number += 1
            if block is None:
                return
            track.drop(pts)

    def _stream(self, controls: Controls | None, seed: int) -> MotionStream:
        if not isinstance(controls, Controls | None):
            got = type(controls).__name__
            raise UsageError("controls have the wrong type", expected="vivant.Controls", got=got)
        if not isinstance(seed, Integral) or not 0 <= seed < 2**64:
            raise UsageError(
                "the seed is out of range", expected="a whole number, 0 to 2^64 - 1", got=repr(seed)
            )
        return MotionStream(
            self._graph("listen"),
            self._graph("denoise"),
            self.bundle.manifest,
            controls=controls,
            seed=int(seed),
        )


def open_session(
    portrait: PhotoSource | None = None,
    *,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    backend: str | None = None,
    threads: int = 0,
    face: int | None = None,
) -> Session:
    """Open the embedded bundle (or another), on the best backend (or one), with a portrait.

    ``backend``: ``auto``, ``onnxruntime``, ``openvino``, or with a device as ``openvino:GPU``.
    ``threads``: of each graph, 0 for the vendor's choice. ``face``: which of several in the photo,
    from 0. Raises BundleError, BackendError, PhotoError, UsageError.
    """
    if not isinstance(threads, Integral) or not 0 <= threads <= MAX_THREADS:
        raise UsageError(
            "the number of threads is out of range",
            expected=f"0 (auto) to {MAX_THREADS}",
            got=repr(threads)[:60],
        )
    candidates(backend)  # an unknown backend is the caller's mistake, whatever the bundle is
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    session = Session(opened, Plan(backend=backend, threads=threads))
    if portrait is not None:
        session.use_portrait(portrait, face=face)
    return session


def frame_rate(fps: float) -> Fraction:
    """The rate at which frames are made; raises UsageError unless it can be rendered."""
    if not isinstance(fps, Real) or not FPS[0] <= fps <= FPS[1]:  # also refuses NaN
        raise UsageError(
            "the frame rate is out of range",
            expected=f"{FPS[0]:g} to {FPS[1]:g} frames a second",
            got=f"{float(fps):g}" if isinstance(fps, Real) else repr(fps)[:60],
        )
    return exact_rate(fps)


def _blocks(sound: Iterator[Array]) -> Iterator[Array]:
    """Sound at 16 kHz in blocks of at most ``BLOCK`` samples, so that frames come steadily."""
    for decoded in sound:
        for start in range(0, len(decoded), BLOCK):
            yield decoded[start : start + BLOCK]
