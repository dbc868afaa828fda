"""Train the face networks on synthetic people::

    vivant train face --data DIR --out RUN [--resume] --minutes N --threads T --seed 0
    torchrun --nproc-per-node 8 -m vivant.export.train.face -- --data DIR --out RUN

Writes ``checkpoint.pt``, ``curves.csv``, ``curves.png`` and ``sheet.png`` into RUN every few
minutes. The learning rate follows the share of the minutes that is spent, so that a run of any
length ends with a small one; ``--resume`` continues where the checkpoint stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vivant.errors import UsageError
from vivant.export.nets.encode import CHANNELS, UNSEEN, VIEW, Encode
from vivant.export.nets.layers import Conv
from vivant.export.nets.pose import PERSPECTIVE, load_rig
from vivant.export.nets.render import Render
from vivant.export.train import face_sheet
from vivant.export.train.face_data import NONE, People, prefetch, shards, to_device
from vivant.export.train.face_loss import FRAME, Regions, face_loss
from vivant.export.train.face_pose import as_seen, find_scene

LOG_STEPS = 50
"""Steps between rows of the curves."""
SAVE_SECONDS = 180.0
"""Between checkpoints."""
JITTER = (3.0, 14.0)
"""Pixels at 512 of keypoint error assumed by ``fit_code``: on the face, and where hidden."""
EMA = 0.998
"""Decay of the averaged weights a step; the effective decay grows from 0 at the start."""


class Face(nn.Module):
    """Both networks under one name, so that one optimiser and one average hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = Encode()
        self.render = Render()


def read_face(checkpoint: str | Path) -> Face:
    """Both networks of a checkpoint: averaged float32 weights, evaluation mode.

    Raises ``UsageError`` when the file is no checkpoint of these networks.
    """
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        face = Face()
        face.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in stored["average"].items()}
        )
    except FileNotFoundError as error:
        raise UsageError(f"no checkpoint at {checkpoint}") from error
    except (KeyError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"{Path(checkpoint).name} is no face checkpoint", got=str(error).splitlines()[0]
        ) from error
    return face.eval()


def load_face(checkpoint: str | Path) -> tuple[Encode, Render]:
    """``encode`` and ``render`` of a checkpoint, see ``read_face``."""
    face = read_face(checkpoint)
    return face.encode, face.render


def example_inputs() -> dict[str, tuple[Tensor, ...]]:
    """Inputs of the right shapes for each stage, for tracing: a grey photo, a small turn."""
    points = torch.from_numpy(load_rig().neutral.copy())[None] * 0.165
    points[..., :2] += torch.tensor([0.5, 0.42])
    motion = torch.zeros(1, 63)
    motion[0, 57] = 5.0
    return {
        "encode": (torch.full((1, 3, 256, 256), 0.5),),
        "render": (torch.zeros(1, CHANNELS, 64, 64), points, torch.zeros(1, 63), motion),
    }


def rate(progress: float, peak: float) -> float:
    """Learning rate at a share of the run: warm-up, hold, cosine to a twentieth of the peak."""
    warm = min(1.0, progress / 0.02 + 0.02)
    late = max(0.0, min(1.0, (progress - 0.2) / 0.8))
    return peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * late)))


