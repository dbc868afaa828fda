"""Train ``align`` on scenes composed of synthetic people::

    python -m vivant.export.train.align --data DIR --out RUN --minutes N [--resume]

Writes ``latest.pt`` into RUN every two minutes, ``final.pt`` at the end, and ``curves.csv``. The
learning rate follows the share of the minutes that is spent.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from vivant.errors import UsageError
from vivant.export.nets.align import Align
from vivant.export.train.align_data import Scenes, batches
from vivant.export.train.face_sheet import Means

LOG_STEPS = 50
"""Steps between rows of the curves."""
SAVE_SECONDS = 120.0
"""Between checkpoints."""
EMA = 0.998
"""Decay of the averaged weights a step; less at the start."""
LANDMARK_WEIGHT = 2.0
"""Of the landmark loss, in IPD, beside the focal loss of one face."""


def load_align(checkpoint: str | Path) -> Align:
    """The averaged network of a checkpoint, in evaluation mode; its forward is the stage.

    Raises ``UsageError`` when the file is no checkpoint of it.
    """
    net = Align()
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        net.load_state_dict(stored["average"])
    except FileNotFoundError as error:
        raise UsageError(f"no checkpoint at {checkpoint}") from error
    except (KeyError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"{Path(checkpoint).name} is no align checkpoint", got=str(error).splitlines()[0]
        ) from error
    return net.eval()


def example_inputs() -> dict[str, tuple[Tensor, ...]]:
    """Inputs of the right shapes, for tracing: a grey picture."""
    return {"align": (torch.full((1, 3, 256, 256), 0.5),)}


def focal_loss(logits: Tensor, heat: Tensor, care: Tensor) -> Tensor:
    """Penalty-reduced focal loss of centre points, a face's share (CenterNet, eq. 1).

    All (B, h, w); cells where ``care`` is 0 do not count.
    """
    p = torch.sigmoid(logits)
    positive = (heat >= 1).float()
    hit = positive * (1 - p) ** 2 * nn.functional.logsigmoid(logits)
    miss = (1 - positive) * (1 - heat) ** 4 * p**2 * nn.functional.logsigmoid(-logits)
    return -((hit + miss) * care).sum() / positive.sum().clamp(min=1)


def landmark_loss(offsets: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean distance in IPD at the cells around face centres, each coordinate by itself.

    ``offsets`` and ``wanted`` (B, 2L, h, w); ``weight`` (B, h, w) is one over the IPD there.
    """
    error = (offsets - wanted).abs().mean(1) * weight
    return error.sum() / (weight > 0).sum().clamp(min=1)


def rate(progress: float, peak: float) -> float:
    """Learning rate at a share of the run: short warm-up, cosine to a fiftieth of the peak."""
    warm = min(1.0, progress / 0.02 + 0.02)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train(options: argparse.Namespace) -> Path:
    """Run the training loop of ``main``'s options; returns the final checkpoint."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    net = Align().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=1e-3)
    step, spent = 0, 0.0
    latest = out / "latest.pt"
    if options.resume and latest.exists():
        stored = torch.load(latest, map_location=device, weights_only=True)
        net.load_state_dict(stored["weights"])
        average.load_state_dict(stored["average"])
        optimiser.load_state_dict(stored["optimiser"])
        step, spent = stored["step"], stored["spent"]

    def state() -> dict[str, object]:
        return {
            "weights": net.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "spent": spent,
        }

    means = Means()
    scenes = Scenes(Path(options.data), options.seed + step)
    limit, begin, saved = options.minutes * 60, time.monotonic() - spent, time.monotonic()
    net.train()
    for batch in batches(scenes, options.batch):
        spent = time.monotonic() - begin
        if spent >= limit or (options.steps and step >= options.steps):
            break
        for group in optimiser.param_groups:
            group["lr"] = rate(spent / limit, options.rate)
        batch = {name: value.to(device) for name, value in batch.items()}
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            logits, offsets = net.heads(image)
        score = focal_loss(logits.float()[:, 0], batch["heat"], batch["care"])
        points = landmark_loss(offsets.float(), batch["offsets"], batch["weight"])
        optimiser.zero_grad(set_to_none=True)
        (score + LANDMARK_WEIGHT * points).backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        step += 1
        decay = min(EMA, step / (step + 10))
        with torch.no_grad():
            for mean, value in zip(
                average.state_dict().values(), net.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
        means.add({"score": score.detach(), "landmarks": points.detach()})
        if step % LOG_STEPS == 0:
            log(out / "curves.csv", {"step": step, "minutes": spent / 60, **means.take()})
        if time.monotonic() - saved > SAVE_SECONDS:
            save(latest, state())
            saved = time.monotonic()
    save(latest, state())
    final = out / "final.pt"
    save(final, {"average": average.state_dict(), "step": step})
    return final


def log(path: Path, row: dict[str, float]) -> None:
    """Append a row to the curves and show it."""
    if not path.exists():
        path.write_text(",".join(row) + "\n")
    with path.open("a") as file:
        file.write(",".join(f"{value:.5g}" for value in row.values()) + "\n")
    line = " ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True, help="folder of person_*.npz")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="stop earlier, after so many steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    print(train(options))


if __name__ == "__main__":
    main()
