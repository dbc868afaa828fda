"""A motion stream is one thing however its audio arrives, and knows when it began and ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivant.bundle import Bundle
from vivant.controls import Controls
from vivant.latent import INDEX, SIZE
from vivant.motion import MotionStream
from vivant.plan import Plan

SPEECH = np.random.default_rng(5).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.fixture(scope="module")
def make(bundle_path: Path):
    """Opens streams over the tiny bundle's graphs."""
    bundle, plan = Bundle.open(bundle_path), Plan(backend="onnxruntime", cache=None)
    graphs = plan.load_all(bundle, ("listen", "denoise"))

    def stream(**options) -> MotionStream:
        return MotionStream(graphs["listen"], graphs["denoise"], bundle.manifest, **options)

    return stream


def whole(stream: MotionStream, samples: np.ndarray) -> np.ndarray:
    return np.concatenate([stream.push(samples), stream.close()])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(SPEECH)), max_size=12))
def test_any_chunking_of_the_same_audio_gives_the_same_motion(make, cuts: list[int]) -> None:
    """Chunked equals whole: offline and live cannot differ."""
    expected = whole(make(seed=3), SPEECH)
    stream, parts, start = make(seed=3), [], 0
    for cut in [*sorted(cuts), len(SPEECH)]:
        parts.append(stream.push(SPEECH[start:cut]))
        start = cut
    parts.append(stream.close())
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 639, 640, 641, 16_000])
def test_motion_covers_the_sound_to_its_last_tick(make, samples: int) -> None:
    """Two motion frames for every tick that was begun, none for no sound."""
    motion = whole(make(), SPEECH[:samples])
    assert motion.shape == (2 * -(-samples // 640), SIZE)
    assert np.isfinite(motion).all()


def test_new_audio_does_not_change_motion_already_made(make) -> None:
    """Causality: motion up to a tick depends on no sound beyond its look-ahead of 60 ms."""
    other = SPEECH.copy()
    other[8000 + 960 :] = 0.3
    a, b = make().push(SPEECH), make().push(other)
    known = 2 * (8000 // 640)
    np.testing.assert_array_equal(a[:known], b[:known])
    assert not np.allclose(a[known:], b[known:])


def test_motion_follows_sound_seed_and_controls(make) -> None:
    """What should matter does: another sound, seed or emotion gives other motion."""
    base = whole(make(seed=1), SPEECH)
    np.testing.assert_array_equal(base, whole(make(seed=1), SPEECH))
    for other in (
        whole(make(seed=2), SPEECH),
        whole(make(seed=1), SPEECH[::-1].copy()),
        whole(make(seed=1, controls=Controls(emotion={"happy": 1.0})), SPEECH),
    ):
        assert np.abs(other - base).max() > 1e-3


def test_guidance_scales_what_the_emotion_does(make) -> None:
    """0 leaves the emotion out, 1 is the network's own pass, 2 goes as far again."""

    def happy(guidance: float) -> np.ndarray:
        controls = Controls(emotion={"happy": 0.3}, guidance=guidance)
        return make(seed=1, controls=controls).push(SPEECH[:2000])[:2]  # the first tick

    none, once, twice = happy(0), happy(1), happy(2)
    np.testing.assert_allclose(none, make(seed=1).push(SPEECH[:2000])[:2], atol=1e-5)
    assert np.abs(once - none).max() > 1e-3
    kept = np.ones_like(none, dtype=bool)  # weights that the bounds 0 and 1 have not cut
    for motion in (none, once, twice):
        kept[:, : INDEX["gazeYaw"]] &= (motion > 0)[:, : INDEX["gazeYaw"]]
        kept[:, : INDEX["gazeYaw"]] &= (motion < 1)[:, : INDEX["gazeYaw"]]
    assert kept.sum() > 40
    np.testing.assert_allclose((twice - none)[kept], 2 * (once - none)[kept], atol=1e-4)


def test_a_network_that_knows_guidance_is_told_it_in_one_pass(bundle_path: Path) -> None:
    """With ``sampler.guidance`` = condition, the scale is a condition and nothing runs twice."""
    bundle, plan = Bundle.open(bundle_path), Plan(backend="onnxruntime", cache=None)
    graphs = plan.load_all(bundle, ("listen", "denoise"))
    sampler = replace(bundle.manifest.sampler, guidance="condition")
    manifest = replace(bundle.manifest, sampler=sampler)
    told: list[float] = []

    def denoise(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        told.append(float(feeds["conditions"][0, manifest.conditions.index("guidance")]))
        return graphs["denoise"](feeds)

    for emotion, scale in (({"happy": 0.3}, 2.5), (None, 0.0)):
        told.clear()
        controls = Controls(emotion=emotion, guidance=2.5 if emotion else 3.0)
        stream = MotionStream(graphs["listen"], denoise, manifest, controls=controls)
        frames = stream.push(SPEECH[:6400])
        assert len(told) == len(frames) // 2 * (len(sampler.schedule) - 1)
        assert set(told) == {scale - 1 if emotion else 0.0}


def test_guidance_leaves_gaze_and_distance_alone(make) -> None:
    """Degrees and ratios are followed as they are, whatever the guidance."""
    plain, guided = (
        whole(make(seed=1, controls=Controls(gaze=(10, 0), guidance=g)), SPEECH) for g in (1, 4)
    )
    np.testing.assert_array_equal(plain, guided)


def test_blendshapes_stay_weights(make) -> None:
    """Apps receive weights between 0 and 1, whatever the network says."""
    motion = whole(make(), SPEECH)[:, : INDEX["gazeYaw"]]
    assert motion.min() >= 0
    assert motion.max() <= 1


def test_a_closed_stream_takes_no_more(make) -> None:
    """Sound after the end is a mistake that is told, not swallowed."""
    stream = make()
    stream.push(SPEECH)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.push(SPEECH)
