"""The log-mel front end: right by an independent slow computation, and the same however fed."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivant.errors import BundleError
from vivant.mel import LogMel, MelSpec, filterbank, log_mel


def _voice(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    tone = sum(np.sin(2 * np.pi * 130 * h * t) / h for h in range(1, 12))
    return (0.1 * tone + 0.01 * rng.standard_normal(n)).astype(np.float32)


def _slow_frame(x: np.ndarray, k: int) -> list[float]:
    """One frame by the textbook, in float64, with plain loops: a DFT sum and triangles."""
    frame = [
        (float(x[i]) if 0 <= i < len(x) else 0.0)
        * (0.5 - 0.5 * math.cos(2 * math.pi * (i - (k * 160 - 240)) / 400))
        for i in range(k * 160 - 240, k * 160 + 160)
    ]
    power = []
    for b in range(257):
        turn = cmath.exp(-2j * math.pi * b / 512)
        total = 0j
        for value in reversed(frame):  # Horner's rule
            total = total * turn + value
        power.append(abs(total) ** 2)
    low, high = (2595 * math.log10(1 + f / 700) for f in (60.0, 7600.0))
    edges = [700 * (10 ** ((low + (high - low) * i / 65) / 2595) - 1) for i in range(66)]
    bands = []
    for left, top, right in zip(edges, edges[1:], edges[2:], strict=False):
        band = 0.0
        for b, p in enumerate(power):
            f = b * 31.25
            if left < f <= top:
                band += p * (f - left) / (top - left)
            elif top < f < right:
                band += p * (right - f) / (right - top)
        bands.append(math.log(band + 1e-5))
    return bands


def test_matches_the_definition() -> None:
    """Every filter of frames at the start, inside and at the end equals the slow computation."""
    x = _voice(3200)
    mel = log_mel(x)
    assert mel.shape == (20, 64)
    assert mel.dtype == np.float32
    for k in (0, 1, 9, 19):
        np.testing.assert_allclose(mel[k], _slow_frame(x, k), atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 6000),
    cuts=st.lists(st.integers(0, 6000), max_size=12),
    seed=st.integers(0, 99),
)
def test_chunked_equals_whole(n: int, cuts: list[int], seed: int) -> None:
    """However the sound is cut on its way in, the frames are the same bit for bit."""
    x = _voice(n, seed)
    stream = LogMel()
    parts = [stream.push(part) for part in np.split(x, sorted(min(c, n) for c in cuts))]
    np.testing.assert_array_equal(np.concatenate(parts), log_mel(x))
    assert stream.count == n // 160


def test_a_long_recording_equals_its_stream() -> None:
    """Block boundaries inside a long recording leave no trace."""
    x = _voice(160 * 4500 + 77)
    stream = LogMel()
    parts = [stream.push(x[i : i + 1000]) for i in range(0, len(x), 1000)]
    np.testing.assert_array_equal(np.concatenate(parts), log_mel(x))


def test_causal() -> None:
    """New sound never changes a frame already given."""
    a, b = _voice(4000), _voice(4000)
    b[2000:] = 0.5
    np.testing.assert_array_equal(log_mel(a)[: 2000 // 160], log_mel(b)[: 2000 // 160])


def test_silence_is_the_floor() -> None:
    """Digital silence gives log(floor) in every filter, which is what priming uses."""
    spec = MelSpec()
    np.testing.assert_array_equal(log_mel(np.zeros(800)), spec.silence(5))
    assert spec.silence()[0, 0] == pytest.approx(math.log(1e-5))


def test_reset_forgets() -> None:
    """After a reset the stream starts as new."""
    x = _voice(1000)
    stream = LogMel()
    stream.push(_voice(777, 5))
    stream.reset()
    np.testing.assert_array_equal(stream.push(x), log_mel(x))


def test_every_filter_hears_something() -> None:
    """No filter falls between two bins of the transform."""
    assert (filterbank(MelSpec()).sum(axis=0) > 0.3).all()


def test_normalise() -> None:
    """The manifest's mean and deviation are subtracted and divided, filter by filter."""
    spec = MelSpec(mean=tuple(float(i) for i in range(64)), std=(2.0,) * 64)
    np.testing.assert_allclose(spec.normalise(np.ones((3, 64)))[2, 5], (1 - 5) / 2)
    np.testing.assert_array_equal(MelSpec().normalise(np.ones((1, 64))), 1)


@pytest.mark.parametrize(
    "audio",
    [
        {"hop": 0},
        {"fft": 256},
        {"fmax": 9000.0},
        {"floor": 0.0},
        {"mean": (0.0,) * 63},
        {"std": (0.0,) * 64},
        {"look_ahead": -1},
    ],
)
def test_a_senseless_manifest_is_refused(audio: dict[str, object]) -> None:
    """Numbers that contradict each other end in a BundleError, not in wrong frames."""
    with pytest.raises(BundleError):
        MelSpec(**audio)


def test_stereo_is_refused() -> None:
    """Only mono samples are frames; two channels are a caller's mistake."""
    with pytest.raises(ValueError, match="mono"):
        log_mel(np.zeros((2, 800)))
