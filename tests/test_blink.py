"""Eyes close when they blink, and never stare."""

from __future__ import annotations

import numpy as np
import pytest

from vivant.blink import LONGEST, RATE, SHAPE, BlinkState, blink_frames


def run(lids: np.ndarray, seed: int = 0) -> np.ndarray:
    return blink_frames(lids.astype(np.float32), BlinkState(), seed, 0)


def onsets(lids: np.ndarray) -> np.ndarray:
    closed = lids[:, 0] > 0.5
    return np.flatnonzero(closed[1:] & ~closed[:-1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_open_eyes_blink_at_a_human_rate(seed: int) -> None:
    """Ten minutes without a generated blink have 10 to 32 a minute, never one gap too long."""
    lids = run(np.zeros((10 * 60 * RATE, 2)), seed)
    at = onsets(lids)
    assert 10 <= len(at) / 10 <= 32
    assert np.diff(at).max() <= (LONGEST + 1) * RATE
    assert np.diff(at).std() / np.diff(at).mean() > 0.3


def test_a_half_closed_blink_is_carried_through() -> None:
    """A blink that the network only begins closes the eyes, once, at the time it chose."""
    lids = np.zeros((50, 2))
    lids[22:30] = np.array([0.1, 0.25, 0.4, 0.3, 0.2, 0.1, 0.05, 0])[:, None]
    out = run(lids, seed=5)
    assert out[:, 0].max() == 1.0
    assert len(onsets(out)) == 1
    assert 23 <= int(out[:, 0].argmax()) <= 26
    assert (out >= lids - 1e-6).all()


def test_blinks_differ_from_seed_to_seed_and_repeat_with_it() -> None:
    """Seeds decide when; the same seed decides the same."""
    still = np.zeros((3000, 2))
    np.testing.assert_array_equal(run(still, 1), run(still, 1))
    assert len(set(map(tuple, (onsets(run(still, s)).tolist() for s in range(4))))) == 4


def test_a_long_closure_and_a_wink_stay_as_they_are() -> None:
    """Eyes held shut stay shut; one eye shut does not make the other one weaker or stronger."""
    shut = np.ones((200, 2))
    np.testing.assert_array_equal(run(shut), shut)
    wink = np.zeros((60, 2))
    wink[5:40, 0] = 1.0
    out = run(wink, seed=5)
    assert out[len(SHAPE) + 20 : 38, 1].max() == 0
