"""Gaze of a talker: between the viewer and elsewhere, in saccades, with blinks on large shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIRECTIONS = np.array([15.54, 6.46, 17.69, 7.44, 16.80, 7.89, 20.38, 7.79])
"""Share of glances away toward E, NE, N, ... SE (Lee, Badler & Badler 2002), per cent."""
FARTHEST = 22.0
"""Largest glance away from the mean direction, degrees."""


@dataclass(frozen=True)
class Shift:
    """A saccade."""

    time: float  # s, onset
    target: np.ndarray  # (2,) degrees: yaw to the right of the image, pitch up
    size: float  # degrees


def minimum_jerk(u: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at u = 0 to 1 at u = 1 (Flash & Hogan 1985)."""
    u = np.clip(u, 0, 1)
    return u**3 * (10 - 15 * u + 6 * u * u)


def fixations(
    duration: float,
    home: tuple[float, float],
    contact: float,
    listening: bool,
    rng: np.random.Generator,
) -> list[Shift]:
    """Saccades of ``duration`` seconds around ``home`` (degrees, relative to the camera).

    contact: share of attention to the home direction, 0..1. A listener looks 60 % longer.
    Glances away have A = -6.9 ln(P / 15.7 %) degrees (Lee, Badler & Badler 2002).
    """
    centre = np.asarray(home, np.float64)
    shifts: list[Shift] = []
    position = centre
    at, looking = 0.0, True

    def go(time: float, target: np.ndarray) -> None:
        nonlocal position
        shifts.append(Shift(time, target, float(np.linalg.norm(target - position))))
        position = target

    while at < duration:
        if looking:
            stay = np.clip(rng.lognormal(np.log(2.4), 0.7), 0.5, 9) * contact / 0.75
            stay *= 1.6 if listening else 1.0
            target = centre + rng.normal(0, 0.5, 2)
            wander = np.array([1.4, 1.1])  # scanning the viewer's face
        else:
            stay = np.clip(rng.lognormal(np.log(0.75), 0.55), 0.25, 2.5)
            size = min(-6.9 * np.log(rng.uniform(0.004, 1)), FARTHEST)
            angle = np.radians(45 * rng.choice(8, p=DIRECTIONS / DIRECTIONS.sum()))
            target = centre + size * np.array([np.cos(angle), 0.7 * np.sin(angle)])
            wander = np.array([0.8, 0.8])
        go(at, target)
        small = at + rng.uniform(0.3, 1.0)
        while small < at + stay - 0.25:
            go(small, target + rng.normal(0, wander))
            small += np.clip(rng.lognormal(np.log(0.65), 0.6), 0.2, 2.5)
        at += stay
        looking = not looking or rng.random() < (0.6 if contact > 0.9 else 0.0)
    return shifts


def trace(shifts: list[Shift], times: np.ndarray) -> np.ndarray:
    """(T, 2) gaze in degrees: saccades last 2.2 ms a degree + 21 ms."""
    gaze = np.repeat(shifts[0].target[None], len(times), 0)
    before = shifts[0].target
    for shift in shifts[1:]:
        lasts = 0.021 + 0.0022 * shift.size
        gaze += (shift.target - before) * minimum_jerk((times - shift.time) / lasts)[:, None]
        before = shift.target
    return gaze


def blink_onsets(
    duration: float,
    per_minute: float,
    pauses: list[tuple[float, float]],
    shifts: list[Shift],
    rng: np.random.Generator,
) -> list[float]:
    """Onsets, s: a log-normal renewal process (Bentivoglio et al. 1997), drawn to pauses, plus
    blinks that go with gaze shifts (97 % of those beyond 33 degrees: Evinger et al. 1994).
    """
    wide = [s for s in shifts[1:] if rng.random() < np.clip((s.size - 9) / 25, 0, 0.97)]
    # What large shifts take is left out of the renewal process, so the rate is the person's.
    own = max(0.5 * per_minute, per_minute - 60 * len(wide) / max(duration, 1e-6))
    spread = 0.65
    mean = 60 / own
    at = rng.uniform(0, mean)
    onsets = []
    while at < duration:
        onsets.append(at)
        at += max(0.35, rng.lognormal(np.log(mean) - 0.5 * spread**2, spread))
    starts = np.array([p[0] for p in pauses])
    for i, onset in enumerate(onsets):
        if len(starts) and rng.random() < 0.45:
            nearest = starts[np.abs(starts - onset).argmin()]
            if abs(nearest - onset) < 0.9:
                onsets[i] = float(nearest + rng.normal(0.05, 0.08))
    kept: list[float] = []
    for onset in sorted(onsets + [s.time - 0.02 for s in wide]):
        if not kept or onset - kept[-1] >= 0.30:
            kept.append(onset)
    return kept


def blink(times: np.ndarray, onset: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) lid closure 0..1 of one blink: faster down than up, a third of them incomplete."""
    depth = 1.0 if rng.random() < 0.68 else rng.uniform(0.5, 0.92)
    down = max(0.05, rng.normal(0.085, 0.012))
    shut = rng.uniform(0.01, 0.045)
    up = 1.25 * max(0.10, rng.normal(0.19, 0.035))
    opening = onset + down + shut
    closing = minimum_jerk((times - onset) / down)
    reopening = (1 - minimum_jerk((times - opening) / up)) ** 1.25
    return depth * np.where(times < opening, closing, reopening)
