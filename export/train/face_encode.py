"""Train the encoder alone, on single frames, which are far cheaper than rendered pairs::

    vivant train face --encoder --start CHECKPOINT --data DIR --out RUN --minutes N

starts from the averaged weights of CHECKPOINT and writes RUN/encoder.pt, a checkpoint to start
the joint training from. The appearance features stay what the renderer has learned to read.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant.export.nets.encode import Encode
from vivant.export.nets.layers import Conv
from vivant.export.train.face import EMA, load_face, rate, save
from vivant.export.train.face_data import Augment, Batch, Pile, make_frames, prefetch, shards
from vivant.export.train.face_loss import Regions, encoder_loss
from vivant.export.train.face_sheet import Means

FRAMES = 4
"""Frames of one person in a batch."""
MEMBERS = ("image", "motion", "keypoints", "segmentation")
LOG_STEPS = 100


def load_frames(path: Path) -> dict[str, np.ndarray]:
    """One person's frames, without the flow that pairs need."""
    with np.load(path) as file:
        return {key: file[key] for key in MEMBERS}


def frames(folder: Path, seed: int, persons: int) -> Iterator[Batch]:
    """Endless batches of FRAMES augmented frames of each of ``persons`` persons.

    The folder is listed again every epoch as new persons arrive. Raises ``UsageError`` when it
    holds none that can be read.
    """
    rng = np.random.default_rng(seed)
    pile = Pile(lambda: shards(folder), load_frames, folder)
    while True:
        pile.failures = 0
        parts = [make_frames(pile.draw(rng), rng, FRAMES, Augment()) for _ in range(persons)]
        yield {
            key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]
        }


def step_loss(
    regions: Regions, encode: Encode, teacher: Encode, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch of frames, and its parts."""
    seen = batch["seen"].permute(0, 3, 1, 2).float() / 255
    total, log, found = encoder_loss(regions, encode, batch | {"seen": seen})
    with torch.no_grad():
        known = teacher.analyse(seen)
    fixes, known_fixes = (each.prior[:, 1:] for each in (found, known))
    kept = F.l1_loss(found.learned, known.learned) + F.l1_loss(fixes, known_fixes)
    return total + kept, log | {"kept": kept.detach(), "loss": total.detach()}


def train(options: argparse.Namespace) -> None:
    """Run the training loop of ``main``'s options."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    Conv.reduced = options.bfloat16
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    start = options.start or str(out / "checkpoint.pt")
    encode, render = load_face(start)
    teacher = copy.deepcopy(encode).to(device).requires_grad_(False)
    encode.to(device).train()
    encode.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = copy.deepcopy(encode).requires_grad_(False)
    parameters = list(encode.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    regions = Regions(device)
    means = Means()
    begin = saved = time.monotonic()
    for step, host in enumerate(
        prefetch(frames(Path(options.data), options.seed, options.sources))
    ):
        progress = (time.monotonic() - begin) / (60 * options.minutes)
        for group in optimiser.param_groups:
            group["lr"] = rate(progress, options.rate)
        batch = {key: value.to(device) for key, value in host.items()}
        loss, log = step_loss(regions, encode, teacher, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, 5.0))):
            optimiser.step()
        with torch.no_grad():
            decay = min(EMA, 1 - 1 / (1 + step / 10))
            for a, b in zip(mean.parameters(), parameters, strict=True):
                a.lerp_(b, 1 - decay)
        means.add({name: value.detach() for name, value in log.items()})
        if (step + 1) % LOG_STEPS == 0:
            minutes = (time.monotonic() - begin) / 60
            said = " ".join(f"{name} {value:.4g}" for name, value in means.take().items())
            print(f"step {step + 1} minutes {minutes:.1f} {said}", file=sys.stderr, flush=True)
        done = progress >= 1 or (options.steps and step + 1 >= options.steps)
        if done or time.monotonic() - saved > options.save_seconds:
            saved = time.monotonic()
            weights = {f"encode.{k}": v for k, v in mean.state_dict().items()}
            weights |= {f"render.{k}": v for k, v in render.state_dict().items()}
            save(out / "encoder.pt", {"average": weights, "step": step + 1})
        if done:
            return
