"""A whole performance of an utterance: conditions, person, mouth, face and head together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vivant.controls import CONDITIONS, EMOTIONS
from vivant.export.synth.speech.articulation import Style, articulate
from vivant.export.synth.speech.emotion import express, manner
from vivant.export.synth.speech.nonverbal import RATE, Behaviour, behave
from vivant.export.synth.speech.phones import SILENCE, Phone
from vivant.export.synth.speech.prosody import Prosody

GIVEN_SHARE = 0.4
"""Share of clips that are performed to conditions; the others behave as they like."""
_AT = {name: k for k, name in enumerate(CONDITIONS)}


@dataclass(frozen=True)
class Performance:
    """Motion of one clip and what was asked for."""

    motion: np.ndarray  # (T, 63) float32 motion latent at 50 Hz
    closure: np.ndarray  # (T,) 0..1, 1 where lips must touch
    conditions: np.ndarray  # (16,) float32, vivant.controls.CONDITIONS


def sample_conditions(rng: np.random.Generator) -> np.ndarray:
    """(16,) random conditions; all zeros, meaning not given, in 60 % of the clips."""
    c = np.zeros(len(CONDITIONS), np.float32)
    if rng.random() >= GIVEN_SHARE:
        return c
    given = rng.random(5) < 0.5
    if not given.any():
        given[rng.integers(5)] = True
    gaze, distance, emotion, liveliness, lips = given
    if gaze:
        yaw, pitch = np.clip(rng.normal(0, [11, 7]), [-25, -18], [25, 18])
        c[_AT["gaze_yaw"]], c[_AT["gaze_pitch"]] = yaw / 30, pitch / 30
        c[_AT["gaze_given"]] = 1
    if distance:
        c[_AT["distance"]] = rng.uniform(-1, 1)
        c[_AT["distance_given"]] = 1
    if emotion:
        c[_AT["emotion_given"]] = 1
        for name in rng.permutation(EMOTIONS)[: rng.choice(3, p=[0.12, 0.73, 0.15])]:
            c[_AT[name]] = rng.uniform(0.25, 1)
        total = c[[_AT[e] for e in EMOTIONS]].sum()
        if total > 1.2:
            c[[_AT[e] for e in EMOTIONS]] *= 1.2 / total
    if liveliness:
        c[_AT["liveliness"]] = rng.uniform(-2, 2)
    if lips:
        c[_AT["articulation"]] = rng.uniform(-1, 1)
    return c


def perform(
    phones: Sequence[Phone],
    prosody: Prosody,
    frames: int,
    conditions: np.ndarray,
    rng: np.random.Generator,
) -> Performance:
    """One of the many ways to speak the phones under the conditions.

    frames: number of 50 Hz frames; frame j is at sample 320 j. Clips without phones, or with
    silence alone, keep the mouth at rest.
    """
    times = np.arange(frames) / RATE
    silent = all(p.name == SILENCE for p in phones)
    style, person, mood = _person(conditions, rng)
    if silent:
        person = person.calmer()
    loudness = None
    if prosody.voiced.any():
        loudness = np.interp(times, np.arange(len(prosody.loudness)) / 100, prosody.loudness)
        loudness = np.clip(loudness, -12, 9)
    mouth = articulate(phones, times, style, loudness, rng)
    motion = mouth.motion + behave(times, phones, prosody, person, rng)
    motion = express(motion, mouth.closure, mood, rng)
    return Performance(motion.astype(np.float32), mouth.closure, conditions)


def _person(
    conditions: np.ndarray, rng: np.random.Generator
) -> tuple[Style, Behaviour, dict[str, float]]:
    def value(name: str) -> float:
        return float(conditions[_AT[name]])

    person = Behaviour.sample(rng)
    if value("gaze_given"):
        gaze = (30 * value("gaze_yaw"), 30 * value("gaze_pitch"))
        person = replace(person, gaze=gaze, contact=max(person.contact, 0.85))
    if value("distance_given"):
        person = replace(person, distance=2 ** value("distance") + float(rng.normal(0, 0.01)))
    if value("liveliness"):
        energy = 2 ** value("liveliness") * float(np.exp(0.12 * rng.standard_normal()))
        person = replace(person, energy=energy)
    # Without a command lips differ by 15 % between people; a command sets their gain.
    jaw, lips = np.exp(0.15 * rng.standard_normal(2))
    if value("articulation"):
        gain = 2 ** value("articulation") * float(np.exp(0.05 * rng.standard_normal()))
        jaw, lips = gain * jaw**0.3, gain * lips**0.3
    style = Style(
        jaw=float(jaw),
        lips=float(lips),
        jitter=float(rng.uniform(0.03, 0.12)),
        inhale=float(rng.lognormal(0, 0.4)),
        skew=float(np.clip(rng.normal(0, 0.06), -0.18, 0.18)),
    )
    mood = {e: value(e) for e in EMOTIONS if value(e) > 0}
    if not value("emotion_given") and rng.random() < 0.3:
        # People seldom look neutral: most often they smile a little.
        name = "happy" if rng.random() < 0.7 else str(rng.choice(EMOTIONS))
        mood = {name: float(rng.uniform(0.05, 0.3))}
    return style, manner(person, mood, bool(value("gaze_given"))), mood
