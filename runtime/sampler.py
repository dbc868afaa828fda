"""Samplers of the motion network: pure functions over a velocity callable.

The flow is rectified (Liu et al. 2022, "Flow Straight and Fast"): ``x_t = (1 - t) x_0 + t n`` for
``t`` in 0..1, with velocity ``n - x_0``. A network that was trained for the velocity *averaged*
over ``[r, t]`` (Geng et al. 2025, "Mean Flows for One-step Generative Modeling") takes the same
step, exact for any ``t - r``; an instantaneous velocity makes it an Euler step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Velocity = Callable[[Array, float, float], Array]
"""``velocity(x, t, r)``: the (average) velocity of ``x`` at time ``t`` towards ``r < t``."""


def integrate(velocity: Velocity, noise: Array, schedule: Sequence[float]) -> Array:
    """Carry ``noise`` along ``schedule`` (times falling from 1 to 0); returns ``x_0``, same shape.

    Each step is ``x_r = x_t - (t - r) u(x_t, t, r)`` (Mean Flows, equation 12).
    """
    x = noise
    for t, r in pairwise(schedule):
        x = x - np.float32(t - r) * velocity(x, t, r)
    return x


def guide(free: Array, given: Array, scale: float) -> Array:
    """Classifier-free guidance: ``free + scale (given - free)``, of velocities with and without.

    Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6 (there ``w + 1``).
    """
    return free + np.float32(scale) * (given - free)


def tick_noise(seed: int, tick: int, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of one tick: the same for the same seed and tick on every machine."""
    bits = np.random.Philox(key=seed, counter=[0, 0, 0, tick])
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)


def correlate(previous: Array | None, fresh: Array, rho: float) -> Array:
    """First-order autoregression with unit variance: ``rho`` of the last tick's noise is kept.

    Neighbouring ticks then start from neighbouring noise, so few-step samples do not jitter.
    """
    if previous is None:
        return fresh
    return np.float32(rho) * previous + np.float32(np.sqrt(1.0 - rho * rho)) * fresh
