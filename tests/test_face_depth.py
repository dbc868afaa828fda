"""Promises of what teaches the face networks how deep a head is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generic_head import NEAR, keypoints, motion, seen
from torch import Tensor

from vivant import latent
from vivant.export.nets.encode import PRIOR, Encode
from vivant.export.nets.painter import first_flow
from vivant.export.nets.render import Render
from vivant.export.nets.warp import centres
from vivant.export.synth.people import keypoints as generic
from vivant.export.synth.people.classes import EYES, SKIN
from vivant.export.train import evaluate_face
from vivant.export.train.face_data import NONE, Augment, collate, make_sample, to_device
from vivant.export.train.face_loss import (
    HIDDEN_WEIGHT,
    Regions,
    depth_loss,
    encoder_loss,
    face_loss,
)

PUPILS = [generic.INDEX[f"pupil{side}"] for side in ("Right", "Left")]


@pytest.fixture(scope="module")
def nets() -> tuple[Encode, Render]:
    torch.manual_seed(0)
    return Encode(width=8).eval(), Render(width=8).eval()


def person(kind: int) -> dict[str, np.ndarray]:
    """Four frames of one class all over that move sideways as one, half of each pair hidden."""
    codes = [motion(headX=x) for x in (0.0, 0.1, -0.1, 0.2)]
    points = np.stack([seen(code) for code in codes])
    pairs = np.array([[d, s] for d in range(4) for s in range(4) if s != d], np.int16)
    move = (points[pairs[:, 1]] - points[pairs[:, 0]])[:, PUPILS[0], :2]
    visible = np.ones((len(pairs), 128, 128), np.uint8)
    visible[:, :, :64] = 0
    return {
        "image": np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8),
        "motion": np.concatenate([code.numpy() for code in codes]),
        "keypoints": points,
        "segmentation": np.full((4, 128, 128), kind, np.uint8),
        "pairs": pairs,
        "flow": np.broadcast_to(move[:, :, None, None], (len(pairs), 2, 128, 128)).copy(),
        "visible": visible,
    }


def test_how_far_away_a_head_is_teaches_nothing(nets: tuple[Encode, Render]) -> None:
    """A picture does not tell it: the encoder is asked for depth relative to the eyes alone."""
    encode, _ = nets
    regions = Regions(torch.device("cpu"))
    points = keypoints(motion())
    nearer, deeper = points.clone(), points.clone()
    nearer[..., 2] += 0.05
    deeper[:, generic.INDEX["noseTip"], 2] += 0.05
    batch = {
        "seen": torch.full((1, 3, 256, 256), 0.5),
        "code": motion(),
        "perspective": NEAR,
        "segment": torch.ones(1, 64, 64),
    }

    def asked(points: Tensor) -> float:
        with torch.no_grad():
            return encoder_loss(regions, encode, batch | {"points": points})[0].item()

    assert asked(nearer) == pytest.approx(asked(points), rel=1e-5)
    assert asked(deeper) > asked(points) + 1e-3 or asked(deeper) < asked(points) - 1e-3


def test_turned_heads_tell_depth(nets: tuple[Encode, Render]) -> None:
    """The flow of a turned head asks the encoder for the depth that explains it, and for none
    where the head has not turned."""
    encode, render = nets
    with torch.no_grad():
        found = encode.analyse(torch.rand(1, 3, 256, 256))
    source, turned = motion(), motion(headYaw=20)
    points = keypoints(source)
    prior = torch.zeros(1, PRIOR, 64, 64)
    prior[:, 1] = 0.7
    line = centres(64, prior).expand(1, -1)

    def asked(driven: Tensor, given: Tensor) -> float:
        with torch.no_grad():
            posed = render.poser(points, source, driven, NEAR)
            flow = first_flow(render.poser, posed, line, line, prior, render.mix, True).flow
            batch = {
                "more_flow": flow[:, None],
                "more_points": points,
                "more_code": source,
                "more_perspective": NEAR,
                "more_motion": driven[:, None],
                "more_told": torch.ones(1, 1, 64, 64),
                "away": torch.zeros(1, 3),
            }
            return depth_loss(encode, render, found._replace(prior=given), batch, 0).item()

    assert asked(turned, prior) == pytest.approx(0, abs=1e-4)
    assert asked(turned, 0 * prior) > 1
    assert asked(source, 0 * prior) == pytest.approx(0, abs=1e-4)


def test_extra_frames_bring_flows_that_lead_to_them() -> None:
    """After crop and mirror too, they are as long as the step aside that frames differ by; lips,
    which may have been drawn apart, are left out, and what is hidden counts less."""
    brow, lip = generic.INDEX["brow2Right"], generic.INDEX["lipUpperMid"]
    framed = Augment(bare=0, style=0, textured=0)
    for seed in range(6):
        sample = make_sample(person(SKIN), np.random.default_rng(seed), 2, framed, extra=2)
        for k in range(2):
            codes, flows, told = (sample[f"more_{key}"][k] for key in ("motion", "flow", "told"))
            points = sample["more_points"][k, :, :2]
            gap = np.linalg.norm(points[PUPILS[0]] - points[PUPILS[1]])
            steps = (sample["more_code"][k] - codes)[:, latent.INDEX["headX"]]
            np.testing.assert_allclose(flows[:, 0, 32, 32], steps * gap, rtol=0.1)
            for flow, mask in zip(flows, told, strict=True):
                assert set(np.unique(mask)) <= {0, HIDDEN_WEIGHT, 1}
                cells = ((points - flow[:, 32, 32])[:, ::-1] * 64).astype(int)
                assert mask[tuple(cells[lip])] == 0
                assert mask[tuple(cells[brow])] > 0


@pytest.mark.parametrize(("kind", "asked"), [(SKIN, True), (EYES, False)])
def test_hidden_skin_is_fetched_from_what_hides_it(
    kind: int, asked: bool, nets: tuple[Encode, Render]
) -> None:
    """Flow is taught where the photo hides a head's skin, but not where lids or lips hide what
    looks unlike them."""
    sample = make_sample(person(kind), np.random.default_rng(0), 2, NONE, extra=1)
    losses = []
    for wrong in (0.0, 0.3):
        batch = to_device(collate([sample]), torch.device("cpu"))
        batch["flow"] = batch["flow"] + wrong * (batch["visible"] == 0)
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(face_loss(Regions(torch.device("cpu")), *nets, batch, 0.0).loss.item())
    assert (abs(losses[1] - losses[0]) > 1) == asked


def test_the_evaluation_counts_each_frame_once(
    nets: tuple[Encode, Render], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame that a portrait leads to is judged, none twice, whatever the seed; and a face
    that moves aside as one is met by exact flow and paint."""
    shard = person(SKIN)
    for k, frame in enumerate(shard["image"]):
        frame[:] = 60 + 40 * k  # told apart by what flow does not change
    shard["visible"] = 0 * shard["visible"]
    np.savez(tmp_path / "person_100000.npz", **shard)
    counted = []
    add = evaluate_face.Tally.add

    def watched(tally: evaluate_face.Tally, batch: dict[str, Tensor], *rest: Any) -> None:
        counted.append(sorted(batch["target"].mean((1, 2, 3)).mul(255).round().int().tolist()))
        add(tally, batch, *rest)

    monkeypatch.setattr(evaluate_face.Tally, "add", watched)
    files = [tmp_path / "person_100000.npz"]
    for seed in (0, 1):
        table = evaluate_face.held_out(*nets, files, seed)
        assert table["exact flow and paint: PSNR face all, pooled, dB"] == pytest.approx(100)
    frontal = shard["pairs"][0, 1]
    leads = [60 + 40 * int(d) for d, s in shard["pairs"] if s == frontal]
    assert len(leads) == 3
    assert all(seen == sorted(leads) for seen in counted)
    assert len(counted) == 10
