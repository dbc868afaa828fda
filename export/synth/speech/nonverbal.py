"""Head, gaze, blinks, brows and breath of a talker: one voice, many possible performances.

Every signal is a random process driven by the prosody, so the same speech with another seed
moves otherwise. Rates, spreads and spectra follow measurements on people; see each constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from vivant import latent
from vivant.export.synth.speech.gaze import (
    blink,
    blink_onsets,
    fixations,
    minimum_jerk,
    trace,
)
from vivant.export.synth.speech.phones import SILENCE, Phone
from vivant.export.synth.speech.prosody import Accent, Prosody, accents, pauses

RATE = 50
"""Frames per second."""
SPEAKER_SPREAD = 0.8
"""Log-normal spread of head movement between speakers: news readers move 0.4-1 degrees,
public speakers 4-10 (standard deviation of an angle over a clip)."""
HEAD_DEGREES: Mapping[str, float] = {"pitch": 2.3, "yaw": 2.9, "roll": 1.6}
"""Standard deviation of free head movement of the median speaker."""
LIMITS: Mapping[str, float] = {"yaw": 35.0, "pitch": 22.0, "roll": 18.0}
"""Where rotation saturates, degrees."""
DISTANCE_IPD = 1.0
"""Head distance: a command of ``ratio`` times the default distance moves ``headZ`` to
``-(ratio - 1) * DISTANCE_IPD``, so 0.5..2 spans +0.5..-1 IPD: the direction of the true change,
damped to what one portrait can show."""


@dataclass(frozen=True)
class Behaviour:
    """One person's way of moving, for one clip."""

    energy: float = 1.0  # gain of head movement; 1 is the median speaker
    gaze: tuple[float, float] = (0.0, 0.0)  # mean direction of regard, degrees from the camera
    contact: float = 0.76  # share of attention to it
    blinks: float = 20.0  # a minute
    distance: float = 1.0  # ratio to the default distance of the head
    head_share: float = 0.3  # share of a gaze shift that the head takes over
    pitch_gain: float = 0.60  # degrees of nodding per semitone of the voice
    nods: float = 1.0  # gain of the chance of a nod on an accent
    brows: float = 1.0  # gain of brow movement
    posture: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mean pitch, yaw, roll, degrees
    listening: bool = False  # attends to another speaker

    @staticmethod
    def sample(rng: np.random.Generator) -> Behaviour:
        """A random person."""
        energy = float(np.clip(rng.lognormal(0, SPEAKER_SPREAD), 0.15, 4.5))
        offset = min(energy, 1.5) ** 0.5
        return Behaviour(
            energy=energy,
            gaze=(float(rng.normal(0, 1.0)), float(rng.normal(0, 0.8))),
            contact=float(rng.beta(8, 2.5)),
            blinks=float(np.clip(rng.lognormal(np.log(19), 0.38), 7, 36)),
            distance=1 + float(rng.normal(0, 0.06)),
            head_share=float(np.clip(rng.normal(0.3, 0.1), 0.05, 0.6)),
            pitch_gain=float(rng.normal(0.60, 0.25)),
            nods=float(rng.lognormal(0, 0.3)),
            brows=float(rng.lognormal(0, 0.5)),
            posture=(
                float(rng.normal(0, 1.5)) * offset,
                float(rng.normal(0, 2.0)) * offset,
                float(rng.normal(0, 1.2)) * offset,
            ),
        )

    def calmer(self) -> Behaviour:
        """The same person while nothing is said."""
        return replace(self, energy=0.6 * self.energy, nods=0.0, listening=True)


