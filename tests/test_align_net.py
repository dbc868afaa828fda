"""Promises of the face finder's network, its scenes, its training and its evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vivant.errors import UsageError
from vivant.export.nets.align import FRONTAL, Align
from vivant.export.train import evaluate_align
from vivant.export.train.align import (
    example_inputs,
    focal_loss,
    landmark_loss,
    load_align,
    main,
)
from vivant.export.train.align_data import (
    MIRROR,
    SIDE,
    Scene,
    Scenes,
    batches,
    load_frames,
    place,
    shards,
    targets,
)
from vivant.portrait import LANDMARKS, Face, decode


def write_person(folder: Path, number: int) -> None:
    """A person as flat as a coin: a disc with dark eyes and a red mouth on a shirt."""
    rng = np.random.default_rng(number)
    image = np.full((2, 256, 256, 3), 90, np.uint8)
    labels = np.zeros((2, 128, 128), np.uint8)
    landmarks = np.zeros((2, 12, 2), np.float32)
    ys, xs = np.mgrid[0:256, 0:256] + 0.5
    for k in range(2):
        centre = 128 + rng.uniform(-8, 8, 2)
        ipd = 42 * rng.uniform(0.9, 1.1)
        points = np.array(FRONTAL) * ipd + centre
        head = ((xs - centre[0]) / 1.2) ** 2 + ((ys - centre[1]) / 1.4) ** 2 < ipd**2
        body = (np.abs(xs - centre[0]) < 1.5 * ipd) & (ys > points[7, 1])
        image[k][body], image[k][head] = (60, 80, 160), (220, 170, 140)
        for point, tone in ((points[0], 20), (points[1], 20), (points[5:7].mean(0), 60)):
            image[k][(xs - point[0]) ** 2 + (ys - point[1]) ** 2 < (0.2 * ipd) ** 2] = tone
        labels[k] = (head | body)[::2, ::2]
        landmarks[k] = points / 256
    np.savez(
        folder / f"person_{number:06d}.npz", image=image, landmarks=landmarks, segmentation=labels
    )


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people to train on and one held out."""
    folder = tmp_path_factory.mktemp("people")
    for number in (1, 2, 3, 100_000):
        write_person(folder, number)
    return folder


def test_stage_shapes_and_ranges() -> None:
    """One 256 px tile gives 32 x 32 probabilities and as many sets of twelve points."""
    score, landmarks = Align().eval()(*example_inputs()["align"])
    assert score.shape == (1, 1, 32, 32)
    assert landmarks.shape == (1, 24, 32, 32)
    assert 0 < score.min() <= score.max() < 1


def test_an_untrained_network_is_small_and_sees_no_face() -> None:
    """About a million parameters; before training nothing passes for a face."""
    net = Align().eval()
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 1.5e6
    score, _ = net(torch.rand(1, 3, 256, 256))
    assert float(score.max().detach()) < 0.3


