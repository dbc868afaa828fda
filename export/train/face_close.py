"""Train the close-up painters of mouth and eyes alone, on top of a trained face network::

    vivant train face --close-up --data DIR --out RUN --minutes N

starts from RUN/checkpoint.pt (or ``--start``) and writes RUN/close-up.pt, a checkpoint like the
one it started from, with a mean of the weights that it started from and those it trained (SHARES).
Everything else stays as it is, so that a driven frame costs a tenth of a whole one, and the windows
are judged where they are painted; with ``--critic``, mouths by a critic too.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from vivant.export.nets.encode import PARTS
from vivant.export.nets.layers import Conv
from vivant.export.nets.painter import PAINT, Shot, sample_at
from vivant.export.nets.render import FLOW, THIN, Render
from vivant.export.nets.warp import centres, resize
from vivant.export.synth.people.classes import CAVITIES, MOUTH
from vivant.export.train.critic import Critic, critic_loss, painter_loss
from vivant.export.train.face import Face, agreed, processes, rate, reduce_gradients, save
from vivant.export.train.face_data import People, prefetch, to_device
from vivant.export.train.face_loss import (
    Regions,
    among,
    as_drawn,
    average,
    believed,
    gradient_l1,
    needless,
    robust,
)

EMA = 0.998
"""Decay of the averaged weights a step."""
DRIVERS = 6
"""Driven frames a source."""
SHARES = {
    "mouth.teeth.": 0.7,
    "mouth.": 0.3,
    "eye.lids.": 1.0,
    "eye.": 0.7,
    "steer_close.": 0.45,
}
"""Share of what is trained in what is written, by part; the rest is what the run started from.
Either painter's errors are its own, and the mean of their weights draws better than both (Wortsman
et al. 2022, robust fine-tuning)."""
EYES = 0.5
"""Weight of each eye, in the mouth's."""
OWN, LAZY = 12.0, 6.0
"""Weights of the paint's own colour, and of paint over what the photo shows rightly, beside that of
what paint and photo make."""
TRUST = 0.6
"""Share of the encoder's own expressions among the photos' codes."""
VERDICT, MATCHED = 0.5, 16.0
"""Weights of the critic's verdict and of the distance in its features, against pixel losses."""
HASTE = 2.0
"""Learning rate of the critic, in the painter's."""
CRITIC_FROM = 0.08
"""Share of the run after which the painter listens to the critic."""


def painter(render: Render) -> dict[str, nn.Parameter]:
    """What this training changes, by name."""
    return {name: p for name, p in render.named_parameters() if name.startswith(tuple(SHARES))}


def blend(render: Render, trained: list[nn.Parameter]) -> None:
    """Move what ``painter`` names toward its ``trained`` values, by SHARES."""
    with torch.no_grad():
        for (name, start), end in zip(painter(render).items(), trained, strict=True):
            share = next(s for part, s in SHARES.items() if name.startswith(part))
            start.lerp_(end.to(start.device), share)


