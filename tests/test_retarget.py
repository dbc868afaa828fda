"""Retargeting: what the photo keeps and what speech may change."""

from __future__ import annotations

import numpy as np
import pytest

from vivant.controls import Controls
from vivant.latent import INDEX, SIZE
from vivant.retarget import GAZE_LIMITS, POSE_LIMITS, retarget, speech_envelope

REST = Controls()


def _latent(**values: float) -> np.ndarray:
    latent = np.zeros(SIZE, np.float32)
    for name, value in values.items():
        latent[INDEX[name]] = value
    return latent


def _driven(generated: np.ndarray, own: np.ndarray, controls: Controls = REST) -> dict[str, float]:
    return dict(zip(INDEX, retarget(generated, own, controls).tolist(), strict=True))


def _random_own(seed: int) -> np.ndarray:
    """Any photo: weights beyond 0..1 as an estimator may give them, and a turned head."""
    rng = np.random.default_rng(seed)
    own = rng.uniform(-0.05, 1.05, SIZE)
    own[INDEX["gazeYaw"] : INDEX["headX"]] = rng.uniform(-40, 40, 5)
    own[INDEX["headX"] :] = rng.uniform(-1, 1, 3)
    return own.astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_neutral_returns_the_photos_own_code(seed: int) -> None:
    """A portrait with nothing to do is the photo: the very same numbers."""
    own = _random_own(seed)
    np.testing.assert_array_equal(retarget(_latent(), own, REST), own)
    np.testing.assert_array_equal(retarget(_latent(), own, Controls(still_head=True)), own)


@pytest.mark.parametrize("seed", range(20))
def test_stays_in_range_whatever_comes(seed: int) -> None:
    """No generated latent drives the face network beyond what it was trained on."""
    rng = np.random.default_rng(seed)
    own = np.clip(_random_own(seed), 0, 1)
    own[INDEX["headYaw"] : INDEX["headX"]] = rng.uniform(-15, 15, 3)
    own[INDEX["gazeYaw"] : INDEX["headYaw"]] = rng.uniform(-15, 15, 2)
    own[INDEX["headX"] :] = rng.uniform(-0.2, 0.2, 3)
    generated = np.concatenate([rng.uniform(0, 1, 55), rng.normal(0, 60, 8)]).astype(np.float32)
    driven = retarget(generated, own, REST)
    assert (driven[:55] >= 0).all()
    assert (driven[:55] <= 1).all()
    assert (np.abs(driven[INDEX["headYaw"] :]) <= np.array(POSE_LIMITS) + 1e-4).all()
    gaze = driven[INDEX["gazeYaw"] : INDEX["headYaw"]]
    assert (np.abs(gaze) <= np.array(GAZE_LIMITS) + 1e-4).all()


def test_pose_is_the_photos_plus_the_generated() -> None:
    """Well inside the range, head motion is added to the photo's pose unchanged."""
    driven = _driven(_latent(headYaw=5, headPitch=-4, headX=0.1), _latent(headYaw=6, headRoll=3))
    assert driven["headYaw"] == pytest.approx(11)
    assert driven["headPitch"] == pytest.approx(-4)
    assert driven["headRoll"] == pytest.approx(3)
    assert driven["headX"] == pytest.approx(0.1)


@pytest.mark.parametrize(("yaw", "share"), [(10, 1.0), (-25, 0.75), (-40, 0.5)])
def test_a_turned_photo_moves_less_and_looks_the_same_way(yaw: float, share: float) -> None:
    """The further a photo is turned aside the less its head turns and nods; its eyes make up."""
    own = _latent(headYaw=yaw)
    driven = _driven(_latent(headYaw=4, headPitch=-2, headRoll=3), own)
    assert driven["headYaw"] - yaw == pytest.approx(4 * share, abs=1e-4)
    assert driven["headPitch"] == pytest.approx(-2 * share, abs=1e-4)
    assert driven["headRoll"] == pytest.approx(3)
    assert driven["headYaw"] + driven["gazeYaw"] == pytest.approx(yaw + 4, abs=1e-4)


def test_limits_are_soft_and_monotonic() -> None:
    """A head that turns further and further slows down, never stops dead or turns back."""
    own = _latent(headYaw=20)
    yaw = [_driven(_latent(headYaw=g), own)["headYaw"] for g in np.linspace(0, 15, 40)]
    steps = np.diff(yaw)
    assert (steps > 0).all()
    assert np.abs(np.diff(steps)).max() < 0.1
    assert yaw[-1] < POSE_LIMITS[0]


def test_still_head_holds_the_pose_and_keeps_eye_contact() -> None:
    """With a still head only the eyes move, by what the head would have done with them."""
    own = _latent(headYaw=4, headPitch=2, headZ=0.1)
    generated = _latent(headYaw=6, headPitch=-3, headRoll=5, headZ=0.3, gazeYaw=-6, gazePitch=3)
    driven = _driven(generated, own, Controls(still_head=True))
    for name in ("headYaw", "headPitch", "headRoll", "headX", "headY", "headZ"):
        assert driven[name] == pytest.approx(float(own[INDEX[name]]))
    assert driven["gazeYaw"] == pytest.approx(0, abs=1e-5)
    assert driven["gazePitch"] == pytest.approx(0, abs=1e-5)


