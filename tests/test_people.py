"""Synthetic people: rasteriser, posing conventions, exact flow, keypoints, shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ball_person import ball, motion, staged

from vivant import latent
from vivant.errors import UsageError
from vivant.export.synth.people import (
    camera,
    fit,
    flow,
    headwear,
    keypoints,
    motions,
    pack,
    raster,
    shard,
    worn,
)
from vivant.export.synth.people.render import Frame, Scene, render
from vivant.export.synth.people.sample import Glasses, hsv

SIZE = 192


def soup(triangles: int = 1500, vertices: int = 2000) -> tuple[torch.Tensor, ...]:
    """Small random triangles, their 1/z and texture coordinates."""
    g = torch.Generator().manual_seed(7)
    centre = torch.rand(vertices, 1, 2, generator=g) * SIZE
    xy = (centre + torch.randn(vertices, 3, 2, generator=g) * 8).reshape(-1, 2)
    depth = 0.004 + 0.01 * torch.rand(vertices * 3, generator=g)
    faces = torch.arange(triangles * 3).reshape(-1, 3)
    return xy, depth, faces, torch.rand(triangles, 3, 2, generator=g)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return staged(ball(), SIZE)


def shot(scene: Scene, **weights: float) -> Frame:
    return render(scene, scene.person.pose(motion(**weights)))


def test_compiled_and_tensor_rasterisers_agree() -> None:
    """The CPU and the GPU path draw the same triangles at the same depth."""
    xy, depth, faces, _ = soup()
    here = raster.rasterize(xy, depth, faces, SIZE, SIZE)
    triangle, barycentric, inverse = raster._rasterize_tensor(xy, depth, faces, SIZE, SIZE)
    assert (here.triangle.reshape(-1) >= 0).float().mean() > 0.5
    assert (here.triangle.reshape(-1) != triangle).float().mean() < 1e-3
    assert torch.allclose(here.inverse_depth.reshape(-1), inverse, atol=1e-7)
    same = here.triangle.reshape(-1) == triangle
    assert torch.allclose(here.barycentric.reshape(-1, 3)[same], barycentric[same], atol=1e-4)


def test_compiled_and_tensor_blending_agree() -> None:
    """Sorted translucent layers weigh the same on both paths, and never more than one in all."""
    xy, depth, faces, uv = soup()
    g = torch.Generator().manual_seed(3)
    style = torch.randint(0, 3, (len(faces),), generator=g)
    alphas = (torch.rand(32, 32, generator=g), torch.rand(16, 16, generator=g))
    behind = raster.rasterize(xy, depth * 0.6, faces, SIZE, SIZE)
    here = raster.fragments(xy, depth, faces, uv, style, alphas, 0.5, behind)
    there = raster._fragments_tensor(xy, depth, faces, uv, style, alphas, 0.5, behind.inverse_depth)
    image = [
        torch.zeros(SIZE * SIZE).index_add_(0, f.pixel, f.weight * (f.triangle % 13).float())
        for f in (here, there)
    ]
    cover = torch.zeros(SIZE * SIZE).index_add_(0, here.pixel, here.weight)
    assert len(here.pixel) > 1000
    assert torch.allclose(*image, atol=1e-3)
    assert float(cover.max()) <= 1.0 + 1e-5


def test_nearer_surface_wins_and_empty_pixels_stay_empty() -> None:
    """A triangle closer to the camera hides the one behind it."""
    xy = torch.tensor([[2.0, 2], [30, 2], [2, 30]]).repeat(2, 1)
    depth = torch.tensor([0.01] * 3 + [0.02] * 3)
    faces = torch.arange(6).reshape(2, 3)
    found = raster.rasterize(xy, depth, faces, 32, 32)
    assert found.triangle[5, 5] == 1
    assert found.triangle[30, 30] == -1
    assert found.inverse_depth[30, 30] == 0


@pytest.mark.parametrize(
    ("name", "value", "axis", "sign"),
    [
        ("headYaw", 20.0, 0, 1),
        ("headPitch", 15.0, 1, 1),
        ("headX", 0.2, 0, 1),
        ("headY", 0.2, 1, 1),
        ("headZ", 0.2, 2, 1),
    ],
)
def test_head_pose_moves_the_nose_as_the_latent_says(
    name: str, value: float, axis: int, sign: int
) -> None:
    """Yaw turns to the right of the image, pitch looks up, translations follow their axes."""
    table = keypoints.keypoint_basis()
    moved = keypoints.pose(table.neutral, motion(**{name: value}), table) - table.neutral
    assert sign * moved[keypoints.INDEX["noseTip"], axis] > 0.1


def test_roll_tilts_the_crown_to_the_right_and_the_chest_stays() -> None:
    """Head rotation fades out down the neck."""
    table = keypoints.keypoint_basis()
    moved = keypoints.pose(table.neutral, motion(headRoll=15), table) - table.neutral
    assert moved[keypoints.INDEX["skullTop"], 0] > 0.3
    assert abs(moved[keypoints.INDEX["chestLeft"]]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "point", "axis", "sign"),
    [
        ("jawOpen", "chin", 1, -1),
        ("eyeBlinkLeft", "lidUpper1Left", 1, -1),
        ("mouthSmileRight", "lipCornerRight", 1, 1),
        ("browInnerUp", "brow4Left", 1, 1),
        ("mouthLeft", "lipLowerMid", 0, 1),
        ("tongueOut", "tongueTip", 2, 1),
        ("gazeYaw", "pupilRight", 0, 1),
        ("gazePitch", "pupilLeft", 1, 1),
    ],
)
def test_shapes_move_their_keypoints(name: str, point: str, axis: int, sign: int) -> None:
    """Every sampled shape moves the point it is named after, in the latent's direction."""
    table = keypoints.keypoint_basis()
    value = 20.0 if name.startswith("gaze") else 1.0
    moved = keypoints.pose(table.neutral, motion(**{name: value}), table) - table.neutral
    assert sign * moved[keypoints.INDEX[point], axis] > 0.02