def wander(count: int, tau: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) unit-variance noise: two cascaded first-order filters of time constant tau s."""
    a = np.exp(-1 / (RATE * tau))
    warm = int(10 * tau * RATE)
    noise = rng.standard_normal(count + warm)
    filtered = lfilter([(1 - a) ** 2], [1, -2 * a, a * a], noise)[warm:]
    variance = (1 - a) ** 4 * (1 + a * a) / (1 - a * a) ** 3
    return filtered / np.sqrt(variance)


def behave(
    times: np.ndarray,
    phones: Sequence[Phone],
    prosody: Prosody,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> np.ndarray:
    """(T, 63) motion latent of everything but the mouth, for times (T,) s at 50 Hz."""
    duration = len(times) / RATE
    speaking = _speaking(times, phones)
    rests = pauses(phones)
    stressed = [] if behaviour.listening else accents(phones, prosody)

    head = _free_head(speaking, behaviour, rng)
    _follow_voice(head, times, speaking, prosody, behaviour, rng)
    _nod(head, times, stressed, behaviour, rng)
    _shift_posture(head, times, rests, duration, behaviour, rng)
    if behaviour.listening and rng.random() < 0.3:
        _nod_along(head, times, duration, behaviour, rng)
    breath = _breath(times, speaking, rests, rng)
    head["pitch"] += 0.5 * breath

    shifts = fixations(duration, behaviour.gaze, behaviour.contact, behaviour.listening, rng)
    regard = trace(shifts, times)  # (T, 2) degrees from the camera
    followed = gaussian_filter1d(regard, 0.16 * RATE, axis=0, mode="nearest")
    head["yaw"] += behaviour.head_share * followed[:, 0]
    head["pitch"] += behaviour.head_share * followed[:, 1]
    for name, limit in LIMITS.items():
        head[name] = limit * np.tanh(head[name] / limit)

    motion = np.zeros((len(times), latent.SIZE), np.float32)
    i = latent.INDEX
    for name in ("Yaw", "Pitch", "Roll"):
        motion[:, i["head" + name]] = head[name.lower()]
    energy = behaviour.energy
    nearness = -(behaviour.distance - 1) * DISTANCE_IPD
    motion[:, i["headX"]] = 0.025 * energy * wander(len(times), 1.5, rng) + 0.004 * head["yaw"]
    motion[:, i["headY"]] = 0.018 * energy * wander(len(times), 1.5, rng) + 0.012 * breath
    motion[:, i["headZ"]] = 0.030 * energy * wander(len(times), 2.0, rng) + nearness

    # The eyes counter the head (vestibulo-ocular reflex), so regard stays on its target.
    eyes = regard - np.stack([head["yaw"], head["pitch"]], 1)
    motion[:, i["gazeYaw"]] = np.clip(eyes[:, 0], -32, 32)
    motion[:, i["gazePitch"]] = np.clip(eyes[:, 1], -25, 25)
    tie_lids(motion)

    lids = np.zeros(len(times))
    for onset in blink_onsets(duration, behaviour.blinks, rests, shifts, rng):
        lids = np.maximum(lids, blink(times, onset, rng))
    uneven = rng.uniform(0.95, 1.0, 2)
    motion[:, i["eyeBlinkLeft"]] = np.clip(lids * uneven[0], 0, 1)
    motion[:, i["eyeBlinkRight"]] = np.clip(lids * uneven[1], 0, 1)
    _brows(motion, times, stressed, duration, behaviour, rng)
    squint = np.clip(0.05 + 0.04 * wander(len(times), 1.5, rng), 0, 1)
    motion[:, [i["eyeSquintLeft"], i["eyeSquintRight"]]] = squint[:, None]
    return motion


def tie_lids(motion: np.ndarray) -> None:
    """Set the eyeLook shapes of (..., 63) latents from their gaze angles, in place."""
    i = latent.INDEX
    yaw = motion[..., i["gazeYaw"]] / latent.GAZE_DEGREES
    pitch = motion[..., i["gazePitch"]] / latent.LID_DEGREES
    left, right = np.maximum(yaw, 0), np.maximum(-yaw, 0)
    motion[..., i["eyeLookOutLeft"]] = motion[..., i["eyeLookInRight"]] = left
    motion[..., i["eyeLookInLeft"]] = motion[..., i["eyeLookOutRight"]] = right
    for side in ("Left", "Right"):
        motion[..., i["eyeLookUp" + side]] = np.maximum(pitch, 0)
        motion[..., i["eyeLookDown" + side]] = np.maximum(-pitch, 0)


def _speaking(times: np.ndarray, phones: Sequence[Phone]) -> np.ndarray:
    speaking = np.zeros(len(times))
    for phone in phones:
        if phone.name != SILENCE:
            speaking[int(phone.start * RATE) : int(phone.end * RATE)] = 1
    return speaking


def _free_head(
    speaking: np.ndarray, behaviour: Behaviour, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Slow drift, and faster movement while speaking (most power lies below 0.5 Hz)."""
    n = len(speaking)
    lively = 0.5 + 0.5 * gaussian_filter1d(speaking, 0.18 * RATE)
    head = {}
    for (name, degrees), mean in zip(HEAD_DEGREES.items(), behaviour.posture, strict=True):
        free = 0.92 * wander(n, 1.8, rng) + 0.30 * wander(n, 0.30, rng) * lively
        head[name] = mean + behaviour.energy * degrees * free
    # Tilting goes with turning, to the side each person prefers.
    head["roll"] += 0.2 * (head["yaw"] - behaviour.posture[1]) * rng.choice([-1, 1])
    return head


