"""Synthetic people: hands and things before the face, and exact flow around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_person import ball, bare_pack, motion, staged

from vivant.export.synth.people import flow, hand, held, pack, sample
from vivant.export.synth.people.fit import face_normals
from vivant.export.synth.people.hand import Grip
from vivant.export.synth.people.person import Person
from vivant.export.synth.people.render import Frame, Scene, render

SIZE = 192
_FLAT = Grip(np.full((4, 3), 8.0), 4.0, 0.2)
_ELBOW = np.array([3.0, -22.0, 0.0], np.float32)


@pytest.fixture(scope="module")
def assets() -> pack.Pack:
    return bare_pack()


def carried(leaning: bool) -> Person:
    """The ball with an open hand laid on its lower left, speckled so that warping can be seen."""
    person = ball()
    shape = hand.bent(_FLAT, _ELBOW)
    points, faces = hand.skin(shape, 0.6)
    frame = held._frame(np.array([-0.6, 0.8, 0.0]), np.array([0.0, 0.0, -1.0]))
    head = person.neutral.numpy()
    place = frame @ np.array([0.0, -9.0, 1.0], np.float32) + np.array([3.0, -2.0, 9.0], np.float32)
    place = held._yielded(shape, frame, place, np.array([0.0, 0, 1]), head, 1.0, 0.05)
    world = torch.tensor(points @ frame.T + place, dtype=torch.float32)
    count = len(person.neutral)
    added = torch.tensor(faces) + count
    share = torch.full((len(world),), float(leaning))
    nothing = torch.zeros(len(world))
    opaque = torch.cat([person.faces, added])
    g = torch.Generator().manual_seed(2)
    speckle = torch.rand(1, 3, 24, 24, generator=g)
    speckle = torch.nn.functional.interpolate(speckle, size=(128, 128), mode="bicubic")
    return replace(
        person,
        neutral=torch.cat([person.neutral, world]),
        faces=opaque,
        all_faces=opaque,
        faces_cast=opaque,
        material=torch.cat([person.material, torch.full((len(added),), pack.HAND)]),
        uv=torch.cat([person.uv, (torch.tensor(points[:, :2])[torch.tensor(faces)] * 0.04) % 1]),
        held_texture=speckle[0].permute(1, 2, 0).clamp(0.05, 0.9),
        hair_tangent=torch.zeros(count + len(world), 3),
        rigid=torch.cat([person.rigid, share]),
        carried=torch.cat([person.carried, share]),
        strands=torch.zeros(count + len(world), dtype=torch.bool),
        mouth_light=torch.cat([person.mouth_light, nothing]),
        lid_share=torch.cat([person.lid_share, torch.stack([nothing, nothing])], 1),
        jaw_share=torch.cat([person.jaw_share, nothing]),
    )


@pytest.fixture(scope="module", params=[False, True], ids=["in the world", "on the head"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return staged(carried(request.param), SIZE)


def shot(scene: Scene, **weights: float) -> Frame:
    return render(scene, scene.person.pose(motion(**weights)))


def owners(scene: Scene, frame: Frame) -> torch.Tensor:
    """Material of every pixel, -1 for the background."""
    at = frame.triangle
    return torch.where(at >= 0, scene.person.material[at.clamp(min=0)], -1)


def test_flow_carries_a_covered_face_into_another(scene: Scene) -> None:
    """Warping one render by the flow gives the other, on the hand and on the face beside it."""
    source, driver = shot(scene), shot(scene, headYaw=16, headPitch=6)
    field, visible = flow.surface_flow(scene.person, driver, source, SIZE)
    warped = flow.warp(source.image, field)
    for kind in (pack.FACE, pack.HAND):
        inside = visible & (owners(scene, driver) == kind)
        error = (warped - driver.image)[inside]
        unwarped = (source.image - driver.image)[inside]
        assert inside.float().mean() > 0.05
        assert float(error.abs().median()) < 0.02
        assert -10 * torch.log10((error**2).mean()) > 24
        if kind == pack.FACE:
            assert (error**2).mean() < (unwarped**2).mean() / 8


def test_what_a_hand_covers_is_never_called_visible(scene: Scene) -> None:
    """Skin whose place in the source shows the hand is unseen there, however close they lie."""
    source, driver = shot(scene), shot(scene, headYaw=16, headPitch=6)
    field, visible = flow.surface_flow(scene.person, driver, source, SIZE)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    column = (x + 0.5 + field[0] * SIZE).floor().long().clamp(0, SIZE - 1)
    row = (y + 0.5 + field[1] * SIZE).floor().long().clamp(0, SIZE - 1)
    there = owners(scene, source)[row, column]
    covered = (owners(scene, driver) == pack.FACE) & (there == pack.HAND)
    assert (visible & covered).sum() == 0
    if scene.person.rigid[-1] == 0:
        assert covered.sum() > 100


def test_a_hand_stays_in_the_world_or_goes_with_the_head(scene: Scene) -> None:
    """An occluder that follows the head moves as the head does; any other does not move."""
    source, driver = shot(scene), shot(scene, headYaw=16)
    field, visible = flow.surface_flow(scene.person, driver, source, SIZE)
    moved = float(field[0][visible & (owners(scene, driver) == pack.HAND)].abs().mean())
    assert moved > 0.02 if scene.person.rigid[-1] else moved < 1e-5


def test_hands_are_accessories(scene: Scene) -> None:
    """Every pixel that shows the hand has the class of accessories, no other has."""
    frame = shot(scene)
    label = flow.segmentation(scene.person, frame, SIZE)
    assert torch.equal(label == flow.WORN, owners(scene, frame) == pack.HAND)


@pytest.mark.parametrize("curl", [0.0, 45.0, 85.0])
def test_hands_are_closed_skins_around_their_bones(curl: float) -> None:
    """Each edge joins two triangles, vertices lie on the skin, normals point outward."""
    shape = hand.bent(Grip(np.full((4, 3), curl), 3.0, 0.5), _ELBOW)
    points, faces = hand.skin(shape)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, count = np.unique(np.sort(edges, 1), axis=0, return_counts=True)
    assert (count % 2 == 0).all()
    assert np.abs(shape.distance(points)).max() < 0.25
    assert np.abs(shape.distance(points)).mean() < 0.02
    out = (face_normals(points, faces) * shape.gradient(points[faces].mean(1))).sum(1)
    assert (out > 0).mean() > 0.99


def test_fingers_bend_toward_the_palm() -> None:
    """Bent fingers end before the palm, straight ones far beyond the knuckles."""
    straight = hand.bent(Grip(np.zeros((4, 3)), 0.0, 0.5), _ELBOW)
    fist = hand.bent(Grip(np.full((4, 3), 80.0), 0.0, 0.9), _ELBOW)
    for finger in range(4):
        assert straight.tip(finger)[1] > 15
        assert fist.tip(finger)[1] < 9
        assert fist.tip(finger)[2] < -1


def test_hands_give_way_until_they_touch() -> None:
    """A hand put into or above a head ends just at it, along the way it may give way."""
    rng = np.random.default_rng(0)
    head = rng.normal(0, 1, (6000, 3)).astype(np.float32)
    head = 8 * head / np.linalg.norm(head, axis=1, keepdims=True)
    shape = hand.bent(_FLAT, _ELBOW)
    frame = held._frame(np.array([0.0, 1, 0]), np.array([0.0, 0, -1]))
    away = np.array([0.0, 0, 1], np.float32)
    for depth in (2.0, 15.0):
        place = held._yielded(
            shape, frame, np.array([0, -8, depth], np.float32), away, head, 1.0, 0.1
        )
        assert shape.distance((head - place) @ frame).min() == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("kind", [k for k in sample.HELD if k != "lock"])
def test_everything_held_is_whole_and_mirrors(assets: pack.Pack, kind: str) -> None:
    """Each kind gives a finite mesh, outside out, follows as told, and has two sides."""
    rng = np.random.default_rng(3)
    what = sample.sample_held(rng, False, True)
    sides = []
    for side in (1.0, -1.0):
        what = replace(what, kind=kind, side=side, leaning=False)
        made = held.cover(assets, what, assets.mean, np.full(3, 0.3, np.float32))
        assert made is not None
        assert np.isfinite(made.points).all()
        assert np.isfinite(made.texture).all()
        assert made.faces.min() == 0
        assert made.faces.max() == len(made.points) - 1
        assert set(made.material) <= {pack.HAND, pack.HELD}
        assert made.uv.min() >= 0
        assert made.uv.max() <= 1
        if kind not in held.HANDS:  # their sleeves are open
            a, b, c = made.points[made.faces[made.material == pack.HELD]].swapaxes(0, 1)
            centre = a.mean(0)
            volume = (np.cross(a - centre, b - centre) * (c - centre)).sum() / 6
            assert volume > 0, "seen from outside"
        sides.append(made)
    left, right = sides
    for extreme in (np.min, np.median, np.max):  # of meshes that may differ by some triangles
        mirrored = extreme(right.points * np.array([-1, 1, 1]), axis=0)
        assert np.allclose(extreme(left.points, axis=0), mirrored, atol=0.5)
    if kind in held.HANDS:
        assert (left.follow == 0).all()
        leaning = replace(what, leaning=True)
        made = held.cover(assets, leaning, assets.mean, np.full(3, 0.3, np.float32))
        assert made is not None
        assert made.follow.max() == pytest.approx(1, abs=1e-3)
        assert made.follow.min() == pytest.approx(0, abs=1e-3)


def test_one_face_in_eight_is_partly_covered(assets: pack.Pack) -> None:
    """The sampler covers about an eighth of all faces, with every kind of thing."""
    people = [sample.sample_person(np.random.default_rng([1, k]), assets) for k in range(900)]
    covered = [p.held.kind for p in people if p.held is not None]
    assert 0.1 < len(covered) / len(people) < 0.15
    assert len(set(covered)) >= len(sample.HELD) - 2
    assert all(p.hair != "none" for p in people if p.held is not None and p.held.kind == "lock")


def test_locks_of_hair_hang_before_the_face(assets: pack.Pack) -> None:
    """Strands start above the brow and lie in front of the skin behind them."""
    points, faces, uv = held.lock(assets.mean, 1, 1.0)
    assert points[:, 1].max() > 8
    assert np.isfinite(points).all()
    assert faces.max() == len(points) - 1
    assert uv.shape == (len(faces), 3, 2)
    skin = assets.mean[pack.SKIN]
    front = skin[skin[:, 2] > 4]
    for place in points[:: len(points) // 40]:
        near = front[np.abs(front[:, :2] - place[:2]).max(1) < 0.4]
        assert not len(near) or place[2] > near[:, 2].max()
