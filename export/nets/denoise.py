"""``denoise``: the next tick's motion, from its noise, the audio and two seconds of clean past.

A causal transformer reads the clean past (one token a tick, keys and values cached), and a
conditional network denoises the one token that is being made (adaLN-zero, Peebles & Xie 2023, in
both). Splitting them so, as in autoregressive generation with a diffusion loss (Li et al. 2024,
"Autoregressive Image Generation without Vector Quantization"), lets training draw many noise
levels for one pass over the past.

The flow runs in the space of *innovations*. Given the last tick, most of the next one is known:
the head moves by hundredths of its range in 40 ms. With ``m`` the linear prediction from the last
tick and ``U diag(s)`` the principal axes of what that misses, and with ``mu`` and ``sigma`` the
mean and deviation of each axis that the transformer expects of the whole past and the sound, a
tick is ``x = m + U s (mu + sigma z)``, and ``z`` has unit variance whatever the past. Were it
normal, the flow would be known: its average velocity over any step is a multiple of ``z``. The
network adds what is not, at a gain that falls to zero with the noise (as in Karras et al. 2022,
"Elucidating the Design Space of Diffusion-Based Generative Models"), so many steps and few agree
and neither adds liveliness of its own.

Lips, jaw and tongue are another matter: sound determines them, and a network that
sees its own last lips follows those and not the sound. They are neither predicted from the past
nor shown to the transformer nor drawn at random; their axes are those of the motion itself, and
their estimate starts from a linear reading of the audio feature. The sampler's variable at time t
is ``x_t = (1 - t) (m + U s mu) + U ((1 - t) s sigma + t) z_t``: noise at t = 1, the clean tick at
t = 0, as its contract asks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .innovation import STEERED, Innovation


@dataclass(frozen=True)
class DenoiseConfig:
    """Sizes of the network; stored in the checkpoint."""

    latent: int = 126
    """Numbers of a tick: two motion frames of 63."""
    components: int = 72
    """Principal axes of the innovation that are generated; the rest is predicted."""
    features: int = 192
    """Size of the audio feature."""
    conditions: int = 16
    """Size of the conditions vector."""
    width: int = 192
    """Channels of the transformer."""
    layers: int = 7
    """Blocks of the transformer."""
    condition_width: int = 64
    """Channels of the conditions' embedding."""
    heads: int = 4
    """Attention heads."""
    window: int = 50
    """Past ticks that a layer sees (2 s)."""
    head_width: int = 192
    """Channels of the denoising head."""
    head_blocks: int = 4
    """Blocks of the denoising head."""
    inertia: float = 0.25
    """Share of the last frame's lips in each frame when streaming. On real speech 0.25 delays them
    by 6 ms, which brings the lag from -16 to -10 ms, and raises r from 0.78 to 0.80."""


MASKED = -1e4
"""Attention bias of a key that is not there; finite, so that half precision keeps it finite."""
FREQUENCIES = 12
"""Waves of the time embedding, from half a cycle to 16 cycles over 0..1."""
SHORTEST = 1 / 16 + 1e-3
"""Steps up to this length are those of the many-step teacher."""
MIN_STEP = 1e-3
"""Shortest step of the sampler's time."""
BLINK_CHANCE = 3.5
"""Noise above which a blink begins: 0.02 % of ticks, one in three minutes beside those that are
learnt, so that no stream ends without."""
LATE, LIDS = 63, 0
"""Numbers of a motion frame, and the index of ``eyeBlinkLeft`` in it."""
CUES = 2
"""Decisions on the sound: that a mouth makes it, and that the lips touch."""
SPREAD = (-3.0, 1.5)
"""Least and greatest logarithm of an expected deviation."""
SURE = 4.0
"""Log-odds of both before training: a mouth makes it; the lips do not touch."""
RAMP = 1.5
"""Log-odds over which a decision passes from no to yes."""
EMOTIONS, GUIDANCE = (5, 11), 14
"""First and end index of the emotions among the conditions, and the index of the guidance."""
FAR = 30.0
"""The audio's own reading is clipped to this many deviations of the innovation."""


def guided(conditions: Tensor) -> Tensor:
    """``conditions`` (..., C) with the emotions in proportion to the guidance.

    What is linear in them is guided exactly so.
    """
    scale = 1 + conditions[..., GUIDANCE : GUIDANCE + 1]
    first, end = EMOTIONS
    felt = conditions[..., first:end] * scale
    return torch.cat([conditions[..., :first], felt, conditions[..., end:]], dim=-1)


def normal_share(t: Tensor, r: Tensor) -> Tensor:
    """What of ``z`` at time t the average velocity over [r, t] points to, for a normal flow.

    Its path is ``z_r = z_t d(r) / d(t)`` with ``d(t)`` the deviation at t, sqrt(t^2 + (1 - t)^2).
    """
    r = torch.minimum(r, t * (1 - MIN_STEP))
    past = ((r.square() + (1 - r).square()) / (t.square() + (1 - t).square())).sqrt()
    return (past - r / t) / (1 - r / t)


