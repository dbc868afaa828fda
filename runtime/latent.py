"""The motion latent: one named vector of 63 numbers per frame, for lips, eyes, brows and head.

Angles are degrees, translations are interpupillary distances (IPD), blendshapes are 0..1.
Left and right are the subject's. Positive yaw turns toward the right of the image, positive
pitch looks up, positive roll tilts the crown toward the right of the image; ``headX`` moves
right, ``headY`` up, ``headZ`` toward the camera. Gaze is relative to the head.
"""

from __future__ import annotations

ARKIT: tuple[str, ...] = tuple(
    """
    eyeBlinkLeft eyeLookDownLeft eyeLookInLeft eyeLookOutLeft eyeLookUpLeft eyeSquintLeft
    eyeWideLeft eyeBlinkRight eyeLookDownRight eyeLookInRight eyeLookOutRight eyeLookUpRight
    eyeSquintRight eyeWideRight jawForward jawLeft jawRight jawOpen mouthClose mouthFunnel
    mouthPucker mouthLeft mouthRight mouthSmileLeft mouthSmileRight mouthFrownLeft
    mouthFrownRight mouthDimpleLeft mouthDimpleRight mouthStretchLeft mouthStretchRight
    mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthPressLeft
    mouthPressRight mouthLowerDownLeft mouthLowerDownRight mouthUpperUpLeft
    mouthUpperUpRight browDownLeft browDownRight browInnerUp browOuterUpLeft
    browOuterUpRight cheekPuff cheekSquintLeft cheekSquintRight noseSneerLeft noseSneerRight
    tongueOut
    """.split()
)
"""Apple ARKit's 52 blendshapes (ARFaceAnchor.BlendShapeLocation), weight 0..1."""

TONGUE: tuple[str, ...] = ("tongueUp", "tongueBackUp", "tongueWide")
"""Tongue shapes beyond ARKit's ``tongueOut``, weight 0..1."""

GAZE: tuple[str, ...] = ("gazeYaw", "gazePitch")
"""Both eyes' direction relative to the head, degrees."""

HEAD: tuple[str, ...] = ("headYaw", "headPitch", "headRoll", "headX", "headY", "headZ")
"""Head rotation about the neck, degrees, and translation, IPD."""

NAMES: tuple[str, ...] = ARKIT + TONGUE + GAZE + HEAD
UNITS: tuple[str, ...] = ("weight",) * 55 + ("degree",) * 5 + ("ipd",) * 3
SIZE = len(NAMES)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}

LID_DEGREES = 30.0
"""Gaze pitch at which ``eyeLookUp``/``eyeLookDown`` reach 1."""
GAZE_DEGREES = 35.0
"""Gaze yaw at which ``eyeLookIn``/``eyeLookOut`` reach 1."""
