"""Promises of the mean of two face checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vivant.errors import UsageError
from vivant.export.train import face_mean
from vivant.export.train.face import Face, read_face


def written(path: Path, seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint of random weights, and these."""
    torch.manual_seed(seed)
    weights = Face().state_dict()
    torch.save({"average": weights, "step": 3}, path)
    return weights


def test_a_mean_lies_between_its_ends(tmp_path: Path) -> None:
    """Every weight by the share asked for; at no share, and at all of it, an end itself."""
    paths = [tmp_path / name for name in ("start.pt", "end.pt", "out.pt")]
    first, second = written(paths[0], 0), written(paths[1], 1)
    for share in (0.0, 0.25, 1.0):
        face_mean.main([*map(str, paths), "--share", str(share)])
        got = read_face(paths[2]).state_dict()
        assert got.keys() == first.keys()
        for name, value in got.items():
            ends = first[name].double(), second[name].double()
            assert torch.allclose(value.double(), torch.lerp(*ends, share), atol=1e-6), name


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_what_is_no_share_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UsageError, match="share"):
        face_mean.main(["a.pt", "b.pt", str(tmp_path / "out.pt"), f"--share={share}"])


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt", "out.pt")]
    with pytest.raises(UsageError, match=r"a\.pt"):
        face_mean.main(paths)
    assert not (tmp_path / "out.pt").exists()
