"""What the motion network is trained for.

``listen`` alone: visemes, the motion that sound determines, and two decisions, whether a mouth
makes the sound and whether its lips touch. Both networks: what is expected of a tick given its
past (mean and deviation), rectified flow (Liu et al. 2022) of what is left, with the clean sample
as the network's output, the same flow's average velocity for steps of any length, by
self-consistency (Frans et al. 2024, "One Step Diffusion via Shortcut Models"), and for the single
step from noise also the energy score (Gneiting & Raftery 2007, equation 21), which is proper: it
is least in expectation only for the true distribution, so a one-step sampler keeps its spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivant.export.nets.denoise import Denoise
from vivant.export.nets.listen import Listen
from vivant.latent import INDEX, SIZE

from .motion_data import FRAMES, GROUPS, PRIMING, Batch, Statistics, channels
from .vary import vary_sound

VISEMES = 13
"""Classes of phones that look alike; see ``export.synth.speech.phones``."""
FAR = 10.0
"""Deviations of what is expected beyond which a step of the motion counts no more."""
OPEN = 0.03
"""Lips closer than this aperture (jaw-open units) count as closed."""


GAP = {
    "jawOpen": 1.0,
    "mouthLowerDownLeft": 0.225,
    "mouthLowerDownRight": 0.225,
    "mouthUpperUpLeft": 0.175,
    "mouthUpperUpRight": 0.175,
    "mouthFunnel": 0.20,
    "mouthClose": -1.0,
    "mouthRollLower": -0.25,
    "mouthRollUpper": -0.15,
}
"""The rig's closure rule: how much each shape parts the lips, in jaw-open units."""
PARTING = [name for name in GAP if name.startswith(("mouthLower", "mouthUpper", "mouthFunnel"))]
"""Shapes that lips which touch do not have."""
LIDS = 1
"""Index of the lids among the groups of ``Constants``."""
VOICE_MARGIN = (24, 20)
"""Mel frames before and after a phone in which its mouth moves."""


class MotionNet(nn.Module):
    """Both stages with the viseme classifier that only training uses."""

    def __init__(self, listen: Listen, denoise: Denoise) -> None:
        super().__init__()
        self.listen, self.denoise = listen, denoise
        self.viseme = nn.Linear(listen.config.features, FRAMES * VISEMES)


def blinks(statistics: Statistics) -> Tensor:
    """(126,) whether an axis is one of the blinking lids."""
    lids = [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]
    lids += [SIZE + i for i in lids]
    return torch.tensor((statistics.basis[lids] ** 2).sum(0) > 0.3)


@dataclass
class Constants:
    """Statistics as tensors on the training device."""

    audio_mean: Tensor
    audio_std: Tensor
    latent_mean: Tensor  # (126,)
    latent_std: Tensor  # (126,)
    weight: Tensor  # (K,) loss weight of each axis
    groups: Tensor  # (groups, K) 1 where an axis belongs to a group: the mouth, the lids, others
    heard: Tensor  # (126,) weight of each channel in what sound determines

    @classmethod
    def of(cls, statistics: Statistics, components: int, device: torch.device) -> Constants:
        """Tensors of ``statistics`` for a network with ``components`` axes."""
        s = statistics
        group = torch.tensor(s.group[:components])
        groups = torch.stack([(group == g).float() for g in range(len(GROUPS))])
        lids = blinks(s)[:components].float()
        groups = torch.stack([groups[0], lids, *(groups[1:] * (1 - lids))])
        heard = torch.full((SIZE,), 0.03)
        heard[channels("mouth")] = 1.0
        heard[channels("brows")] = 0.1
        return cls(
            *(
                x.to(device)
                for x in (
                    torch.tensor(s.audio_mean),
                    torch.tensor(s.audio_std),
                    torch.tensor(s.latent_mean).repeat(2),
                    torch.tensor(s.latent_std).repeat(2),
                    torch.tensor(s.weight[:components]),
                    groups,
                    heard.repeat(2),
                )
            )
        )


@dataclass
class Example:
    """A batch on the device, normalised."""

    mel: Tensor  # (B, 4 (PRIMING + T), mels)
    motion: Tensor  # (B, T, L), clean ticks
    previous: Tensor  # (B, T, L), the tick before each, perhaps corrupted
    viseme: Tensor  # (B, 4 T)
    conditions: Tensor  # (B, 1, C)
    valid: Tensor  # (B, T)