def fit_code(encode: Encode, files: list[Path], seed: int) -> None:
    """Start the own motion code and the perspective from ridge regression of true keypoints,
    jittered by their error.

    A straight line from keypoints finds the head's angles to about a degree and the jaw to a few
    hundredths; what it cannot see is left to the learned remainder.
    """
    rng = np.random.default_rng(seed)
    rows, codes, views = [], [], []
    spread = np.array([JITTER[name.startswith(UNSEEN)] for name in load_rig().names])
    for path in files:
        with np.load(path) as file:
            points, motion = file["keypoints"], file["motion"]
        scene = find_scene(points, motion)
        seen = [as_seen(scene, points, motion, k) for k in range(len(motion))]
        points = np.tile(points, (3, 1, 1))
        codes.append(np.tile(np.stack([each.codes[k] for k, each in enumerate(seen)]), (3, 1)))
        views.append(np.tile(np.stack([each.perspective for each in seen]), (3, 1)))
        jitter = rng.normal(0, 1 / FRAME, points.shape) * spread[:, None]
        plane = torch.from_numpy((points + jitter)[..., :2].astype(np.float32))
        rows.append(encode.relative(plane).numpy())
    if not rows:
        return
    x = np.pad(np.concatenate(rows).astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
    view = (np.concatenate(views) - PERSPECTIVE) / VIEW
    y = np.concatenate([np.concatenate(codes) / encode.scale.numpy(), view], 1)
    solved = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    with torch.no_grad():
        told = torch.from_numpy(solved.T).float()
        for line, rest, part in (
            (encode.linear, encode.regress, told[:-1]),
            (encode.view, encode.review, told[-1:]),
        ):
            line.weight.copy_(part[:, :-1])
            line.bias.copy_(part[:, -1])
            last = rest[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            last.bias.zero_()


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def processes(device: str) -> tuple[int, int, torch.device]:
    """How many processes ``torchrun`` started, which of them this is, and its device; they are
    joined here."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    mine = torch.device(device)
    if mine.type == "cuda":
        mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if world > 1:
        torch.distributed.init_process_group("nccl" if mine.type == "cuda" else "gloo")
    return world, rank, mine


def agreed(progress: float, world: int, device: torch.device) -> float:
    """The share of the run that the slowest clock of all processes tells: they end together, for
    one that waited for another's gradients would fail."""
    if world == 1:
        return progress
    least = torch.tensor(progress, device=device)
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return float(least)


def reduce_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Average gradients over all processes."""
    if world == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    torch.distributed.all_reduce(flat)
    flat /= world
    at = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()


def check(face: Face, folder: Path, device: torch.device, out: Path) -> dict[str, float]:
    """Losses of the averaged weights on held-out (else trained) persons, and a sample sheet."""
    chosen = shards(folder, held_out=True) or shards(folder)
    few = chosen[:: max(1, len(chosen) // 12)][:12]
    people = People(folder, seed=1, drivers=2, augment=NONE, fixed=few)
    regions = Regions(device)
    means = face_sheet.Means()
    face.eval()
    for k, host in enumerate(itertools.islice(people.batches(6), 2)):
        batch = to_device(host, device)
        with torch.no_grad():
            result = face_loss(regions, face.encode, face.render, batch, trust=1.0)
        means.add({f"held_{name}": value for name, value in result.log.items()})
        if k == 0:
            face_sheet.write_png(out / "sheet.png", face_sheet.sample_sheet(batch, result.show))
    return means.take()


def train(options: argparse.Namespace) -> None:
    """Run the training loop of ``main``'s options."""
    world, rank, device = processes(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    Conv.reduced = options.bfloat16
    people = People(
        Path(options.data),
        options.seed,
        options.drivers,
        extra=options.extra,
        workers=options.workers,
        rank=rank,
        world=world,
    )
    checkpoint = out / "checkpoint.pt"
    resume = options.resume and checkpoint.exists()
    started = bool(options.start) and not resume
    face = read_face(options.start) if started else Face()
    if not (started or resume):
        fit_code(face.encode, shards(Path(options.data))[:600], options.seed)
    if options.renderer:
        face.encode.requires_grad_(False)
        for part in (face.encode.appearance, face.encode.view, face.encode.review):
            part.requires_grad_(True)
    face.to(device)
    face.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(face).requires_grad_(False)
    line = [*face.encode.linear.parameters(), *face.encode.view.parameters()]
    solved = set(line)
    encoder = [p for p in face.encode.parameters() if p not in solved]
    groups = [encoder, list(face.render.parameters()), line]
    groups = [[p for p in group if p.requires_grad] for group in groups]
    optimiser = torch.optim.AdamW(
        # The regression from keypoints starts solved; at full rate its noise would tilt heads.
        [{"params": g, "share": s} for g, s in zip(groups, (1.0, 1.0, 0.05), strict=True)],
        lr=options.rate,
        betas=(0.9, 0.98),
        weight_decay=1e-4,
    )
    step, spent = 0, 0.0
    if resume:
        stored = torch.load(checkpoint, map_location=device, weights_only=True)
        face.load_state_dict(stored["weights"])
        average.load_state_dict(stored["average"])
        if not options.fresh_optimiser:
            optimiser.load_state_dict(stored["optimiser"])
            spent = stored["spent"]
        step = stored["step"]
    torch.manual_seed(options.seed + 1000 * rank + step)
    regions = Regions(device)
    means = face_sheet.Means()
    limit = options.minutes * 60
    begin = time.monotonic() - spent
    saved = time.monotonic()
    face.train()
    for host in prefetch(people.batches(options.sources, start=step)):
        spent = time.monotonic() - begin
        progress = agreed(spent / limit, world, device)
        if progress >= 1 or (options.steps and step >= options.steps):
            break
        for group in optimiser.param_groups:
            group["lr"] = rate(progress, options.rate) * group["share"]
        batch = to_device(host, device)
        trust = min(0.6, max(0.0, step / options.trust_steps - 0.3))
        trust = 0.6 if options.start else trust
        result = face_loss(regions, face.encode, face.render, batch, trust)
        optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        reduce_gradients([p for group in groups for p in group], world)
        norms = [nn.utils.clip_grad_norm_(group, 5.0) for group in groups]
        if all(bool(torch.isfinite(norm)) for norm in norms):
            optimiser.step()
        step += 1
        decay = min(EMA, 1 - 1 / (1 + step / 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), face.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        means.add(result.log)
        if rank == 0 and step % LOG_STEPS == 0:
            row = {"step": float(step), "minutes": spent / 60, **means.take()}
            face_sheet.append_row(out / "curves.csv", row)
            said = " ".join(f"{name} {number:.4g}" for name, number in row.items())
            print(f"{said} persons {people.known}", file=sys.stderr, flush=True)
        if rank == 0 and time.monotonic() - saved > options.save_seconds:
            saved = time.monotonic()
            finish(face, average, optimiser, step, spent, out, options, device)
    if rank == 0:
        finish(face, average, optimiser, step, spent, out, options, device)
    if world > 1:
        torch.distributed.destroy_process_group()


def finish(
    face: Face,
    average: Face,
    optimiser: torch.optim.Optimizer,
    step: int,
    spent: float,
    out: Path,
    options: argparse.Namespace,
    device: torch.device,
) -> None:
    """Write checkpoint, curves and sample sheet; the training state is left as it was."""
    state = {
        "average": average.state_dict(),
        "weights": face.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "spent": spent,
        "seed": options.seed,
    }
    save(out / "checkpoint.pt", state)
    with contextlib.suppress(ImportError):
        if (out / "curves.csv").exists():
            face_sheet.plot_curves(out / "curves.csv", out / "curves.png")
    row = check(average, Path(options.held_out or options.data), device, out)
    face_sheet.append_row(out / "held_out.csv", {"step": float(step), "minutes": spent / 60, **row})
    shown = " ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(f"checkpoint at step {step}: {shown}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the face training; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", required=True, help="folder of person_*.npz")
    parser.add_argument("--held-out", help="folder of held-out persons (default: --data)")
    parser.add_argument("--out", required=True, help="folder of this run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--fresh-optimiser",
        action="store_true",
        help="with --resume: keep the weights, restart optimiser and schedule",
    )
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps, 0: never")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="threads that make samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sources", type=int, default=4, help="source photos a batch")
    parser.add_argument("--drivers", type=int, default=2, help="driven frames a source")
    parser.add_argument("--extra", type=int, default=2, help="further encoder frames a source")
    parser.add_argument("--rate", type=float, default=8e-4, help="peak learning rate")
    parser.add_argument(
        "--trust-steps",
        type=float,
        default=1500.0,
        help="steps until the renderer mostly sees the encoder's own keypoints",
    )
    parser.add_argument("--save-seconds", type=float, default=SAVE_SECONDS)
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run convolutions in bfloat16",
    )
    parser.add_argument(
        "--close-up",
        action="store_true",
        help="train only the painters of mouth and eyes of the run's checkpoint",
    )
    parser.add_argument(
        "--critic", action="store_true", help="with --close-up: a critic asks for sharp mouths"
    )
    parser.add_argument(
        "--renderer",
        action="store_true",
        help="train the renderer and the maps it is told: what finds keypoints and codes stays",
    )
    parser.add_argument("--encoder", action="store_true", help="train only the encoder")
    parser.add_argument("--start", help="checkpoint whose averaged weights to start from")
    options = parser.parse_args(arguments)
    if options.encoder:
        from vivant.export.train import face_encode

        face_encode.train(options)
    elif options.close_up:
        from vivant.export.train import face_close

        face_close.train(options)
    else:
        train(options)


if __name__ == "__main__":
    main()
