"""Emotions as blendshape offsets on a talking face, and as ways of holding the head.

Prototypes follow the action units of Ekman & Friesen (1978): happy 6+12, sad 1+4+15, angry
4+5+7+23, surprised 1+2+5+26, afraid 1+2+4+5+20, disgusted 9+10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vivant import latent
from vivant.controls import EMOTIONS
from vivant.export.synth.speech.nonverbal import Behaviour, wander

STRENGTH = 0.6
"""Share of the prototype that full intensity shows on a talking face."""

_BOTH = ("Left", "Right")


def _shapes(text: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        names = [name] if name in latent.INDEX else [name + side for side in _BOTH]
        out.update(dict.fromkeys(names, float(value)))
    return out


PROTOTYPES: Mapping[str, Mapping[str, float]] = {
    "happy": _shapes("mouthSmile=.8 cheekSquint=.7 eyeSquint=.6 mouthDimple=.25 browOuterUp=.1"),
    "sad": _shapes("browInnerUp=.85 browDown=.25 mouthFrown=.7 mouthShrugLower=.35 eyeSquint=.2"),
    "angry": _shapes("browDown=.95 eyeWide=.35 eyeSquint=.5 mouthPress=.4 noseSneer=.3"),
    "surprised": _shapes("browInnerUp=.8 browOuterUp=.9 eyeWide=.8 jawOpen=.25"),
    "afraid": _shapes("browInnerUp=.9 browOuterUp=.5 browDown=.35 eyeWide=.7 mouthStretch=.55"),
    "disgusted": _shapes(
        "noseSneer=.9 mouthUpperUp=.45 browDown=.5 eyeSquint=.45 mouthFrown=.3 cheekSquint=.3"
    ),
}
"""Blendshapes of each emotion at its height."""
PARTING: frozenset[str] = frozenset(
    name
    for name in latent.ARKIT
    if name.startswith(("jawOpen", "mouthUpperUp", "mouthLowerDown", "mouthFunnel"))
)
"""Shapes that would part the lips; they give way to contacts."""
_MANNERS: Mapping[str, tuple[float, float, float]] = {
    # head pitch and gaze pitch (degrees at full intensity), log gain of head movement
    "happy": (1.0, 0.0, 0.15),
    "sad": (-4.0, -4.0, -0.6),
    "angry": (-2.5, 0.0, 0.2),
    "surprised": (2.0, 0.0, 0.0),
    "afraid": (1.0, 0.0, -0.2),
    "disgusted": (1.5, -1.0, -0.1),
}


def manner(behaviour: Behaviour, intensities: Mapping[str, float], gazing: bool) -> Behaviour:
    """The behaviour of the same person in that emotion.

    gazing: the direction of regard is commanded and must stay.
    """
    pitch, yaw, roll = behaviour.posture
    gaze, gain = behaviour.gaze, 0.0
    for name, intensity in intensities.items():
        head, eyes, liveliness = _MANNERS[name]
        pitch += head * intensity
        gain += liveliness * intensity
        if not gazing:
            gaze = (gaze[0], gaze[1] + eyes * intensity)
    return replace(
        behaviour,
        posture=(pitch, yaw, roll),
        gaze=gaze,
        energy=behaviour.energy * float(np.exp(gain)),
    )


def express(
    motion: np.ndarray,
    closure: np.ndarray,
    intensities: Mapping[str, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Add emotions (intensity 0..1 each) to motion latents (T, 63).

    Shapes that part the lips are multiplied by 1 - closure (T,), so contacts stay contacts;
    smiles and frowns yield to rounded lips. Strength varies slowly by about 10 %.
    """
    out = motion.copy()
    i = latent.INDEX
    rounded = np.clip(motion[:, i["mouthPucker"]] + 0.5 * motion[:, i["mouthFunnel"]], 0, 1)
    for name in EMOTIONS:
        intensity = intensities.get(name, 0.0)
        if intensity <= 0:
            continue
        person = np.exp(0.12 * rng.standard_normal())
        swell = np.clip(1 + 0.1 * wander(len(motion), 1.5, rng), 0.6, 1.4)
        level = STRENGTH * intensity * person * swell  # (T,)
        for shape, value in PROTOTYPES[name].items():
            offset = value * level
            if shape in PARTING:
                offset = offset * (1 - closure)
            elif shape.startswith("mouth"):
                offset = offset * (1 - 0.6 * rounded)
            out[:, i[shape]] += offset
    out[:, : len(latent.ARKIT)] = np.clip(out[:, : len(latent.ARKIT)], 0, 1)
    return out
