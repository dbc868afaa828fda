"""``python -m vivant.export.train.motion``: train the motion network from speech shards.

First ``listen`` alone learns visemes and the motion that sound determines, which is cheap; then
both networks are trained together. Everything is in one checkpoint, ``last.pt``, from which
training resumes; ``curves.csv`` and ``curves.png`` show how it went. Runs on one CPU core, on a
GPU, and on several under ``torchrun``. Shards numbered from 90000 are held out.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivant.errors import UsageError
from vivant.export.nets.denoise import Denoise, DenoiseConfig
from vivant.export.nets.innovation import Innovation
from vivant.export.nets.listen import Listen, ListenConfig, ListenStage
from vivant.latent import HEAD, INDEX, SIZE

from .motion_data import (
    GROUPS,
    Corpus,
    Statistics,
    Windows,
    carried,
    channels,
    load_corpus,
    statistics,
    steered,
)
from .motion_loss import (
    GAP,
    PARTING,
    Constants,
    MotionNet,
    blinks,
    hear,
    listening_loss,
    motion_loss,
    prepare,
)
from .vary import slowed

SHARDS = "speech_[0-8]*.npz"
SCHEDULE = (1.0, 0.0)
"""Times of the sampler: one step, nearest to the training motion in ``evaluate_motion``."""
READING_ERROR = 0.1
"""Least error of the motion that sound alone tells, in a channel's deviations."""
TICK = 0.04  # s
PULLS = {"rest": 30.0, "mood": 0.6, "gaze": 0.1, "distance": 0.25}
"""Time constants, s, with which a stream's head returns to rest, a face to its emotion, regard and
head distance to their commands. The network takes a pull on the head for a movement and goes on
with it: 30 s act as 7, and 3 s as a spring."""
HEAD_LIMIT = 1.0
"""Deviations of the training motion beyond which a stream's head turns back."""
FAR_LIMIT = 3.0
"""The same of its distance, which is commanded as far as that."""
HEAD_GAIN, GAZE_GAIN = 0.7, 0.8
"""Gain of chance in head and gaze, which then have the training motion's mean speed: deviations are
those of rare large steps and small ones together, and chance is nearly normal."""
GAZE_LIMIT = 22.0  # degrees
BLINK_COURSE = (0.1, 0.45)
"""How far a blink's onset closes the lids in the two frames of its first tick."""
NOISE_CORRELATION = 0.0
"""The past that the network sees already carries the last tick's noise: fresh noise is right."""


def build(listen: ListenConfig, denoise: DenoiseConfig, statistics: Statistics) -> MotionNet:
    """A network with fresh weights and the statistics' innovation space."""
    net = MotionNet(Listen(listen), Denoise(denoise))
    inn = net.denoise.innovation
    inn.predict.copy_(torch.tensor(statistics.predict))
    inn.basis.copy_(torch.tensor(statistics.basis))
    inn.scale.copy_(torch.tensor(statistics.scale))
    inn.pace.copy_(torch.tensor(statistics.pace))
    inn.carried.copy_(torch.tensor(carried()))
    table, bias = steered(statistics.latent_mean, statistics.latent_std)
    inn.steered.copy_(torch.tensor(table))
    inn.steered_bias.copy_(torch.tensor(bias))
    hold(inn, statistics)
    lips = 1 - torch.tensor(carried())
    mouth, power = torch.tensor(statistics.group == 0), torch.tensor(statistics.scale) ** 2
    inn.drawn.copy_(~mouth)
    inn.headed.copy_(torch.tensor(statistics.group == list(GROUPS).index("head")))
    # Axes finer than the error of the reading are left to the network.
    inn.heard.copy_(mouth * power / (power + READING_ERROR**2))
    with torch.no_grad():
        net.denoise.trust.fill_(1)
        net.denoise.mood.weight.copy_((torch.tensor(statistics.moods).repeat(1, 2) * lips).T)
    return net