def _follow_voice(
    head: dict[str, np.ndarray],
    times: np.ndarray,
    speaking: np.ndarray,
    prosody: Prosody,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> None:
    """The head rises with the voice's pitch (Munhall et al. 2004), 60 ms behind it."""
    if behaviour.listening or not prosody.voiced.any():
        return
    lag = rng.normal(0.06, 0.04)
    at = np.arange(len(prosody.pitch)) / 100
    voice = np.interp(times - lag, at, prosody.pitch) * gaussian_filter1d(speaking, 0.08 * RATE)
    slow = gaussian_filter1d(voice, 0.11 * RATE)
    head["pitch"] += behaviour.energy * behaviour.pitch_gain * slow
    head["yaw"] += behaviour.energy * rng.normal(0, 0.15) * slow


def _nod(
    head: dict[str, np.ndarray],
    times: np.ndarray,
    stressed: Sequence[Accent],
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> None:
    """Beat nods peak on the stressed vowel, with large scatter (Alexanderson et al. 2013)."""
    energy = behaviour.energy
    for accent in stressed:
        chance = np.clip(0.30 + 0.15 * accent.prominence, 0, 0.75) * behaviour.nods
        if rng.random() >= chance * min(1.3, energy**0.5):
            continue
        size = energy**0.7 * rng.lognormal(np.log(2.2), 0.45) * rng.choice([-1, -1, -1, 1])
        go, back = rng.uniform(0.14, 0.26), rng.uniform(0.22, 0.45)
        peak = accent.time + rng.normal(0.02, 0.08)
        there = minimum_jerk((times - peak + go) / go)
        head["pitch"] += size * np.where(
            times < peak, there, minimum_jerk(1 - (times - peak) / back)
        )
        if rng.random() < 0.35:
            tilt = np.exp(-0.5 * ((times - peak) / 0.18) ** 2)
            head["roll"] += rng.normal(0, 1.0) * energy * tilt


def _shift_posture(
    head: dict[str, np.ndarray],
    times: np.ndarray,
    rests: Sequence[tuple[float, float]],
    duration: float,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> None:
    """Posture changes at phrase boundaries and decays over seconds."""
    spans = list(rests)
    if behaviour.listening:
        starts = np.cumsum(rng.exponential(4, int(duration / 4) + 1))
        spans = [(float(s), float(s) + 0.5) for s in starts if s < duration]
    for start, end in spans:
        if rng.random() >= 0.45:
            continue
        lasts, begin = rng.uniform(0.45, 1.0), rng.uniform(start, end)
        shape = minimum_jerk((times - begin) / lasts)
        shape = shape * np.exp(-np.maximum(0, times - begin) / 6)
        for name, degrees in (("yaw", 3.0), ("pitch", 1.7), ("roll", 1.4)):
            head[name] += behaviour.energy * rng.normal(0, degrees) * shape


def _nod_along(
    head: dict[str, np.ndarray],
    times: np.ndarray,
    duration: float,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> None:
    """A listener's nods: 1-4 cycles with declination and a lower last one (Mori 2025)."""
    at = rng.exponential(4)
    while at < duration:
        cycles, rate = int(rng.integers(1, 5)), rng.uniform(1.8, 3.2)
        size = 0.5 * behaviour.energy**0.7 * rng.uniform(1.5, 4) * (1 + 0.15 * cycles)
        for k in range(cycles):
            last = 0.7 if k == cycles - 1 and cycles > 1 else 1.0
            middle = at + (k + 0.5) / rate
            head["pitch"] -= (
                size * 0.75**k * last * np.exp(-0.5 * ((times - middle) * rate / 0.22) ** 2)
            )
        at += cycles / rate + rng.exponential(6)


def _breath(
    times: np.ndarray,
    speaking: np.ndarray,
    rests: Sequence[tuple[float, float]],
    rng: np.random.Generator,
) -> np.ndarray:
    """(T,) chest volume 0..1: 12-18 a minute at rest, 0.35-0.6 s inhalations in pauses."""
    rate, phase = rng.uniform(0.20, 0.30), rng.uniform(0, 1)
    quiet = 1 - gaussian_filter1d(speaking, 0.3 * RATE)
    volume = 0.35 * (0.5 - 0.5 * np.cos(2 * np.pi * (times * rate + phase))) * quiet
    for start, end in rests:
        if end - start <= 0.3 or rng.random() >= 0.8:
            continue
        lasts = min(end - start, rng.uniform(0.35, 0.6))
        rise = minimum_jerk((times - end + lasts) / lasts)
        fall = np.exp(-np.maximum(0, times - end) / 1.6)
        volume += np.where(times < end, rise, fall)
    return gaussian_filter1d(volume, 0.06 * RATE)


def _brows(
    motion: np.ndarray,
    times: np.ndarray,
    stressed: Sequence[Accent],
    duration: float,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> None:
    """Raises begin before an accent (Kim et al. 2014); frowns and drift come by themselves."""
    up = 0.05 * np.abs(wander(len(times), 1.0, rng))
    for accent in stressed:
        chance = np.clip(0.16 + 0.12 * accent.prominence, 0, 0.6) * behaviour.energy**0.5
        if rng.random() >= chance:
            continue
        size = np.clip(behaviour.brows * rng.lognormal(np.log(0.28), 0.5), 0.05, 0.9)
        start = accent.time - rng.normal(0.16, 0.06)
        rise, hold, fall = rng.uniform(0.12, 0.2), rng.uniform(0.08, 0.4), rng.uniform(0.25, 0.5)
        shape = minimum_jerk((times - start) / rise)
        shape = shape - minimum_jerk((times - start - rise - hold) / fall)
        up = np.maximum(up, size * shape)
    down = np.zeros(len(times))
    for _ in range(rng.poisson(duration / 18)):
        middle, width = rng.uniform(0, duration), rng.uniform(0.25, 0.7)
        down += rng.uniform(0.1, 0.35) * np.exp(-0.5 * ((times - middle) / width) ** 2)
    i = latent.INDEX
    inner = rng.uniform(0.6, 1.0)
    motion[:, i["browInnerUp"]] = np.clip(inner * up, 0, 1)
    for side in ("Left", "Right"):
        motion[:, i["browOuterUp" + side]] = np.clip(up * rng.uniform(0.7, 1.0), 0, 1)
        motion[:, i["browDown" + side]] = np.clip(behaviour.brows**0.5 * down, 0, 1)