def shot_loss(shot: Shot, target: Tensor, need: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of one window against the driver's picture; what it shows and should show.

    ``need`` (B, 1, 256, 256): where the photo shows nothing, or what moves most.
    """
    still = torch.zeros_like(shot.crop[:, :2])
    wanted = sample_at(target, shot.xs, shot.ys, still)
    moving, weight = shot.crop[:, :3], shot.paint[:, :1]
    out = moving * (1 - weight) + shot.paint[:, 1:]
    focus = 0.1 + sample_at(need, shot.xs, shot.ys, still)
    light = average(robust(out - wanted, 0.01), focus)
    sharp = gradient_l1(out, wanted, focus)
    lazy = needless(weight, moving, wanted, 0.3 + focus)
    # Without its own target, paint would be any colour that half of it makes right.
    colour = shot.paint[:, 1:] / (weight + THIN)
    own = average(robust(colour - wanted, 0.01), focus) + 0.5 * gradient_l1(colour, wanted, focus)
    return 12 * light + 8 * sharp + OWN * own + LAZY * lazy, out, wanted


Views = tuple[Tensor, Tensor, Tensor]
"""What a window shows, should show, and the photo warped rigidly into it, (B, 3, n, n) each."""


def step_loss(face: Face, regions: Regions, batch: dict[str, Tensor]) -> tuple[Tensor, Views]:
    """Loss of one batch over all windows, and the views of the mouths'."""
    render = face.render
    with torch.no_grad():
        features, points, own = face.encode(batch["seen"])
    drivers = len(batch["motion"]) // len(batch["photo"])
    code = believed(face.encode, own, batch["code"], TRUST)
    code = code.repeat_interleave(drivers, 0)
    _, _, prior, view, _, _ = features.split(PARTS, 1)
    each = points, prior, view[:, :, 0, 0], batch["photo"], batch["away"][:, None]
    points, prior, view, photo, away = (x.repeat_interleave(drivers, 0) for x in each)
    motion = batch["motion"]
    posed = render.poser(points, code, motion, view, away)
    posed = render.poser.with_teeth(posed, batch["target_points"])
    change = (motion - code) / render.scale
    segment = batch["target_segment"]
    inside = among(segment, CAVITIES).float()
    mouth, eyes = regions.blobs(batch["target_points"], 128)
    close = torch.maximum(mouth, eyes)
    need = torch.clamp(1 - batch["visible"] + inside + 0.5 * close, 0, 1)
    need = resize(need * (1 + among(segment, (MOUTH,)).float()), PAINT)
    line = centres(FLOW, points).expand(len(points), -1)
    windows = render.windows(posed, motion, change)
    with torch.no_grad():
        first = render.first(posed, prior, line, windows)
        target = as_drawn(batch, first.flow, close)
    shots = [shot for _, _, shot in render.shots(posed, photo, prior, motion, change, windows)]
    losses, shown, wanted = zip(*(shot_loss(shot, target, need) for shot in shots), strict=True)
    # Of eyes there are two.
    loss = losses[0] + EYES * (losses[1] + losses[2])
    return loss, (shown[0], wanted[0], shots[0].crop[:, 3:])


def train(options: argparse.Namespace) -> None:
    """Run the training loop of ``main``'s options."""
    world, rank, device = processes(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed + 1000 * rank)
    Conv.reduced = options.bfloat16
    run = Path(options.out)
    run.mkdir(parents=True, exist_ok=True)
    start = options.start or run / "checkpoint.pt"
    stored = torch.load(start, map_location="cpu", weights_only=True)
    face = Face()
    face.load_state_dict(stored["average"])
    face.to(device).requires_grad_(False)
    parameters = list(painter(face.render).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    mean = copy.deepcopy(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, betas=(0.9, 0.98))
    critic, judges = None, []
    if options.critic:
        critic = Critic().to(device)
        judges = list(critic.parameters())
        judging = torch.optim.Adam(judges, lr=options.rate, betas=(0.5, 0.98))
    people = People(
        Path(options.data),
        options.seed + 1,
        DRIVERS,
        workers=options.workers,
        rank=rank,
        world=world,
    )
    regions = Regions(device)
    begin = saved = time.monotonic()
    sums, count = torch.zeros(3, device=device), 0
    for step, host in enumerate(prefetch(people.batches(options.sources))):
        progress = agreed((time.monotonic() - begin) / (60 * options.minutes), world, device)
        for group in optimiser.param_groups:
            group["lr"] = rate(progress, options.rate)
        pixels, views = step_loss(face, regions, to_device(host, device))
        asked = judged = pixels.new_zeros(())
        if critic is not None and progress > CRITIC_FROM:
            critic.requires_grad_(False)
            verdict, matched = painter_loss(critic, *views)
            asked = VERDICT * verdict + MATCHED * matched
            critic.requires_grad_(True)
        loss = pixels + asked
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        reduce_gradients(parameters, world)
        norm = nn.utils.clip_grad_norm_(parameters, 5.0)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        with torch.no_grad():
            for a, b in zip(mean, parameters, strict=True):
                a.lerp_(b, 1 - min(EMA, 1 - 1 / (1 + step / 10)))
        if critic is not None:
            for group in judging.param_groups:
                group["lr"] = HASTE * rate(progress, options.rate)
            judged = critic_loss(critic, *views)
            judging.zero_grad(set_to_none=True)
            judged.backward()
            reduce_gradients(judges, world)
            judging.step()
        sums += torch.stack([pixels.detach(), asked.detach(), judged.detach()])
        count += 1
        done = progress >= 1 or (options.steps and step + 1 >= options.steps)
        if rank == 0 and (done or time.monotonic() - saved > options.save_seconds):
            saved = time.monotonic()
            state = dict(stored)
            result = Face()
            result.load_state_dict(stored["average"])
            blend(result.render, mean)
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
            break
    if world > 1:
        torch.distributed.destroy_process_group()