class Modulation(nn.Module):
    """adaLN-zero: shift, scale and gate of each branch from a condition; zero at the start."""

    def __init__(self, condition: int, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.out = nn.Linear(condition, count * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(..., D) -> ``count`` tensors (..., width)."""
        return self.out(F.silu(condition)).chunk(self.count, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without its own affine, then the condition's."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Attention(nn.Module):
    """Causal attention over a sliding window with a learned bias for each head and distance."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, window + 1))  # by distance in ticks

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D/H)

    def whole(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D): every token attends to itself and the window before it."""
        frames = x.shape[1]
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        at = torch.arange(frames, device=x.device)
        distance = at[:, None] - at[None]  # (T, T)
        seen = (distance >= 0) & (distance <= self.window)
        bias = self.bias[:, distance.clamp(0, self.window)].masked_fill(~seen, MASKED)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        return self.out(y.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """One token (B, 1, D) after cached ``keys`` and ``values`` (B, W, D).

        ``mask`` (B, W) is added to the scores of the cache. Returns the output (B, 1, D) and the
        cache with this token appended and the oldest dropped.
        """
        q, key, value = self.qkv(x).chunk(3, dim=-1)
        keys, values = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        k, v = self._split(keys), self._split(values)  # (B, H, W + 1, D/H)
        scores = self._split(q) @ k.transpose(2, 3) * (k.shape[-1] ** -0.5)  # (B, H, 1, W + 1)
        mask = torch.cat([mask, torch.zeros_like(mask[:, :1])], dim=1)[:, None, None]
        scores = scores + self.bias.flip(1)[None, :, None] + mask
        y = torch.softmax(scores, dim=-1) @ v  # (B, H, 1, D/H)
        return self.out(y.transpose(1, 2).flatten(2)), keys[:, 1:], values[:, 1:]


class Mlp(nn.Module):
    """Two linear maps with a SiLU between."""

    def __init__(self, width: int, hidden: int, outputs: int | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, outputs or width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), or (..., ``outputs``)."""
        return self.down(F.silu(self.up(x)))


class Block(nn.Module):
    """Transformer block with adaLN-zero conditioning."""

    def __init__(self, config: DenoiseConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config.condition_width, config.width, 6)
        self.attention = Attention(config.width, config.heads, config.window)
        self.mlp = Mlp(config.width, 4 * config.width)

    def forward(
        self, x: Tensor, condition: Tensor, past: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Whole sequence (no ``past``), or one token after ``past`` = keys, values, mask."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)
        y = modulate(x, shift, scale)
        if past is None:
            kept: tuple[Tensor, ...] = ()
            y = self.attention.whole(y)
        else:
            y, *rest = self.attention.step(y, *past)
            kept = tuple(rest)
        x = x + gate * y
        return x + gate2 * self.mlp(modulate(x, shift2, scale2)), *kept


class HeadBlock(nn.Module):
    """Residual MLP with adaLN-zero conditioning."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, width, 3)
        self.mlp = Mlp(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        shift, scale, gate = self.modulation(condition)
        return x + gate * self.mlp(modulate(x, shift, scale))


class Denoise(nn.Module):
    """Velocity of one noisy tick, given the last clean tick, audio, conditions and the past.

    ``context`` and ``endpoint`` are the two halves that training uses; ``forward`` is the stage.
    """

    frequencies: Tensor

    def __init__(self, config: DenoiseConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DenoiseConfig()
        width, head = config.width, config.head_width
        self.innovation = Innovation(config.latent, config.components, config.conditions)
        self.articulation = nn.Linear(config.features, config.latent)
        """Reads the motion that sound alone determines (lips, jaw, tongue) off the feature."""
        self.mood = nn.Linear(config.conditions, config.latent, bias=False)
        """What the conditions add to it: a smile, a louder mouth."""
        self.rest = nn.Linear(config.conditions, config.latent)
        """The face of somebody who does not speak."""
        self.cues = nn.Linear(config.features, CUES * 2)
        """Whether a mouth makes the sound, and whether its lips touch, in each of two frames."""
        nn.init.zeros_(self.cues.weight)
        with torch.no_grad():
            self.cues.bias.copy_(torch.tensor([SURE, SURE, -SURE, -SURE]))
        self.token = nn.Linear(config.latent * 3 // 2 + STEERED, width)
        self.sound = nn.Linear(config.features, width)
        self.condition = nn.Sequential(
            nn.Linear(config.conditions, config.condition_width),
            nn.SiLU(),
            nn.Linear(config.condition_width, config.condition_width),
        )
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

        octaves = torch.pi * 2.0 ** torch.linspace(0, 5, FREQUENCIES)
        self.register_buffer("frequencies", octaves, persistent=False)
        self.time = nn.Linear(4 * FREQUENCIES, head)
        self.past = nn.Linear(width, head)
        self.expect = nn.Linear(width, 2 * config.components)
        """Mean and log-deviation of each axis, from the past and the sound."""
        self.manner = nn.Linear(config.conditions, config.components)
        self.stress = Mlp(config.features, head // 2, config.components)
        """Log-deviation of the head's axes, from the conditions and the sound alone."""
        for zero in (self.expect, self.manner, self.stress.down):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)
        self.noisy = nn.Linear(config.components, head)
        self.told = nn.Linear(config.components, head)
        self.head = nn.ModuleList([HeadBlock(head) for _ in range(config.head_blocks)])
        self.head_modulation = Modulation(head, head, 2)
        self.out = nn.Linear(head, config.components)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.trust = nn.Parameter(torch.zeros(config.components))
        """Share of the audio's own reading in each axis of the estimate."""

    def seen(self, previous: Tensor, conditions: Tensor) -> Tensor:
        """What the past tells of a clean tick (..., L), its own step brought to unit size, and how
        far it is from what is commanded."""
        inn = self.innovation
        missing = inn.missing(previous, conditions)
        previous = previous * inn.carried
        early, late = previous.chunk(2, dim=-1)
        return torch.cat([previous, (late - early) / inn.pace, missing], dim=-1)

    def context(self, previous: Tensor, audio: Tensor, conditions: Tensor) -> Tensor:
        """The past as each tick sees it, for whole sequences in training.

        ``previous`` (B, T, L) the tick before each, ``audio`` (B, T, A), ``conditions`` (B, 1, C)
        -> (B, T, D).
        """
        condition = self.condition(conditions)
        x = self.token(self.seen(previous, conditions)) + self.sound(audio)  # (B, T, D)
        for block in self.blocks:
            (x,) = block(x, condition)
        return self.norm(x)

    def step(
        self, previous: Tensor, audio: Tensor, conditions: Tensor, cache: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for one tick (B, ...): (B, D) and the cache with ``previous`` appended."""
        window = self.config.window
        age = torch.arange(window, 0, -1, device=cache.device, dtype=cache.dtype)[None]  # (1, W)
        mask = (1 - (history - age + 1).clamp(0, 1)) * MASKED  # (B, W); there if age <= history
        condition = self.condition(conditions)[:, None]
        x = (self.token(self.seen(previous, conditions)) + self.sound(audio))[:, None]  # (B, 1, D)
        kept: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x, keys, values = block(x, condition, (cache[:, 2 * i], cache[:, 2 * i + 1], mask))
            kept += [keys[:, None], values[:, None]]
        return self.norm(x)[:, 0], torch.cat(kept, dim=1)

    def reading(self, audio: Tensor, conditions: Tensor, mean: Tensor) -> Tensor:
        """Motion that audio (..., A) and conditions (..., C) tell, as an innovation (..., K)."""
        heard = self.innovation.heard[: self.config.components]
        told = self.articulation(audio) + self.mood(guided(conditions))
        return self.innovation.whiten(told, mean).clamp(-FAR, FAR) * heard

    def expected(self, context: Tensor, audio: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each axis' innovation (..., K).

        ``context`` (..., D), ``audio`` (..., A), ``conditions`` (..., C). Axes without chance have
        none: 0 and 1. How far the head strays is told by conditions and sound and never by its
        own past: what a stream does by chance would decide what it does by chance from then on,
        and it would become ever livelier or stop.
        """
        k = self.config.components
        drawn, headed = self.innovation.drawn[:k], self.innovation.headed[:k]
        mean, spread = self.expect(context).chunk(2, dim=-1)
        told = self.manner(conditions) + self.stress(audio)
        spread = spread + headed * (told - spread)
        return mean * drawn, (spread.clamp(*SPREAD) * drawn).exp()

    def endpoint(self, z: Tensor, time: Tensor, context: Tensor, reading: Tensor) -> Tensor:
        """The clean ``z`` (..., K) where the average velocity over [r, t] points.

        ``z`` (..., K) at time t, in deviations of what is expected, ``time`` (..., 2) = (t, r),
        ``context`` (..., D), ``reading`` (..., K) the audio's own reading as an innovation. With
        t = r this is the expected clean one (the flow's x0-prediction); with r = 0 it is the
        sample itself. Steps of up to SHORTEST are taken with the network's part at t alone.
        """
        t, r = time[..., :1], time[..., 1:]
        drawn = self.innovation.drawn[: self.config.components]
        unit = (t.square() + (1 - t).square()).sqrt()  # deviation of z
        over = (t - r) * (1e4 * (t - r - SHORTEST)).clamp(0.0, 1.0)
        angles = torch.cat([t * self.frequencies, over * self.frequencies], dim=-1)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        condition = self.past(context) + self.time(waves)
        x = self.noisy(z / unit * drawn) + self.told(reading)  # (..., H)
        for block in self.head:
            x = block(x, condition)
        shift, scale = self.head_modulation(condition)
        told = self.out(modulate(x, shift, scale)) + self.trust * reading
        share = normal_share(t, r)
        return told + drawn * (share * z + (t / unit - 1) * told)

    def forward(
        self,
        noisy: Tensor,
        previous: Tensor,
        time: Tensor,
        audio: Tensor,
        conditions: Tensor,
        cache: Tensor,
        history: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The stage.

        ``noisy`` (B, L) at time t, ``previous`` (B, L) the last clean tick, ``time`` (B, 2) =
        (t, r), ``audio`` (B, A), ``conditions`` (B, C), ``cache`` (B, 2 layers, W, D), ``history``
        (B, 1) ticks in the cache -> velocity averaged over [r, t] (B, L), ``cache_out``.
        """
        context, cache_out = self.step(previous, audio, conditions, cache, history)
        return self.velocity(noisy, previous, time, audio, conditions, context), cache_out

    def velocity(
        self,
        noisy: Tensor,
        previous: Tensor,
        time: Tensor,
        audio: Tensor,
        conditions: Tensor,
        context: Tensor,
    ) -> Tensor:
        """Velocity (B, L) averaged over [r, t], from the ``context`` (B, D) of ``step``."""
        inn, k = self.innovation, self.config.components
        mean = inn.steer(previous, guided(conditions))
        t, r = time[:, :1], time[:, 1:]
        # A step of no length has no velocity in the sampler's variable; take a very short one.
        r = torch.minimum(r, t - MIN_STEP)
        reading = self.reading(audio, conditions, mean)
        mu, sigma = self.expected(context, audio, conditions)
        sigma = sigma * inn.gain[:k]
        centre = inn.colour(mu, mean)
        spread = inn.scale * F.pad(sigma - 1, (0, self.config.latent - k)) + inn.scale
        z = ((noisy - (1 - t) * centre) @ inn.basis) / ((1 - t) * spread + t)  # (B, L)
        end = self.endpoint(z[:, :k], torch.cat([t, r], dim=-1), context, reading)
        end = mu + sigma * end + self.blink(z, t, previous) * inn.kick[:k]
        clean = self.settle(inn.colour(end, mean), previous)
        clean = inn.obey(clean, *self.decide(audio), self.rest(guided(conditions)))
        end = (inn.whiten(clean, mean) - mu) / sigma
        end = F.pad(end, (0, self.config.latent - k))
        z_r = z + (r / t - 1) * (z - end)
        noisy_r = (1 - r) * centre + (z_r * ((1 - r) * spread + r)) @ inn.basis.T
        return (noisy - noisy_r) / (t - r)

    def blink(self, z: Tensor, t: Tensor, previous: Tensor) -> Tensor:
        """1 where a blink begins (B, 1): rarely, by the noise that the tick starts from, which
        the last axis of ``z`` (B, L) keeps in proportion to t.

        A blink's onset is too rare an event to be learnt well in little training; its course is
        learnt. Open lids of ``previous`` are below their mean.
        """
        lids = previous[:, -LATE:][:, LIDS : LIDS + 1]
        # Steep ramps in place of comparisons, which not every backend has.
        chance, open_ = (
            (1e3 * x).clamp(0.0, 1.0) for x in (z[:, -1:] / t - BLINK_CHANCE, 0.5 - lids)
        )
        return chance * open_

    def decide(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a mouth makes the sound ``audio`` (B, A), and whether lips touch: (B, 2) each,
        0..1, for the two frames of the tick."""
        over = (self.cues(audio) - self.innovation.threshold.repeat_interleave(2)) / RAMP
        speaks, touches = over.clamp(0.0, 1.0).chunk(2, dim=-1)
        return speaks, touches

    def settle(self, clean: Tensor, previous: Tensor) -> Tensor:
        """Give lips, jaw and tongue of ``clean`` (B, L) inertia: a one-pole filter over frames."""
        early, late = clean.chunk(2, dim=-1)
        share = self.config.inertia * (1 - self.innovation.carried.chunk(2, dim=-1)[0])
        early = early + share * (previous.chunk(2, dim=-1)[1] - early)
        return torch.cat([early, late + share * (early - late)], dim=-1)

    def start(self, batch: int = 1) -> Tensor:
        """The empty cache, (B, 2 layers, W, D)."""
        c = self.config
        return torch.zeros(batch, 2 * c.layers, c.window, c.width)
