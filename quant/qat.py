"""Quantisation-aware fine-tuning of ``render``: weights that draw the same frames once rounded.

    python -m vivant.quant.qat --face CHECKPOINT --bundle BUNDLE --people DIR --out TUNED.pt

For when rounding after training costs too much. The network in floating point is its own teacher,
so that no picture of the truth is needed: the student rounds its weights (a scale for each output)
and what enters each convolution (a range for each) as the INT8 graph will, the gradient passes
through the rounding as if it were not there (straight-through estimator, Bengio 2013), and both
draw the same portraits. ``vivant quantize --tuned TUNED.pt`` makes its INT8 graph of the result,
still judged against the frames of the network before.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.bundle import Bundle
from vivant.cli import run_module
from vivant.errors import OutputError, UsageError
from vivant.export.nets.encode import PHOTO
from vivant.export.nets.layers import Conv
from vivant.export.nets.render import Render
from vivant.export.nets.warp import composite
from vivant.export.train.face import load_face
from vivant.quant import calibrate
from vivant.tensor import Array

ACTIVATION = 255
"""Steps of an asymmetric activation."""
WEIGHT = 127
"""Steps of a symmetric weight to either side."""
RATE = 2e-5
"""Learning rate at the start; it falls to zero by half a cosine."""
FLOW = 30.0
"""Weight of squared flow, frame fractions, beside squared colour: 1 % for a pixel of 512."""
REPORT = 25
"""Steps between two lines of progress."""


@dataclass
class Rounding:
    """Rounds as INT8 does. While ``seen`` is open it only records ranges."""

    ranges: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    """Least and largest value of each input, by layer and number of channels."""
    seen: bool = False
    """Whether the ranges are complete."""

    def __call__(self, layer: Conv, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What a convolution computes with, for its input and weights."""
        key = (id(layer), x.shape[1])
        if not self.seen:
            low, high = self.ranges.get(key, (0.0, 0.0))
            self.ranges[key] = (min(low, float(x.min())), max(high, float(x.max())))
            return x, weight
        return activation(x, *self.ranges[key]), kernel(weight)


def activation(x: Tensor, low: float, high: float) -> Tensor:
    """Rounded to ACTIVATION steps of the range; zero stays zero."""
    step = max(high - low, 1e-8) / ACTIVATION
    zero = round(-low / step)
    x = torch.clamp(x, -zero * step, (ACTIVATION - zero) * step)
    return x + (torch.round(x / step) * step - x).detach()


def kernel(weight: Tensor) -> Tensor:
    """Rounded to WEIGHT steps of the largest weight of each output."""
    step = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / WEIGHT
    return weight + (torch.round(weight / step) * step - weight).detach()


@contextmanager
def rounded(how: Rounding) -> Iterator[None]:
    """Every convolution of the networks rounds, for as long as this is open."""
    Conv.rounding = how
    try:
        yield
    finally:
        Conv.rounding = None


Example = Sequence[Tensor]
"""Inputs of ``render``."""


def frame(render: Render, example: Example) -> tuple[Tensor, Tensor]:
    """The composed picture (1, 3, 256, 256) and its flow."""
    flow, occlusion, paint = render(*example)
    photo = example[0][:, :PHOTO].reshape(-1, 3, 256, 256)
    return composite(photo, flow, occlusion, paint), flow


def fine_tune(
    render: Render,
    examples: Sequence[Example],
    steps: int,
    *,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Render:
    """A copy of ``render`` whose weights are tuned for INT8 on the examples."""
    teacher, student = render.eval(), copy.deepcopy(render).eval()
    parameters = [p for m in student.modules() if isinstance(m, Conv) for p in m.parameters()]
    student.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    how = Rounding()
    with rounded(how), torch.no_grad():
        for example in examples:
            student(*example)
    how.seen = True
    random = np.random.default_rng(seed)
    lost = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        example = examples[int(random.integers(len(examples)))]
        with torch.no_grad():
            wanted, path = frame(teacher, example)
        with rounded(how):
            got, flow = frame(student, example)
        loss = F.mse_loss(got, wanted) + FLOW * F.mse_loss(flow, path)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        lost.append(float(loss.detach()))
        if (step + 1) % REPORT == 0 or step + 1 == steps:
            psnr = -10 * math.log10(float(np.mean(lost)))
            tell(f"step {step + 1} of {steps}: {psnr:.1f} dB")
            lost.clear()
    return student.requires_grad_(True)


def examples_of(recording: calibrate.Recording) -> list[Example]:
    """A recording as inputs of the torch network."""
    order = ("features", "keypoints", "source", "motion")

    def tensors(values: dict[str, Array]) -> Example:
        return [torch.from_numpy(np.ascontiguousarray(values[name])) for name in order]

    return [tensors(values) for values in recording.inputs("render")]


def main(argv: Sequence[str] | None = None) -> int:
    """Write a tuned checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vivant.quant.qat", description="Fine-tune render for INT8."
    )
    parser.add_argument("--face", type=Path, required=True, help="checkpoint of encode and render")
    parser.add_argument("--bundle", type=Path, help="bundle with its encode (default: embedded)")
    parser.add_argument("--people", type=Path, required=True, help="folder of person_*.npz")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--count", type=int, default=64, help="portraits (default: 64)")
    parser.add_argument("--steps", type=int, default=300, help="default: 300")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.count < 1:
        raise UsageError("nothing to tune", expected="--steps and --count of at least 1")
    torch.set_num_threads(args.threads)
    encode, render = load_face(args.face)
    bundle = Bundle.open(args.bundle)
    people = calibrate.shards(args.people)
    recording = calibrate.record(calibrate.encoder(bundle), people, args.count, seed=2)
    tuned = fine_tune(
        render,
        examples_of(recording),
        args.steps,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    parts = (("encode", encode), ("render", tuned))
    state = {f"{n}.{k}": v for n, part in parts for k, v in part.state_dict().items()}
    try:
        torch.save({"average": state}, args.out)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write {args.out}", got=str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