def hold(inn: Innovation, statistics: Statistics) -> None:
    """Set the pulls that steer a stream; they take no part in training."""
    share = {name: TICK / (seconds + TICK) for name, seconds in PULLS.items()}
    homing, mooded = torch.zeros(SIZE), torch.zeros(SIZE)
    homing[[INDEX[name] for name in HEAD if name != "headZ"]] = share["rest"]
    mooded[channels("brows")] = share["mood"]
    for name in ("eyeWide", "eyeSquint", "cheekSquint"):
        mooded[[INDEX[name + side] for side in ("Left", "Right")]] = share["mood"]
    inn.homing.copy_(homing.repeat(2))
    inn.mooded.copy_(mooded.repeat(2))
    inn.homes.copy_(torch.tensor(statistics.moods).repeat(1, 2))
    head = [INDEX[name] for name in HEAD]
    limit = torch.full((SIZE,), 1e3)
    limit[head] = HEAD_LIMIT
    limit[INDEX["headZ"]] = FAR_LIMIT
    eyes = [INDEX["gazeYaw"], INDEX["gazePitch"]]
    limit[eyes] = torch.tensor(GAZE_LIMIT / statistics.latent_std[eyes])
    inn.limit.copy_(limit.repeat(2))
    group = torch.tensor(statistics.group)
    gain = torch.where(group == 3, HEAD_GAIN, torch.where(group == 1, GAZE_GAIN, 1.0))
    inn.gain.copy_(torch.where(blinks(statistics), 1.0, gain))
    lids = torch.zeros(SIZE)
    lids[[INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]] = 1
    course = torch.cat([BLINK_COURSE[0] * lids, BLINK_COURSE[1] * lids])
    course = course / torch.tensor(statistics.latent_std).repeat(2)
    inn.kick.copy_(course @ inn.basis / inn.scale)
    mean, std = (torch.tensor(x) for x in (statistics.latent_mean, statistics.latent_std))
    gap, parting, closing = torch.zeros(SIZE), torch.zeros(SIZE), torch.zeros(SIZE)
    for name, parts in GAP.items():
        gap[INDEX[name]] = parts
    parting[[INDEX[name] for name in PARTING]] = 1
    closing[INDEX["mouthClose"]] = 1 / std[INDEX["mouthClose"]]
    inn.neutral.copy_((-mean / std).repeat(2))
    inn.parting.copy_(parting.repeat(2))
    inn.gap.copy_(torch.block_diag((gap * std)[:, None], (gap * std)[:, None]))
    inn.gap_bias.fill_(float(gap @ mean))
    inn.closing.copy_(torch.block_diag(closing, closing))
    inn.servo.zero_()
    for k, name, unit, pull in (
        (0, "gazeYaw", 10.0, "gaze"),
        (1, "gazePitch", 10.0, "gaze"),
        (2, "headZ", 0.3, "distance"),
    ):
        step = share[pull] * unit / float(statistics.latent_std[INDEX[name]])
        inn.servo[k, [INDEX[name], SIZE + INDEX[name]]] = step


