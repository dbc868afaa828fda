"""From the motion of anyone to the motion of this portrait.

The motion network speaks about a face at rest, the photo shows a face that may smile, tilt or look
aside. ``retarget`` puts one on the other. Each rule leaves the photo's own code as it is while the
generated latent is neutral, so a silent portrait is the photo, byte for byte in motion terms.

* Eyes, brows, nose: relative. The generated weight takes a share of what the photo leaves free:
  ``own + generated * (1 - own)``; a full blink is a closed eye on any photo.
* Lips, jaw, tongue: absolute while speaking. Weights up to ``DEAD_ZONE`` count as this face's rest,
  not as an opening, and stay; what exceeds it (an open mouth, bared teeth) makes way for speech and
  comes back in silence. Of a smile ``SMILE_KEPT`` stays while speaking, less where the lips round
  or the corners fall, for lips cannot do both.
* Closures close: where the generated lips meet, ``mouthClose`` also makes up for the rest opening
  of the jaw, and the rest of raised and lowered lips is let go.
* Head: the photo's pose plus the generated pose, held softly inside the range that the face
  network was trained on. A photo that is turned far aside turns and nods up to half as much: any
  motion shows a cheek that it has not. With ``still_head``, the photo's pose.
* Gaze: the photo's plus the generated one. Eyes make up for head motion that was left out, so
  eye contact is kept. A gaze asked for is measured from the camera: a photo that looks aside by
  more than ``CONTACT`` degrees is first turned to the camera; less than that is the error of
  estimating it. The lids' ``eyeLook`` shapes follow the gaze.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .controls import Controls
from .latent import ARKIT, GAZE_DEGREES, INDEX, LID_DEGREES, SIZE, TONGUE

Array = NDArray[np.float32]

DEAD_ZONE = 0.15
"""Mouth weight on a photo that still is rest: estimates of closed mouths scatter up to here."""
SMILE_KEPT = 0.6
"""Share of the photo's smile above the dead zone that stays while speaking."""
CONTACT = 8.0
"""Photo gaze from the camera, degrees, within which the photo counts as eye contact."""
POSE_LIMITS: tuple[float, ...] = (30.0, 20.0, 25.0, 0.6, 0.6, 0.6)
"""Largest yaw, pitch, roll (degrees) and x, y, z (IPD): the face network's training range."""
TURNED: tuple[float, float] = (15.0, 35.0)
"""Photo yaw, degrees, from which on the head moves less, and at which it moves half as much."""
GAZE_LIMITS: tuple[float, float] = (30.0, 25.0)
"""Largest gaze yaw and pitch relative to the head, degrees."""
KNEE = 0.7
"""Share of the room up to a limit that is used unchanged; the rest is approached softly."""
ATTACK, RELEASE = 0.12, 1.0
"""Seconds in which ``speaking`` rises and falls: as a mouth opens, and longer than a pause."""
STIRS, SPEAKS = 0.06, 0.2
"""Largest lip or jaw weight that is still silence, and from which on it is speech for sure."""


def _at(*names: str) -> NDArray[np.intp]:
    return np.array([INDEX[name] for name in names], dtype=np.intp)


def _both(*names: str) -> tuple[str, ...]:
    return tuple(name + side for name in names for side in ("Left", "Right"))


_SMILE = _at(*_both("mouthSmile", "mouthDimple", "cheekSquint"))
_MOUTH = np.array(
    [
        INDEX[name]
        for name in (*ARKIT, *TONGUE)
        if name.startswith(("jaw", "mouth", "tongue", "cheekPuff")) and INDEX[name] not in _SMILE
    ],
    dtype=np.intp,
)
_LIFTED = _at(*_both("mouthUpperUp", "mouthLowerDown"))
_ARTICULATORS = _at(
    *("jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRollLower", "mouthRollUpper"),
    *_both("mouthPress", "mouthUpperUp", "mouthLowerDown", "mouthStretch"),
)
_ROUND = _at("mouthPucker", "mouthFunnel")
_FROWN = _at(*_both("mouthFrown"))
_PRESS = _at(*_both("mouthPress"))
_ROLL = _at("mouthRollLower", "mouthRollUpper")
_LOOK = _at(
    *("eyeLookOutLeft", "eyeLookInRight", "eyeLookInLeft", "eyeLookOutRight"),
    *("eyeLookUpLeft", "eyeLookUpRight", "eyeLookDownLeft", "eyeLookDownRight"),
)
_JAW, _CLOSE = INDEX["jawOpen"], INDEX["mouthClose"]
_WEIGHTS = slice(0, len(ARKIT) + len(TONGUE))
_GAZE = slice(INDEX["gazeYaw"], INDEX["gazePitch"] + 1)
_POSE = slice(INDEX["headYaw"], INDEX["headZ"] + 1)
_KEPT = np.ones(SIZE, np.float32)
_KEPT[_MOUTH], _KEPT[_SMILE] = 0.0, SMILE_KEPT
_LIMITS, _GAZE_LIMITS = np.array(POSE_LIMITS, np.float32), np.array(GAZE_LIMITS, np.float32)


