"""Controls reach the network in the order it was trained on, and nonsense is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vivant.controls import CONDITIONS, Controls, parse_emotion
from vivant.errors import BundleError, UsageError


def test_nothing_given_is_a_vector_of_zeros() -> None:
    """Without controls the network is free: every condition is 0."""
    assert not Controls().vector(CONDITIONS).any()


def test_each_control_lands_on_its_condition() -> None:
    """Every control changes exactly the conditions named for it."""
    controls = Controls(
        gaze=(15, -6),
        distance=2,
        emotion={"happy": 0.5},
        guidance=2,
        liveliness=0.5,
        articulation=2,
    )
    vector = dict(zip(CONDITIONS, controls.vector(CONDITIONS)[0].tolist(), strict=True))
    assert vector == {
        **dict.fromkeys(CONDITIONS, 0.0),
        "gaze_yaw": 0.5,
        "gaze_pitch": pytest.approx(-0.2),
        "gaze_given": 1.0,
        "distance": 1.0,
        "distance_given": 1.0,
        "happy": 0.5,
        "emotion_given": 1.0,
        "liveliness": -1.0,
        "articulation": 1.0,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"gaze": (40, 0)},
        {"gaze": (0, math.nan)},
        {"distance": 0},
        {"emotion": {"bored": 1}},
        {"emotion": {"happy": 1.5}},
        {"guidance": -1},
        {"liveliness": math.inf},
        {"articulation": 0},
        {"gaze": 5},
        {"gaze": (1,)},
        {"gaze": (1, 2, 3)},
        {"gaze": "10,0"},
        {"gaze": ("10", "0")},
        {"emotion": "happy"},
        {"emotion": ["happy"]},
        {"emotion": {"happy": "much"}},
        {"distance": "far"},
        {"guidance": None},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_with_the_range(wrong: dict) -> None:
    """A control that the network never saw, of whatever type, is told what is allowed."""
    with pytest.raises(UsageError, match="expected"):
        Controls(**wrong)


def test_a_neutral_face_can_be_asked_for() -> None:
    """No emotion at all is a wish too, and another one than leaving it to the network."""
    neutral = dict(zip(CONDITIONS, Controls(emotion={}).vector(CONDITIONS)[0], strict=True))
    assert neutral == {**dict.fromkeys(CONDITIONS, 0.0), "emotion_given": 1.0}


def test_controls_keep_what_was_checked() -> None:
    """A mapping that changes afterwards changes nothing, and a numpy pair is a pair."""
    wish = {"happy": 0.5}
    controls = Controls(emotion=wish, gaze=np.array([10, 0]))  # type: ignore[arg-type]
    wish["happy"] = 7.0
    assert controls.emotion == {"happy": 0.5}
    assert controls.gaze == (10.0, 0.0)


def test_a_bundle_with_unknown_conditions_is_refused() -> None:
    """A bundle made for another version says so instead of running without its conditions."""
    with pytest.raises(BundleError, match="mood"):
        Controls().vector(["gaze_yaw", "mood"])


def test_emotions_are_written_as_names_with_intensities() -> None:
    """The command line's spelling of emotions."""
    assert parse_emotion("happy") == {"happy": 1.0}
    assert parse_emotion("happy:0.6, surprised:.2") == {"happy": 0.6, "surprised": 0.2}
    assert parse_emotion("neutral") == {}
    with pytest.raises(UsageError, match="intensity"):
        parse_emotion("happy:very")
