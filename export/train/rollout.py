"""The motion network run as a stream in torch, on many recordings or seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivant.export.nets.denoise import Denoise
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


LONG, PIECE = 20_000, 1_500
"""Ticks from which one stream is worth compiling, and that are listened to at once."""


@torch.no_grad()
def listened(net: MotionNet, heard: Tensor) -> Tensor:
    """Features (B, T, A) of normalised ``primed`` log-mel (B, 4 (PRIMING + T), mels)."""
    state, parts = net.listen.start(len(heard)), []
    for piece in heard.split(FRAMES * PIECE, dim=1):
        audio, state = net.listen(piece, state)
        parts.append(audio)
    return torch.cat(parts, dim=1)[:, PRIMING:]


def compiled(denoise: Denoise) -> Callable[..., tuple[Tensor, ...]]:
    """The stage in ONNX Runtime, for one stream; there a tick takes a quarter of the time."""
    from vivant.backends import Options, Signature, load_backend
    from vivant.bundle import TENSORS
    from vivant.export.to_onnx import convert, serialise
    from vivant.tensor import TensorSpec

    c, cache = denoise.config, denoise.start().numpy()
    rows = (np.zeros((1, n), np.float32) for n in (c.latent, c.latent, 2, c.features, c.conditions))
    tensors = [*rows, cache, np.zeros((1, 1), np.float32)]
    names, outputs = (tuple(group) for group in TENSORS["denoise"])
    specs = [TensorSpec(n, "float32", x.shape, "") for n, x in zip(names, tensors, strict=True)]
    after = [
        TensorSpec(n, "float32", x.shape, "")
        for n, x in zip(outputs, (tensors[0], cache), strict=True)
    ]
    graph = load_backend("onnxruntime").compile(
        serialise(convert(denoise, tensors, names, outputs)),
        Signature(tuple(specs), tuple(after)),
        Options(threads=1),
    )

    def stage(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = [np.ascontiguousarray(x.numpy(), np.float32) for x in inputs]
        return tuple(torch.from_numpy(x) for x in graph.run(given))

    return stage


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
    audio = listened(net, heard)
    ticks = audio.shape[1]
    given = np.zeros((batch, 16), np.float32) if conditions is None else conditions
    steered = torch.from_numpy(given)
    steered = steered[:, None].expand(-1, ticks, -1) if steered.ndim == 2 else steered
    mean, std = (torch.tensor(x).repeat(2) for x in (known.latent_mean, known.latent_std))
    generator = torch.Generator().manual_seed(seed)
    previous = (-mean / std).expand(batch, -1)
    cache, noise = denoise.start(batch), torch.zeros(0)
    made: list[Tensor] = []
    stage = compiled(denoise) if ticks >= LONG and batch == 1 else None
    for tick in range(ticks):
        history = torch.full((batch, 1), float(min(tick, denoise.config.window)))
        fresh = torch.randn(batch, denoise.config.latent, generator=generator)
        keep = noise_correlation if tick else 0.0
        noise = keep * noise + (1 - keep**2) ** 0.5 * fresh if tick else fresh
        x = noise
        sound, told = audio[:, tick], steered[:, tick]
        context, after = torch.zeros(0), cache
        if stage is None:
            context, after = denoise.step(previous, sound, told, cache, history)
        for t, r in pairwise(schedule):
            time = torch.tensor([[t, r]], dtype=torch.float32).expand(batch, -1)
            if stage is None:
                u = denoise.velocity(x, previous, time, sound, told, context)
            else:
                u, after = stage(x, previous, time, sound, told, cache, history)
            x = x - (t - r) * u
        previous, cache = x, after
        made.append(x)
    motion = torch.stack(made, dim=1) * std + mean  # (B, T, 126)
    frames = motion.reshape(batch, SUBFRAMES * ticks, SIZE).numpy().copy()
    weights = slice(0, INDEX["gazeYaw"])
    frames[..., weights] = frames[..., weights].clip(0, 1)
    return frames
