"""The space in which ticks of motion are generated, and the pulls that keep a stream in bounds.

Its tables are fixed: statistics of the training motion, and a few constants. No weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEERED = 3
"""Quantities with a command: regard's yaw and pitch, and the head's distance."""
MOOD = 11
"""Index of the condition that says that an emotion is given."""
BARRIER = 0.15
"""Share of the way back that motion beyond its limits goes in a tick."""
IDLE = 0.05
"""Pull towards the default of what is not commanded, as a share of a command's."""


class Innovation(nn.Module):
    """The linear prediction of a tick from the last one, and the principal axes of its error.

    Fixed statistics of the training motion, in normalised units; see the module's docstring.
    """

    predict: Tensor
    basis: Tensor
    scale: Tensor
    pace: Tensor
    carried: Tensor
    heard: Tensor
    drawn: Tensor
    headed: Tensor
    steered: Tensor
    steered_bias: Tensor
    servo: Tensor
    homing: Tensor
    homes: Tensor
    mooded: Tensor
    limit: Tensor
    gain: Tensor
    kick: Tensor
    threshold: Tensor
    neutral: Tensor
    parting: Tensor
    gap: Tensor
    gap_bias: Tensor
    closing: Tensor

    def __init__(self, latent: int, components: int, conditions: int = 16) -> None:
        super().__init__()
        self.components = components
        self.register_buffer("predict", torch.eye(latent))  # last tick (row) -> prediction
        self.register_buffer("basis", torch.eye(latent))  # (latent, axis), orthonormal
        self.register_buffer("scale", torch.ones(latent))  # deviation along each axis
        self.register_buffer("pace", torch.ones(latent // 2))  # deviation of a frame's step
        self.register_buffer("carried", torch.ones(latent))  # 1 for channels the past tells
        self.register_buffer("heard", torch.ones(latent))  # trust in the audio's reading, by axis
        self.register_buffer("drawn", torch.ones(latent))  # 1 for axes with chance in them
        self.register_buffer("headed", torch.zeros(latent))  # 1 for axes of the head
        # What commands steer, of a tick: regard's yaw and pitch, 10 deg; the head's z, 0.3 IPD.
        self.register_buffer("steered", torch.zeros(latent, STEERED))
        self.register_buffer("steered_bias", torch.zeros(STEERED))
        # Small constant pulls while streaming, a tick: of commands, of rest, and of emotions.
        self.register_buffer("servo", torch.zeros(STEERED, latent))
        self.register_buffer("homing", torch.zeros(latent))
        self.register_buffer("homes", torch.zeros(conditions, latent))
        self.register_buffer("mooded", torch.zeros(latent))
        self.register_buffer("limit", torch.full((latent,), 1e3))  # where the motion turns back
        self.register_buffer("gain", torch.ones(latent))  # of each axis' innovation
        self.register_buffer("kick", torch.zeros(latent))  # innovation that begins a blink
        # Log-odds from which a mouth is held to make the sound, and from which lips touch.
        self.register_buffer("threshold", torch.zeros(2))
        self.register_buffer("neutral", torch.zeros(latent))  # the face of zeros
        self.register_buffer("parting", torch.zeros(latent))  # 1 for shapes that part closed lips
        # Gap of the lips in each frame of a tick, and what closes them by one.
        self.register_buffer("gap", torch.zeros(latent, 2))
        self.register_buffer("gap_bias", torch.zeros(2))
        self.register_buffer("closing", torch.zeros(2, latent))

    def mean(self, previous: Tensor) -> Tensor:
        """``m``, the prediction of a tick (..., L) from the tick before."""
        return previous @ self.predict

    def missing(self, previous: Tensor, conditions: Tensor) -> Tensor:
        """How far a tick (..., L) is from what conditions (..., C) command: (..., 3)."""
        yaw, pitch, gaze, distance, near = conditions[..., :5].split(1, dim=-1)
        # A ratio d of the default distance puts the head at 1 - d IPD; the condition is log2 d.
        wanted = torch.cat([3 * yaw, 3 * pitch, (1 - (0.6931472 * distance).exp()) / 0.3], dim=-1)
        given = torch.cat([gaze, gaze, near], dim=-1)
        return given * (wanted - previous @ self.steered - self.steered_bias)

    def steer(self, previous: Tensor, conditions: Tensor) -> Tensor:
        """The prediction while streaming (B, L): pulled to rest, to commands and to emotions.

        A network's own small errors add up over minutes where nothing of the sound corrects them.
        """
        late = previous.chunk(2, dim=-1)[1]
        late = torch.cat([late, late], dim=-1)
        beyond = late - torch.maximum(torch.minimum(late, self.limit), -self.limit)
        rest = self.homing * late + BARRIER * beyond
        felt = conditions[:, MOOD : MOOD + 1] * self.mooded * (conditions @ self.homes - late)
        # Regard that nobody commands goes back to the camera, and the head to its distance.
        free = 1 - torch.cat([conditions[:, 2:3], conditions[:, 2:3], conditions[:, 4:5]], dim=-1)
        home = free * IDLE * (previous @ self.steered + self.steered_bias)
        commanded = (self.missing(previous, conditions) - home) @ self.servo
        return self.mean(previous) - rest + felt + commanded

    def obey(self, clean: Tensor, speaks: Tensor, touches: Tensor, rest: Tensor) -> Tensor:
        """``clean`` (B, L) with the mouth at ``rest`` (B, L) where nobody ``speaks`` (B, 2), and
        the lips together where it ``touches`` (B, 2), a share for each frame of the tick.

        A decision closes lips and keeps them still; an average over what may be leaves both to
        half.
        """
        frame = clean.shape[-1] // 2
        silent = (1 - speaks).repeat_interleave(frame, dim=-1) * (1 - self.carried)
        clean = clean + silent * (rest - clean)
        together = touches.repeat_interleave(frame, dim=-1) * self.parting
        clean = clean + together * (self.neutral - clean)
        # Sums of products: OpenVINO 2026.4 on one thread crashes while it compiles two products of
        # matrices with only arithmetic between them.
        gap = ((clean[..., None] * self.gap).sum(-2) + self.gap_bias).relu()
        return clean + ((touches * gap)[..., None] * self.closing).sum(-2)

    def whiten(self, x: Tensor, mean: Tensor) -> Tensor:
        """Clean ticks (..., L) to innovations ``z`` (..., K)."""
        k = self.components
        return (x - mean) @ self.basis[:, :k] / self.scale[:k]

    def colour(self, z: Tensor, mean: Tensor) -> Tensor:
        """Innovations (..., K) to clean ticks (..., L)."""
        return mean + (z * self.scale[: self.components]) @ self.basis[:, : self.components].T
