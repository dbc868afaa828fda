"""Promises of the comparison of commanded with observed motion; its tracker is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vivant.errors import UsageError  # noqa: E402
from vivant.export.nets.encode import CHANNELS  # noqa: E402
from vivant.export.nets.pose import load_rig  # noqa: E402
from vivant.export.train import evaluate_face, evaluate_tracked  # noqa: E402
from vivant.export.train.evaluate_tracked import (  # noqa: E402
    EYES,
    LIDS,
    LIPS,
    RIGID,
    TURNS,
    judge,
    measure,
    openings,
    pose_beside,
    summary,
    turn_between,
)
from vivant.export.train.face_loss import Regions  # noqa: E402
from vivant.export.train.face_pose import turns  # noqa: E402
from vivant.export.train.tracker import VERTICES, _about, _cut, tracker, uncut  # noqa: E402
from vivant.latent import INDEX, SIZE  # noqa: E402

Array = np.ndarray
JAW, BLINK = INDEX["jawOpen"], (INDEX["eyeBlinkRight"], INDEX["eyeBlinkLeft"])


def head() -> Array:
    """A mesh (468, 3) with eyes, inner lips and lids where a face has them, elsewhere chance."""
    mesh = np.random.default_rng(3).normal(0, 60, (VERTICES, 3))
    for corners, x in zip(EYES, (-40, 40), strict=True):
        mesh[corners] = [[x - 12, 0, 0], [x + 12, 0, 0]]
    for k, (upper, lower) in enumerate((*LIPS, *LIDS[0], *LIDS[1])):
        mesh[[upper, lower]] = [10.0 * k, 50, 20]
    return mesh


def shown(motion: Array, gain: float = 1.0) -> Array:
    """The mesh of a head that does as told, its turns times ``gain``, somewhere in a photo."""
    mesh = head()
    mesh[[lower for _, lower in LIPS], 1] += 24 * motion[JAW]
    for pairs, k in zip(LIDS, BLINK, strict=True):
        mesh[[lower for _, lower in pairs], 1] += 10 - 6 * motion[k]
    return 1.3 * mesh @ turns(gain * motion[57:60]).T + [256, 200, 0]


class Puppet:
    """Draws any motion as the same photo, and tracks what it drew last."""

    def __init__(self, gain: float = 1.0, lost: Callable[[Array], bool] = lambda m: False) -> None:
        self.gain, self.lost = gain, lost
        self.photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        self.motion = np.zeros(SIZE, np.float32)

    def draw(self, motion: Array) -> Array:
        self.motion = motion
        return self.photo

    def track(self, photo: Array) -> Array | None:
        return None if self.lost(self.motion) else shown(self.motion, self.gain)


def posed(yaw: float = 0, pitch: float = 0, roll: float = 0) -> Array:
    own = np.zeros(SIZE, np.float32)
    own[57:60] = yaw, pitch, roll
    return own


@pytest.mark.parametrize("told", [(15, 0, 0), (0, -15, 0), (8, 5, -10), (0, 0, 0)])
def test_turns_are_found_whatever_the_face_does(told: tuple[float, float, float]) -> None:
    """A turn from any own pose is found within .1 degree, at any place and size, while vertices
    that expression moves go anywhere."""
    own = np.array([4.0, -9.0, 3.0])
    still, expression = head(), np.random.default_rng(1).normal(0, 25, (VERTICES, 3))
    expression[list(RIGID)] = 0
    one = still @ turns(own).T + [10, 20, 0]
    other = 0.8 * (still + expression) @ turns(own + told).T - [50, 0, 3]
    assert pose_beside(own, turn_between(one, other)) == pytest.approx(told, abs=0.1)


def test_a_mesh_of_a_turned_crop_lies_in_the_photo() -> None:
    """Turn, place and scale of the tracker's crop are undone, and depth points to the camera."""
    mesh = shown(posed(yaw=12, roll=5))
    turn = cv2.getRotationMatrix2D((230.0, 190.0), 25, 0.45)
    crop = np.concatenate([mesh[:, :2] @ turn[:, :2].T + turn[:, 2], -0.45 * mesh[:, 2:]], 1)
    assert uncut(crop, turn) == pytest.approx(mesh, abs=1e-3)


