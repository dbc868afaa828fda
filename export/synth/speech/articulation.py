"""Articulation: timed phones to the lips, jaw and tongue of the motion latent.

Dominance blending (Cohen & Massaro 1993): each phone pulls each control toward its target with
a dominance that decays around the phone; the curve is their weighted mean. On top stand windows
that must hold: bilabials close, labiodentals touch, sibilants narrow the jaw (JALI, Edwards et
al. 2016). Targets are in units of full ARKit opening; time constants were fitted to tracked
mouths of real talkers (GRID: leave-one-out aperture r 0.62; closing starts 130 ms before a
bilabial, is complete 10 ms after its onset, and all 14 tokens close).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vivant import latent
from vivant.export.synth.speech.phones import BILABIALS, SILENCE, VOWELS, Phone
from vivant.export.synth.speech.targets import (
    CONTROL_INDEX,
    CONTROLS,
    GROUPS,
    STOPS,
    TARGETS,
    Constraint,
)

RATE = 200
"""Rate at which curves are blended and smoothed, Hz."""
REST_DOMINANCE = 0.04
TAU: Mapping[str, tuple[float, float]] = {
    "jaw": (0.033, 0.030),
    "rounding": (0.160, 0.130),
    "spread": (0.090, 0.080),
    "vertical": (0.030, 0.027),
    "contact": (0.040, 0.035),
    "tongue": (0.040, 0.040),
}
"""Reach of a phone's dominance before and after its plateau, s."""
SMOOTHING: Mapping[str, float] = {
    "jaw": 0.028,
    "rounding": 0.026,
    "spread": 0.024,
    "vertical": 0.020,
    "contact": 0.008,
    "tongue": 0.010,
}
"""Standard deviation of the articulators' inertia as a zero-phase Gaussian, s."""
VOWEL_JAW, CONSONANT_JAW = 0.92, 0.75
"""Fitted gains on the jaw targets."""
LOUDNESS_JAW = 0.05
"""Share by which a vowel's jaw opens further per dB above the utterance's mean."""
INHALE_JAW, INHALE_LEAD, INHALE_PAUSE = 0.15, 0.22, 0.30
"""Jaw opening before speech, s before its onset, and the shortest pause that has one, s."""
HOLD = 0.04
"""A contact lasts at least a whole frame of 25 fps video, s, so that every viewer sees it."""


@dataclass(frozen=True)
class Style:
    """How one speaker articulates."""

    jaw: float = 1.0  # gain of jaw opening
    lips: float = 1.0  # gain of lip movement
    jitter: float = 0.0  # standard deviation of each phone's log gain
    inhale: float = 1.0  # gain of the opening before speech
    skew: float = 0.0  # share by which lip corners on the subject's left move further


@dataclass(frozen=True)
class Mouth:
    """Articulation of an utterance at frame times."""

    motion: np.ndarray  # (T, 63) motion latent, zero outside jaw, mouth and tongue
    closure: np.ndarray  # (T,) 0..1, 1 where the lips must touch each other or the teeth


def aperture(motion: np.ndarray) -> np.ndarray:
    """Gap between the inner lips in units of full jaw opening.

    motion: (..., 63) motion latents. Returns (...), 0 when the lips touch.
    """
    i = latent.INDEX
    jaw = np.maximum(motion[..., i["jawOpen"]], 0)
    lower = (motion[..., i["mouthLowerDownLeft"]] + motion[..., i["mouthLowerDownRight"]]) / 2
    upper = (motion[..., i["mouthUpperUpLeft"]] + motion[..., i["mouthUpperUpRight"]]) / 2
    gap = jaw - motion[..., i["mouthClose"]] + 0.45 * lower + 0.35 * upper
    gap = gap + 0.20 * motion[..., i["mouthFunnel"]]
    gap = gap - 0.25 * motion[..., i["mouthRollLower"]] - 0.15 * motion[..., i["mouthRollUpper"]]
    gap = gap - 0.23 * motion[..., i["mouthPucker"]] * jaw / (0.1 + jaw)
    return np.maximum(gap, 0)


def articulate(
    phones: Sequence[Phone],
    times: np.ndarray,
    style: Style | None = None,
    loudness: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> Mouth:
    """Lips, jaw and tongue that speak the phones.

    times: (T,) s, ascending. loudness: (T,) dB above the utterance's mean at those times.
    Randomness is drawn only when the style has jitter.
    """
    style = style or Style()
    rng = rng or np.random.default_rng(0)
    n = int(np.ceil((times[-1] if len(times) else 0.0) * RATE)) + 2
    t = np.arange(n) / RATE
    loud = np.zeros(n) if loudness is None else np.interp(t, times, loudness)
    x = _blend(phones, t, style, loud, rng)
    _inhale(x, t, phones, style, rng)
    for group, sigma in SMOOTHING.items():
        for c in GROUPS[group]:
            x[:, c] = _gaussian(x[:, c], sigma * RATE)
    close, contact = _constrain(x, t, phones, style)
    x = np.clip(x, 0, 1)
    frames = np.stack([np.interp(times, t, x[:, c]) for c in range(len(CONTROLS))], 1)
    # Between two samples of the closed plateau the gap stays zero: closing is linear in it.
    return Mouth(
        _to_latent(frames, np.interp(times, t, close), style.skew), np.interp(times, t, contact)
    )


def window(t: np.ndarray, rise: float, start: float, end: float, fall: float) -> np.ndarray:
    """Raised-cosine flanks rise..start and end..fall around a plateau of one."""
    up = np.clip((t - rise) / max(start - rise, 1e-6), 0, 1)
    down = np.clip((fall - t) / max(fall - end, 1e-6), 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * up)) * (0.5 - 0.5 * np.cos(np.pi * down))


