"""Random motion latents for training frames: speech-like mouths, emotions, gaze, blinks, pose."""

from __future__ import annotations

import numpy as np

from vivant import latent
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.sample import Traits

# Mouth shapes of speech in the latent's names; a bare paired name sets both sides. The figures are
# chosen by eye against articulatory descriptions of each class.
VISEMES: dict[str, dict[str, float]] = {
    "silence": {},
    "PP": {
        "mouthPress": 0.45,
        "mouthRollLower": 0.35,
        "mouthRollUpper": 0.35,
        "mouthClose": 0.04,
        "jawOpen": 0.04,
    },
    "FF": {"jawOpen": 0.09, "mouthRollLower": 0.62, "mouthUpperUp": 0.32, "mouthClose": 0.05},
    "TH": {
        "jawOpen": 0.16,
        "mouthLowerDown": 0.25,
        "mouthUpperUp": 0.15,
        "tongueOut": 0.42,
        "tongueUp": 0.28,
    },
    "DD": {
        "jawOpen": 0.12,
        "mouthLowerDown": 0.30,
        "mouthUpperUp": 0.18,
        "mouthStretch": 0.10,
        "tongueUp": 0.75,
    },
    "KK": {
        "jawOpen": 0.18,
        "mouthLowerDown": 0.22,
        "mouthUpperUp": 0.15,
        "mouthStretch": 0.12,
        "tongueBackUp": 0.70,
    },
    "CH": {
        "jawOpen": 0.09,
        "mouthFunnel": 0.62,
        "mouthPucker": 0.22,
        "mouthUpperUp": 0.15,
        "mouthLowerDown": 0.20,
        "tongueUp": 0.40,
    },
    "SS": {
        "jawOpen": 0.04,
        "mouthStretch": 0.28,
        "mouthLowerDown": 0.38,
        "mouthUpperUp": 0.22,
        "mouthSmile": 0.12,
        "tongueUp": 0.45,
    },
    "NN": {"jawOpen": 0.11, "mouthLowerDown": 0.25, "mouthUpperUp": 0.12, "tongueUp": 0.80},
    "RR": {
        "jawOpen": 0.11,
        "mouthFunnel": 0.42,
        "mouthPucker": 0.30,
        "tongueBackUp": 0.40,
        "tongueUp": 0.30,
    },
    "AA": {"jawOpen": 0.42, "mouthLowerDown": 0.28, "mouthUpperUp": 0.18, "tongueWide": 0.3},
    "EH": {
        "jawOpen": 0.22,
        "mouthStretch": 0.22,
        "mouthSmile": 0.18,
        "mouthLowerDown": 0.28,
        "mouthUpperUp": 0.18,
    },
    "IY": {
        "jawOpen": 0.11,
        "mouthSmile": 0.38,
        "mouthStretch": 0.22,
        "mouthLowerDown": 0.28,
        "mouthUpperUp": 0.15,
        "tongueWide": 0.4,
    },
    "OH": {"jawOpen": 0.28, "mouthFunnel": 0.55, "mouthPucker": 0.25},
    "UW": {"jawOpen": 0.08, "mouthPucker": 0.78, "mouthFunnel": 0.32},
}
EMOTIONS: dict[str, dict[str, float]] = {
    "happy": {
        "mouthSmile": 0.75,
        "cheekSquint": 0.55,
        "eyeSquint": 0.35,
        "mouthDimple": 0.25,
        "mouthUpperUp": 0.18,
    },
    "sad": {
        "mouthFrown": 0.6,
        "browInnerUp": 0.7,
        "mouthShrugLower": 0.35,
        "eyeBlink": 0.12,
        "eyeSquint": 0.15,
    },
    "angry": {
        "browDown": 0.8,
        "noseSneer": 0.35,
        "mouthPress": 0.4,
        "eyeSquint": 0.4,
        "mouthFrown": 0.2,
    },
    "surprised": {"browInnerUp": 0.8, "browOuterUp": 0.7, "eyeWide": 0.7, "jawOpen": 0.35},
    "afraid": {
        "browInnerUp": 0.75,
        "browOuterUp": 0.25,
        "eyeWide": 0.6,
        "mouthStretch": 0.5,
        "jawOpen": 0.15,
    },
    "disgusted": {
        "noseSneer": 0.7,
        "mouthUpperUp": 0.45,
        "browDown": 0.45,
        "mouthFrown": 0.3,
        "eyeSquint": 0.3,
    },
    "laughing": {
        "mouthSmile": 0.85,
        "cheekSquint": 0.7,
        "eyeSquint": 0.5,
        "jawOpen": 0.28,
        "mouthUpperUp": 0.4,
        "mouthLowerDown": 0.3,
    },
}
_FACE = slice(0, 55)
_LIDS = [latent.INDEX[n] for n in latent.ARKIT if n.startswith(("eyeBlink", "eyeLook"))]


