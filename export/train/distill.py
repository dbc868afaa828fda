"""``python -m vivant.export.train.distill``: few-step sampling from a trained motion network.

The many-step flow of a checkpoint is the teacher of the same network's few steps: at times 1, 3/4,
1/2 and 1/4 the student learns where the teacher's path leads at any later one of them, and the
single step from noise also matches the teacher's spread (energy score). The past it does this on
is its own, from a rollout, so what it will meet while streaming. Classifier-free guidance (Ho &
Salimans 2022) of the emotion, of a random strength, is applied to the teacher alone and told to
the student as a condition, so guided sampling costs no second pass.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from vivant.export.nets.denoise import GUIDANCE, Denoise

from .motion import SHARDS, Curves, read_checkpoint, restore, save_checkpoint, update_average
from .motion_data import EMOTIONS, Windows, load_corpus
from .motion_loss import LIDS, Constants, MotionNet, advance, hear, prepare, spread_score

KNOTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Times at which few-step samplers evaluate the network."""
ENERGY = 0.02
"""Weight of the spread's score. Its gradient is noisier than the others': at 0.2 it alone moved the
weights, and within minutes narrowed the pose range."""


def draw_guidance(conditions: Tensor, most: float) -> Tensor:
    """Guidance less 1 (B, 1) for ``conditions`` (B, 1, C): 0 for half of those with an emotion,
    and for all without; else from no emotion at all, -1, to ``most`` - 1."""
    some = most * torch.rand_like(conditions[..., 0]) - 1
    guided = torch.rand_like(some) < 0.5
    return some * guided * conditions[..., EMOTIONS[1] - 1]


@torch.no_grad()
def own_past(net: MotionNet, audio: Tensor, conditions: Tensor, start: Tensor) -> Tensor:
    """Ticks (B, T, L) that precede each tick when the network runs on its own, in one step each.

    ``audio`` (B, T, A), ``conditions`` (B, 1, C), ``start`` (B, L) the tick before the first.
    """
    denoise, (batch, ticks, _) = net.denoise, audio.shape
    cache, previous = denoise.start(batch).to(audio), start
    time_pair = torch.tensor([[1.0, 0.0]]).to(audio).expand(batch, -1)
    made = [start]
    for tick in range(ticks - 1):
        history = torch.full((batch, 1), float(min(tick, denoise.config.window))).to(audio)
        context, cache = denoise.step(previous, audio[:, tick], conditions[:, 0], cache, history)
        noise = torch.randn_like(previous)
        sound, given = audio[:, tick], conditions[:, 0]
        u = denoise.velocity(noise, previous, time_pair, sound, given, context)
        previous = noise - u
        made.append(previous)
    return torch.stack(made, dim=1)