def test_a_portrait_that_obeys_has_no_error() -> None:
    """Commands seen as given from any own pose: r of 1, no error, all within the bars."""
    puppet, own = Puppet(), posed(4, -3, 6)
    own[JAW] = 0.4
    figures = measure(puppet.photo, own, puppet.draw, puppet.track)
    assert figures["jaw r"] == pytest.approx(1)
    assert figures["lips 0"] == pytest.approx(0, abs=1e-6)
    assert figures["lips 0.8"] == pytest.approx(0.8 * 24 / 80, rel=1e-4)
    assert figures["blink 0.5"] == pytest.approx(0.7)
    assert figures["blink 1"] == pytest.approx(0.4)
    assert figures["sharpness"] == figures["gradient energy"] == 1
    assert figures["pitch -15"] == pytest.approx(-15, abs=1e-3)
    figures |= judge(figures, own, {})
    assert figures["yaw error"] == pytest.approx(0, abs=1e-3)
    assert "yaw error / gain" not in figures
    table = summary([figures])
    assert table["photos: jaw r >= 0.95, %"] == table["photos: pitch error <= 3, %"] == 100


def test_the_trackers_gain_is_told_apart() -> None:
    """A tracker that sees four fifths of each turn leaves no error once divided by its gain."""
    puppet = Puppet(gain=0.8)
    figures = measure(puppet.photo, posed(), puppet.draw, puppet.track)
    figures |= judge(figures, posed(), {"yaw": 0.8, "pitch": 0.8})
    assert figures["yaw gain"] == pytest.approx(0.8, abs=1e-4)
    assert figures["yaw error"] == pytest.approx(3, abs=1e-2)
    assert figures["yaw mean error"] == pytest.approx(2, abs=1e-2)
    assert figures["pitch error / gain"] == pytest.approx(0, abs=1e-2)


def test_turns_out_of_the_trackers_reach_are_not_judged() -> None:
    """Of a photo that looks 12 degrees aside, no command beyond 20 degrees counts."""
    figures = {f"{axis} {t:+g}": t for axis in ("yaw", "pitch") for t in TURNS}
    figures["yaw +10"] = figures["yaw +15"] = 0.0
    assert judge(figures, posed(yaw=12), {})["yaw error"] == 0
    assert judge(figures, posed(yaw=-12), {})["yaw error"] == 15
    assert judge(figures, posed(yaw=-12), {})["yaw mean error"] == pytest.approx(25 / 4)
    assert np.isnan(judge(figures, posed(yaw=60), {})["yaw error"])


def test_a_lost_face_misses_its_bar() -> None:
    """Where the tracker finds no face there is no figure, and the photo misses the bar."""
    good = Puppet()
    lost = Puppet(lost=lambda motion: bool(motion[57] > 12))
    rows = [
        figures | judge(figures, posed(), {})
        for p in (good, lost)
        for figures in [measure(p.photo, posed(), p.draw, p.track)]
    ]
    assert np.isnan(rows[1]["yaw +15"])
    table = summary(rows)
    assert table["photos: yaw error <= 3, %"] == 50
    assert table["photos: yaw error, worst"] == pytest.approx(0, abs=1e-3)
    assert table["photos: pitch error <= 3, %"] == 100
    assert summary(rows[1:])["photos: yaw error <= 3, %"] == 0


def test_a_second_tracker_has_figures_of_its_own() -> None:
    """What it sees of mouth and eyes has names of its own, and a stricter bar for lids."""
    puppet, own = Puppet(), posed(4, -3, 6)
    figures = openings(own, puppet.draw, puppet.track, "attention: ")
    assert figures["attention: jaw r"] == pytest.approx(1)
    assert figures["attention: blink 0.5"] == pytest.approx(0.7)
    assert all(name.startswith("attention: ") for name in figures)
    table = summary([figures, figures | {"attention: blink 1": 0.6}])
    assert table["photos: attention: blink 1 <= 0.5, %"] == 50


