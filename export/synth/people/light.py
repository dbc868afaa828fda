"""Light: a soft key with shadows, and an environment seen through precomputed visibility."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant import latent
from vivant.export.synth.people import raster
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.person import Person, Posed

_STAGE = 24.0  # cm from the stage's centre to the edge of the shadow maps
_CENTRE = (0.0, -1.0, 2.0)


@dataclass
class Light:
    """Directions point toward the light; colours are linear RGB."""

    key: Array
    key_colour: Array
    key_size: float
    """Angular softness of the key's shadow, radians."""
    soft: list[tuple[Array, Array, float]]
    """Broad lights of the environment: direction, colour, width."""
    top: Array
    middle: Array
    bottom: Array
    gain: float = 1.0
    """Exposure relative to a normally exposed face."""

    def environment(self, direction: Tensor) -> Tensor:
        """Radiance from unit directions (..., 3), linear RGB."""
        device = direction.device
        top, middle, bottom = (
            torch.tensor(c, device=device) for c in (self.top, self.middle, self.bottom)
        )
        up = direction[..., 1:2]
        light = middle + (top - middle) * up.clamp(min=0) ** 0.7
        light = light + (bottom - middle) * (-up).clamp(min=0) ** 0.6
        for toward, colour, width in self.soft:
            cosine = (direction @ torch.tensor(toward, device=device))[..., None]
            light = light + torch.tensor(colour, device=device) * torch.exp(
                (cosine - 1) / (width * width)
            )
        return light


def unit(*vector: float) -> Array:
    """Unit vector (3,)."""
    v = np.array(vector, np.float32)
    return v / np.linalg.norm(v)


def _warm(amount: float) -> Array:
    return np.array([1 + 0.18 * amount, 1, 1 - 0.22 * amount], np.float32)


def sample_light(rng: np.random.Generator) -> Light:
    """Studio, window, outdoor or office light."""
    kind = rng.choice(["studio", "window", "outdoor", "office"])
    side = float(rng.choice([-1, 1]))
    if kind == "studio":
        key = unit(side * rng.uniform(0.35, 0.9), rng.uniform(0.35, 0.8), 1)
        colour, size, levels = 1.9 * _warm(rng.uniform(-0.1, 0.35)), 0.10, (0.50, 0.34, 0.20)
        soft = [
            (unit(-key[0] * 1.3, 0.1, 0.7), 0.55 * _warm(rng.uniform(-0.4, 0.2)), 0.5),
            (unit(rng.uniform(-0.7, 0.7), 0.6, -1), 1.6 * _warm(rng.uniform(-0.2, 0.4)), 0.25),
        ]
    elif kind == "window":
        key = unit(side * rng.uniform(0.8, 1.6), rng.uniform(0.15, 0.5), 1)
        colour, size, levels = 1.7 * _warm(rng.uniform(-0.4, 0.1)), 0.16, (0.42, 0.36, 0.26)
        soft = [(key, 0.9 * _warm(-0.2), 0.6)]
    elif kind == "outdoor":
        key = unit(rng.uniform(-0.9, 0.9), rng.uniform(0.6, 1.2), rng.uniform(0.4, 1))
        colour = rng.uniform(0.6, 2.0) * _warm(rng.uniform(0, 0.35))
        size, levels, soft = 0.07, (0.95, 0.55, 0.28), []
    else:
        key = unit(rng.uniform(-0.6, 0.6), rng.uniform(0.6, 1.1), 0.9)
        colour, size, levels = 1.1 * _warm(rng.uniform(-0.1, 0.4)), 0.2, (0.62, 0.46, 0.30)
        soft = [(unit(0, 1, 0.4), 0.6 * _warm(0.1), 0.5)]
    if rng.random() < 0.08:  # coloured stage light
        colour = colour * rng.uniform(0.4, 1.4, 3).astype(np.float32)
    return Light(
        key=key,
        key_colour=colour.astype(np.float32),
        key_size=size,
        soft=[(d, np.asarray(c, np.float32), w) for d, c, w in soft],
        top=levels[0] * _warm(rng.uniform(-0.5, 0.1)),
        middle=levels[1] * np.ones(3, np.float32),
        bottom=levels[2] * _warm(rng.uniform(0, 0.7)),
        gain=float(np.exp(rng.normal(0, 0.15))),
    )


