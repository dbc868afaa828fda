"""The motion network run as a stream in torch, on many recordings or seeds at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivant.latent import INDEX, SIZE

from .motion_data import AHEAD, FRAMES, PRIMING, SILENCE, SUBFRAMES, Statistics
from .motion_loss import MotionNet

Array = NDArray[np.float32]


def primed(mel: Array) -> Array:
    """Log-mel of a recording (N, mels) with the silence around it that a stream hears.

    Returns (4 (PRIMING + T), mels) for the T ticks that the recording fills.
    """
    ticks = -(-len(mel) // FRAMES)
    before = PRIMING * FRAMES - AHEAD
    after = FRAMES * ticks + AHEAD - len(mel)
    edges = [np.full((n, mel.shape[1]), SILENCE, np.float32) for n in (before, after)]
    return np.concatenate([edges[0], mel.astype(np.float32), edges[1]])


@torch.no_grad()
def rollout(
    net: MotionNet,
    known: Statistics,
    mel: Array,
    conditions: Array | None = None,
    *,
    schedule: Sequence[float] = (1.0, 0.0),
    noise_correlation: float = 0.0,
    seed: int = 0,
) -> Array:
    """Motion (B, 2 T, 63), in its own units, for ``primed`` log-mel (B, 4 (PRIMING + T), mels).

    ``conditions`` (B, 16) or (B, T, 16); ``schedule`` falls from 1 to 0. Every row of
    the batch has its own noise.
    """
    denoise, batch = net.denoise, len(mel)
    heard = (torch.from_numpy(mel) - torch.tensor(known.audio_mean)) / torch.tensor(known.audio_std)
    audio, _ = net.listen(heard, net.listen.start(batch))
    audio = audio[:, PRIMING:]
    ticks = audio.shape[1]
    given = np.zeros((batch, 16), np.float32) if conditions is None else conditions
    steered = torch.from_numpy(given)
    steered = steered[:, None].expand(-1, ticks, -1) if steered.ndim == 2 else steered
    mean, std = (torch.tensor(x).repeat(2) for x in (known.latent_mean, known.latent_std))
    generator = torch.Generator().manual_seed(seed)
    previous = (-mean / std).expand(batch, -1)
    cache, noise = denoise.start(batch), torch.zeros(0)
    made: list[Tensor] = []
    for tick in range(ticks):
        history = torch.full((batch, 1), float(min(tick, denoise.config.window)))
        context, cache = denoise.step(previous, audio[:, tick], steered[:, tick], cache, history)
        fresh = torch.randn(batch, denoise.config.latent, generator=generator)
        keep = noise_correlation if tick else 0.0
        noise = keep * noise + (1 - keep**2) ** 0.5 * fresh if tick else fresh
        x = noise
        for t, r in pairwise(schedule):
            time = torch.tensor([[t, r]]).expand(batch, -1)
            u = denoise.velocity(x, previous, time, audio[:, tick], steered[:, tick], context)
            x = x - (t - r) * u
        previous = x
        made.append(x)
    motion = torch.stack(made, dim=1) * std + mean  # (B, T, 126)
    frames = motion.reshape(batch, SUBFRAMES * ticks, SIZE).numpy().copy()
    weights = slice(0, INDEX["gazeYaw"])
    frames[..., weights] = frames[..., weights].clip(0, 1)
    return frames