def test_true_pictures_tell_the_trackers_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker's gains are those of the median true person, not of our frames; both have their
    figures, by the same names, and the hair that is asked for."""
    tracked: dict[str, float] = {}
    people = iter([0.9, 0.8, 0.95])

    def render(gain: float) -> Callable[[Array], Array]:
        def draw(motion: Array) -> Array:
            tracked["gain"], seen["motion"] = gain, motion
            return np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)

        return draw

    seen: dict[str, Array] = {}
    asked = []

    def rendered(
        assets: Path, count: int, hair: str | None
    ) -> list[tuple[Array, Callable[[Array], Array]]]:
        asked.append(hair)
        return [(posed(yaw=4), render(next(people))) for _ in range(count)]

    monkeypatch.setattr("vivant.export.train.evaluate_rendered.people", rendered)
    monkeypatch.setattr(
        evaluate_face,
        "driver",
        lambda encode, net, portrait: (None, torch.from_numpy(posed()), 20.0, render(0.7)),
    )
    trackers = evaluate_face.Trackers(lambda photo: shown(seen["motion"], tracked["gain"]))
    gains, table = evaluate_face.compared(Still(), Still(), Path("p"), 3, trackers, "long01")
    assert asked == ["long01"]
    assert gains == pytest.approx({"yaw": 0.9, "pitch": 0.9}, abs=1e-3)
    assert table["our frames of these: yaw gain, mean"] == pytest.approx(0.7, abs=1e-3)
    assert table["true pictures: jaw r, median"] == pytest.approx(1)
    assert {k.split(": ", 1)[1] for k in table if k.startswith("true")} == {
        k.split(": ", 1)[1] for k in table if k.startswith("our")
    }


@pytest.mark.parametrize("angle", [-40.0, 0.0, 25.0])
def test_a_crop_lies_about_what_was_found(angle: float) -> None:
    """The middle of the points' box is the middle of the crop, which is half as wide again, and
    eyes lie level in it."""
    turn = turns(np.array([0, 0, angle]))[:2, :2]
    points = np.random.default_rng(5).uniform(-50, 50, (30, 2)) @ turn.T + [200, 180]
    right, left = (np.array([x, 10.0]) @ turn.T + [200, 180] for x in (-30, 40))
    region = _about(points, right, left)
    box = points.max(0) - points.min(0)
    assert 2 * region.half == pytest.approx(1.5 * box.max())
    picture, cut = _cut(np.zeros((400, 400, 3), np.uint8), region, 192)
    assert picture.shape == (192, 192, 3)
    assert cut[:, :2] @ (points.min(0) + box / 2) + cut[:, 2] == pytest.approx([96, 96])
    one, other = (cut[:, :2] @ eye + cut[:, 2] for eye in (right, left))
    assert one[1] == pytest.approx(other[1])
    assert other[0] - one[0] == pytest.approx(70 * 192 / (2 * region.half))


def tallied(out: torch.Tensor, flow: torch.Tensor, yaw: float) -> dict[str, float]:
    """The table of two black frames that were drawn as ``out`` (2, 3, 256, 256): skin above, what
    is held below, and a still person in the first, one turned by ``yaw`` in the second."""
    points = torch.from_numpy(load_rig().neutral[None, :, :2] * 0.165 + [[[0.5, 0.42]]]).float()
    batch = {
        "target_segment": torch.ones(2, 128, 128),
        "visible": torch.ones(2, 1, 128, 128),
        "flow": torch.zeros(2, 2, 128, 128),
        "target_points": torch.cat([points, torch.zeros(1, points.shape[1], 1)], 2).expand(
            2, -1, -1
        ),
        "target": torch.zeros(2, 3, 256, 256),
        "motion": torch.zeros(2, SIZE),
    }
    batch["target_segment"][:, 64:] = 7
    batch["motion"][1, INDEX["headYaw"]] = yaw
    tally = evaluate_face.Tally()
    tally.add(batch, evaluate_face.regions_of(batch, Regions(torch.device("cpu"))), out)
    tally.add_flow(batch, flow, batch["flow"])
    tally.add_outline(batch, out)
    return tally.table()


def test_psnr_is_pooled_and_by_frame() -> None:
    """Two frames of 20 and 40 dB: 30 on average, and 23 where their errors are pooled; a range of
    angles counts the frames that lie in it."""
    out = torch.tensor([0.1, 0.01])[:, None, None, None].expand(2, 3, 256, 256)
    flow = torch.zeros(2, 2, 128, 128)
    table = tallied(out, flow, -10)
    assert table["PSNR face |yaw|<=15, mean of frames, dB"] == pytest.approx(30, abs=0.01)
    assert table["PSNR face |yaw|<=15, pooled, dB"] == pytest.approx(22.97, abs=0.01)
    assert table["PSNR mouth all, mean of frames, dB"] == pytest.approx(30, abs=0.01)
    table = tallied(out, flow, -20)
    assert table["PSNR face |yaw|<=15, pooled, dB"] == pytest.approx(20, abs=0.01)
    assert table["PSNR face 15<=|yaw|<=30, pooled, dB"] == pytest.approx(40, abs=0.01)
    assert table["PSNR face |yaw|<=30, mean of frames, dB"] == pytest.approx(30, abs=0.01)


def test_a_haze_about_a_person_shows_in_their_outline() -> None:
    """A blurred outline has less energy than a sharp one, whatever happens far from it."""
    segment = torch.zeros(1, 128, 128)
    segment[:, 40:90, 30:80] = 1
    true = segment[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3).expand(1, 3, -1, -1)
    hazy = torch.nn.functional.avg_pool2d(true, 7, 1, 3)
    changed = true.clone()
    changed[..., 120:140, 90:130] = torch.rand(3, 20, 40)
    tally = evaluate_face.Tally()
    for out in (true, hazy, changed):
        tally.add_outline({"target_segment": segment, "target": true}, out)
    same, blurred, inside = (float(part) for part in tally.outlines)
    assert same == 1
    assert blurred < 0.4
    assert inside == 1


def test_what_is_worn_or_held_is_counted_beside_the_face() -> None:
    """A hand that is drawn and moved wrongly leaves the face's figures as they are, and shows in
    those of the head with all it wears."""
    out, flow = torch.full((2, 3, 256, 256), 0.01), torch.zeros(2, 2, 128, 128)
    out[:, :, 128:] = 0.5
    flow[:, 0, 64:] = 3 / 512
    flow[:, 0, :16] = 3 / 512
    table = tallied(out, flow, 0)
    assert table["PSNR face all, pooled, dB"] > 39
    assert table["PSNR head, all worn too, all, pooled, dB"] < 10
    assert table["flow error, median visible face, px"] == 0
    assert table["flow error, median, all worn too, px"] == pytest.approx(3)
    assert table["flow error, mean visible face, px"] == pytest.approx(0.75)


class Still(torch.nn.Module):
    """Both nets of a face that never moves."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs) == 1:
            features = torch.full((1, CHANNELS, 64, 64), 0.05)
            return features, torch.full((1, 2, 3), 0.5), torch.zeros(1, SIZE)
        return torch.zeros(1, 2, 128, 128), torch.zeros(1, 1, 256, 256), torch.zeros(1, 3, 256, 256)


