"""What ``encode`` hands to ``render``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vivant.export.nets import matte
from vivant.export.nets.encode import (
    COLOURS,
    LEARNED,
    OUTLINE,
    OUTLINES,
    PHOTO,
    PRIOR,
    VIEWS,
    Encode,
)
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.pose import load_rig


@pytest.fixture(scope="module")
def net() -> Encode:
    torch.manual_seed(3)
    return Encode(width=8).eval()


@torch.no_grad()
def test_the_matte_is_grown_and_the_rest_stays(net: Encode) -> None:
    """A person's matte is grown and outlined (``tests/test_matte.py``), both sides' colours are
    continued, and how far they follow the head; the photo and what else was found stay."""
    prior, learned = torch.randn(1, PRIOR, 64, 64), torch.rand(1, LEARNED, 64, 64)
    portrait = torch.rand(1, 3, 256, 256)
    features = net.features(portrait, prior, torch.tensor([[0.05]]), learned)
    picture, *outlines, person, depth, follows, view, same, colours = features.split(
        [PHOTO, *OUTLINES, 1, 1, PRIOR - 2, 1, LEARNED, COLOURS], 1
    )
    assert torch.equal(picture.reshape(1, 3, 256, 256), portrait)
    assert torch.equal(person, matte.grown(portrait, prior[:, :1]))
    behind = matte.background(portrait, person)
    front, on = matte.foreground(portrait, person, prior[:, 2:])
    assert torch.equal(colours, torch.cat([behind, front], 1))
    share, half = outlines[0].reshape(1, 1, 256, 256), outlines[1].reshape(1, 1, 128, 128)
    assert torch.equal(share, matte.outlined(portrait, person, front, behind))
    assert torch.equal(half, F.avg_pool2d(share, 2))
    assert torch.equal(outlines[2], F.max_pool2d(half, 6, 2, 2))
    torch.testing.assert_close(depth, prior[:, 1:2], rtol=0, atol=0)
    assert torch.equal(follows, torch.maximum(prior[:, 2:], on))
    torch.testing.assert_close(same, learned, rtol=0, atol=0)
    assert (view == 0.05).all()


@torch.no_grad()
def test_a_mirrored_portrait_is_the_mirrored_person(net: Encode) -> None:
    """Keypoints, the matte, depths and perspective of a mirrored portrait are those of the
    portrait, mirrored; its code is, as far as a generic head is symmetric."""
    portrait = torch.rand(1, 3, 256, 256)
    (here, points, own), (there, others, theirs) = net(portrait), net(portrait.flip(3))
    assert (points - net.analyse(portrait).keypoints).abs().max() > 1e-4  # untrained, it is not
    mirrored = others[:, load_rig().mirror] * torch.tensor([-1.0, 1, 1]) + torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(mirrored, points, atol=1e-5, rtol=0)
    told = slice(PHOTO + OUTLINE, PHOTO + OUTLINE + PRIOR + 1)
    torch.testing.assert_close(there[:, told].flip(3), here[:, told], atol=1e-5, rtol=0)
    code = theirs @ torch.from_numpy(MOTION_MIRROR)
    scale = net.scale
    torch.testing.assert_close(code / scale, own / scale, atol=0.3, rtol=0)


@pytest.mark.parametrize(("told", "given"), [(-1e3, VIEWS[0]), (1e3, VIEWS[1])])
@torch.no_grad()
def test_cameras_stand_where_people_hold_them(net: Encode, told: float, given: float) -> None:
    """Whatever a picture looks like, its camera stands between half a metre and two."""
    bias = net.view.bias.clone()
    net.view.bias.fill_(told)
    features, _, _ = net(torch.rand(1, 3, 256, 256))
    net.view.bias.copy_(bias)
    np.testing.assert_allclose(features[0, PHOTO + OUTLINE + PRIOR], given, rtol=1e-6)