def save_checkpoint(path: Path, **content: Any) -> None:
    """Write tensors and plain values; the file appears whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    os.replace(part, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint; raises UsageError when it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"cannot read the checkpoint {path.name}",
            expected="a file written by vivant.export.train.motion",
            got=f"{type(error).__name__}: {error}",
        ) from error
    if not isinstance(content, dict) or content.get("kind") != "vivant-motion":
        raise UsageError(f"{path.name} is not a motion checkpoint")
    return content


def restore(content: dict[str, Any], weights: str = "average") -> tuple[MotionNet, Statistics]:
    """The network of a checkpoint with its ``average`` or ``last`` weights, in eval mode."""
    tables = {key: np.asarray(value) for key, value in content["statistics"].items()}
    known = Statistics(**tables)
    sizes: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in content["listen"].items()
    }
    net = build(ListenConfig(**sizes), DenoiseConfig(**content["denoise"]), known)
    net.load_state_dict(content[weights])
    return net.eval(), known


def grow(
    content: dict[str, Any], listen: ListenConfig, denoise: DenoiseConfig
) -> tuple[MotionNet, Statistics]:
    """A deeper network that computes what the checkpoint's average weights do, to train on.

    Blocks that the checkpoint lacks are appended; they add zero until they are trained. Raises
    UsageError when the sizes differ in more than their number.
    """
    known = Statistics(**{key: np.asarray(value) for key, value in content["statistics"].items()})
    net = build(listen, denoise, known)
    fresh = net.state_dict()
    tables = {f"denoise.innovation.{name}" for name, _ in net.denoise.innovation.named_buffers()}
    old = {name: value for name, value in content["average"].items() if name not in tables}
    strange = [
        name for name, value in old.items() if name not in fresh or fresh[name].shape != value.shape
    ]
    if strange:
        raise UsageError(
            "the checkpoint cannot grow to these sizes",
            expected="the same widths, and more blocks or as many",
            got=f"{strange[0]} of shape {tuple(old[strange[0]].shape)}",
        )
    net.load_state_dict(fresh | old)
    return net, known


def load_motion(checkpoint: Path | str) -> tuple[ListenStage, Denoise, dict[str, Any]]:
    """The two stages of a checkpoint, ready to export, and what the manifest says of them.

    Returns ``listen`` (mel, state) -> (audio, state_out), ``denoise`` (noisy, previous, time,
    audio, conditions, cache, history) -> (velocity, cache_out), both fp32 in eval mode, and a
    dict: ``latent`` and ``audio`` (mean, std), ``sampler`` (schedule, noise_correlation),
    ``sizes`` (state, features, cache). Raises UsageError.
    """
    content = read_checkpoint(Path(checkpoint))
    net, known = restore(content)
    config = net.denoise.config
    meta = {
        "latent": {"mean": known.latent_mean.tolist(), "std": known.latent_std.tolist()},
        "audio": {"mean": known.audio_mean.tolist(), "std": known.audio_std.tolist()},
        "sampler": {
            "kind": "flow",
            "schedule": list(content["schedule"]),
            "noise_correlation": NOISE_CORRELATION,
            "guidance": content.get("guidance", "two-pass"),
        },
        "sizes": {
            "state": net.listen.state_size,
            "features": config.features,
            "cache": [2 * config.layers, config.window, config.width],
        },
        "parameters": {
            "listen": sum(p.numel() for p in net.listen.parameters()),
            "denoise": sum(p.numel() for p in net.denoise.parameters()),
        },
    }
    return ListenStage(net.listen).eval(), net.denoise, meta


def update_average(average: nn.Module, net: nn.Module, step: int) -> None:
    """Exponential moving average of the weights, 0.998 after a warm-up."""
    keep = min(0.998, (1 + step) / (10 + step))
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)


class Curves:
    """Averages of losses, written to ``curves.csv`` and drawn as ``curves.png``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "curves.csv"
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, parts: dict[str, Tensor]) -> None:
        """Add one step's losses."""
        for key, value in parts.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = total + float(value), count + 1

    def flush(self, step: int, seconds: float) -> str:
        """Write the averages since the last call; return them as a line to print."""
        row = {key: total / count for key, (total, count) in self.sums.items()}
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            for key, value in row.items():
                writer.writerow([step, f"{seconds:.0f}", key, f"{value:.6f}"])
        self.sums = {}
        return "  ".join(f"{key} {value:.4f}" for key, value in row.items())

    def draw(self) -> None:
        """One panel a loss; nothing when matplotlib is not installed."""
        try:
            import matplotlib
        except ImportError:
            return
        matplotlib.use("Agg")
        from matplotlib import pyplot

        series: dict[str, list[tuple[float, float]]] = {}
        with self.path.open() as file:
            for step, _, key, value in csv.reader(file):
                series.setdefault(key, []).append((float(step), float(value)))
        figure, panels = pyplot.subplots(2, -(-len(series) // 2), figsize=(16, 7), squeeze=False)
        for panel, (key, points) in zip(panels.flat, series.items(), strict=False):
            panel.plot(*zip(*points, strict=True), lw=1)
            panel.set_title(key)
            if min(value for _, value in points) > 0:
                panel.set_yscale("log")
        figure.tight_layout()
        figure.savefig(self.path.with_suffix(".png"), dpi=60)
        pyplot.close(figure)


class Trainer:
    """One run: networks, optimiser, data, and the clock that ends it."""

    def __init__(self, args: argparse.Namespace, rank: int, world: int) -> None:
        self.args, self.rank, self.world = args, rank, world
        self.folder = Path(args.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed * 1000 + rank)
        self.shards: list[Path] = []
        corpus = self.read_shards()
        self.step, self.seconds = 0, 0.0
        checkpoint = self.folder / "last.pt"
        content = read_checkpoint(checkpoint) if args.resume and checkpoint.exists() else None
        if content:
            self.net, self.known = restore(content, "last")
            self.average, _ = restore(content, "average")
            self.step, self.seconds = int(content["step"]), float(content["seconds"])
        else:
            listen = ListenConfig(features=args.features)
            denoise = DenoiseConfig(
                features=args.features,
                width=args.width,
                layers=args.layers,
                head_width=args.head_width,
                head_blocks=args.head_blocks,
            )
            if args.grow:
                self.net, self.known = grow(read_checkpoint(Path(args.grow)), listen, denoise)
            else:
                self.known = statistics(corpus, seed=args.seed)
                self.net = build(listen, denoise, self.known)
            self.average = copy.deepcopy(self.net)
        self.net.to(self.device).train()
        self.average.to(self.device).eval()
        heard = [*self.net.listen.parameters(), *self.net.viseme.parameters()]
        heard += list(self.net.denoise.articulation.parameters())
        for part in (self.net.denoise.mood, self.net.denoise.rest, self.net.denoise.cues):
            heard += list(part.parameters())
        known = {id(p) for p in heard}
        moved = [p for p in self.net.parameters() if id(p) not in known]
        self.optimiser = torch.optim.AdamW(
            [{"params": heard}, {"params": moved}],
            lr=args.rate,
            betas=(0.9, 0.98),
            weight_decay=0.02,
            fused=True,
        )
        if content:
            self.optimiser.load_state_dict(content["optimiser"])
        self.constants = Constants.of(self.known, self.net.denoise.config.components, self.device)
        self.windows = Windows(corpus, args.ticks, seed=args.seed * 1000 + rank + self.step)
        self.curves = Curves(self.folder)

    def read_shards(self) -> Corpus:
        """The shards that are there now."""
        self.shards = sorted(Path(self.args.data).glob(SHARDS))
        return load_corpus(self.shards)

    def rates(self) -> None:
        """Learning rates: warm-up, then a cosine to 3 % at the end of the time."""
        minutes = self.seconds / 60
        progress = min(1.0, minutes / self.args.minutes)
        rate = self.args.rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
        alone = minutes < self.args.listen_minutes
        heard, moved = self.optimiser.param_groups
        heard["lr"] = rate * min(1.0, (self.step + 1) / 200) * (1.0 if alone else 0.8)
        moved["lr"] = rate

    def advance(self) -> dict[str, Tensor]:
        """One step of training; returns the losses."""
        args, c = self.args, self.constants
        alone = self.seconds / 60 < args.listen_minutes
        batch = self.windows.draw(args.batch)
        if alone:
            batch = slowed(batch, self.windows.rng)
        example = prepare(batch, c, self.net.denoise, corruption=0.0 if alone else args.corruption)
        half = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=args.bf16)
        # Once listen is trained it changes slowly: most steps leave it as it is.
        learns = alone or self.step % 2 == 0
        with half:
            with torch.set_grad_enabled(learns):
                audio = hear(self.net, example.mel)
            loss = torch.zeros(())
            parts: dict[str, Tensor] = {}
            if learns:
                loss, parts = listening_loss(self.net, audio, example, c)
            if not alone:
                jumps = self.step % 3 == 0
                moving, more = motion_loss(self.net, audio, example, c, jumps=jumps)
                loss, parts = 0.5 * loss + moving, parts | more
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        if self.world > 1:
            for p in parameters:
                torch.distributed.all_reduce(p.grad, op=torch.distributed.ReduceOp.AVG)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        self.rates()
        if torch.isfinite(norm):
            self.optimiser.step()
            update_average(self.average, self.net, self.step)
        self.step += 1
        return {key: value.detach() for key, value in parts.items()} | {"norm": norm}

    def save(self) -> None:
        """Write ``last.pt``."""
        save_checkpoint(
            self.folder / "last.pt",
            kind="vivant-motion",
            listen=asdict(self.net.listen.config),
            denoise=asdict(self.net.denoise.config),
            statistics={
                f.name: torch.from_numpy(np.asarray(getattr(self.known, f.name)))
                for f in fields(self.known)
            },
            schedule=list(SCHEDULE),
            last=self.net.state_dict(),
            average=self.average.state_dict(),
            optimiser=self.optimiser.state_dict(),
            step=self.step,
            seconds=self.seconds,
        )

    def run(self) -> None:
        """Train until the time is up."""
        args = self.args
        then = shown = saved = looked = time.monotonic()
        while self.seconds < 60 * args.minutes:
            parts = self.advance()
            self.curves.add(parts)
            now = time.monotonic()
            self.seconds += now - then
            then = now
            if self.rank == 0 and now - shown > 20:
                line = self.curves.flush(self.step, self.seconds)
                print(f"{self.seconds / 60:6.1f} min  step {self.step}  {line}", file=sys.stderr)
                shown = now
            if self.rank == 0 and now - saved > 120:
                self.save()
                self.curves.draw()
                saved = now
            if now - looked > 180:
                looked = now
                if len(list(Path(args.data).glob(SHARDS))) > len(self.shards):
                    seed = args.seed * 1000 + self.rank + self.step
                    self.windows = Windows(self.read_shards(), args.ticks, seed=seed)
        if self.rank == 0:
            self.curves.flush(self.step, self.seconds)
            self.save()
            self.curves.draw()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of speech_*.npz")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to train, in all")
    parser.add_argument("--listen-minutes", type=float, default=10.0, help="listen alone first")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt")
    parser.add_argument("--grow", metavar="CHECKPOINT", help="start as this one, made deeper")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8, help="windows a step")
    parser.add_argument("--ticks", type=int, default=150, help="ticks of a window")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--corruption", type=float, default=0.25, help="share of clips")
    parser.add_argument("--features", type=int, default=192)
    parser.add_argument("--width", type=int, default=DenoiseConfig.width)
    parser.add_argument("--layers", type=int, default=DenoiseConfig.layers)
    parser.add_argument("--head-width", type=int, default=DenoiseConfig.head_width)
    parser.add_argument("--head-blocks", type=int, default=DenoiseConfig.head_blocks)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    Trainer(args, rank, world).run()


if __name__ == "__main__":
    main()
