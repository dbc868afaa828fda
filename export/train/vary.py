"""What training does to the sound of a batch, so that few voices and rooms stand for many.

Everything acts on log-mel: another vocal tract, room, background, microphone, gain and noise
floor, and slower speech. Power adds up, so rooms and backgrounds are mixed in power.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .motion_data import AHEAD, FRAMES, PRIMING, SILENCE, SUBFRAMES, Batch, ticks_of

HALL = 0.4
"""Share of clips that get a room."""
BACKGROUND = 0.3
"""Share of clips that get another's sound behind them, where that one holds no speech."""
LOUDEST = 40.0
"""Log power above any sound's; its power is a finite number."""
ECHO = 64
"""Mel frames of a room's tail."""
SLOWED, SLOWEST = 0.35, 2.0
"""Share of clips that are slowed down, and by how much at most."""


def hall(power: Tensor) -> Tensor:
    """Mel power (B, N, M) with the tail of a random room, T60 0.2-2 s, in a share of clips.

    Late reverberation is noise that decays: in power it is a sum of decaying past frames
    (Lebart et al. 2001). High bands are swallowed sooner.
    """
    batch, mels = len(power), power.shape[-1]
    device, one = power.device, (batch, 1)
    longest = 100 * torch.exp(torch.empty(one, device=device).uniform_(-1.6, 0.7))  # T60, frames
    wet = torch.exp(torch.empty(one, device=device).uniform_(-3.0, 0.7))  # reverberant to direct
    wet = wet * (torch.rand(one, device=device) < HALL)
    tail = torch.exp(-13.8 / longest * torch.arange(ECHO - 1, -1, -1, device=device))  # (B, ECHO)
    tail[:, -1] = 0  # the direct sound is not its own echo
    tail = wet * tail / tail.sum(1, keepdim=True).clamp(min=1e-6)
    heard = F.pad(power.permute(2, 0, 1), (ECHO - 1, 0))  # (M, B, N + ECHO - 1)
    echo = F.conv1d(heard, tail[:, None], groups=batch).permute(1, 2, 0)
    dull = torch.rand(batch, 1, 1, device=device) * 2 / mels
    return power + echo * torch.exp(-dull * torch.arange(mels, device=device))


def backed(power: Tensor, spoken: Tensor) -> Tensor:
    """Mel power (B, N, M) with the next clip's behind it, 0-30 dB below, in a share of clips.

    ``spoken`` (B,) tells which clips hold speech: those stand behind no other.
    """
    device = power.device
    behind = power.roll(1, 0)
    decibels = 30 * torch.rand(len(power), 1, 1, device=device)
    ratio = power.mean((1, 2), keepdim=True) / behind.mean((1, 2), keepdim=True).clamp(min=1e-9)
    chosen = (torch.rand(len(power), device=device) < BACKGROUND) & ~spoken.roll(1, 0)
    # What is nearly silent has no level to be brought to.
    gain = torch.minimum(ratio, torch.full_like(ratio, 1e4)) * 10 ** (-decibels / 10)
    return power + chosen[:, None, None] * gain * behind


def vary_sound(mel: Tensor, spoken: Tensor) -> Tensor:
    """Another voice, room, background, gain, microphone and noise floor for log-mel (B, N, M).

    ``spoken`` (B,) bool: the clip holds speech.
    """
    batch, frames, mels = mel.shape
    device, one = mel.device, (batch, 1, 1)
    band = torch.arange(mels, device=device)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(one, device=device)

    # Shifted and stretched along the mel axis: a longer or shorter vocal tract, another pitch.
    at = uniform(-3, 3) + band * uniform(0.93, 1.07)
    at = at.clamp(0, mels - 1.001).expand_as(mel)
    low, share = at.long(), at.frac()
    mel = mel.gather(2, low).lerp(mel.gather(2, low + 1), share)
    mel = backed(hall(mel.clamp(max=LOUDEST).exp()), spoken).clamp(min=1e-6).log()
    phase = torch.linspace(0, torch.pi, mels, device=device)
    waves = torch.stack([(k * phase).cos() for k in range(5)])  # (5, M)
    spread = torch.tensor([1.0, 0.8, 0.5, 0.4, 0.3], device=device)
    mel = mel + ((torch.randn(batch, 5, device=device) * spread) @ waves)[:, None]
    # A talker who moves and a gain that follows, over seconds.
    time = torch.arange(frames, device=device)[:, None] / 100  # s
    for _ in range(2):
        turns = torch.pi * 2 * (uniform(0.05, 0.5) * time + uniform(0, 1))
        mel = mel + uniform(0, 0.5) * turns.sin()
    # A microphone or a room that swallows a band, and telephones.
    for chance, first, width in ((0.3, uniform(0, mels), uniform(2, 8)), (0.15, 42.0, mels)):
        hole = (band >= first) & (band < first + width) & (uniform(0, 1) < chance)
        mel = mel - hole * uniform(1, 4)
    floor = SILENCE + 3 * torch.rand(one, device=device) ** 2
    return torch.maximum(mel, floor)


def slowed(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with a share of its clips slowed down up to twice, sound and motion alike.

    Synthesisers hardly draw out a vowel; people do, before an audience or in doubt. Lips that
    follow drawn-out sounds are learnt from this; the rest of the motion is then too slow, so it
    serves ``listen`` alone.
    """
    mel, motion = batch.mel.copy(), batch.motion.copy()
    viseme, valid = batch.viseme.copy(), batch.valid.copy()
    frames = motion.reshape(len(motion), -1, motion.shape[-1] // SUBFRAMES)
    for b in np.flatnonzero(rng.random(len(mel)) < SLOWED):
        pace = 1 / rng.uniform(1.1, SLOWEST)
        # Sound before the window starts PRIMING ticks ahead of AHEAD frames; motion one tick.
        lead = FRAMES * PRIMING - AHEAD
        mel[b] = _between(batch.mel[b], lead + (np.arange(mel.shape[1]) - lead) * pace)
        at = SUBFRAMES + (np.arange(frames.shape[1]) - SUBFRAMES) * pace
        motion[b] = ticks_of(_between(frames[b], at))
        viseme[b] = batch.viseme[b, (np.arange(viseme.shape[1]) * pace).astype(int)]
        valid[b] = batch.valid[b, (np.arange(valid.shape[1]) * pace).astype(int)]
    return Batch(mel, motion, viseme, batch.conditions, valid)


def _between(rows: NDArray[np.float32], at: NDArray[np.floating]) -> NDArray[np.float32]:
    """``rows`` (N, D) at places ``at`` (n,), linearly interpolated."""
    at = at.clip(0, len(rows) - 1.001)
    low = at.astype(int)
    share = (at - low)[:, None].astype(np.float32)
    mixed = rows[low] + share * (rows[low + 1] - rows[low])
    return np.asarray(mixed, np.float32)
