"""Quantisation-aware tuning rounds as INT8 does and needs no picture of the truth."""

from __future__ import annotations

import pytest
import torch

from vivant.export.nets.encode import CHANNELS
from vivant.export.nets.layers import Conv
from vivant.export.nets.pose import load_rig
from vivant.export.nets.render import Render
from vivant.quant import qat


def test_rounding_in_training_is_that_of_int8() -> None:
    """255 steps of the range around an exact zero, 127 steps to either side of a weight, and the
    gradient passes where nothing is cut off."""
    x = torch.tensor([-1.0, -0.301, 0.0, 0.5, 2.0, 9.0], requires_grad=True)
    low, high = -1.0, 2.0
    got = qat.activation(x, low, high)
    steps = got.detach() / (3 / 255)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert steps[2] == 0
    torch.testing.assert_close(got[:5], x[:5], atol=1.5 / 255, rtol=0)
    assert float(got[5].detach()) == pytest.approx(2.0, abs=3 / 255)
    got.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist()[1:] == [1, 1, 1, 1, 0]
    weight = torch.randn(4, 3, 3, 3)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    steps = qat.kernel(weight) / step
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert (qat.kernel(weight) - weight).abs().max() <= step.max() / 2 + 1e-6


def test_tuning_brings_rounded_frames_nearer_and_leaves_the_teacher() -> None:
    """After a few steps the rounded student draws more like the teacher, which is unchanged, and
    only convolutions have moved."""
    torch.manual_seed(0)
    render = Render(8).eval()
    points = torch.from_numpy(load_rig().neutral)[None] * 0.165 + torch.tensor([0.5, 0.42, 0.0])
    example = [torch.rand(1, CHANNELS, 64, 64), points, torch.zeros(1, 63), torch.rand(1, 63) * 0.5]
    before = {name: value.clone() for name, value in render.state_dict().items()}
    told: list[str] = []
    tuned = qat.fine_tune(render, [example], 16, tell=told.append)
    assert told[-1].startswith("step 16 of 16")
    changed = {n for n, v in tuned.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(torch.equal(v, before[n]) for n, v in render.state_dict().items())
    assert not any("poser" in name or "film" in name or "steer" in name for name in changed)
    how = qat.Rounding()
    with qat.rounded(how), torch.no_grad():
        for net in (render, tuned):
            net(*example)
    how.seen = True
    with torch.no_grad():
        wanted, _ = qat.frame(render, example)
        with qat.rounded(how):
            errors = [
                float((qat.frame(net, example)[0] - wanted).square().mean())
                for net in (render, tuned)
            ]
    assert errors[1] < errors[0]
    assert Conv.rounding is None