def drop_conditions(conditions: Tensor) -> Tensor:
    """Forget each group of conditions (B, C) in a share of the clips, as if it were not given.

    Liveliness is always given: 0 is the median speaker.
    """
    kept = conditions.clone()
    for first, end in ((0, 3), (3, 5), (5, 12), (13, 14)):
        lost = torch.rand(len(kept), device=kept.device) < 0.15
        kept[lost, first:end] = 0
    kept[:, 14:] = 0
    return kept


def corrupt(previous: Tensor, denoise: Denoise, share: float) -> Tensor:
    """Clean past (B, T, L) with errors such as a network's own past has, in ``share`` of clips."""
    inn, device, one = denoise.innovation, previous.device, (len(previous), 1, 1)
    level = torch.rand(one, device=device) * (torch.rand(one, device=device) < share)
    quick = 0.25 * (torch.randn_like(previous) * inn.scale) @ inn.basis.T
    # A lasting offset, of both frames of a tick alike, along the axes that motion has.
    lasting = 2 * (torch.randn(len(previous), 1, 2 * SIZE, device=device) * inn.scale) @ inn.basis.T
    lasting = lasting.unflatten(-1, (2, SIZE)).mean(-2).repeat(1, 1, 2)
    return previous + level * (quick + lasting)


def prepare(
    batch: Batch, constants: Constants, denoise: Denoise, *, corruption: float = 0.0
) -> Example:
    """Vary, normalise and corrupt a batch; ``corruption`` is the share of clips."""
    device, c = constants.weight.device, constants
    spoken = torch.from_numpy(batch.viseme.max(1) > 0).to(device)
    mel = vary_sound(torch.from_numpy(batch.mel).to(device), spoken)
    motion = (torch.from_numpy(batch.motion).to(device) - c.latent_mean) / c.latent_std
    conditions = torch.from_numpy(batch.conditions).to(device)
    return Example(
        (mel - c.audio_mean) / c.audio_std,
        motion[:, 1:],
        corrupt(motion[:, :-1], denoise, corruption),
        torch.from_numpy(batch.viseme).to(device),
        drop_conditions(conditions)[:, None],
        torch.from_numpy(batch.valid).to(device),
    )


def aperture(motion: Tensor) -> Tensor:
    """Inner-lip gap (...,) in jaw-open units of latents (..., 63) in their own units.

    The rig's closure rule: positive opens the lips, ``mouthClose`` counters the jaw.
    """

    def of(name: str) -> Tensor:
        return motion[..., INDEX[name]]

    jaw, pucker = of("jawOpen").clamp(min=0), of("mouthPucker").clamp(min=0)
    opened = torch.stack([share * of(name) for name, share in GAP.items()]).sum(0)
    return opened - 0.23 * pucker * jaw / (0.1 + jaw)