def encode(shapes: dict[str, float], skew: Array | None = None) -> Array:
    """Weights (55,) of named shapes; a bare paired name sets both sides, skewed by (1 +- skew)."""
    weights = np.zeros(55, np.float32)
    for name, value in shapes.items():
        if name in latent.INDEX:
            weights[latent.INDEX[name]] += value
            continue
        for side, sign in (("Left", 1.0), ("Right", -1.0)):
            k = latent.INDEX[name + side]
            weights[k] += value * (1.0 if skew is None else 1.0 + sign * float(skew[k]))
    return weights


def _jittered(rng: np.random.Generator, shapes: dict[str, float], skew: Array) -> Array:
    gain = rng.uniform(0.4, 1.35)
    weights = {k: v * gain * rng.uniform(0.6, 1.4) for k, v in shapes.items()}
    return encode(weights, skew)


def _speech(rng: np.random.Generator, skew: Array) -> Array:
    """A point between two visemes, as coarticulation gives."""
    names = list(VISEMES)
    a, b = (VISEMES[str(rng.choice(names))] for _ in range(2))
    mix = rng.beta(0.6, 0.6)
    weights = (1 - mix) * _jittered(rng, a, skew) + mix * _jittered(rng, b, skew)
    weights[latent.INDEX["jawOpen"]] *= rng.uniform(0.7, 1.5)
    for name in ("jawLeft", "jawRight", "jawForward", "mouthLeft", "mouthRight"):
        if rng.random() < 0.12:
            weights[latent.INDEX[name]] += abs(rng.normal(0, 0.12))
    if rng.random() < 0.35:  # teeth show in speech, more so in a friendly face
        bare = {"mouthUpperUp": 0.4, "mouthLowerDown": 0.4, "mouthSmile": 0.5}
        weights += encode({name: rng.uniform(0, most) for name, most in bare.items()}, skew)
    if rng.random() < 0.1:
        weights[latent.INDEX["jawOpen"]] += rng.uniform(0, 0.7)
    if rng.random() < 0.2:
        weights[latent.INDEX["mouthShrugUpper"]] += rng.uniform(0, 0.3)
        weights[latent.INDEX["mouthShrugLower"]] += rng.uniform(0, 0.3)
    return weights


def _toothy(rng: np.random.Generator, skew: Array) -> Array:
    """A smile that bares the upper teeth: the lower lip lets go of them, the jaw hardly drops."""
    amount = rng.uniform(0.2, 1.1) ** 0.7
    shapes = {
        "mouthSmile": amount * rng.uniform(0.5, 1.0),
        "mouthUpperUp": amount * rng.uniform(0.15, 0.9),
        "mouthLowerDown": amount * rng.uniform(0.35, 1.0),
        "mouthStretch": amount * rng.uniform(0, 0.3),
        "mouthDimple": amount * rng.uniform(0, 0.3),
        "cheekSquint": amount * rng.uniform(0.2, 0.7),
        "eyeSquint": amount * rng.uniform(0, 0.5),
        "jawOpen": rng.uniform(0, 0.14) if rng.random() < 0.75 else rng.uniform(0.1, 0.5),
    }
    return encode(shapes, skew)


def _random(rng: np.random.Generator) -> Array:
    weights = np.zeros(55, np.float32)
    free = [k for k in range(55) if k not in _LIDS]
    for k in rng.choice(free, int(rng.integers(1, 7)), replace=False):
        weights[k] = rng.beta(1.0, 1.6)
        name = latent.NAMES[k]
        if (
            name.endswith("Left")
            and not name.startswith(("jaw", "mouthLeft"))
            and rng.random() < 0.6
        ):
            weights[latent.INDEX[name[:-4] + "Right"]] = weights[k] * rng.uniform(0.7, 1.2)
    return weights