@dataclass
class Guided:
    """What a teacher tells of ticks (B, T, ...) at a guidance scale (B, 1, 1).

    With and without the emotion: contexts and readings, stacked (2, B, T, ...).
    """

    net: Denoise
    contexts: Tensor
    readings: Tensor
    means: Tensor
    deviation: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls, net: Denoise, audio: Tensor, previous: Tensor, conditions: Tensor, scale: Tensor
    ) -> Guided:
        """``audio`` (B, T, A), ``previous`` (B, T, L), ``conditions`` (B, 1, C)."""
        free = conditions.clone()
        free[..., slice(*EMOTIONS)] = 0
        both = (conditions, free)
        contexts = torch.stack([net.context(previous, audio, one) for one in both])
        with torch.autocast(audio.device.type, enabled=False):
            mean = net.innovation.mean(previous)
            readings = torch.stack([net.reading(audio.float(), one, mean) for one in both])
            means, deviations = net.expected(contexts.float(), audio.float(), torch.stack(both))
        return cls(net, contexts.float(), readings, means, deviations[0], scale)

    def _mix(self, both: Tensor) -> Tensor:
        told, free = both
        return free + self.scale * (told - free)

    def expected(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each axis; guidance moves the mean."""
        return self._mix(self.means), self.deviation

    def endpoint(self, z: Tensor, pair: Tensor) -> Tensor:
        """The clean ``z`` of ``z`` (B, T, K) at ``pair`` (B, T, 2) = (t, r)."""
        return self._mix(
            self.net.endpoint(
                z.expand(2, *z.shape), pair.expand(2, *pair.shape), self.contexts, self.readings
            ).float()
        )


@torch.no_grad()
def teacher_path(teacher: Guided, noise: Tensor, steps: int) -> Tensor:
    """The teacher's flow from ``noise`` (B, T, K) in ``steps`` at each of KNOTS: (5, B, T, K)."""
    z, path = noise, [noise]
    for first, last in pairwise(KNOTS):
        times = torch.linspace(first, last, steps // (len(KNOTS) - 1) + 1).tolist()
        for t, r in pairwise(times):
            pair = torch.tensor([t, r], device=z.device).expand(*z.shape[:2], 2)
            at, to = (torch.tensor(x, device=z.device) for x in (t, r))
            z = advance(z, teacher.endpoint(z, pair), at, to)
        path.append(z)
    return torch.stack(path)


def distillation_loss(
    net: MotionNet,
    teacher: Denoise,
    audio: Tensor,
    previous: Tensor,
    conditions: Tensor,
    c: Constants,
    *,
    steps: int = 16,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Error of the student's expectation and jumps along the teacher's path, and of its spread.

    ``audio`` (B, T, A), ``previous`` (B, T, L), ``conditions`` (B, 1, C) with the guidance.
    """
    student, device = net.denoise, audio.device
    # Lids stay as they are: a blink is the rarest of steps, and many small ones make too many.
    c = replace(c, weight=c.weight * (1 - c.groups[LIDS]))
    told = conditions.clone()
    told[..., GUIDANCE] = 0
    scale = 1 + conditions[..., GUIDANCE : GUIDANCE + 1]
    shape = (*audio.shape[:2], student.config.components)
    with torch.no_grad():
        guide = Guided.of(teacher, audio, previous, told, scale)
        wanted, deviation = guide.expected()
        path = teacher_path(guide, torch.randn(shape, device=device), steps)
    context = student.context(previous, audio, conditions)
    with torch.autocast(device.type, enabled=False):
        reading = student.reading(audio.float(), conditions, student.innovation.mean(previous))
        mu, sigma = student.expected(context.float(), audio.float(), conditions)
    drawn = student.innovation.drawn[: shape[-1]]
    weight = c.weight * (drawn * deviation + c.groups[0])
    off = ((mu - wanted) / deviation).square() + (sigma / deviation).log().square()
    expect = (off * weight * drawn).mean()

    first = torch.randint(0, len(KNOTS) - 1, shape[:2], device=device)
    gap = torch.rand(shape[:2], device=device) * (len(KNOTS) - 1 - first)
    last = first + 1 + gap.floor().long()
    knots = torch.tensor(KNOTS, device=device)
    t, r = knots[first][..., None], knots[last][..., None]

    def pick(index: Tensor) -> Tensor:
        return path.gather(0, index[None, ..., None].expand(1, *shape))[0]

    z, aim = pick(first), pick(last)
    target = (aim - (r / t) * z) / (1 - r / t)
    one = torch.tensor([1.0, 0.0], device=device).expand(*shape[:2], 2)
    times = torch.stack([torch.cat([t, r], -1), one, one])
    fresh = torch.randn(2, *shape, device=device)
    ends = student.endpoint(torch.cat([z[None], fresh]), times, context, reading).float()
    jump = ((ends[0] - target).square() * weight).mean()
    energy = spread_score(deviation * ends[1], deviation * ends[2], deviation * path[-1], c).mean()
    parts = {"jump": jump, "energy": energy, "expect": expect}
    return jump + ENERGY * energy + expect, parts


def main(argv: list[str] | None = None) -> None:
    """Distil a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, help="teacher, from train.motion")
    parser.add_argument("--data", required=True, help="folder of speech_*.npz")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps, 0: never")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ticks", type=int, default=75, help="length of a rollout")
    parser.add_argument("--guidance", type=float, default=4.0, help="largest guidance scale")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content = read_checkpoint(Path(args.checkpoint))
    net, known = restore(content)
    net.to(device)
    teacher, average = copy.deepcopy(net.denoise).eval(), copy.deepcopy(net)
    constants = Constants.of(known, net.denoise.config.components, device)
    corpus = load_corpus(Path(args.data).glob(SHARDS))
    windows = Windows(corpus, args.ticks, seed=args.seed)
    frozen = {id(p) for p in net.denoise.articulation.parameters()}
    moved = [p for p in net.denoise.parameters() if id(p) not in frozen]
    optimiser = torch.optim.AdamW(moved, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.02)
    curves, step, begun = Curves(folder), 0, time.monotonic()
    shown, spent = begun, 0.0
    while spent < 60 * args.minutes and not (args.steps and step >= args.steps):
        for group in optimiser.param_groups:
            done = spent / (60 * args.minutes)
            group["lr"] = args.rate * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * (1 - done))
        example = prepare(windows.draw(args.batch), constants, net.denoise)
        with torch.no_grad():
            audio = hear(net, example.mel)
        example.conditions[..., GUIDANCE] = draw_guidance(example.conditions, args.guidance)
        past = own_past(net, audio, example.conditions, example.previous[:, 0])
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, parts = distillation_loss(
                net,
                teacher,
                audio,
                past,
                example.conditions,
                constants,
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(moved, 1.0)
        if torch.isfinite(norm):
            optimiser.step()
            update_average(average, net, step)
        curves.add({key: value.detach() for key, value in parts.items()})
        step += 1
        now = time.monotonic()
        spent = now - begun
        if now - shown > 20:
            line = curves.flush(step, spent)
            print(f"{spent / 60:6.1f} min  step {step}  {line}", file=sys.stderr, flush=True)
            shown = now
    curves.flush(step, spent)
    curves.draw()
    kept = {key: value for key, value in content.items() if key not in ("optimiser", "last")}
    kept |= {"average": average.cpu().state_dict(), "guidance": "condition"}
    save_checkpoint(folder / "last.pt", **kept)


if __name__ == "__main__":
    main()