def test_keypoint_file_matches_the_names_and_is_small() -> None:
    """The committed table carries the module's names, mirrors itself and stays under 300 KiB."""
    assert keypoints.FILE.stat().st_size < 300 * 1024
    with np.load(keypoints.FILE) as stored:
        assert tuple(stored["names"]) == keypoints.NAMES
        assert tuple(stored["mirror"]) == keypoints.MIRROR
    table = keypoints.keypoint_basis()
    assert table.basis.shape == (55, keypoints.COUNT, 3)
    mirrored = table.neutral[list(keypoints.MIRROR)] * np.array([-1, 1, 1])
    assert abs(mirrored - table.neutral).max() < 0.02
    pupils = table.neutral[[keypoints.INDEX["pupilRight"], keypoints.INDEX["pupilLeft"]]]
    assert np.linalg.norm(pupils[0] - pupils[1]) == pytest.approx(1.0, abs=1e-5)
    assert np.isfinite(table.basis).all()


@pytest.mark.parametrize("bulge", [1.12, 1.08])
def test_eyes_look_where_their_cornea_is(bulge: float) -> None:
    """Globes of whatever bulge have a centre, a radius and an axis, turned toward the nose."""
    count = max(globe.stop for globe in pack.GLOBES)
    vertices = np.zeros((count, 3), np.float32)
    places = np.array([[3.0, 2.0, 7.0], [-3.0, 2.0, 7.0]])
    rng = np.random.default_rng(0)
    for globe, place in zip(pack.GLOBES, places, strict=True):
        away = rng.normal(size=(globe.stop - globe.start, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        away *= 1.4 * (1 + (bulge - 1) * np.clip((away[:, 2:] - 0.8) / 0.15, 0, 1))
        vertices[globe] = place + away
    centre, radius, axis = keypoints.eyes(vertices)
    np.testing.assert_allclose(centre, places, atol=1e-3)
    np.testing.assert_allclose(radius, 1.4, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(axis, axis=1), 1, atol=1e-5)
    assert (axis[:, 2] > 0.98).all()
    assert axis[0, 0] < axis[1, 0]


def test_persons_and_keypoints_turn_alike(scene: Scene) -> None:
    """The renderer's head rotation is the formula that networks use on keypoints."""
    person = scene.person
    turned = person.pose(motion(headYaw=17, headPitch=-9, headRoll=12)).vertices
    angles = (np.asarray(v, np.float32) for v in (17, -9, 12))
    expected = (person.neutral.numpy() - keypoints.PIVOT) @ keypoints.rotations(*angles).T
    assert np.allclose(turned.numpy(), expected + keypoints.PIVOT, atol=1e-4)


def test_the_camera_frames_the_aligned_portrait(scene: Scene) -> None:
    """Neutral pupils fall at (0.5, 0.42), 0.165 of the width apart, whatever the lens."""
    person = scene.person
    for distance, tilt in ((50.0, (0.0, 0.0)), (180.0, (2.0, -4.0))):
        view = camera.framed(person, distance=distance, tilt=tilt)
        middle = torch.tensor(person.eyes_middle)
        pupils = torch.stack([middle + torch.tensor([s, 0.0, 0.0]) for s in (3.0, -3.0)])
        at = view.fractions(pupils)
        assert torch.allclose(at.mean(0), torch.tensor([0.5, 0.42, 0.0]), atol=1e-4)
        assert float(at[0, 0] - at[1, 0]) == pytest.approx(0.165, abs=1e-4)


def test_flow_carries_one_frame_into_another(scene: Scene) -> None:
    """Warping the source by the flow gives the driver where the point is seen in both."""
    source = shot(scene)
    driver = shot(scene, headYaw=18, headPitch=8, headX=0.1)
    field, visible = flow.surface_flow(scene.person, driver, source, SIZE)
    warped = flow.warp(source.image, field)
    inside = visible & (driver.triangle >= 0)
    error = ((warped - driver.image)[inside] ** 2).mean()
    unwarped = ((source.image - driver.image)[inside] ** 2).mean()
    assert inside.float().mean() > 0.1
    assert -10 * torch.log10(error) > 26
    assert float((warped - driver.image)[inside].abs().median()) < 0.02
    assert error < unwarped / 10


def test_flow_to_itself_is_zero_and_fully_visible(scene: Scene) -> None:
    """A frame corresponds to itself: no motion, nothing hidden."""
    frame = shot(scene, headYaw=10)
    field, visible = flow.surface_flow(scene.person, frame, frame, SIZE // 2)
    assert float(field.abs().max()) < 1e-4
    assert bool(visible.all())


def test_what_turns_away_is_hidden(scene: Scene) -> None:
    """Points of the driver on the far side of the source are marked unseen."""
    source, driver = shot(scene, headYaw=-30), shot(scene, headYaw=30)
    _, visible = flow.surface_flow(scene.person, driver, source, SIZE)
    ball_pixels = driver.triangle >= 0
    hidden = float((ball_pixels & ~visible).sum() / ball_pixels.sum())
    assert 0.1 < hidden < 0.75
    assert bool(visible[0].all())  # the top rows are background in both


def test_yaw_moves_the_face_to_the_right_of_the_image(scene: Scene) -> None:
    """headYaw > 0 carries visible surface toward larger x: backward flow is negative there."""
    field, visible = flow.surface_flow(
        scene.person, shot(scene, headYaw=15), shot(scene), SIZE // 2
    )
    moving = visible & (field[0].abs() > 1e-4)
    assert float(field[0][moving].mean()) < -0.01


def test_frames_of_a_scene_share_their_exposure(scene: Scene) -> None:
    """Light and exposure stay put while the person moves."""
    assert shot(scene).exposure == shot(scene, headPitch=15).exposure


def test_finished_motions_obey_the_latent() -> None:
    """Weights lie in 0..1, look shapes follow gaze, lips close no further than the jaw opens."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        raw = rng.normal(0, 1, latent.SIZE).astype(np.float32)
        raw[55:57] = rng.uniform(-25, 25, 2)
        done = motions.finish(raw)
        assert done[:55].min() >= 0
        assert done[:55].max() <= 1
        pitch = done[latent.INDEX["gazePitch"]]
        down = done[latent.INDEX["eyeLookDownLeft"]]
        assert down == pytest.approx(min(1, max(0, -pitch / latent.LID_DEGREES)), abs=1e-5)
        yaw = done[latent.INDEX["gazeYaw"]]
        out = done[latent.INDEX["eyeLookOutLeft"]]
        assert out == pytest.approx(min(1, max(0, yaw / latent.GAZE_DEGREES)), abs=1e-5)
        jaw = max(0.0, raw[latent.INDEX["jawOpen"]])
        assert done[latent.INDEX["mouthClose"]] <= jaw + 1e-6


def test_every_frame_is_driven_from_other_frames() -> None:
    """Pairs name each frame as driver, never with itself, once from a portrait-like frame."""
    pairs = shard.choose_pairs(8, np.random.default_rng(0))
    assert len(pairs) == 24
    for driver in range(8):
        sources = [int(s) for d, s in pairs if d == driver]
        assert len(set(sources)) == 3
        assert driver not in sources
        assert {0, 1} & set(sources)


def test_shards_are_written_whole(tmp_path: Path) -> None:
    """A shard appears under its name only when complete, and reads back as written."""
    path = shard.path_of(tmp_path, 42)
    shard.write_shard({"pairs": np.ones((2, 2), np.int16)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["person_000042.npz"]
    with np.load(path) as stored:
        assert (stored["pairs"] == 1).all()


def test_a_missing_pack_is_explained(tmp_path: Path) -> None:
    """A wrong path says what was expected and what to do."""
    with pytest.raises(UsageError, match="--pack"):
        pack.load(tmp_path / "none.npz")
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(1))
    with pytest.raises(UsageError, match="not an asset pack"):
        pack.load(other)


def test_shell_hair_thins_out_toward_its_tips() -> None:
    """Layers of curls get sparser from the skin outward, so that their outline is fuzzy."""
    light, alpha = headwear.shell_texture("curls")
    rows = alpha.reshape(headwear.LAYERS, -1).mean(1)[::-1]  # layer 0 is the bottom row
    assert light.shape == alpha.shape
    assert rows[0] > 0.85
    assert rows[-1] < 0.5
    assert (np.diff(rows) < 0.02).all()


def test_subdivision_keeps_flat_surfaces_and_their_texture() -> None:
    """Four triangles for each; a plane stays a plane and uv stays linear on it."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    uv = points[faces][..., :2]
    grown, finer, finer_uv = fit.subdivided(points, faces, uv)
    assert len(finer) == 8
    assert np.allclose(grown[finer][..., :2], finer_uv, atol=1e-6)
    assert np.linalg.norm(fit.face_normals(grown, finer), axis=1).sum() == pytest.approx(2.0)


def test_scarves_cover_the_head_and_leave_the_face_free() -> None:
    """A headscarf lies outside the skin everywhere, and nowhere within 35 degrees of the face."""
    rng = np.random.default_rng(0)
    head = rng.normal(0, 1, (pack.SKIN.stop, 3)).astype(np.float32)
    head = fit.unit_rows(head) * 8 + np.array([0.0, 3.0, 0.0], np.float32)
    (points, faces), uv = worn.scarf(head, seed=1)
    away = points - np.array([0.0, 3.0, 0.0])
    far = np.linalg.norm(away, axis=1)
    assert 7.9 < far.min() < far.max() < 10.5
    assert np.degrees(np.arccos(away[:, 2] / far)).min() > 35
    assert uv.min() >= 0
    assert uv.max() <= 1
    outward = (fit.face_normals(points, faces) * away[faces].mean(1)).sum(1)
    assert (outward > 0).mean() > 0.95, "cloth is seen from outside"


def test_dark_lenses_fill_their_rims() -> None:
    """Each lens has its rim's outline and reaches over the pupil behind it."""
    look = Glasses(2.5, 2.0, 3.0, 0.1, np.zeros(3, np.float32), dark=True)
    rng = np.random.default_rng(0)
    head = rng.uniform((-8, -10, -8), (8, 12, 9), (pack.SKIN.stop, 3)).astype(np.float32)
    pupils = np.array([[3.2, 4.0, 7.0], [-3.2, 4.0, 7.0]], np.float32)
    points, faces = worn.lenses(look, fit.glasses(look, head, pupils))
    area = np.linalg.norm(fit.face_normals(points, faces), axis=1).sum() / 2
    assert 2 * np.pi * 2.5 * 2.0 < area < 2 * 4 * 2.5 * 2.0 * 1.1
    for pupil in pupils:
        assert np.abs(points[:, :2] - pupil[:2]).sum(1).min() < 1.0


def test_tubes_have_their_radius() -> None:
    """Spectacle frames are as thick as asked, all along a closed rim."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = np.stack([3 * np.cos(turn), 2 * np.sin(turn), np.zeros(40)], 1)
    points, faces = fit.tube(rim, 0.1, closed=True)
    distance = np.linalg.norm(points.reshape(40, -1, 3) - rim[:, None], axis=-1)
    assert np.allclose(distance, 0.1, atol=1e-5)
    assert faces.max() == len(points) - 1


def test_hsv_matches_the_primary_colours() -> None:
    """Hue 0, 120, 240 are red, green, blue."""
    assert np.allclose([hsv(h, 1, 1) for h in (0, 120, 240)], np.eye(3))
