"""Packed weights to train on from: small, whole, and those of the embedded bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vivant.bundle import Bundle, default_path
from vivant.cli import main as vivant
from vivant.errors import UsageError
from vivant.export.gate import psnr
from vivant.export.to_onnx import reference
from vivant.export.train.align import load_align
from vivant.export.train.face import load_face
from vivant.export.train.motion import load_motion
from vivant.export.train.packed import main, pack, unpack

START = Path(__file__).parents[1] / "export" / "train" / "start"


def test_packing_keeps_tables_and_rounds_matrices(tmp_path: Path) -> None:
    """A weight moves by half a step of its row at most; all else is the same to the bit."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(80, 300, generator=generator) * torch.logspace(-3, 2, 80)[:, None]
    average = {"a.weight": weight, "a.bias": torch.randn(40), "space.basis": torch.randn(126, 126)}
    content = {"kind": "x", "listen": {"deep": [1, 2]}, "average": average, "optimiser": {"b": 1}}
    torch.save(content, tmp_path / "a.pt")
    assert main(["pack", str(tmp_path / "a.pt"), str(tmp_path / "a.npz")]) == 0
    assert main(["unpack", str(tmp_path / "a.npz"), str(tmp_path / "b.pt")]) == 0
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((back["average"]["a.weight"] - weight).abs() <= 0.501 * step).all()
    for name in ("a.bias", "space.basis"):
        assert torch.equal(back["average"][name], average[name])
    assert back["listen"] == {"deep": [1, 2]}
    assert "optimiser" not in back


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """Another file, or none, is named in one line."""
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    for path in (other, tmp_path / "missing"):
        with pytest.raises(UsageError, match="cannot read"):
            pack(path, tmp_path / "x.npz")
        with pytest.raises(UsageError, match="cannot read"):
            unpack(path, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    assert vivant(["export", "--face", str(other), "--out", str(tmp_path / "b")]) != 0


@pytest.mark.parametrize("stage", ["align", "encode", "render", "listen", "denoise"])
def test_training_goes_on_from_what_is_shipped(stage: str, tmp_path: Path) -> None:
    """The packed weights are those of the embedded bundle, but for their rounding."""
    network = {"align": "align", "encode": "face", "render": "face"}.get(stage, "motion")
    unpack(START / f"{network}.npz", tmp_path / "start.pt")
    if network == "align":
        module: torch.nn.Module = load_align(tmp_path / "start.pt")
    elif network == "face":
        module = load_face(tmp_path / "start.pt")[stage == "render"]
    else:
        module = load_motion(tmp_path / "start.pt")[stage == "denoise"]
    bundle = Bundle.open(default_path())
    inputs, wanted = bundle.golden(bundle.stage(stage))
    got = reference(module, inputs, list(wanted))
    assert min(psnr(wanted[name], got[name]) for name in wanted) > 40
    assert all(np.isfinite(value).all() for value in got.values())


def test_packed_motion_is_guided_as_the_bundle_is(tmp_path: Path) -> None:
    """What guidance means to a network, one pass or two, travels with its weights."""
    unpack(START / "motion.npz", tmp_path / "start.pt")
    said = load_motion(tmp_path / "start.pt")[2]["sampler"]["guidance"]
    assert said == Bundle.open(default_path()).manifest.sampler.guidance
