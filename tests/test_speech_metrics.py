"""Measures of talking motion and the recordings they are taken on."""

from __future__ import annotations

import numpy as np
import pytest

from vivant import latent
from vivant.export.synth.speech import metrics, real
from vivant.export.synth.speech.articulation import aperture, articulate
from vivant.export.synth.speech.phones import CONSONANTS, VOWELS, Phone, joined

I = latent.INDEX


def sentence(seed: int, count: int) -> list[Phone]:
    """Random phones of random lengths with a pause in the middle."""
    rng = np.random.default_rng(seed)
    phones, at = [], 0.4
    for k in range(count):
        at += 0.6 if k == count // 2 else 0.0
        length = float(rng.uniform(0.05, 0.16))
        phones.append(Phone(at, at + length, str(rng.choice(sorted(VOWELS | CONSONANTS)))))
        at += length
    return joined(phones, at + 0.5)


def test_lag_is_recovered() -> None:
    """A curve delayed by 60 ms is found to be 60 +- 3 ms late."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(5):
        x = np.convolve(rng.standard_normal(400), np.hanning(9), "same")
        t = np.arange(400) / 50
        pairs.append((np.interp(t - 0.06, t, x), x))
    found = metrics.lag(pairs, 50)
    assert found.ms == pytest.approx(60, abs=3)
    assert found.peak > 0.9


def test_closure_tells_right_phones_from_wrong() -> None:
    """The model's own mouth closes on all its bilabials; against other phones far fewer."""
    gaps, phones = [], []
    for seed in range(6):
        one = sentence(seed, 50)
        times = np.arange(int(one[-1].end * 50)) / 50
        phones.append(one)
        gaps.append(aperture(articulate(one, times).motion))
    own = metrics.Closure(0, 0, 0, 0)
    for gap, one in zip(gaps, phones, strict=True):
        own += metrics.closure(gap, 50, one)
    assert own.recall == 1
    assert own.precision > 0.8
    assert metrics.chance_closure(gaps, 50, phones).recall < 0.7


def test_visemes_are_read_from_the_mouth() -> None:
    """A linear discriminant reads most visemes of unseen sentences from the articulation."""
    rows, classes, groups = [], [], []
    for seed in range(8):
        phones = sentence(seed, 70)
        times = np.arange(int(phones[-1].end * 50)) / 50
        r, c = metrics.viseme_rows(articulate(phones, times).motion, phones)
        rows.append(r)
        classes.append(c)
        groups += [seed] * len(c)
    accuracy, majority = metrics.viseme_accuracy(
        np.concatenate(rows), np.concatenate(classes), np.array(groups)
    )
    assert accuracy > 0.6 > majority + 0.1


def test_diversity_and_beats() -> None:
    """Equal performances have no diversity; a head that rests on the beat is aligned with it."""
    performance = np.random.default_rng(0).standard_normal((50, latent.SIZE))
    same = np.stack([performance] * 3)
    np.testing.assert_array_equal(metrics.distances(same, same[0].std(0)), 0)
    same[2] += 1
    apart = metrics.distances(same, np.ones(latent.SIZE))
    np.testing.assert_allclose(apart, [0.5, 0.5, 1.0])
    motion = np.zeros((500, latent.SIZE))
    t = np.arange(500) / 50
    motion[:, I["headPitch"]] = np.cos(2 * np.pi * t)  # at rest every half second
    assert metrics.beat_alignment(motion, [1.0, 2.5, 4.0]) > 0.9
    assert metrics.beat_alignment(motion, [1.25, 2.75, 4.25]) < 0.2


def test_alignments_are_read() -> None:
    """Word alignments and pocketsphinx's JSON give the same phones."""
    words = [["my", 0.1, 0.5, [["M", 0.1, 0.2, -5], ["AY", 0.2, 0.5, -7]]]]
    sphinx = {
        "w": [{"t": "my", "w": [{"t": "M", "b": 0.1, "d": 0.1}, {"t": "AY", "b": 0.2, "d": 0.3}]}]
    }
    a, b = real.words_alignment(words), real.pocketsphinx_alignment(sphinx)
    assert [p.name for p in a] == ["m", "a", "ɪ"]
    np.testing.assert_allclose([p[:2] for p in a], [p[:2] for p in b])


def test_recordings_are_whole_ticks() -> None:
    """A recording is padded to whole ticks, and its reference runs in step with its mel."""
    samples = 0.05 * np.random.default_rng(0).standard_normal(20001)
    one = real.recording(
        "x", samples, [Phone(0.3 + 0.1 * k, 0.4 + 0.1 * k, name) for k, name in enumerate("mama")]
    )
    assert len(one.samples) % 640 == 0
    assert one.reference is not None
    assert len(one.mel) == 2 * len(one.reference) == len(one.samples) // 160
    assert metrics.closure(aperture(one.reference), 50, one.phones).recall == 1


def test_tracked_mouth_is_in_pupil_distances() -> None:
    """Measures of a tracked mouth do not depend on the size of the face in the picture."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 200, (20, 478, 3))
    points[:, 468], points[:, 473] = [50, 50, 0], [150, 50, 0]
    small, big = real.track(points, 25), real.track(3 * points, 25)
    np.testing.assert_allclose(small.aperture, big.aperture)
    np.testing.assert_allclose(
        small.width * 100, np.linalg.norm(points[:, 78, :2] - points[:, 308, :2], axis=1)
    )
