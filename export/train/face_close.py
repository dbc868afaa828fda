"""Train the close-up painters of mouth and eyes alone, on top of a trained face network::

    vivant train face --close-up --data DIR --out RUN --minutes N

starts from RUN/checkpoint.pt (or ``--start``) and writes RUN/close-up.pt, a checkpoint like the
one it started from. Everything else stays as it is, so that a sample costs a tenth of a whole
one, and the windows are judged where they are painted.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant.export.nets.encode import PHOTO, PRIOR
from vivant.export.nets.layers import Conv
from vivant.export.nets.render import PAINT, Render, Shot, sample_at
from vivant.export.nets.warp import resize
from vivant.export.train.critic import Critic, critic_loss, painter_loss
from vivant.export.train.face import Face, rate, save
from vivant.export.train.face_data import People, prefetch, to_device
from vivant.export.train.face_loss import Regions, average, gradient_l1, robust

EMA = 0.998
"""Decay of the averaged weights a step."""
DRIVERS = 6
"""Driven frames a source."""
VERDICT, MATCHED = 0.5, 16.0
"""Weights of the critics' verdict and of the distance in their features, against pixel losses."""
HASTE = 2.0
"""Learning rate of the critics, in the painters'."""
CRITIC_FROM = 0.08
"""Share of the run after which painters listen to their critics."""


def painters(render: Render) -> list[nn.Parameter]:
    """What this training changes."""
    parts = (render.mouth, render.eye, render.steer_close)
    return [p for part in parts for p in part.parameters()]


