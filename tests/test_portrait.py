"""Promises of the road from a photo to the aligned portrait, kept on painted marker faces."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from vivant import portrait
from vivant.errors import PhotoError, UsageError
from vivant.portrait import Face, Framing

TEMPLATE = np.array(
    [
        [-0.5, 0], [0.5, 0], [0, 0.65], [-0.4, 1.1], [0.4, 1.1], [0, 1.0],
        [0, 1.2], [0, 1.75], [-1.1, 0.5], [1.1, 0.5], [0, -0.9], [0, -0.2],
    ],
    np.float32,
)  # fmt: skip
"""A frontal face, IPD, origin between the eyes."""


def marker_face(x: float, y: float, ipd: float, roll: float = 0.0) -> Face:
    """The template with its eyes' midpoint at ``x, y``."""
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    turned = TEMPLATE @ np.array([[c, s], [-s, c]], np.float32)
    return Face((turned * ipd + (x, y)).astype(np.float32), 1.0)


def paint(size: tuple[int, int], *faces: Face) -> NDArray[np.uint8]:
    """Dark photo on which red is the right pupil, green the left, blue the mouth's middle."""
    height, width = size
    photo = np.full((height, width, 3), 40, np.uint8)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    for face in faces:
        for channel, (px, py) in enumerate((*face.landmarks[:2], face.mouth)):
            disc = (xs - px) ** 2 + (ys - py) ** 2 < (0.3 * face.interpupillary) ** 2
            photo[..., channel][disc] = 255
    return photo


