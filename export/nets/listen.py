"""``listen``: a causal convolutional encoder from log-mel frames to one audio feature a tick.

One and the same module runs over a whole recording and tick by tick: its memory is the left
context of every convolution, flattened into one explicit state, so chunked equals whole.
Convolutions are written as matrix products of shifted frames, which every backend runs natively
at any length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ListenConfig:
    """Sizes of the encoder; stored in the checkpoint."""

    mels: int = 64
    """Log-mel bands of a frame."""
    widths: tuple[int, int, int] = (128, 192, 256)
    """Channels at 100 Hz (mel frames), 50 Hz and 25 Hz (ticks)."""
    middle: tuple[int, ...] = (1, 2, 4, 1, 2, 4, 1, 2)
    """Dilations of the residual blocks at 50 Hz."""
    deep: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4)
    """Dilations of the residual blocks at 25 Hz; they see 4 s of past."""
    features: int = 192
    """Size of the audio feature."""

    @property
    def frames(self) -> int:
        """Mel frames of a tick: two halvings from 100 Hz to 25 Hz."""
        return 4


class CausalConv(nn.Module):
    """Convolution over time that sees ``context`` past frames and none to come."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.dilation, self.inputs = kernel, dilation, inputs
        self.context = (kernel - 1) * dilation
        self.mix = nn.Linear(kernel * inputs, outputs)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` (B, T, I), ``past`` (B, context, I) -> (B, T, O) and the past of the next call."""
        frames = x.shape[1]
        seen = torch.cat([past, x], dim=1)  # (B, context + T, I)
        taps = [seen[:, k * self.dilation : k * self.dilation + frames] for k in range(self.kernel)]
        return self.mix(torch.cat(taps, dim=-1)), seen[:, frames:]


class Halve(nn.Module):
    """Causal convolution of kernel 4 and stride 2: halves the frame rate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = CausalConv(2 * inputs, outputs, kernel=2)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` (B, T, I) with T even -> (B, T/2, O)."""
        batch, frames, channels = x.shape
        return self.conv(x.reshape(batch, frames // 2, 2 * channels), past)


class Block(nn.Module):
    """Pre-norm residual block: dilated causal convolution, SiLU, pointwise mix; zero at first."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = CausalConv(width, width, kernel=3, dilation=dilation)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` (B, T, C) -> (B, T, C)."""
        y, past = self.conv(self.norm(x), past)
        return x + self.out(F.silu(y)), past


class Listen(nn.Module):
    """Normalised log-mel frames to audio features, one a tick of four frames.

    ``forward(mel (B, 4 n, mels), state (B, S))`` -> ``audio (B, n, A)``, ``state_out (B, S)``; the
    exported graph has B = n = 1 and drops the axis of n. The state starts as zeros.
    """

    def __init__(self, config: ListenConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ListenConfig()
        fine, middle, deep = config.widths
        self.stem = CausalConv(config.mels, fine, kernel=3)
        self.halve = nn.ModuleList([Halve(fine, middle), Halve(middle, deep)])
        self.middle = nn.ModuleList([Block(middle, d) for d in config.middle])
        self.deep = nn.ModuleList([Block(deep, d) for d in config.deep])
        self.norm = nn.LayerNorm(deep)
        self.out = nn.Linear(deep, config.features)

    @property
    def contexts(self) -> list[tuple[int, int]]:
        """Shape (frames, channels) of each convolution's left context, in order of use."""
        convs = [m for m in self._in_order() if isinstance(m, CausalConv)]
        return [(conv.context, conv.inputs) for conv in convs]

    @property
    def state_size(self) -> int:
        """S, the numbers in a state."""
        return sum(frames * channels for frames, channels in self.contexts)

    def _in_order(self) -> Iterator[nn.Module]:
        stages = (self.stem, self.halve[0], *self.middle, self.halve[1], *self.deep)
        return (m for stage in stages for m in stage.modules())

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        batch = mel.shape[0]
        sizes = [frames * channels for frames, channels in self.contexts]
        pasts = iter(
            part.reshape(batch, frames, channels)
            for part, (frames, channels) in zip(
                torch.split(state, sizes, dim=1), self.contexts, strict=True
            )
        )
        kept: list[Tensor] = []

        def run(module: nn.Module, x: Tensor) -> Tensor:
            y, past = module(x, next(pasts))
            kept.append(past.reshape(batch, -1))
            return y

        x = F.silu(run(self.stem, mel))  # (B, 4 n, fine)
        x = run(self.halve[0], x)  # (B, 2 n, middle)
        for block in self.middle:
            x = run(block, x)
        x = run(self.halve[1], x)  # (B, n, deep)
        for block in self.deep:
            x = run(block, x)
        return self.out(self.norm(x)), torch.cat(kept, dim=1)  # (B, n, A), (B, S)

    def start(self, batch: int = 1) -> Tensor:
        """The state before any sound, (B, S)."""
        return torch.zeros(batch, self.state_size)


class ListenStage(nn.Module):
    """The graph of the stage: ``mel`` (1, 4, mels), ``state`` (1, S) -> (1, A), (1, S)."""

    def __init__(self, net: Listen) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        audio, state_out = self.net(mel, state)
        return audio[:, 0], state_out
