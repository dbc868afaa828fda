"""Promises of the face networks, their posing, their samples and their training."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from generic_head import IPD, NEAR, keypoints, motion, seen

from vivant import latent
from vivant.errors import UsageError
from vivant.export.nets.encode import Encode
from vivant.export.nets.layers import Conv
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.pose import Poser, load_rig
from vivant.export.nets.render import Render
from vivant.export.nets.warp import composite
from vivant.export.synth.people import keypoints as generic
from vivant.export.train import face, face_sheet
from vivant.export.train.critic import Critic, critic_loss, painter_loss
from vivant.export.train.face_data import Geometry, People, load_person, make_sample, shards
from vivant.export.train.face_loss import uncovered

PORTABLE = set(
    """
    Abs Add AveragePool Cast Clip Concat Constant Conv Cos DepthToSpace Div Exp Expand Gather Gemm
    GridSample LeakyRelu MatMul Max MaxPool Min Mul Neg Pad Reciprocal ReduceMax ReduceMean
    ReduceSum Relu Reshape Resize Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Transpose
    Unsqueeze
    """.split()
)


@pytest.fixture(scope="module")
def nets() -> tuple[Encode, Render]:
    torch.manual_seed(0)
    return Encode(width=8).eval(), Render(width=8).eval()


def test_own_motion_returns_the_photo(nets: tuple[Encode, Render]) -> None:
    """Driving a portrait with its own motion code moves nothing and paints nothing."""
    encode, render = nets
    with torch.no_grad():
        features, points, own = encode(torch.rand(1, 3, 256, 256))
        flow, occlusion, _ = render(features, points, own, own)
    assert flow.abs().max() < 1e-6
    assert occlusion.max() == 0


@pytest.mark.parametrize("perspective", [0.0, 1 / 20, 1 / 12])
def test_posing_agrees_with_the_generator(perspective: float) -> None:
    """A head's keypoints, re-posed from one picture, land where the generator puts them, from
    however far away a camera takes both."""
    source = motion(headYaw=-5, headPitch=4, jawOpen=0.1, mouthSmileLeft=0.5)
    driven = motion(headYaw=18, headPitch=-9, headRoll=7, jawOpen=0.7, headX=0.1, headZ=0.2)
    points = torch.from_numpy(seen(source, perspective))[None]
    eyes = points[:, [generic.INDEX[f"pupil{side}"] for side in ("Right", "Left")], 2].mean() / IPD
    near = perspective / (1 - eyes * perspective)  # a head that turns brings its eyes nearer
    posed = Poser()(points, source, driven, near.view(1, 1))
    rigid = load_rig().weight > 0.99
    wanted = seen(driven, perspective)[:, :2]
    error = np.linalg.norm(posed.points[0, :, :2].detach().numpy() - wanted, axis=1)
    assert error[rigid].max() * 512 < 1.0


def test_first_flow_leads_back_to_the_photo() -> None:
    """At a driven keypoint the first flow points to that keypoint in the photo."""
    poser = Poser()
    source, driven = motion(), motion(headYaw=12, headPitch=5, headRoll=-6)
    posed = poser(keypoints(source), source, driven, NEAR)
    chosen = [generic.INDEX[n] for n in ("noseTip", "glabella", "cheekMidLeft", "chin")]
    for k in chosen:
        x, y = posed.points[:, k : k + 1, 0], posed.points[:, k : k + 1, 1]
        maps, _ = poser.spread(posed, x, y, torch.zeros(1, poser.count))
        flow, _ = poser.flow(posed, x, y, maps)
        arrived = np.array([(x + flow[:, 0, 0]).item(), (y + flow[:, 1, 0]).item()])
        assert np.linalg.norm(arrived - seen(source)[k, :2]) * 512 < 4


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("headYaw", 0, 1), ("headPitch", 1, -1), ("headX", 0, 1), ("headY", 1, -1)],
)
def test_signs_follow_the_latent(name: str, axis: int, sign: int) -> None:
    """Positive yaw and x move the nose right in the image, positive pitch and y move it up."""
    driven = motion(**{name: 8.0 if "head" in name and name[4] in "YP" and len(name) > 5 else 0.2})
    posed = Poser()(keypoints(motion()), motion(), driven, NEAR)
    nose = generic.INDEX["noseTip"]
    moved = posed.points[0, nose, axis].item() - seen(motion())[nose, axis]
    assert moved * sign > 0.01


def test_roll_tilts_the_crown_right() -> None:
    """Positive roll moves the top of the head toward the right of the image."""
    posed = Poser()(keypoints(motion()), motion(), motion(headRoll=10.0), NEAR)
    top = generic.INDEX["skullTop"]
    assert posed.points[0, top, 0].item() > seen(motion())[top, 0] + 0.03


def test_mirror_is_its_own_inverse() -> None:
    """Mirroring a code twice changes nothing, and a left blink becomes a right one."""
    np.testing.assert_array_equal(MOTION_MIRROR @ MOTION_MIRROR, np.eye(latent.SIZE))
    mirrored = motion(eyeBlinkLeft=1, headYaw=5).numpy() @ MOTION_MIRROR
    np.testing.assert_array_equal(mirrored, motion(eyeBlinkRight=1, headYaw=-5).numpy())


def test_posing_is_mirror_symmetric() -> None:
    """A mirrored photo driven by a mirrored code gives the mirrored keypoints."""
    poser, mirror = Poser(), load_rig().mirror
    source, driven = motion(headYaw=3), motion(headYaw=15, jawLeft=0.5, mouthSmileRight=0.6)
    flip = torch.from_numpy(MOTION_MIRROR)

    def flipped(points: torch.Tensor) -> torch.Tensor:
        out = points[:, mirror].clone()
        out[..., 0] = 1 - out[..., 0]
        return out

    here = poser(keypoints(source), source, driven, NEAR).points
    there = poser(flipped(keypoints(source)), source @ flip, driven @ flip, NEAR).points
    # The generic head is not perfectly symmetric.
    assert (flipped(here) - there)[..., :2].abs().max() * 512 < 6


def test_composite_moves_and_paints() -> None:
    """Zero flow keeps the photo, a quarter-frame flow shifts it, full occlusion shows paint."""
    photo = torch.rand(1, 3, 64, 64)
    still, clear = torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 32, 32)
    paint = torch.full((1, 3, 32, 32), 0.25)
    assert torch.allclose(composite(photo, still, clear, paint), photo, atol=1e-5)
    shifted = still.clone()
    shifted[:, 0] = 0.25
    out = composite(photo, shifted, clear, paint)
    assert torch.allclose(out[..., :48], photo[..., 16:], atol=1e-4)
    assert torch.allclose(composite(photo, shifted, clear + 1, paint), torch.full_like(photo, 0.25))


@pytest.mark.parametrize("stage", ["encode", "render"])
def test_graphs_are_portable(stage: str, nets: tuple[Encode, Render]) -> None:
    """Each stage exports with rank 4 at most, only operators every target runs, and nothing that
    only training asks for: one picture is divided by its weight, not that without light too."""
    net = nets[0] if stage == "encode" else nets[1]
    program = torch.onnx.export(
        net, face.example_inputs()[stage], dynamo=True, opset_version=18, verbose=False
    )
    assert program is not None
    model = onnx.shape_inference.infer_shapes(program.model_proto)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= PORTABLE, kinds - PORTABLE
    ranks = [len(v.type.tensor_type.shape.dim) for v in model.graph.value_info]
    assert len(ranks) > 50
    assert max(ranks) <= 4
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.value_info, *model.graph.output)
    }
    ratios = [node.output[0] for node in model.graph.node if node.op_type == "Div"]
    pictures = [name for name in ratios if shapes[name] == [1, 3, 256, 256]]
    assert len(pictures) == (stage == "render")


def person(seed: int, frames: int = 4) -> dict[str, np.ndarray]:
    """A blank person whose every pair is moved by one constant flow."""
    rng = np.random.default_rng(seed)
    codes = [motion(headX=float(x)) for x in rng.uniform(-0.2, 0.2, frames)]
    points = np.stack([seen(code) for code in codes])
    pairs = np.array([[d, 0] for d in range(1, frames)], np.int16)
    nose = generic.INDEX["noseTip"]
    move = points[0, nose, :2] - points[1:, nose, :2]
    return {
        "image": rng.integers(0, 256, (frames, 256, 256, 3), dtype=np.uint8),
        "motion": np.concatenate([code.numpy() for code in codes]),
        "keypoints": points,
        "segmentation": rng.integers(0, 8, (frames, 128, 128), dtype=np.uint8),
        "pairs": pairs,
        "flow": np.broadcast_to(move[:, :, None, None], (frames - 1, 2, 128, 128)).astype(
            np.float16
        ),
        "visible": np.ones((frames - 1, 128, 128), np.uint8),
    }


def write_people(folder: Path, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        np.savez(folder / f"person_{number:06d}.npz", **person(number))


def test_augmented_samples_stay_consistent() -> None:
    """After crop and mirror, flow still leads from a driver's nose to the source's."""
    nose = generic.INDEX["noseTip"]
    for seed in range(8):
        sample = make_sample(person(seed), np.random.default_rng(seed), 2, People(Path()).augment)
        for k in range(2):
            step = sample["points"][nose, :2] - sample["target_points"][k, nose, :2]
            np.testing.assert_allclose(sample["flow"][k, :, 64, 64], step, atol=1e-3)


def test_framing_moves_pictures_and_points_alike() -> None:
    """A bright dot and a keypoint on it are still together after crop and mirror."""
    image = np.zeros((256, 256), np.float32)
    image[99:102, 149:152] = 1
    points = np.full((len(generic.NAMES), 3), 0.0, np.float32)
    points[:, :2] = (150.5 / 256, 100.5 / 256)
    for mirror in (False, True):
        geometry = Geometry(1.1, (0.03, -0.02), mirror)
        moved = geometry.picture(image)
        rows, columns = np.mgrid[:256, :256] + 0.5
        found = np.array([(moved * columns).sum(), (moved * rows).sum()]) / moved.sum() / 256
        np.testing.assert_allclose(found, geometry.points(points)[0, :2], atol=1e-3)


def test_held_out_people_are_never_trained_on(tmp_path: Path) -> None:
    """Persons numbered 100000 and up are listed for evaluation only."""
    write_people(tmp_path, (1, 2, 100001))
    assert [p.stem for p in shards(tmp_path)] == ["person_000001", "person_000002"]
    assert [p.stem for p in shards(tmp_path, held_out=True)] == ["person_100001"]
    assert [p.stem for p in People(tmp_path).listed()] == ["person_000001", "person_000002"]


def test_same_seed_same_batch(tmp_path: Path) -> None:
    """Batches depend on seed and step alone, not on the threads that make them, and another seed
    gives another batch."""
    write_people(tmp_path, (1, 2, 3))
    first, again, other = (next(People(tmp_path, seed).batches(2))["motion"] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    crowd = next(People(tmp_path, 5, workers=3).batches(2))["motion"]
    assert torch.equal(first, crowd)


def test_bad_shard_is_named(tmp_path: Path) -> None:
    """A shard without flow, or with a keypoint that is no number, is refused by name."""
    whole = person(0)
    del whole["flow"]
    np.savez(tmp_path / "person_000000.npz", **whole)
    with pytest.raises(UsageError, match=r"person_000000.*flow"):
        load_person(tmp_path / "person_000000.npz")
    lost = person(0)
    lost["keypoints"][2, 5, 1] = np.nan
    np.savez(tmp_path / "person_000001.npz", **lost)
    with pytest.raises(UsageError, match=r"person_000001.*finite keypoints"):
        load_person(tmp_path / "person_000001.npz")


def test_training_resumes_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run leaves a checkpoint that loads, resuming continues its step count, and each
    partial run changes its own part alone: encoder, renderer, or the mouth's painter."""
    monkeypatch.setattr(face, "Encode", lambda: Encode(width=8))
    monkeypatch.setattr(face, "Render", lambda: Render(width=8))
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    write_people(data, (1, 2))
    common = [
        "--data",
        str(data),
        "--out",
        str(run),
        "--sources",
        "2",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--minutes",
        "60",
    ]
    try:
        face.main([*common, "--steps", "2"])
        face.main([*common, "--steps", "3", "--resume"])
        face.main([*common, "--steps", "1", "--close-up"])
        start = ["--start", str(run / "close-up.pt")]
        face.main([*common, "--steps", "1", "--encoder", *start])
        start = ["--start", str(run / "encoder.pt")]
        face.main([*common, "--steps", "1", "--renderer", *start, "--out", str(tmp_path / "r")])
    finally:
        Conv.reduced = False
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    steps = [run / "checkpoint.pt", run / "close-up.pt", run / "encoder.pt"]
    steps.append(tmp_path / "r" / "checkpoint.pt")
    weights = [torch.load(path, weights_only=True)["average"] for path in steps]
    close_up, encoder, renderer = (
        {
            tuple(name.split(".")[:2])
            for name in a
            if not torch.equal(a[name].float(), b[name].float())
        }
        for a, b in itertools.pairwise(weights)
    )
    assert close_up == {("render", part) for part in ("mouth", "eye", "steer_close")}
    assert {net for net, _ in encoder} == {"encode"}
    told = {part for net, part in renderer if net == "encode"}
    assert "render" in {net for net, _ in renderer}
    assert told == {"appearance", "view", "review"}
    encode, render = face.load_face(run / "close-up.pt")
    with torch.no_grad():
        features, points, own = encode(*face.example_inputs()["encode"])
        flow, occlusion, paint = render(features, points, own, motion(jawOpen=0.5))
    assert flow.shape == (1, 2, 128, 128)
    assert occlusion.shape == (1, 1, 256, 256)
    assert 0 <= paint.min() <= paint.max() <= 1.0001
    assert (run / "sheet.png").exists()