def shot_loss(shot: Shot, target: Tensor, need: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of one window against the driver's picture; what it shows and should show.

    ``need`` (B, 1, 256, 256): where the photo shows nothing, or what moves most.
    """
    still = torch.zeros_like(shot.crop[:, :2])
    wanted = sample_at(target, shot.xs, shot.ys, still)
    weight, colour = shot.paint[:, :1], shot.paint[:, 1:]
    out = shot.crop[:, :3] * (1 - weight) + colour
    focus = 0.1 + sample_at(need, shot.xs, shot.ys, still)
    light = average(robust(out - wanted, 0.01), focus)
    sharp = gradient_l1(out, wanted, focus)
    wrong = F.avg_pool2d((shot.crop[:, :3] - wanted).abs().mean(1, keepdim=True), 5, 1, 2)
    # Skin that is warped nearly right stays the photo's: paint over it would only blur it.
    lazy = average(weight * torch.exp(-wrong / 0.06), 0.3 + focus)
    return 12 * light + 12 * sharp + 4 * lazy, out, wanted


Window = tuple[Tensor, Tensor, Tensor]
"""What a window shows, should show, and the photo warped rigidly into it, (B, 3, n, n) each."""


def step_loss(
    face: Face, regions: Regions, batch: dict[str, Tensor]
) -> tuple[Tensor, list[Window]]:
    """Loss of one batch over the three windows; the mouth, and both eyes together."""
    render = face.render
    with torch.no_grad():
        features, points, own = face.encode(batch["seen"])
        features = torch.cat([face.encode.keep(batch["photo"]), features[:, PHOTO:]], 1)
    drivers = len(batch["motion"]) // len(batch["photo"])
    code = torch.cat([batch["code"][:, :57] * 0.5 + own[:, :57] * 0.5, batch["code"][:, 57:]], 1)
    code = code.repeat_interleave(drivers, 0)
    points, prior = points.repeat_interleave(drivers, 0), features[:, PHOTO : PHOTO + PRIOR]
    photo = batch["photo"].repeat_interleave(drivers, 0)
    prior = prior.repeat_interleave(drivers, 0)
    motion = batch["motion"]
    away = batch["away"][:, None].repeat_interleave(drivers, 0)
    posed = render.poser(points, code, motion, away)
    change = (motion - code) / render.scale
    segment = batch["target_segment"]
    inside = ((segment == 5) | (segment == 4)).float()[:, None]
    mouth, eyes = regions.blobs(batch["target_points"], 128)
    need = torch.clamp(1 - batch["visible"] + inside + 0.5 * torch.maximum(mouth, eyes), 0, 1)
    need = resize(need, PAINT)
    total = photo.new_zeros(())
    shown: list[Window] = []
    for shot in render.shots(posed, photo, prior, motion, change):
        loss, out, wanted = shot_loss(shot, batch["target"], need)
        total = total + loss
        shown.append((out, wanted, shot.crop[:, 3:]))
    mouth_window, right, left = shown
    eye_window = tuple(torch.cat([a, b], 0) for a, b in zip(right, left, strict=True))
    return total, [mouth_window, (eye_window[0], eye_window[1], eye_window[2])]


def train(options: argparse.Namespace) -> None:
    """Run the training loop of ``main``'s options."""
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    Conv.reduced = options.bfloat16
    run = Path(options.out)
    run.mkdir(parents=True, exist_ok=True)
    start = options.start or run / "checkpoint.pt"
    stored = torch.load(start, map_location="cpu", weights_only=True)
    face = Face()
    face.load_state_dict(stored["average"])
    face.to(device).requires_grad_(False)
    parameters = painters(face.render)
    for parameter in parameters:
        parameter.requires_grad_(True)
    mean = copy.deepcopy(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, betas=(0.9, 0.98))
    critics = [Critic().to(device), Critic(24).to(device)]
    judges = [p for critic in critics for p in critic.parameters()]
    judging = torch.optim.Adam(judges, lr=options.rate, betas=(0.5, 0.98))
    people = People(Path(options.data), options.seed + 1, DRIVERS, extra=1, workers=options.workers)
    regions = Regions(device)
    begin = saved = time.monotonic()
    sums, count = torch.zeros(3, device=device), 0
    for step, host in enumerate(prefetch(people.batches(options.sources))):
        progress = (time.monotonic() - begin) / (60 * options.minutes)
        for group in optimiser.param_groups:
            group["lr"] = rate(progress, options.rate)
        for group in judging.param_groups:
            group["lr"] = HASTE * rate(progress, options.rate)
        batch = to_device(host, device)
        pixels, windows = step_loss(face, regions, batch)
        asked = pixels.new_zeros(())
        for critic, window in zip(critics, windows, strict=True):
            critic.requires_grad_(False)
            verdict, matched = painter_loss(critic, *window)
            asked = asked + VERDICT * verdict + MATCHED * matched
            critic.requires_grad_(True)
        loss = pixels + asked * float(progress > CRITIC_FROM)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 5.0)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        with torch.no_grad():
            for a, b in zip(mean, parameters, strict=True):
                a.lerp_(b, 1 - min(EMA, 1 - 1 / (1 + step / 10)))
        judged = torch.stack([critic_loss(c, *w) for c, w in zip(critics, windows, strict=True)])
        judging.zero_grad(set_to_none=True)
        judged.sum().backward()
        judging.step()
        sums += torch.stack([pixels.detach(), asked.detach(), judged.detach().mean()])
        count += 1
        done = progress >= 1 or (options.steps and step + 1 >= options.steps)
        if done or time.monotonic() - saved > options.save_seconds:
            saved = time.monotonic()
            state = dict(stored)
            result = copy.deepcopy(face)
            with torch.no_grad():
                for a, b in zip(painters(result.render), mean, strict=True):
                    a.copy_(b)
            state["average"] = result.state_dict()
            save(run / "close-up.pt", state)
            said = " ".join(
                f"{name} {value:.4f}"
                for name, value in zip(("pixels", "asked", "critic"), sums / count, strict=True)
            )
            line = f"step {step} minutes {(saved - begin) / 60:.2f} {said}"
            print(line, file=sys.stderr, flush=True)
            sums, count = torch.zeros_like(sums), 0
        if done:
            return
