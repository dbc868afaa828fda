"""From motion at 50 Hz to frames at any rate: sample, retarget, render, composite, mark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .composite import Compositor
from .controls import Controls
from .latent import SIZE
from .retarget import retarget, speech_envelope
from .stats import Stats

Array = NDArray[np.float32]
Image = NDArray[np.uint8]
Marker = Callable[[Image], Image]
"""Puts the mark (and a label) on a frame: uint8 (H, W, 3) to the same; may work in place."""
GraphCall = Callable[[Mapping[str, Array]], Mapping[str, Array]]

RATE = 16_000
"""PTS a second: a PTS counts samples of 16 kHz sound."""


class PortraitCode(Protocol):
    """What the renderer needs of a portrait; see ``vivant.portrait.Portrait``."""

    @property
    def features(self) -> Array: ...

    @property
    def keypoints(self) -> Array: ...

    @property
    def motion(self) -> Array: ...


@dataclass(frozen=True)
class Frame:
    """One picture of the result."""

    rgb: Image
    """(H, W, 3)."""
    pts: int
    """Presentation time, samples at 16 kHz since the sound's start."""


class MotionTrack:
    """Motion frames as they arrive, to be sampled at any PTS in between.

    ``step``: samples between two motion frames (320 for 50 Hz). Frame ``j`` has PTS ``j * step``.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._first = 0  # frames dropped so far
        self._count = 0  # frames held
        self._speaking = 0.0
        # The last column is the speech envelope, so that it is sampled just like the latent.
        self._held = np.empty((256, SIZE + 1), np.float32)

    @property
    def end(self) -> int:
        """PTS before which every PTS lies between two known frames, samples; 0 while empty."""
        return max(0, (self._first + self._count - 1) * self.step + 1)

    def append(self, frames: Array) -> None:
        """Add the next motion frames, (n, 63)."""
        total = self._count + len(frames)
        if total > len(self._held):
            grown = np.empty((2 * total, SIZE + 1), np.float32)
            grown[: self._count] = self._held[: self._count]
            self._held = grown
        new = self._held[self._count : total]
        new[:, :SIZE] = frames
        new[:, SIZE] = speech_envelope(frames, self._speaking, RATE / self.step)
        self._count = total
        if len(frames):
            self._speaking = float(new[-1, SIZE])

    def drop(self, pts: int) -> None:
        """Forget the frames that no PTS from ``pts`` on needs: a live track stays small."""
        gone = min(pts // self.step - self._first, self._count - 1)
        if gone > 0:
            self._held[: self._count - gone] = self._held[gone : self._count].copy()
            self._first += gone
            self._count -= gone

    def sample(self, pts: int) -> tuple[Array, float]:
        """Latent (63,) and speech envelope 0..1 at ``pts``, by linear interpolation.

        Before the first and after the last frame held, that frame. ``LookupError`` while empty.
        """
        if not self._count:
            raise LookupError("the motion track is empty")
        at = min(max(pts / self.step - self._first, 0.0), float(self._count - 1))
        low = int(at)
        part = np.float32(at - low)
        row = self._held[low].copy()
        if part:
            row += (self._held[low + 1] - row) * part
        return row[:SIZE], float(row[SIZE])


class Renderer:
    """Draws a portrait at any moment of a motion track.

    ``graph`` is the bundle's ``render`` stage. ``controls`` may be replaced between frames.
    ``marker`` goes last, over the finished frame. For one caller at a time.
    """

    def __init__(
        self,
        graph: GraphCall,
        portrait: PortraitCode,
        compositor: Compositor,
        *,
        controls: Controls | None = None,
        marker: Marker | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.controls = controls or Controls()
        self._graph, self._portrait = graph, portrait
        self._compositor, self._marker = compositor, marker
        self._stats = stats or Stats()
        self._stats.notes["compositor"] = compositor.name

    def frame(self, track: MotionTrack, pts: int) -> Frame:
        """The frame at ``pts`` (samples at 16 kHz)."""
        latent, speaking = track.sample(pts)
        with self._stats.stage("retarget"):
            driven = retarget(latent, self._portrait.motion[0], self.controls, speaking)
        return Frame(self.draw(driven), pts)

    def draw(self, driven: Array) -> Image:
        """The portrait in a motion code of its own, (63,): uint8 (H, W, 3)."""
        drawn = self._graph(
            {
                "features": self._portrait.features,
                "keypoints": self._portrait.keypoints,
                "source": self._portrait.motion,
                "motion": driven[None],
            }
        )
        with self._stats.stage("composite"):
            rgb = self._compositor(drawn["flow"], drawn["occlusion"], drawn["paint"])
        if self._marker is not None:
            with self._stats.stage("mark"):
                rgb = self._marker(rgb)
        return rgb


def exact_rate(fps: float) -> Fraction:
    """Frames a second as a ratio that containers can hold: 29.97003 becomes 30000/1001."""
    # 1001 is the largest denominator of a rate in use; containers have 32 bits for each number.
    return Fraction(fps).limit_denominator(1001)


def frame_pts(number: int, fps: Fraction | float) -> int:
    """PTS of a video frame at a constant rate, samples at 16 kHz."""
    return round(number * RATE / fps)
