"""What a user can steer: gaze, head distance, emotion, guidance, liveliness, articulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, UsageError

EMOTIONS: tuple[str, ...] = ("happy", "sad", "angry", "surprised", "afraid", "disgusted")

CONDITIONS: tuple[str, ...] = (
    "gaze_yaw",
    "gaze_pitch",
    "gaze_given",
    "distance",
    "distance_given",
    *EMOTIONS,
    "emotion_given",
    "liveliness",
    "articulation",
    "guidance",
    "reserved",
)
"""The names a bundle may list in ``conditions``; the motion network was trained on these.

``guidance`` is for networks that have guidance distilled into them (``sampler.guidance`` of the
manifest is ``condition``); for others it is 0 and the motion stream guides with a second pass.
"""


@dataclass(frozen=True)
class Controls:
    """How a portrait should behave; ``None`` leaves it to the network. Raises UsageError."""

    gaze: tuple[float, float] | None = None
    """Where to look, degrees from the camera: yaw (right of the image), pitch (up), +-30."""
    distance: float | None = None
    """Head distance as a ratio of the photo's, 0.5 (close) to 2 (far)."""
    emotion: Mapping[str, float] | None = None
    """Intensity 0..1 for each of EMOTIONS that should show; empty: a neutral face."""
    guidance: float = 1.0
    """How strongly the emotion shows, 0 (not at all) to 4; 1 is as trained. Gaze and distance are
    measured in degrees and ratios, and are followed as they are."""
    liveliness: float = 1.0
    """Gain of head motion, 0.25 to 4."""
    articulation: float = 1.0
    """Gain of lip motion, 0.5 to 2."""
    still_head: bool = False
    """Keep the head where the photo has it; face and eyes move on."""

    def __post_init__(self) -> None:
        if self.gaze is not None:
            yaw, pitch = _pair(self.gaze)
            _within("gaze yaw", yaw, -30, 30, "degrees")
            _within("gaze pitch", pitch, -30, 30, "degrees")
            object.__setattr__(self, "gaze", (float(yaw), float(pitch)))
        if self.distance is not None:
            _within("distance", self.distance, 0.5, 2, "(1 is the photo's)")
        if self.emotion is not None:
            if not isinstance(self.emotion, Mapping):
                raise UsageError(
                    "emotion is not a mapping of names to intensities",
                    expected='such as {"happy": 0.6}',
                    got=repr(self.emotion)[:60],
                )
            for name, intensity in self.emotion.items():
                if name not in EMOTIONS:
                    expected = ", ".join(EMOTIONS)
                    raise UsageError("unknown emotion", expected=expected, got=repr(name))
                _within(f"intensity of {name}", intensity, 0, 1)
            object.__setattr__(self, "emotion", dict(self.emotion))  # as checked, whatever comes
        _within("guidance", self.guidance, 0, 4)
        _within("liveliness", self.liveliness, 0.25, 4)
        _within("articulation", self.articulation, 0.5, 2)

    def vector(self, names: Sequence[str], *, guided: bool = False) -> NDArray[np.float32]:
        """The conditions a bundle asks for, in its order: float32 (1, len(names)).

        ``guided`` tells the network how strongly to guide the emotion, if there is one. Raises
        BundleError when the bundle asks for a condition this version does not know.
        """
        values = dict.fromkeys(CONDITIONS, 0.0)
        if self.gaze is not None:
            values["gaze_yaw"], values["gaze_pitch"] = self.gaze[0] / 30, self.gaze[1] / 30
            values["gaze_given"] = 1.0
        if self.distance is not None:
            values["distance"], values["distance_given"] = math.log2(self.distance), 1.0
        if self.emotion is not None:
            values.update(self.emotion)
            values["emotion_given"] = 1.0
            values["guidance"] = self.guidance - 1 if guided else 0.0
        values["liveliness"] = math.log2(self.liveliness)
        values["articulation"] = math.log2(self.articulation)
        unknown = [name for name in names if name not in values]
        if unknown:
            raise BundleError(
                "the bundle's motion network has conditions this version does not know",
                expected=", ".join(CONDITIONS),
                got=", ".join(unknown),
                fix="Update vivant, or use a bundle made for this version.",
            )
        return np.array([[values[name] for name in names]], dtype=np.float32)


def parse_emotion(text: str) -> dict[str, float]:
    """``"happy"`` or ``"happy:0.6,surprised:0.2"`` as a mapping; raises UsageError.

    ``"neutral"`` is the empty one: a face without emotion, and not the network's choice.
    """
    emotion: dict[str, float] = {}
    for part in text.split(","):
        name, _, level = part.strip().partition(":")
        if name == "neutral":
            continue
        try:
            emotion[name] = float(level) if level else 1.0
        except ValueError:
            raise UsageError(
                "an emotion's intensity is not a number", expected="NAME[:0..1]", got=repr(part)
            ) from None
    return emotion


def _pair(gaze: Sequence[float]) -> tuple[float, float]:
    try:
        yaw, pitch = gaze
    except (TypeError, ValueError):
        raise UsageError(
            "gaze is not a pair of angles", expected="(yaw, pitch) in degrees", got=repr(gaze)[:60]
        ) from None
    return yaw, pitch


def _within(what: str, value: float, low: float, high: float, unit: str = "") -> None:
    number = isinstance(value, Real)
    if not number or not low <= value <= high:  # also refuses NaN
        raise UsageError(
            f"{what} is out of range" if number else f"{what} is not a number",
            expected=f"{low:g} to {high:g} {unit}".strip(),
            got=f"{value:g}" if number else repr(value)[:60],
        )