def marker_graph(feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """An ``align`` stage that sees one upright painted face: the marks' centroids say where.

    Like a network, it is blind to faces under 20 px, and to those turned by more than 50 degrees.
    """
    image = feeds["image"][0]  # (3, 256, 256)
    score = np.zeros((1, 1, 32, 32), np.float32)
    landmarks = np.zeros((1, 24, 32, 32), np.float32)
    ys, xs = np.mgrid[0:256, 0:256] + 0.5
    marks = []
    for channel in image:
        lit = (channel > 0.6) & (image.min(0) < 0.45)
        if lit.sum() < 3:
            return {"score": score, "landmarks": landmarks}
        marks.append((xs[lit].mean(), ys[lit].mean()))
    right, left, mouth = np.array(marks)
    across = left - right
    ipd, roll = np.hypot(*across), math.degrees(math.atan2(across[1], across[0]))
    eyes = (right + left) / 2
    if 2.2 * ipd < 20 or abs(roll) > 50 or mouth[1] < eyes[1]:
        return {"score": score, "landmarks": landmarks}
    face = marker_face(*eyes, ipd, roll)
    column, row = (face.centre // 8).astype(int).clip(0, 31)
    score[0, 0, row, column] = 0.9
    offsets = face.landmarks - ((column + 0.5) * 8, (row + 0.5) * 8)
    landmarks[0, :, row, column] = offsets.T.ravel()
    return {"score": score, "landmarks": landmarks}


def tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) u8 as the networks take it, (1, 3, H, W) 0..1."""
    return image.transpose(2, 0, 1)[None].astype(np.float32) / 255


def encode_graph(feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    assert feeds["portrait"].shape == (1, 3, 256, 256)
    assert feeds["portrait"].dtype == np.float32
    assert 0 <= feeds["portrait"].min() <= feeds["portrait"].max() <= 1
    return {
        "features": np.zeros((1, 4, 64, 64), np.float32),
        "keypoints": np.zeros((1, 5, 3), np.float32),
        "motion": np.zeros((1, 63), np.float32),
    }


GRAPHS = {"align": marker_graph, "encode": encode_graph}


def marks(aligned: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centres of the three marks, (3, 2) pixels."""
    ys, xs = np.mgrid[0 : aligned.shape[0], 0 : aligned.shape[1]] + 0.5
    lit = [(aligned[..., c] > 150) for c in range(3)]
    return np.array([(xs[m].mean(), ys[m].mean()) for m in lit])


@pytest.mark.parametrize(
    ("size", "x", "y", "ipd"),
    [
        ((512, 512), 250, 200, 60),  # an ordinary portrait
        ((300, 260), 130, 130, 40),  # smaller than the portrait
        ((1400, 2000), 1500, 500, 40),  # a face in a scene
        ((2600, 3900), 700, 2000, 19),  # a face of 42 px in a large photo
        ((150, 150), 75, 62, 24),  # a thumbnail
    ],
)
def test_eyes_land_where_the_framing_says(
    size: tuple[int, int], x: float, y: float, ipd: float
) -> None:
    """In a photo that shows enough around the face, the eyes land on the framing's points."""
    made = portrait.make_portrait(paint(size, marker_face(x, y, ipd)), GRAPHS)
    assert made.photo.shape == (512, 512, 3)
    assert made.photo.dtype == np.uint8
    right, left, _ = marks(made.photo)
    half = 0.165 * 512 / 2
    np.testing.assert_allclose(right, (256 - half, 0.42 * 512), atol=2.5)
    np.testing.assert_allclose(left, (256 + half, 0.42 * 512), atol=2.5)


def shown(face: Face, framing: Framing, shape: tuple[int, int]) -> float:
    """Share of the portrait that lies within the photo."""
    transform = portrait.invert(portrait.portrait_transform(face, framing))
    corners = np.array([[0, 0], [framing.size, framing.size]], np.float32)
    (left, top), (right, bottom) = portrait.apply(transform, corners)
    height, width = shape
    inside = (min(right, width) - max(left, 0)) * (min(bottom, height) - max(top, 0))
    return float(inside / ((right - left) * (bottom - top)))


@pytest.mark.parametrize(
    ("shape", "x", "y", "ipd", "whole"),
    [
        ((288, 360), 180, 125, 50, True),  # cut below the shoulders
        ((600, 600), 300, 235, 100, True),  # little room on every side
        ((700, 600), 240, 220, 85, True),  # off the middle
        ((275, 225), 112, 110, 54, False),  # cropped close all around
    ],
)
def test_a_portrait_stays_within_its_photo(
    shape: tuple[int, int], x: float, y: float, ipd: float, whole: bool
) -> None:
    """Where the framing asked for reaches over the edge, the portrait moves and comes closer,
    within what the face network was trained on, and then shows nothing that the photo has not,
    or as little as it can."""
    asked, face = Framing(), marker_face(x, y, ipd)
    fitted = portrait.fit(face, asked, shape)
    before, after = shown(face, asked, shape), shown(face, fitted, shape)
    assert before < 0.99
    assert after > 0.999 if whole else after > before + 0.1
    assert 1 <= fitted.interpupillary / asked.interpupillary <= portrait.CLOSER + 1e-6
    assert np.abs(np.subtract(fitted.eyes, asked.eyes)).max() <= portrait.ASIDE + 1e-6


def test_a_portrait_comes_no_closer_than_it_must() -> None:
    """Room enough changes nothing; a move that is enough comes before any enlargement."""
    asked = Framing()
    assert portrait.fit(marker_face(300, 300, 60), asked, (800, 600)) == asked
    moved = portrait.fit(marker_face(300, 150, 60), asked, (800, 600))
    assert moved.interpupillary == pytest.approx(asked.interpupillary)
    assert moved.eyes[1] == pytest.approx(150 / 60 * asked.interpupillary)


def test_a_closer_portrait_keeps_the_room_above_the_head() -> None:
    """What the frame shows above the eyes does not shrink by more than the allowed move."""
    face, asked = marker_face(112, 140, 54), Framing()
    fitted = portrait.fit(face, asked, (320, 225))
    above = [framing.eyes[1] / framing.interpupillary for framing in (asked, fitted)]
    assert fitted.interpupillary > 1.1 * asked.interpupillary
    assert above[1] > 0.88 * above[0]


@pytest.mark.parametrize("roll", [-45, -20, 20, 45, 90, -90, 180])
def test_strong_roll_is_removed(roll: float) -> None:
    """A photo turned by more than 15 degrees, even on its side, ends upright."""
    made = portrait.make_portrait(paint((500, 500), marker_face(250, 240, 50, roll)), GRAPHS)
    right, left, mouth = marks(made.photo)
    assert left[0] - right[0] == pytest.approx(0.165 * 512, abs=2)
    assert left[1] == pytest.approx(right[1], abs=2)
    assert mouth[1] > right[1] + 50


def test_a_doubtful_face_does_not_hide_one_that_lies_on_its_side() -> None:
    """What looks faintly like a face while the photo lies on its side gives way to the face."""
    faint = marker_graph({"image": tensor(paint((256, 256), marker_face(128, 108, 56)))})

    def graph(feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        seen = marker_graph(feeds)
        if seen["score"].any():
            return seen
        return {"score": faint["score"] * 0.8, "landmarks": faint["landmarks"]}

    photo = paint((500, 500), marker_face(250, 240, 50, 90))
    made = portrait.make_portrait(photo, {"align": graph, "encode": encode_graph})
    assert made.face.score == pytest.approx(0.9)
    np.testing.assert_allclose(made.face.eyes, (250, 240), atol=3)


def test_mild_roll_is_kept() -> None:
    """A tilt of up to 15 degrees is the person's own pose and stays."""
    made = portrait.make_portrait(paint((500, 500), marker_face(250, 240, 50, 12)), GRAPHS)
    right, left, _ = marks(made.photo)
    angle = math.degrees(math.atan2(left[1] - right[1], left[0] - right[0]))
    assert angle == pytest.approx(12, abs=1)
    assert made.face.roll == pytest.approx(12, abs=1)


def test_a_turned_head_keeps_its_size() -> None:
    """A head turned by 50 degrees is not blown up: its foreshortened eyes do not set the scale."""
    frontal = marker_face(200, 200, 60)
    turned = frontal.landmarks.copy()
    turned[:, 0] = 200 + (turned[:, 0] - 200) * math.cos(math.radians(50))
    ratio = Face(turned, 1.0).interpupillary / frontal.interpupillary
    assert 0.85 < ratio <= 1.0


def test_transform_maps_photo_to_portrait() -> None:
    """The recorded transform carries the photo's landmarks onto the portrait, and back."""
    face = marker_face(260, 230, 55, 30)
    transform = portrait.portrait_transform(face)
    moved = portrait.apply(transform, face.landmarks)
    np.testing.assert_allclose(moved[:2].mean(0), (256, 0.42 * 512), atol=0.1)
    back = portrait.apply(portrait.invert(transform), moved)
    np.testing.assert_allclose(back, face.landmarks, atol=0.01)


def test_an_aligned_portrait_passes_through_unchanged() -> None:
    """A photo already framed as asked is returned as it is, bit for bit."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    face = marker_face(256, 0.42 * 512, 0.165 * 512)
    np.testing.assert_array_equal(portrait.align(photo, face), photo)


@pytest.mark.parametrize("roll", [0.0, 25.0])
@pytest.mark.parametrize("ipd", [40.0, 84.48, 400.0])
def test_resampling_keeps_a_smooth_picture(roll: float, ipd: float) -> None:
    """Enlarged, reduced or turned, a smooth picture keeps its values and its place."""
    side = int(7 * ipd)
    ys, xs = (np.mgrid[0:side, 0:side] + 0.5) / side
    photo = np.stack([255 * xs, 255 * ys, 128 + 60 * np.sin(9 * xs)], -1).round().astype(np.uint8)
    face = marker_face(side / 2, side / 2, ipd, roll)
    transform = portrait.portrait_transform(face)
    aligned = portrait.align(photo, face)
    v, u = np.mgrid[40:472:16, 40:472:16] + 0.5
    at = portrait.apply(portrait.invert(transform), np.stack([u, v], -1).astype(np.float32)) / side
    seen = aligned[40:472:16, 40:472:16].astype(float)
    inside = ((at > 0.02) & (at < 0.98)).all(-1)
    want = np.stack([255 * at[..., 0], 255 * at[..., 1], 128 + 60 * np.sin(9 * at[..., 0])], -1)
    assert inside.sum() > 300
    assert np.abs(seen - want)[inside].max() < 3


@pytest.mark.parametrize("roll", [0.0, 30.0])
def test_outside_the_photo_there_is_no_bar(roll: float) -> None:
    """Beyond the photo its edge goes on, soft: no black, no step at the seam."""
    photo = np.full((200, 200, 3), (180, 90, 40), np.uint8)
    photo[::2] += 20
    aligned = portrait.align(photo, marker_face(100, 60, 60, roll)).astype(float)
    assert aligned.min() > 35
    assert np.abs(aligned - aligned.mean((0, 1))).max() < 25


def test_a_face_wholly_outside_its_photo_is_still_drawn() -> None:
    """Absurd landmarks give a portrait of the nearest edge, not a crash."""
    photo = np.full((64, 48, 3), 99, np.uint8)
    for face in (marker_face(-900, 20, 30), marker_face(20, 9000, 3, 40), marker_face(5, 5, 1e5)):
        assert np.abs(portrait.align(photo, face).astype(int) - 99).max() <= 1


def test_no_face_says_what_to_do() -> None:
    """A photo without a face ends in one line that says what to use instead."""
    with pytest.raises(PhotoError, match=r"no face found.*Use a clear photo"):
        portrait.make_portrait(np.full((300, 400, 3), 128, np.uint8), GRAPHS)


def test_a_small_face_is_refused_with_its_size() -> None:
    """A face under 40 px is refused, and the message says how large it is."""
    with pytest.raises(PhotoError, match=r"too small; expected at least 40 px wide; got 3\d px"):
        portrait.make_portrait(paint((256, 256), marker_face(128, 128, 15)), GRAPHS)


def test_several_faces_use_the_most_prominent_and_say_so() -> None:
    """Of several faces the large central one is used, a note tells, and an index picks another."""
    photo = paint((600, 900), marker_face(450, 280, 60), marker_face(120, 130, 45))

    def graph(feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Sees the faces on either side of the widest dark gap."""
        lit = np.flatnonzero((feeds["image"].max(1) > 0.6).any((0, 1)))
        gaps = np.diff(lit, prepend=0)
        split = int(lit[gaps.argmax()]) if len(lit) and gaps.max() > 40 else 0
        heads = []
        for part in (slice(0, split), slice(split, 256)):
            image = np.full_like(feeds["image"], 0.2)
            image[..., part] = feeds["image"][..., part]
            heads.append(marker_graph({"image": image}))
        first = heads[0]["score"] >= heads[1]["score"]
        return {name: np.where(first, heads[0][name], heads[1][name]) for name in heads[0]}

    graphs = {"align": graph, "encode": encode_graph}
    made = portrait.make_portrait(photo, graphs)
    assert "2 faces" in made.notes[0]
    np.testing.assert_allclose(made.face.eyes, (450, 280), atol=3)
    other = portrait.make_portrait(photo, graphs, face=1)
    np.testing.assert_allclose(other.face.eyes, (120, 130), atol=3)
    with pytest.raises(UsageError, match="face 0 to 1; got 5"):
        portrait.make_portrait(photo, graphs, face=5)


def test_decoding_finds_each_peak_once() -> None:
    """Neighbouring cells of one face make one face; a distant peak makes another."""
    score = np.zeros((1, 1, 32, 32), np.float32)
    landmarks = np.zeros((1, 24, 32, 32), np.float32)
    for row, column in ((10, 10), (22, 25)):
        face = marker_face((column + 0.5) * 8, (row + 0.5) * 8 - 15, 24)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                score[0, 0, row + i, column + j] = 0.9 - 0.2 * (abs(i) + abs(j))
                cell = ((column + j + 0.5) * 8, (row + i + 0.5) * 8)
                landmarks[0, :, row + i, column + j] = (face.landmarks - cell).T.ravel()
    faces = portrait.decode({"score": score, "landmarks": landmarks}, 0.3)
    assert len(faces) == 2
    for found, (row, column) in zip(
        sorted(faces, key=lambda f: f.eyes[0]), ((10, 10), (22, 25)), strict=True
    ):
        np.testing.assert_allclose(found.eyes, ((column + 0.5) * 8, (row + 0.5) * 8 - 15), atol=0.1)


@pytest.mark.parametrize("fill", [0.0, 0.7, 1.0, float("nan"), 1e30])
def test_a_mad_network_ends_in_a_typed_error_or_a_portrait(fill: float) -> None:
    """Constant, NaN or huge heads never crash: a PhotoError or a portrait comes out."""

    def graph(feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {
            "score": np.full((1, 1, 32, 32), min(fill, 1.0), np.float32),
            "landmarks": np.full((1, 24, 32, 32), fill, np.float32),
        }

    try:
        made = portrait.make_portrait(
            np.zeros((40, 30, 3), np.uint8), {"align": graph, "encode": encode_graph}
        )
    except PhotoError:
        return
    assert made.photo.shape == (512, 512, 3)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3)])
def test_arrays_that_are_no_photo_are_refused(shape: tuple[int, ...]) -> None:
    """Greyscale, alpha or empty arrays are refused with what was expected and got."""
    with pytest.raises(PhotoError, match=r"expected \(height, width, 3\) uint8; got"):
        portrait.find_faces(np.zeros(shape, np.uint8), marker_graph)


def test_framing_is_followed() -> None:
    """A bundle's own framing decides size and place."""
    framing = Framing(size=256, eyes=(0.4, 0.5), interpupillary=0.2)
    photo = paint((400, 400), marker_face(200, 180, 50))
    right, left, _ = marks(portrait.align(photo, marker_face(200, 180, 50), framing))
    np.testing.assert_allclose((right + left) / 2, (0.4 * 256, 0.5 * 256), atol=1)
    assert left[0] - right[0] == pytest.approx(0.2 * 256, abs=1)


def test_reduction_is_by_area() -> None:
    """The encoder's input is the mean of each 2 x 2 block."""
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    want = photo.reshape(256, 2, 256, 2, 3).mean((1, 3)).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(portrait.encode_input(photo), want, atol=1e-6)