def retarget(
    generated: Array, own: Array, controls: Controls, speaking: float | None = None
) -> Array:
    """The latent that drives the portrait: float32 (63,).

    ``generated`` and ``own`` (the photo's code): (63,), units of ``vivant.latent``. ``speaking``:
    0..1 from ``speech_envelope``; ``None`` takes it from this frame alone.
    """
    a = np.float32(articulation(generated) if speaking is None else speaking)
    driven = own.copy()
    driven[_WEIGHTS] = _weights(generated, own, a)[_WEIGHTS]

    deviation = generated[_POSE] * np.float32(0 if controls.still_head else 1)
    aside = (abs(own[_POSE][0]) - TURNED[0]) / (TURNED[1] - TURNED[0])
    deviation[:2] *= 1 - 0.5 * np.clip(aside, 0, 1)
    driven[_POSE] = _toward(own[_POSE], deviation, _LIMITS)

    # Head motion asked for but not made: the eyes make it instead.
    missing = (own[_POSE] + generated[_POSE] - driven[_POSE])[:2]
    away = own[_POSE][:2] + own[_GAZE]
    averted = away - np.clip(away, -CONTACT, CONTACT) if controls.gaze else np.zeros_like(away)
    driven[_GAZE] = _toward(own[_GAZE], generated[_GAZE] + missing - averted, _GAZE_LIMITS)
    look = own[_LOOK] + (_eye_look(driven[_GAZE]) - _eye_look(own[_GAZE]))
    driven[_LOOK] = np.clip(look, np.minimum(own[_LOOK], 0), np.maximum(own[_LOOK], 1))
    return driven


def hold_head(frames: Array) -> Array:
    """Motion (n, 63) with the head at rest, and the eyes where they looked: (n, 63)."""
    held = frames.copy()
    turned = frames[:, _GAZE] + frames[:, _POSE][:, :2]
    held[:, _POSE] = 0
    for frame, gaze, before in zip(held, turned, frames[:, _GAZE], strict=True):
        frame[_GAZE] = _toward(np.zeros(2, np.float32), gaze, _GAZE_LIMITS)
        look = frame[_LOOK] + (_eye_look(frame[_GAZE]) - _eye_look(before))
        frame[_LOOK] = np.clip(look, 0, 1)
    return held


def articulation(generated: Array) -> float:
    """How surely this frame is speech rather than rest, 0..1; a smile alone is not speech."""
    x = (float(generated[_ARTICULATORS].max()) - STIRS) / (SPEAKS - STIRS)
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def speech_envelope(generated: Array, before: float = 0.0, rate: float = 50.0) -> Array:
    """Follow ``articulation`` with a fast rise and a slow fall: (n, 63) to (n,), 0..1.

    ``before`` is the value of the frame before; ``rate`` is in frames a second. It bridges the
    pauses between words, in which an open-mouthed photo must not gape.
    """
    envelope = np.empty(len(generated), np.float32)
    for i, frame in enumerate(generated):
        now = articulation(frame)
        before = max(min(now, before + 1 / (ATTACK * rate)), before - 1 / (RELEASE * rate), 0.0)
        envelope[i] = before
    return envelope


def _weights(generated: Array, own: Array, speaking: np.float32) -> Array:
    """All blendshape and tongue weights, by the rules at the top of this file."""
    excess = np.maximum(own - np.float32(DEAD_ZONE), 0)
    base = own - excess * (1 - _KEPT) * speaking
    base[_SMILE] *= (1 - generated[_ROUND].max()) * (1 - generated[_FROWN].max())
    closure = _closure(generated)
    base[_LIFTED] *= 1 - closure
    driven = base + generated * (1 - base)
    # Lips that meet over an open jaw need as much mouthClose as jaw: both get the same scale.
    jaw = base[_JAW]
    driven[_CLOSE] = base[_CLOSE] + generated[_CLOSE] * (1 - jaw) + closure * max(jaw, 0)
    limited: Array = np.clip(driven, np.minimum(own, 0), np.maximum(own, 1))
    return limited


def _closure(generated: Array) -> np.float32:
    """How far the generated lips are held together, 0..1; 0 for lips that only rest."""
    press = generated[_PRESS].mean() + generated[_ROLL].mean() + generated[_CLOSE]
    # Lip aperture as a sum of weights, fitted to tracked talkers; a pair counts by its mean.
    lifted = generated[_LIFTED]
    aperture = (
        generated[_JAW] - generated[_CLOSE] + 0.18 * lifted[:2].sum() + 0.22 * lifted[2:].sum()
    )
    return np.float32(min(press / 0.4, 1.0) * min(max(1 - aperture / 0.1, 0.0), 1.0))


def _toward(own: Array, deviation: Array, limit: Array) -> Array:
    """``own + deviation``, kept softly inside ``+-limit`` (or where ``own`` already is)."""
    room = np.maximum(limit - own * np.sign(deviation), np.float32(1e-6))
    used = np.abs(deviation) / room
    soft = KNEE + (1 - KNEE) * np.tanh((used - KNEE) / (1 - KNEE))
    limited: Array = own + np.where(used > KNEE, np.sign(deviation) * soft * room, deviation)
    return limited


def _eye_look(gaze: Array) -> Array:
    """Lid and eye shapes that go with a gaze (yaw, pitch), in the order of ``_LOOK``: (8,)."""
    yaw, pitch = gaze[0] / GAZE_DEGREES, gaze[1] / LID_DEGREES
    right, left, up, down = max(yaw, 0), max(-yaw, 0), max(pitch, 0), max(-pitch, 0)
    return np.array([right, right, left, left, up, up, down, down], np.float32)
