"""Promises about poses as a photo shows them: what a scene hides is found and taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vivant import latent
from vivant.export.nets.encode import VIEW, Encode
from vivant.export.nets.pose import PERSPECTIVE, Poser, load_rig
from vivant.export.train.face import fit_code
from vivant.export.train.face_pose import about_neck, angles, as_seen, find_scene, turns

RIG = load_rig()
IPD = 0.17
UP = np.array([1, -1, 1])
HEAD = np.flatnonzero(RIG.weight > 0.999)
PUPILS = [RIG.names.index(f"pupil{side}") for side in ("Right", "Left")]


def codes(count: int = 8, seed: int = 0) -> np.ndarray:
    """Frames that turn, shift and talk."""
    rng = np.random.default_rng(seed)
    motion = np.zeros((count, latent.SIZE), np.float32)
    motion[:, latent.INDEX["jawOpen"]] = rng.uniform(0, 0.5, count)
    motion[:, latent.INDEX["mouthSmileLeft"]] = rng.uniform(0, 0.5, count)
    motion[:, 57:60] = rng.normal(0, (9, 6, 4), (count, 3))
    motion[:, 60:63] = rng.normal(0, 0.06, (count, 3))
    return motion


def pictures(
    motion: np.ndarray,
    slope: tuple[float, float],
    distance: float,
    tilted: float,
    away: tuple[float, float, float],
    at: tuple[float, float] = (0.53, 0.4),
) -> np.ndarray:
    """Keypoints (F, K, 3) of a head whose generator calls it upright when it looks ``tilted``
    degrees up, and which turns ``away`` from the generic neck, by a camera that stands ``slope``
    times the distance beside and above the eyes, behind a shifted sensor."""
    lean = turns(np.array([0, tilted, 0.0]))
    pivot = RIG.pivot + np.array(away)
    moved = np.einsum("fe,ekc->fkc", motion[:, :57], RIG.delta)
    body = (RIG.neutral + moved) @ lean.T
    turn = turns(motion[:, 57:60])
    space = (body - pivot) @ turn.transpose(0, 2, 1) + pivot + (motion[:, 60:63] * UP)[:, None]
    beside = space[..., :2] - np.array(slope) * space[..., 2:]
    plane = beside * distance / (distance - space[..., 2:]) * IPD + np.array(at)
    return np.concatenate([plane, space[..., 2:] * IPD], -1).astype(np.float32)


SCENES = [
    ((0.0, 0.0), 16.0, 0.0, (0.0, 0.0, 0.0)),
    ((0.03, -0.07), 16.0, 0.0, (0.0, 0.0, 0.0)),
    ((-0.02, 0.06), 9.0, 4.0, (0.03, 0.25, -0.2)),
    ((0.02, 0.03), 28.0, -3.0, (-0.03, -0.2, 0.1)),
]


def test_angles_invert_turns() -> None:
    """Angles are found again in their rotation."""
    degrees = np.random.default_rng(0).uniform(-40, 40, (20, 3))
    np.testing.assert_allclose(angles(turns(degrees)), degrees, atol=1e-6)


@pytest.mark.parametrize(("slope", "distance", "tilted", "away"), SCENES)
def test_camera_and_neck_are_found(
    slope: tuple[float, float],
    distance: float,
    tilted: float,
    away: tuple[float, float, float],
) -> None:
    """From keypoints alone: focal length, optical axis, what the shard calls upright, and where
    the head turns."""
    motion = codes()
    scene = find_scene(pictures(motion, slope, distance, tilted, away), motion)
    focal = distance * IPD
    assert scene.focal == pytest.approx(focal, rel=0.03)
    centre = np.array([0.53, 0.4]) + np.array(slope) * focal
    np.testing.assert_allclose(scene.centre, centre, atol=0.01)
    # Looking up by the generator's word is looking straight by ours: it is told in degrees more.
    assert angles(scene.upright)[1] == pytest.approx(tilted, abs=0.2)
    lean = turns(np.array([0, tilted, 0.0]))
    np.testing.assert_allclose(scene.away, (RIG.pivot + away) @ lean - RIG.pivot, atol=0.03)


@pytest.mark.parametrize(("slope", "distance", "tilted", "away"), SCENES)
@pytest.mark.parametrize("neck", [False, True])
def test_restated_codes_pose_the_head_where_it_was_seen(
    slope: tuple[float, float],
    distance: float,
    tilted: float,
    away: tuple[float, float, float],
    neck: bool,
) -> None:
    """Driven by restated codes and the camera's own perspective, one photo's keypoints land on
    those of every other frame, whether the pivot is told or its effect is in the codes."""
    motion = codes(seed=1)
    motion[:, :55] = 0  # shapes that lean with the head are another matter
    points = pictures(motion, slope, distance, tilted, away)
    scene = find_scene(points, motion)
    seen, own, near = as_seen(scene, points, motion, 0)
    assert near == pytest.approx(1 / distance, rel=0.05)
    code, driven = torch.from_numpy(seen[:1]), torch.from_numpy(seen[1:])
    told = torch.from_numpy(scene.away.astype(np.float32))[None, None]
    if neck:
        code, driven = about_neck(code, told[0]), about_neck(driven, told[0])
    count = len(driven)
    with torch.no_grad():
        posed = Poser()(
            torch.from_numpy(own)[None].expand(count, -1, -1),
            code.expand(count, -1),
            driven,
            torch.from_numpy(near)[None].expand(count, -1),
            None if neck else told.expand(count, -1, -1),
        )
    error = np.abs(posed.points.numpy()[..., :2] - points[1:, :, :2])[:, HEAD] * 512
    assert np.median(error) < 0.2


def test_a_tilt_of_the_camera_is_a_turn_of_the_head() -> None:
    """A head seen from 3 degrees above looks down by 3 degrees more; seen from its left side, it
    is turned the other way."""
    motion = codes()
    motion[0, 57:] = 0
    slope = (np.tan(np.radians(2)), -np.tan(np.radians(3)))
    points = pictures(motion, slope, 16.0, 0.0, (0.0, 0.0, 0.0))
    seen, _, _ = as_seen(find_scene(points, motion), points, motion, 0)
    np.testing.assert_allclose(seen[0, 57:60], (-2, -3, 0), atol=0.3)


def test_a_start_from_keypoints_tells_pose_and_perspective(tmp_path: Path) -> None:
    """Before any training, keypoints of a head alone say how it is turned and how far away the
    camera stood."""
    files = []
    for number, distance in enumerate(np.linspace(8, 30, 12)):
        motion = codes(seed=number)
        points = pictures(motion, (0.0, 0.0), distance, 0.0, (0.0, 0.0, 0.0))
        files.append(tmp_path / f"person_{number:06d}.npz")
        np.savez(files[-1], keypoints=points, motion=motion)
    torch.manual_seed(0)
    encode = Encode(width=8)
    fit_code(encode, files, seed=0)
    for distance in (9.0, 13.0, 25.0):
        motion = codes(seed=99)
        points = pictures(motion, (0.0, 0.0), distance, 0.0, (0.0, 0.0, 0.0))
        seen = as_seen(find_scene(points, motion), points, motion, 0)
        with torch.no_grad():
            known = encode.relative(torch.from_numpy(seen.points[None, :, :2]))
            told = PERSPECTIVE + VIEW * encode.view(known).item()
            turned = (encode.linear(known) * encode.scale)[0, 57:60].numpy()
        assert told == pytest.approx(1 / distance, abs=0.5 * VIEW)
        np.testing.assert_allclose(turned, seen.codes[0, 57:60], atol=2.5)


def test_an_expression_reaches_its_keypoints_whole() -> None:
    """Where a dropped jaw's keypoints come to lie, the interpolation moves as they do: neighbours
    that stay would else hold back half of the chin's fall."""
    poser = Poser()
    points = torch.from_numpy(RIG.neutral)[None] * 0.165 + torch.tensor([0.5, 0.42, 0.0])
    still, dropped = torch.zeros(1, latent.SIZE), torch.zeros(1, latent.SIZE)
    dropped[0, latent.INDEX["jawOpen"]] = 0.8
    with torch.no_grad():
        posed = poser(points, still, dropped, torch.full((1, 1), 1 / 16))
        at = posed.points[..., :2]
        maps, _ = poser.spread(posed, at[..., 0], at[..., 1], torch.zeros(1, len(RIG.names)))
    down = maps[0, 1].diagonal()
    wanted = 0.8 * RIG.delta[latent.INDEX["jawOpen"], :, 1]
    chin = [k for k, name in enumerate(RIG.names) if name.startswith("chin")]
    assert chin
    for k in chin:
        assert float(down[k]) > 0.75 * wanted[k] > 0.02