def test_what_a_moved_person_uncovers_is_painted() -> None:
    """Background counts as uncovered beside where a person was, not where one still stands."""
    before, now = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    before[..., 10:50, 10:40] = now[..., 10:50, 20:50] = 1
    left = uncovered(before, now)
    assert left[0, 0, 30, 14] == 1
    assert left[0, 0, 30, 8] > 0.3, "fine hair reaches beyond the outline"
    assert left[0, 0, 30, 45] == 0
    assert uncovered(now, now).max() == 0


def test_critic_learns_to_tell_windows_apart() -> None:
    """After a few steps a critic prefers sharp windows to grey ones, and its features ask the
    painter for less the nearer the painting comes."""
    torch.manual_seed(0)
    critic = Critic(8)
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    given = torch.rand(4, 3, 32, 32)
    real = (torch.rand(4, 3, 32, 32) > 0.5).float()
    grey = torch.full_like(real, 0.5)
    for _ in range(25):
        loss = critic_loss(critic, grey, real, given)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    far, near = (painter_loss(critic, x, real, given) for x in (grey, 0.1 * grey + 0.9 * real))
    assert far[0] > near[0]
    assert far[1] > near[1] > 0


def test_no_data_is_a_user_error(tmp_path: Path) -> None:
    """Training on an empty folder says what is expected there."""
    with pytest.raises(UsageError, match="person_"):
        next(People(tmp_path).batches(1))


def test_bad_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    """A file that is no checkpoint of these networks is refused, not half loaded."""
    torch.save({"average": {}}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="no face checkpoint"):
        face.load_face(tmp_path / "x.pt")


def test_curves_show_means_of_any_number_of_steps() -> None:
    """A run that goes on between two rows has fewer steps for its first one; its means are right,
    and each row starts anew."""
    means = face_sheet.Means()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value), "px": 2 * value})
    assert means.take() == {"loss": 3, "px": 6}
    means.add({"loss": 5.0})
    assert means.take() == {"loss": 5}