def sphere_directions(count: int, device: torch.device) -> Tensor:
    """Fibonacci lattice on the upper half of the sphere, then its opposites, (count, 3)."""
    k = torch.arange(count // 2, device=device) + 0.5
    height, angle = 1 - 2 * k / count, k * math.pi * (3 - math.sqrt(5))
    ring = (1 - height * height).sqrt()
    upper = torch.stack([ring * angle.cos(), height, ring * angle.sin()], -1)
    return torch.cat([upper, -upper])


def _project(points: Tensor, direction: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Orthographic view along -direction: pixels (V, 2), nearness (V,) > 0 per metre."""
    up = torch.tensor([0.0, 1.0, 0.01], device=points.device)
    u = F.normalize(torch.linalg.cross(up, direction), dim=0)
    v = torch.linalg.cross(direction, u)
    local = (points - torch.tensor(_CENTRE, device=points.device)) @ torch.stack(
        [u, v, direction], 1
    )
    half = size / 2
    xy = torch.stack([half + local[:, 0] / _STAGE * half, half - local[:, 1] / _STAGE * half], -1)
    return xy, local[:, 2] * 0.01 + 1.0


def _visible(points: Tensor, faces: Tensor, directions: Tensor, size: int, bias: float) -> Tensor:
    """Which directions each vertex sees, (V, K) 0..1, from one depth map per pair of opposites."""
    seen, opposite = [], []
    for direction in directions[: len(directions) // 2]:
        xy, near = _project(points, direction, size)
        nearest, farthest = raster.depth_range(xy, near, faces, size)
        x, y = xy[:, 0].floor().long(), xy[:, 1].floor().long()
        outside = (x < 0) | (x >= size) | (y < 0) | (y >= size)
        at = y.clamp(0, size - 1) * size + x.clamp(0, size - 1)
        seen.append(((near >= nearest[at] - bias * 0.01) | outside).float())
        opposite.append(((near <= farthest[at] + bias * 0.01) | outside).float())
    return torch.stack(seen + opposite, 1)


@dataclass
class Ambient:
    """Visibility of the environment per vertex, in the frame of the unturned head.

    Two states are kept, at rest and with lids closed and jaw dropped; frames blend them.
    """

    directions: Tensor  # (K, 3)
    rest: Tensor  # (V, K)
    changed: Tensor  # (V, K)


def ambient_visibility(person: Person, count: int = 26, size: int = 144) -> Ambient:
    """Compute the visibility once per person."""
    directions = sphere_directions(count, person.neutral.device)
    motion = np.zeros(63, np.float32)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        motion[latent.INDEX[name]] = person.traits.lid
    rest = _visible(person.pose(motion).vertices, person.faces_cast, directions, size, 0.45)
    for name, value in (("eyeBlinkLeft", 1.0), ("eyeBlinkRight", 1.0), ("jawOpen", 0.4)):
        motion[latent.INDEX[name]] = value
    changed = _visible(person.pose(motion).vertices, person.faces_cast, directions, size, 0.45)
    return Ambient(directions, rest, changed)


def irradiance(
    person: Person, posed: Posed, normals: Tensor, light: Light, ambient: Ambient
) -> tuple[Tensor, Tensor]:
    """Environment irradiance (V, 3) and openness 0..1 (V, 1) of every vertex."""
    change = person.lid_share[0] * posed.blink[0] + person.lid_share[1] * posed.blink[1]
    change = torch.maximum(change, person.jaw_share * min(1.0, max(0.0, posed.jaw / 0.4)))
    seen = torch.lerp(ambient.rest, ambient.changed, change.clamp(0, 1)[:, None])
    count = len(ambient.directions)
    total = torch.zeros_like(normals)
    reach = torch.zeros(len(normals), 1, device=normals.device)
    for directions, share in (
        (ambient.directions @ posed.rotation.T, person.rigid),
        (ambient.directions, 1 - person.rigid),
    ):
        part = (share > 0).nonzero().squeeze(1)
        facing = normals[part] @ directions.T
        # Strands are lit from both sides of the card that carries them.
        facing = torch.where(person.strands[part, None], facing.abs(), facing.clamp(min=0))
        lit = seen[part] * facing
        w = share[part, None]
        total.index_add_(0, part, w * (lit @ light.environment(directions)) * (4 / count))
        openness = lit.sum(1, keepdim=True) / facing.sum(1, keepdim=True).clamp(min=1e-3)
        reach.index_add_(0, part, w * openness)
    return total, reach


@dataclass
class KeyShadow:
    """Depth map seen from the key light, shared by all surfaces of a frame."""

    light: Light
    nearest: Tensor  # (S * S,)
    size: int

    def lit(self, points: Tensor, taps: int, blur: float = 1.0) -> Tensor:
        """Share of the key that reaches points (n, 3), (n, 1): percentage-closer filtering."""
        direction = torch.tensor(self.light.key, device=points.device)
        xy, near = _project(points, direction, self.size)
        # The shadow's softness in pixels of the map; 1.6 cm is a typical caster's distance.
        radius = self.light.key_size * 3 * blur * self.size / _STAGE * 1.6
        if not points.is_cuda:
            out = np.empty(len(points), np.float32)
            _filter_compiled(
                xy.numpy(), near.numpy(), self.nearest.numpy(), self.size, radius, taps, out
            )
            return torch.from_numpy(out)[:, None]
        k = torch.arange(taps, device=points.device) + 0.5
        number = torch.arange(len(points), device=points.device)
        turn = (number * 0.6180339887) % 1 * 2 * math.pi
        angle = k * 2.399963 + turn[:, None]
        reach = radius * (k / taps).sqrt()
        x = (xy[:, :1] + reach * angle.cos()).floor().long().clamp(0, self.size - 1)
        y = (xy[:, 1:] + reach * angle.sin()).floor().long().clamp(0, self.size - 1)
        bias = 0.0022 + 0.00015 * reach
        return (near[:, None] >= self.nearest[y * self.size + x] - bias).float().mean(1, True)


def key_shadow(posed: Posed, faces: Tensor, light: Light, size: int) -> KeyShadow:
    """Render the key light's depth map, (size, size)."""
    direction = torch.tensor(light.key, device=posed.vertices.device)
    xy, near = _project(posed.vertices, direction, size)
    return KeyShadow(light, raster.depth_map(xy, near, faces, size).reshape(-1), size)


_TURNS = 64  # rotations of the sampling pattern, enough to hide its regularity


@raster.compiled
def _filter_compiled(xy, near, nearest, size, radius, taps, out):  # type: ignore[no-untyped-def]
    across = np.empty((_TURNS, taps), np.float32)
    down = np.empty((_TURNS, taps), np.float32)
    bias = np.empty(taps, np.float32)
    for k in range(taps):
        reach = radius * math.sqrt((k + 0.5) / taps)
        bias[k] = 0.0022 + 0.00015 * reach
        for t in range(_TURNS):
            angle = (k + 0.5) * 2.399963 + t * 6.283185307 / _TURNS
            across[t, k] = reach * math.cos(angle)
            down[t, k] = reach * math.sin(angle)
    for n in range(len(near)):
        turn = (n * 23) % _TURNS
        open_ = 0
        for k in range(taps):
            x = min(max(math.floor(xy[n, 0] + across[turn, k]), 0), size - 1)
            y = min(max(math.floor(xy[n, 1] + down[turn, k]), 0), size - 1)
            if near[n] >= nearest[y * size + x] - bias[k]:
                open_ += 1
        out[n] = open_ / taps