def test_the_command_prints_photos_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every photo has its row and the photos their medians; a face that does not move is seen not
    to; progress goes to stderr, and JSON is strict."""
    photo = np.random.default_rng(2).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), photo)
    monkeypatch.setattr(evaluate_face, "load_face", lambda path: (Still(), Still()))
    monkeypatch.setattr(evaluate_face, "tracker", lambda folder: lambda image: shown(posed()))
    monkeypatch.setattr(evaluate_face, "GESTURES", {"own": {}, "yaw": {"headYaw": 15.0}})
    monkeypatch.setattr(evaluate_tracked, "JAWS", (0.0, 0.8))
    monkeypatch.setattr(evaluate_tracked, "TURNS", (-15.0, 15.0))
    common = ["--checkpoint", "x", "--photos", str(tmp_path / "photos"), "--tracker", "t"]
    evaluate_face.main([*common, "--json"])
    printed = capsys.readouterr()
    table = json.loads(printed.out, parse_constant=pytest.fail)
    assert table["two.png: yaw error"] == pytest.approx(15)
    assert table["photos: jaw r, median"] == 0
    assert table["photos: own-motion PSNR, dB >= 35, %"] == 100
    assert table["photos: camera told, IPD, mean"] == pytest.approx(20)
    assert "photo 2 of 2: two.png" in printed.err
    evaluate_face.main([*common, "--sheets", str(tmp_path / "sheets")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["one.png", "two.png", "median"]
    assert (tmp_path / "sheets" / "one.png").exists()


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    """A tracker's folder without its files, a folder of photos that is none or holds none, each
    end in one clear line, before anything is measured."""
    with pytest.raises(UsageError, match=r"no face_detection_short_range\.onnx"):
        tracker(tmp_path)
    with pytest.raises(UsageError, match="tracker's folder"):
        evaluate_face.main(["--checkpoint", "none.pt", "--tracker", str(tmp_path / "no")])
    with pytest.raises(UsageError, match="--tracker or --attention"):
        evaluate_face.main(["--checkpoint", "none.pt", "--pack", "pack.npz"])
    for folder, message in ((tmp_path / "no", "no folder of photos"), (tmp_path, "no photos")):
        with pytest.raises(UsageError, match=message):
            evaluate_face.photographs(Still(), Still(), folder, evaluate_face.Trackers(), {}, None)