def test_closed_mouth_stays_closed_at_rest() -> None:
    """Small mouth weights of a closed-mouthed photo are its rest, in silence and between words."""
    own = _latent(jawOpen=0.12, mouthUpperUpLeft=0.1, mouthFunnel=0.08)
    rest = retarget(_latent(), own, REST, speaking=1.0)
    np.testing.assert_array_equal(rest, own)


def test_open_mouth_makes_way_for_speech() -> None:
    """A photo with an open mouth shows it in silence, and closes to its rest between words."""
    own = _latent(jawOpen=0.6)
    assert retarget(_latent(), own, REST, 0.0)[INDEX["jawOpen"]] == np.float32(0.6)
    assert retarget(_latent(), own, REST, 1.0)[INDEX["jawOpen"]] == pytest.approx(0.15)


def test_speech_reaches_its_full_range_on_any_photo() -> None:
    """A full generated weight is a full weight, whatever the photo shows."""
    own = _latent(jawOpen=0.1, mouthPucker=0.3, eyeBlinkLeft=0.3, browInnerUp=0.2)
    driven = _driven(_latent(jawOpen=1, mouthPucker=1, eyeBlinkLeft=1, browInnerUp=1), own)
    assert [driven[n] for n in ("jawOpen", "mouthPucker", "eyeBlinkLeft", "browInnerUp")] == [1] * 4


@pytest.mark.parametrize("jaw", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("lift", [0.0, 0.3])
def test_closures_close(jaw: float, lift: float) -> None:
    """/p b m/ bring the lips together, also on a photo whose lips are parted."""
    own = _latent(jawOpen=jaw, mouthUpperUpLeft=lift, mouthLowerDownLeft=lift)
    generated = _latent(
        **{"jawOpen": 0.2, "mouthClose": 0.2, "mouthRollLower": 0.22, "mouthRollUpper": 0.18},
        **{"mouthPressLeft": 0.3, "mouthPressRight": 0.3},
    )
    driven = _driven(generated, own)
    assert driven["mouthClose"] >= driven["jawOpen"] - 1e-4
    assert driven["mouthUpperUpLeft"] == pytest.approx(0, abs=1e-6)
    assert driven["mouthPressLeft"] >= 0.3


def test_generated_mouth_passes_through_on_a_neutral_photo() -> None:
    """A photo at rest adds nothing: every generated mouth and tongue weight arrives unchanged."""
    generated = np.zeros(SIZE, np.float32)
    mouth = [i for n, i in INDEX.items() if n.startswith(("jaw", "mouth", "tongue", "cheek"))]
    generated[mouth] = np.random.default_rng(0).uniform(0, 1, len(mouth))
    np.testing.assert_allclose(retarget(generated, _latent(), REST)[mouth], generated[mouth])


def test_part_of_the_smile_stays_while_speaking() -> None:
    """A smiling photo goes on smiling a little when it talks, less on rounded lips."""
    own = _latent(mouthSmileLeft=0.8)
    smile = [
        _driven(generated, own)["mouthSmileLeft"]
        for generated in (_latent(), _latent(jawOpen=0.4), _latent(jawOpen=0.2, mouthPucker=0.7))
    ]
    assert smile[0] == np.float32(0.8)
    assert 0.4 < smile[1] < 0.7
    assert smile[2] < 0.5 * smile[1]


def test_gaze_is_relative_unless_asked_for() -> None:
    """A photo that looks aside keeps doing so, and looks into the camera when that is asked for."""
    own = _latent(gazeYaw=20)
    assert _driven(_latent(), own)["gazeYaw"] == 20
    asked = _driven(_latent(), own, Controls(gaze=(0, 0)))
    assert abs(asked["gazeYaw"]) <= 8
    assert asked["eyeLookOutLeft"] == 0
    near = _driven(_latent(gazeYaw=10), _latent(gazeYaw=3), Controls(gaze=(10, 0)))
    assert near["gazeYaw"] == pytest.approx(13)


def test_lids_follow_the_gaze() -> None:
    """Looking up, down and aside moves the eyeLook shapes as the latent ties them."""
    driven = _driven(_latent(gazeYaw=-14, gazePitch=-15), _latent())
    assert driven["eyeLookInLeft"] == driven["eyeLookOutRight"] == pytest.approx(0.4)
    assert driven["eyeLookDownLeft"] == driven["eyeLookDownRight"] == pytest.approx(0.5)
    assert driven["eyeLookUpLeft"] == driven["eyeLookOutLeft"] == 0


def test_speech_envelope_bridges_words_and_lets_go() -> None:
    """The envelope rises within 0.2 s, holds over a short pause, and is gone after 1.2 s."""
    talk, rest = np.tile(_latent(jawOpen=0.3), (10, 1)), np.tile(_latent(jawOpen=0.03), (70, 1))
    envelope = speech_envelope(np.concatenate([rest[:5], talk, rest]))
    assert (envelope[:5] == 0).all()
    assert envelope[14] == 1
    assert envelope[14 + 10] >= 0.75
    assert envelope[14 + 60] == 0


def test_speech_envelope_is_the_same_in_pieces() -> None:
    """Chunked equals whole."""
    motion = np.random.default_rng(1).uniform(0, 0.2, (60, SIZE)).astype(np.float32)
    whole = speech_envelope(motion)
    parts = [speech_envelope(motion[:17])]
    parts.append(speech_envelope(motion[17:], before=float(parts[0][-1])))
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