def mean_over(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of (..., B, T) over the ticks that are there."""
    return (x * valid).sum() / (valid.expand_as(x).sum() + 1e-6)


def lips(estimate: Tensor, truth: Tensor, c: Constants) -> Tensor:
    """Squared error of the lips' aperture (..., T); closures count five times.

    ``estimate``, ``truth`` (..., T, L) normalised.
    """
    gap, true = (
        aperture((x * c.latent_std + c.latent_mean).unflatten(-1, (2, SIZE)))
        for x in (estimate, truth)
    )
    # Pressing closed lips harder is no error.
    error = torch.where(true < OPEN, gap.clamp(min=0) - true.clamp(min=0), gap - true)
    return (error.square() * (1 + 4 * (true < OPEN))).mean(-1)


def unsteady(estimate: Tensor, truth: Tensor) -> Tensor:
    """Squared error of the mouth's steps from frame to frame (B, T), of ticks (B, T, L)."""
    batch, ticks, _ = truth.shape
    error = (estimate - truth).reshape(batch, -1, SIZE)[..., channels("mouth")]  # (B, 2 T, M)
    steps = F.pad(error.diff(dim=1), (0, 0, 1, 0))
    return steps.square().mean(-1).reshape(batch, ticks, 2).mean(-1)


def listening_loss(
    net: MotionNet, audio: Tensor, example: Example, c: Constants
) -> tuple[Tensor, dict[str, Tensor]]:
    """Visemes, and the motion that sound determines, from features (B, T, A)."""
    logits = net.viseme(audio).float().unflatten(-1, (FRAMES, VISEMES))
    target = example.viseme.unflatten(1, (-1, FRAMES))
    entropy = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
    viseme = mean_over(entropy.unflatten(0, target.shape).mean(-1), example.valid)
    reading = net.denoise.articulation(audio).float()
    error = ((reading - example.motion).square() * c.heard).mean(-1)
    read = mean_over(error, example.valid)
    gap = mean_over(lips(reading, example.motion, c), example.valid)
    cues = decisions(net, audio, example, c)
    rest = net.denoise.rest(example.conditions.expand(-1, audio.shape[1], -1)).float()
    silent = example.valid * (1 - voiced(example.viseme).mean(-1))
    still = ((rest - example.motion).square() * c.heard).mean(-1)
    parted = mean_over(still, silent)
    right = (logits.argmax(-1) == target).float().mean(-1)
    parts = {"viseme": viseme, "read": read, "gap": gap, "right": mean_over(right, example.valid)}
    parts |= {"cues": cues, "rest": parted}
    return 0.3 * viseme + read + 20 * gap + 0.3 * cues + parted, parts


def voiced(viseme: Tensor) -> Tensor:
    """Whether a mouth moves for a sound, (B, T, 2), of visemes (B, 4 T); 0 is silence."""
    before, after = VOICE_MARGIN
    spoken = F.pad((viseme > 0).float()[:, None], (after, before))
    near = F.max_pool1d(spoken, before + after + 1, 1)[:, 0]  # (B, 4 T)
    return near.unflatten(1, (-1, 2, 2)).amax(-1)


def decisions(net: MotionNet, audio: Tensor, example: Example, c: Constants) -> Tensor:
    """Cross entropy of the two decisions: a mouth makes the sound, and its lips touch."""
    logits = net.denoise.cues(audio).float()
    truth = (example.motion * c.latent_std + c.latent_mean).unflatten(-1, (2, SIZE))
    touch = (aperture(truth) < OPEN).float()  # (B, T, 2)
    speak = voiced(example.viseme)
    entropy = F.binary_cross_entropy_with_logits(
        logits, torch.cat([speak, touch], dim=-1), reduction="none"
    )
    # Closed lips while nobody speaks are no decision.
    heard = torch.cat([torch.ones_like(speak), 0.1 + speak], dim=-1)
    return mean_over((entropy * heard).mean(-1), example.valid)


def draw_times(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Times of the flow, densest in the middle, where the sample is decided."""
    normal = torch.sigmoid(0.3 + 1.2 * torch.randn(shape, device=device))
    return torch.where(torch.rand(shape, device=device) < 0.2, torch.rand_like(normal), normal)


def draw_steps(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Steps (t, r) of the average velocity, (..., 2); many start from noise or end in the clean."""
    start = draw_times((*shape, 1), device).clamp(min=0.1)
    start = torch.where(torch.rand_like(start) < 0.4, torch.ones_like(start), start)
    stop = start * 0.98 * torch.rand_like(start)
    stop = torch.where(torch.rand_like(stop) < 0.4, torch.zeros_like(stop), stop)
    return torch.cat([start, stop], -1)


def spread_score(a: Tensor, b: Tensor, truth: Tensor, c: Constants) -> Tensor:
    """Energy score (B, T) of two samples (B, T, K), where there is chance.

    Within each group of channels, which keeps them together, and along each axis but the lids'
    (where it is the continuous ranked probability score), which keeps still what is still.
    """

    def length(x: Tensor) -> Tensor:
        return ((x.square() * c.weight) @ c.groups[1:].T + 1e-4).sqrt()  # (B, T, groups)

    apart = a - truth, b - truth, a - b
    first, second, between = (length(x) for x in apart)
    score = 0.5 * (first + second - between).sum(-1)
    first, second, between = (x.abs() for x in apart)
    chance = c.weight * (1 - c.groups[0] - c.groups[LIDS])
    return score + 0.25 * ((first + second - between) * chance).sum(-1)


def advance(z: Tensor, end: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """``z_r`` from ``z_t`` along the straight line that ends in the clean ``end`` at time 0."""
    return z + (r / t - 1) * (z - end)


def shortcut(
    denoise: Denoise, z: Tensor, times: Tensor, context: Tensor, reading: Tensor
) -> Tensor:
    """The endpoint that two half steps of the network agree on; no gradient.

    ``z`` (B, T, K) at ``times`` (B, T, 2) = (t, r) -> (B, T, K).
    """
    t, r = times[..., :1], times[..., 1:]
    half, at = (t + r) / 2, z
    for start, stop in ((t, half), (half, r)):
        pair = torch.cat([start, stop], -1)
        at = advance(at, denoise.endpoint(at, pair, context, reading).float(), start, stop)
    return (at - (r / t) * z) / (1 - r / t)


def expectation_loss(mu: Tensor, sigma: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
    """Negative log-likelihood (B, T) of innovations (B, T, K) under what is expected of them.

    Weighted by the deviation, so that rare large steps of still axes do not drown the rest
    (Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty Estimation").
    """
    likely = 0.5 * ((clean - mu) / sigma).square() + sigma.log()
    return (likely * sigma.detach() * weight).mean(-1)


def motion_loss(
    net: MotionNet, audio: Tensor, example: Example, c: Constants, *, jumps: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is expected of each tick, the flow about it, lips, and (with ``jumps``) long steps.

    ``audio`` (B, T, A) are the features of ``example``.
    """
    denoise, valid = net.denoise, example.valid
    inn, k = denoise.innovation, denoise.config.components
    drawn = inn.drawn[:k]
    context = denoise.context(example.previous, audio, example.conditions)
    with torch.autocast(audio.device.type, enabled=False):
        mean = inn.mean(example.previous)
        clean = inn.whiten(example.motion, mean)  # (B, T, K)
        reading = denoise.reading(audio.float(), example.conditions, mean)
        mu, sigma = denoise.expected(context.float(), audio.float(), example.conditions)
        expectation = expectation_loss(mu, sigma, clean, c.weight * drawn)
        mu, sigma = mu.detach(), sigma.detach()
        clean = ((clean - mu) / sigma).clamp(-FAR, FAR)

    shape, device = clean.shape[:2], clean.device
    once = torch.tensor([1.0, 0.0], device=device).expand(*shape, 2)
    flow = draw_times((*shape, 1), device).clamp(min=2e-2)
    pairs = [once, once, torch.cat([flow, flow], -1)]
    if jumps:
        pairs.append(draw_steps(shape, device))
    times = torch.stack(pairs)  # (3 or 4, B, T, 2)
    noise = torch.randn(len(times), *clean.shape, device=device)
    t = times[..., :1]
    z = (1 - t) * clean + t * noise
    ends = denoise.endpoint(z, times, context, reading).float()

    mouth = ((ends[1:3] - clean).square() * c.weight * c.groups[0]).mean((0, -1))
    with torch.autocast(audio.device.type, enabled=False):
        moved = inn.colour(mu + sigma * ends[0], mean)
        gap = mean_over(lips(moved, example.motion, c), valid)
        step = mean_over(unsteady(moved, example.motion), valid)
    # The network's own part of an estimate counts the same at any time.
    own = drawn * c.weight * sigma * (1 + ((1 - t) / t).square())
    error = ((ends[2] - clean).square() * own[2]).mean(-1)
    score = spread_score(sigma * ends[0], sigma * ends[1], sigma * clean, c)
    parts = {
        "mouth": mean_over(mouth, valid),
        "expect": mean_over(expectation, valid),
        "flow": mean_over(error, valid),
        "energy": mean_over(score, valid),
        "closure": gap,
        "unsteady": step,
    }
    total = parts["mouth"] + parts["expect"] + parts["flow"] + 0.1 * parts["energy"]
    total = total + 20 * gap + 5 * step
    if jumps:
        with torch.no_grad():
            target = shortcut(denoise, z[3], times[3], context, reading)
        jump = ((ends[3] - target).square() * own[3]).mean(-1)
        parts |= {"shortcut": mean_over(jump, valid)}
        total = total + parts["shortcut"]
    return total, parts


def hear(net: MotionNet, mel: Tensor) -> Tensor:
    """Features (B, T, A) of ``mel`` (B, 4 (PRIMING + T), mels)."""
    state = net.listen.start(len(mel)).to(mel.device)
    audio, _ = net.listen(mel, state)
    return audio[:, PRIMING:]