def _gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    radius = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.convolve(np.pad(x, radius, "edge"), kernel / kernel.sum(), "valid")


def _gains(phone: Phone, style: Style, loudness: float) -> np.ndarray:
    """Gain of each control's target for one phone."""
    gain = np.ones(len(CONTROLS))
    if phone.name in VOWELS:
        gain[GROUPS["jaw"]] = style.jaw * VOWEL_JAW
        gain[GROUPS["jaw"]] *= np.clip(1 + LOUDNESS_JAW * loudness, 0.55, 1.45)
    else:
        gain[GROUPS["jaw"]] = style.jaw**0.4 * CONSONANT_JAW
    for group in ("rounding", "spread", "vertical"):
        gain[GROUPS[group]] = style.lips
    return gain


def _blend(
    phones: Sequence[Phone],
    t: np.ndarray,
    style: Style,
    loud: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n, controls) weighted mean of the targets under their dominance."""
    top = np.zeros((len(t), len(CONTROLS)))
    bottom = np.full((len(t), len(CONTROLS)), REST_DOMINANCE)
    for phone in phones:
        duration = phone.end - phone.start
        if phone.name == SILENCE:
            pull = 0.05 if duration < 0.12 else 0.5 * min(1.0, duration / 0.4)
            target = np.zeros(len(CONTROLS))
            strength = np.full(len(CONTROLS), pull)
            strength[GROUPS["jaw"]] *= 1.3
        else:
            target, strength, _ = TARGETS[phone.name]
            if not strength.any():
                continue
            middle = int(np.clip((phone.start + phone.end) / 2 * RATE, 0, len(t) - 1))
            target = target * _gains(phone, style, float(loud[middle]))
            if style.jitter:
                target = target * np.exp(style.jitter * rng.standard_normal(len(CONTROLS)))
            if phone.name in VOWELS:  # short vowels undershoot
                strength = strength * np.clip(0.55 + 0.45 * duration / 0.09, 0.55, 1.1)
        share = 0.5 if phone.name in VOWELS else 0.7
        centre = phone.start + (0.4 if phone.name in STOPS else 0.5) * duration
        for group, (before, after) in TAU.items():
            columns = GROUPS[group]
            if not strength[columns].any():
                continue
            reach = 5.5 * max(before, after) + duration  # dominance < 0.1 % outside
            lo = max(0, int((centre - reach) * RATE))
            hi = min(len(t), int((centre + reach) * RATE) + 1)
            away = t[lo:hi] - centre
            tau = np.where(away < 0, before, after)
            off = np.maximum(0.0, np.abs(away) - share * duration / 2) / tau
            dominance = np.exp(-(off**1.15))[:, None] * strength[columns]
            top[lo:hi, columns] += dominance * target[columns]
            bottom[lo:hi, columns] += dominance
    return top / bottom


def _inhale(
    x: np.ndarray, t: np.ndarray, phones: Sequence[Phone], style: Style, rng: np.random.Generator
) -> None:
    """Open the mouth for the breath that real talkers take before they speak."""
    for before, phone in itertools.pairwise(phones):
        pause = before.end - before.start
        if before.name != SILENCE or phone.name == SILENCE or pause <= INHALE_PAUSE:
            continue
        lead, gain = INHALE_LEAD, style.inhale
        if style.jitter:
            lead *= float(np.exp(0.35 * rng.standard_normal()))
            gain *= float(np.exp(0.5 * rng.standard_normal()))
        lead = min(lead, 0.8 * pause)
        on = phone.start
        w = window(t, on - lead - 0.10, on - 0.5 * lead, on - 0.04, on + 0.08)
        for name, share in (("jawOpen", 1.0), ("lowerDown", 0.8), ("upperUp", 0.5)):
            c = CONTROL_INDEX[name]
            x[:, c] = np.maximum(x[:, c], share * gain * INHALE_JAW * w)


def _constrain(
    x: np.ndarray, t: np.ndarray, phones: Sequence[Phone], style: Style
) -> tuple[np.ndarray, np.ndarray]:
    """Enforce contacts in place. Returns mouthClose (n,) and the contact windows (n,)."""
    i = CONTROL_INDEX
    lips, teeth, round_ = np.zeros(len(t)), np.zeros(len(t)), np.zeros(len(t))
    for phone in phones:
        if phone.name == SILENCE:
            continue
        a, b = phone.start, phone.end
        kind = TARGETS[phone.name][2]
        if kind is Constraint.BILABIAL:
            # The lips part at the burst, which comes before the next phone's label.
            release = b - (0.012 if phone.name == "m" else min(0.035, 0.35 * (b - a)))
            start, end = _at_least(a - 0.005, release, HOLD)
            w = window(t, start - 0.105, start, end, end + 0.085)
            lips = np.maximum(lips, w)
            press = 0.18 if phone.name == "m" else 0.35
            x[:, i["press"]] = np.maximum(x[:, i["press"]], press * w**2)
        elif kind is Constraint.LABIODENTAL:
            start, end = _at_least(a - 0.005, b - 0.015, HOLD)
            teeth = np.maximum(teeth, window(t, start - 0.095, start, end, end + 0.080))
        elif kind is Constraint.SIBILANT:
            w = window(t, a - 0.06, a + 0.01, b - 0.015, b + 0.05)
            x[:, i["jawOpen"]] += w * np.minimum(0, 0.07 - x[:, i["jawOpen"]])
        elif kind is Constraint.DENTAL:
            w = window(t, a - 0.05, a + 0.005, b - 0.01, b + 0.045)
            x[:, i["tongueOut"]] = np.maximum(x[:, i["tongueOut"]], 0.40 * w)
            jaw = x[:, i["jawOpen"]]
            jaw += w * (np.clip(jaw, 0.10, 0.22) - jaw)
        elif kind is Constraint.ROUNDED:
            w = window(t, a - 0.10, a + 0.02, b - 0.01, b + 0.09)
            round_ = np.maximum(round_, 0.60 * w)
            x[:, i["pucker"]] = np.maximum(x[:, i["pucker"]], min(0.9, 0.60 * style.lips) * w)
            x[:, i["stretch"]] *= 1 - w
            x[:, i["smile"]] *= 1 - 0.8 * w
    _touch_teeth(x, teeth)
    x[:, i["jawOpen"]] *= 1 - 0.45 * lips
    x[:, i["funnel"]] *= 1 - 0.8 * lips
    for name in ("upperUp", "lowerDown"):
        x[:, i[name]] *= (1 - lips) * (1 - 0.8 * round_)
    gap = x[:, i["jawOpen"]] + 0.20 * x[:, i["funnel"]]
    # Rounded lips come within 2-4 % of the interocular distance of each other in real talkers.
    close = np.maximum(lips * gap, 0.8 * round_ * x[:, i["jawOpen"]])
    return np.clip(close, 0, 1), np.maximum(lips, teeth)


def _touch_teeth(x: np.ndarray, w: np.ndarray) -> None:
    """Bring the lower lip to the upper teeth where ``w`` (n,) is one."""
    i = CONTROL_INDEX
    x[:, i["jawOpen"]] += w * np.minimum(0, 0.09 - x[:, i["jawOpen"]])
    x[:, i["lowerDown"]] *= 1 - w
    for name, least in (("rollLower", 0.42), ("shrugLower", 0.25), ("upperUp", 0.18)):
        x[:, i[name]] = np.maximum(x[:, i[name]], least * w)


def _at_least(start: float, end: float, length: float) -> tuple[float, float]:
    if end - start >= length:
        return start, end
    middle = (start + end) / 2
    return middle - length / 2, middle + length / 2


_ONE_TO_ONE = {
    "jawForward": "jawForward",
    "jawOpen": "jawOpen",
    "mouthPucker": "pucker",
    "mouthFunnel": "funnel",
    "mouthRollLower": "rollLower",
    "mouthRollUpper": "rollUpper",
    "mouthShrugLower": "shrugLower",
    "cheekPuff": "puff",
    "tongueOut": "tongueOut",
    "tongueUp": "tongueTip",
    "tongueBackUp": "tongueBack",
    "tongueWide": "tongueFront",
}
_BOTH_SIDES = {
    "mouthStretch": "stretch",
    "mouthSmile": "smile",
    "mouthUpperUp": "upperUp",
    "mouthLowerDown": "lowerDown",
    "mouthPress": "press",
}


def _to_latent(x: np.ndarray, close: np.ndarray, skew: float) -> np.ndarray:
    """(T, controls) and mouthClose (T,) -> (T, 63)."""
    motion = np.zeros((len(x), latent.SIZE), np.float32)
    i = latent.INDEX
    for name, control in _ONE_TO_ONE.items():
        motion[:, i[name]] = x[:, CONTROL_INDEX[control]]
    motion[:, i["mouthShrugUpper"]] = 0.5 * x[:, CONTROL_INDEX["shrugLower"]]
    motion[:, i["mouthClose"]] = close
    for side, sign in (("Left", 1), ("Right", -1)):
        gain = 1 + sign * skew
        for name, control in _BOTH_SIDES.items():
            motion[:, i[name + side]] = gain * x[:, CONTROL_INDEX[control]]
        motion[:, i["mouthDimple" + side]] = 0.25 * gain * x[:, CONTROL_INDEX["smile"]]
    return motion


__all__ = ["BILABIALS", "Mouth", "Style", "aperture", "articulate", "window"]
