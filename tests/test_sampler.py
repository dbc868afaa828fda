"""Samplers are exact where the mathematics is, and noise is the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from vivant.sampler import correlate, integrate, tick_noise


@pytest.mark.parametrize("schedule", [[1, 0], [1, 0.5, 0], [1, 0.7, 0.2, 0]])
def test_average_velocity_of_a_known_flow_is_integrated_exactly(schedule: list[float]) -> None:
    """With the true average velocity any number of steps lands on the same point."""
    noise = tick_noise(1, 0, (1, 8))

    def velocity(x: np.ndarray, t: float, r: float) -> np.ndarray:
        # dx/dt = 2 t  =>  x_t - x_r = t^2 - r^2, an average velocity of t + r.
        return np.full_like(x, t + r)

    np.testing.assert_allclose(integrate(velocity, noise, schedule), noise - 1.0, atol=1e-6)


def test_noise_depends_on_seed_and_tick_alone() -> None:
    """The same seed gives the same noise; another seed or tick gives other noise."""
    np.testing.assert_array_equal(tick_noise(3, 7, (1, 126)), tick_noise(3, 7, (1, 126)))
    assert not np.allclose(tick_noise(3, 7, (1, 126)), tick_noise(3, 8, (1, 126)))
    assert not np.allclose(tick_noise(3, 7, (1, 126)), tick_noise(4, 7, (1, 126)))


def test_correlated_noise_keeps_unit_variance_and_its_correlation() -> None:
    """Over many ticks the noise stays standard normal, with the asked correlation."""
    noise, track = None, []
    for tick in range(4000):
        noise = correlate(noise, tick_noise(0, tick, (8,)), 0.9)
        track.append(noise)
    x = np.array(track)
    assert x.var() == pytest.approx(1.0, abs=0.06)
    assert (x[1:] * x[:-1]).mean() / x.var() == pytest.approx(0.9, abs=0.02)