def test_only_portable_operators(tmp_path: Path) -> None:
    """The exported graph needs nothing beyond convolutions, sums, ReLU, resizing and sigmoid."""
    import onnx

    path = tmp_path / "align.onnx"
    torch.onnx.export(
        Align().eval(),
        example_inputs()["align"],
        path,
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    used = {node.op_type for node in onnx.load(path).graph.node}
    assert used <= {"Conv", "Relu", "Add", "Sub", "Mul", "Resize", "Sigmoid", "Constant"}


def test_targets_decode_to_the_faces_they_came_from(people: Path) -> None:
    """What the network is asked to say, decoded as the runtime does, gives the faces back."""
    scenes = Scenes(people, seed=3)
    checked = 0
    for _ in range(40):
        scene = scenes.scene()
        heat, _, offsets, weight = targets(scene)
        score = np.where(weight > 0, heat, 0)  # no bump reaches the decoder beyond its face
        faces = decode({"score": score[None, None], "landmarks": offsets[None]}, 0.99)
        for landmarks in scene.faces:
            near = [np.abs(f.landmarks - landmarks).max() for f in faces]
            crowded = sum(
                np.hypot(*(Face(o, 1).centre - Face(landmarks, 1).centre)) < 60 for o in scene.faces
            )
            if crowded == 1:
                checked += 1
                assert min(near) < 0.5
    assert checked > 10


def test_placing_puts_the_face_where_and_as_large_as_asked(people: Path) -> None:
    """Centre, width and rotation of a pasted face are those asked for."""
    frame = load_frames(shards(people)[0])[0]
    transform = place(frame, 100, 70, 60, 25)
    face = Face((frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32), 1.0)
    np.testing.assert_allclose(face.centre, (100, 70), atol=0.01)
    assert face.width == pytest.approx(60, rel=1e-3)
    assert face.roll == pytest.approx(25 + Face(frame.landmarks, 1.0).roll, abs=0.1)


def test_pixels_follow_their_landmarks(people: Path) -> None:
    """After any placing the dark eye is where its landmark is, reduced or enlarged."""
    scenes = Scenes(people, seed=0)
    frame = load_frames(shards(people)[0])[0]
    for width, tilt in ((40.0, 10.0), (90.0, -30.0), (190.0, 0.0)):
        transform = place(frame, 128, 128, width, tilt)
        image = scenes.paste(np.full((SIDE, SIDE, 3), 200, np.uint8), frame, transform)
        eye = frame.landmarks[0] @ transform[:, :2].T + transform[:, 2]
        ys, xs = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        near = (xs - eye[0]) ** 2 + (ys - eye[1]) ** 2 < (0.14 * width) ** 2
        dark = near & (image.max(-1) < 90)
        seen = np.array([xs[dark].mean(), ys[dark].mean()])
        np.testing.assert_allclose(seen, eye, atol=0.02 * width)


def test_mirroring_swaps_left_and_right() -> None:
    """Each point's mirror image carries the other side's name."""
    for k, other in enumerate(MIRROR):
        swap = {"right": "left", "left": "right", "Right": "Left", "Left": "Right"}
        name = LANDMARKS[k]
        for side, opposite in swap.items():
            if side in name:
                name = name.replace(side, opposite)
                break
        assert LANDMARKS[other] == name


def test_flipped_and_hidden_faces_are_not_asked_for(people: Path) -> None:
    """Upside-down faces must not be found; strongly tilted or covered ones may be."""
    scenes = Scenes(people, seed=0)
    scenes.rng = np.random.default_rng(5)
    frame = load_frames(shards(people)[0])[0]
    image, all_seen = np.zeros((SIDE, SIDE, 3), np.uint8), np.ones(12, bool)

    def sorted_at(tilt: float, seen: np.ndarray) -> tuple[int, int]:
        transform = place(frame, 128, 128, 60, tilt)
        points = (frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
        scene = scenes.sort(image.copy(), [points], [seen])
        return len(scene.faces), len(scene.unsure)

    assert sorted_at(20, all_seen) == (1, 0)
    assert sorted_at(68, all_seen) == (0, 1)
    assert sorted_at(180, all_seen) == (0, 0)
    assert sorted_at(0, np.arange(12) < 5) == (0, 1)


def test_losses_vanish_when_the_heads_are_right(people: Path) -> None:
    """The losses are near zero for the targets themselves and grow with either error."""
    landmarks = (np.array(FRONTAL) * 30 + (100, 120)).astype(np.float32)
    made = targets(Scene(np.zeros((SIDE, SIDE, 3), np.uint8), (landmarks,)))
    heat, care, offsets, weight = (torch.from_numpy(a)[None] for a in made)
    right = torch.where(heat >= 1, 12.0, -12.0)
    assert float(focal_loss(right, heat, care)) < 1e-3
    assert float(focal_loss(-right, heat, care)) > 1
    assert float(landmark_loss(offsets, offsets, weight)) == 0
    assert float(landmark_loss(offsets + 30, offsets, weight)) == pytest.approx(1, rel=1e-4)


def test_scenes_are_seeded(people: Path) -> None:
    """The same seed composes the same batch; another seed does not."""
    one, two, other = (next(batches(Scenes(people, seed=s), 2))["image"] for s in (7, 7, 8))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_training_runs_resumes_and_loads(people: Path, tmp_path: Path) -> None:
    """Two steps, two more after a resume, and a checkpoint that loads as the stage."""
    common = ["--data", str(people), "--out", str(tmp_path), "--minutes", "9", "--batch", "2"]
    main([*common, "--steps", "2"])
    main([*common, "--steps", "4", "--resume"])
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 4
    score, _ = load_align(tmp_path / "final.pt")(*example_inputs()["align"])
    assert math.isfinite(float(score.max().detach()))


def test_evaluation_prints_a_table(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation of any network is one table of finite recalls on the held-out people."""
    torch.save({"average": Align().state_dict()}, tmp_path / "final.pt")
    arguments = ["--checkpoint", str(tmp_path / "final.pt"), "--data", str(people)]
    evaluate_align.main([*arguments, "--count", "1", "--json"])
    table = json.loads(capsys.readouterr().out)
    assert table["tile recall, width  45, %"] == 0
    assert table["tile false faces per 100 tiles"] == 0
    assert table["photo recall, faces from 40 px, %"] == 0


def test_wrong_files_are_named(tmp_path: Path) -> None:
    """A missing or foreign checkpoint, and a folder without people, each end in one clear line."""
    with pytest.raises(UsageError, match="no checkpoint"):
        load_align(tmp_path / "none.pt")
    torch.save({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="no align checkpoint"):
        load_align(tmp_path / "other.pt")
    with pytest.raises(UsageError, match="no synthetic people"):
        Scenes(tmp_path, seed=0)