def finish(motion: Array) -> Array:
    """Bring one latent (63,) into its valid range and tie the lids' look shapes to the gaze."""
    motion = motion.astype(np.float32).copy()
    index = latent.INDEX
    yaw, pitch = motion[index["gazeYaw"]], motion[index["gazePitch"]]
    for side, outward in (("Left", 1.0), ("Right", -1.0)):
        motion[index[f"eyeLookUp{side}"]] = max(0.0, pitch) / latent.LID_DEGREES
        motion[index[f"eyeLookDown{side}"]] = max(0.0, -pitch) / latent.LID_DEGREES
        motion[index[f"eyeLookOut{side}"]] = max(0.0, yaw * outward) / latent.GAZE_DEGREES
        motion[index[f"eyeLookIn{side}"]] = max(0.0, -yaw * outward) / latent.GAZE_DEGREES
    # Lips cannot meet further than the jaw has dropped.
    close, jaw = index["mouthClose"], index["jawOpen"]
    motion[close] = min(motion[close], motion[jaw])
    motion[_FACE] = np.clip(motion[_FACE], 0, 1)
    return motion


def sample_motion(rng: np.random.Generator, traits: Traits, source: bool = False) -> Array:
    """One latent (63,) as rendered, resting expression and lids included.

    ``source`` draws what people show in a portrait: near neutral, smiling or talking, facing
    the camera.
    """
    index = latent.INDEX
    motion = np.zeros(63, np.float32)
    motion[_FACE] += traits.rest
    if source:
        kind = rng.choice(["still", "smile", "toothy", "speech"], p=[0.3, 0.24, 0.3, 0.16])
        if kind == "smile":
            smile = rng.uniform(0.1, 0.8)
            motion[_FACE] += smile * _jittered(rng, EMOTIONS["happy"], traits.skew)
        elif kind == "toothy":
            motion[_FACE] += _toothy(rng, traits.skew)
        elif kind == "speech":
            motion[_FACE] += rng.uniform(0.2, 1.0) * _speech(rng, traits.skew)
        angles = rng.normal(0, (6, 4, 3))
        shift = rng.normal(0, (0.03, 0.03, 0.04))
    else:
        kind = rng.choice(
            ["speech", "emotion", "both", "random", "rest", "toothy"],
            p=[0.42, 0.11, 0.12, 0.12, 0.09, 0.14],
        )
        if kind in ("speech", "both"):
            motion[_FACE] += _speech(rng, traits.skew)
        if kind in ("emotion", "both"):
            name = str(rng.choice(list(EMOTIONS)))
            gain = rng.uniform(0.2, 1.0) if kind == "emotion" else rng.uniform(0.15, 0.6)
            motion[_FACE] += gain * _jittered(rng, EMOTIONS[name], traits.skew)
        if kind == "random":
            motion[_FACE] += _random(rng)
        if kind == "toothy":
            motion[_FACE] += _toothy(rng, traits.skew)
        if rng.random() < 0.3:
            motion[index["browInnerUp"]] += abs(rng.normal(0, 0.25))
            for side in ("Left", "Right"):
                motion[index[f"browOuterUp{side}"]] += abs(rng.normal(0, 0.2))
        if rng.random() < 0.45:
            angles = rng.normal(0, (7, 4, 3))
        else:
            angles = rng.uniform(-1, 1, 3) * np.array([35, 20, 20])
        shift = rng.normal(0, (0.07, 0.06, 0.10))
    motion[57:60] = np.clip(angles, (-35, -20, -20), (35, 20, 20))
    motion[60:63] = np.clip(shift, -0.25, 0.25)
    if source or rng.random() < 0.4:  # looking about at the camera
        motion[55:57] = rng.normal(0, 2.5, 2) - motion[57:59] * rng.uniform(0.6, 1.0)
    elif rng.random() < 0.6:
        motion[55:57] = rng.normal(0, (12, 7))
    else:
        motion[55:57] = rng.uniform(-1, 1, 2) * np.array([30, 18])
    motion[55:57] = np.clip(motion[55:57], (-30, -18), (30, 18))
    blink = np.full(2, traits.lid)
    if not source and rng.random() < 0.25:
        blink[:] = 1.0 if rng.random() < 0.5 else rng.uniform(0.2, 1.0)
        if rng.random() < 0.12:
            blink[rng.integers(2)] = rng.uniform(0, 0.6)
    elif rng.random() < 0.4:
        blink *= rng.uniform(0.3, 1.3)
    for k, side in enumerate(("Left", "Right")):
        motion[index[f"eyeBlink{side}"]] = max(motion[index[f"eyeBlink{side}"]], blink[k])
        motion[index[f"eyeSquint{side}"]] += traits.squint
    return finish(motion)
