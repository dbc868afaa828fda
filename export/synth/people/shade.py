"""Shading of visible points: skin, eyes, mouth, garments, hair. Linear RGB, tensors (n, c)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.light import KeyShadow, Light, unit
from vivant.export.synth.people.person import Person, Posed
from vivant.export.synth.people.raster import sample_texture

_IRIS_RADIUS = 0.405  # of the eyeball's radius: 6.2 mm on a 15.3 mm model eye
_CORNEA = 1.336  # refractive index of the aqueous humour


@dataclass
class Points:
    """Visible points with everything the shading needs interpolated to them."""

    position: Tensor  # (n, 3)
    normal: Tensor  # (n, 3) toward the camera
    view: Tensor  # (n, 3) unit, toward the camera
    ambient: Tensor  # (n, 3) environment irradiance
    openness: Tensor  # (n, 1) share of the environment seen
    mouth: Tensor  # (n, 1) light inside the mouth
    uv: Tensor  # (n, 2)
    material: Tensor  # (n,)


@dataclass
class Radiance:
    """Diffuse light kept apart from colour so that skin can scatter it."""

    albedo: Tensor  # (n, 3)
    diffuse: Tensor  # (n, 3)
    specular: Tensor  # (n, 3)
    scatter: Tensor  # (n, 1) how much light bleeds under the surface


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _specular(n: Tensor, v: Tensor, l: Tensor, rough: Tensor, f0: Tensor) -> Tensor:
    """GGX microfacet reflection times the cosine (Walter et al. 2007; Schlick's Fresnel)."""
    h = F.normalize(v + l, dim=-1)
    nh, nv = _dot(n, h).clamp(0, 1), _dot(n, v).clamp(1e-3, 1)
    nl, vh = _dot(n, l).clamp(0, 1), _dot(v, h).clamp(0, 1)
    a2 = (rough * rough) ** 2
    d = a2 / (math.pi * (nh * nh * (a2 - 1) + 1) ** 2 + 1e-7)
    k = (rough + 1) ** 2 / 8
    g = 1 / ((nv * (1 - k) + k) * (nl * (1 - k) + k))
    c = 1 - vh
    c2 = c * c
    return d * g * (f0 + (1 - f0) * (c2 * c2 * c)) * nl / 4


def _frame(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors across a direction: right and up."""
    up = torch.tensor([0.0, 1.0, 0.0], device=direction.device)
    u = F.normalize(torch.linalg.cross(up, direction), dim=0)
    return u, torch.linalg.cross(direction, u)


def _reflected_lamps(direction: Tensor, light: Light) -> Tensor:
    """Environment with the lamps' shapes, as mirrored by cornea and tears."""
    device = direction.device
    out = light.environment(direction) * 0.55
    fill = unit(0.45 if light.key[0] > 0 else -0.45, 0.35, 1.0)
    lamps = (
        (light.key, (0.20, 0.26, 60.0), 26.0 * light.key_colour),
        (fill, (0.13, 0.17, 70.0), 34.0 * light.middle),
    )
    for toward, (wide, high, edge), colour in lamps:
        d = torch.tensor(toward, device=device)
        u, v = _frame(d)
        shape = torch.sigmoid((wide - (direction @ u).abs()) * edge)
        shape = shape * torch.sigmoid((high - (direction @ v).abs()) * edge)
        shape = (shape * (direction @ d > 0))[:, None]
        out = out + shape * torch.tensor(np.asarray(colour, np.float32), device=device)
    return out


def _eye(
    points: Points, at: Tensor, which: int, person: Person, posed: Posed
) -> tuple[Tensor, Tensor]:
    """Albedo and normal of one eyeball: an iris behind a refracting cornea, limbus, veins."""
    device = at.device
    traits = person.traits
    axis = posed.eye_axis[which]
    u, v = _frame(axis)
    basis = torch.stack([u, v, axis], 1)
    local = (points.position[at] - posed.eye_centre[which]) @ basis / person.eye_radius[which]
    ray = -points.view[at] @ basis
    x, y, z = local.T
    radius = torch.sqrt(x * x + y * y)
    edge = ((radius - _IRIS_RADIUS * 1.12) / 0.10).clamp(0, 1)[:, None]
    edge = edge * edge * (3 - 2 * edge)
    cornea = F.normalize(local - torch.tensor([0.0, 0.0, 0.33], device=device), dim=1)
    normal = F.normalize(cornea * (1 - edge) + F.normalize(local, dim=1) * edge, dim=1)
    eta = 1 / _CORNEA
    cosine = -_dot(ray, normal)
    bent = (
        eta * ray + (eta * cosine - (1 - eta * eta * (1 - cosine**2)).clamp(min=0).sqrt()) * normal
    )
    travel = ((0.90 - z) / bent[:, 2].clamp(max=-0.05)).clamp(0, 0.6)
    ix, iy = x + bent[:, 0] * travel, y + bent[:, 1] * travel
    inner = torch.sqrt(ix * ix + iy * iy) / _IRIS_RADIUS
    angle = torch.atan2(iy, ix)
    rng = np.random.default_rng(traits.seed)
    fibres = torch.zeros_like(angle)
    for _ in range(26):
        count, phase, gain, bend = rng.integers(6, 90), rng.random(), rng.random(), rng.random()
        fibres += gain * torch.sin(int(count) * angle + 6.28 * phase + 3 * bend * inner)
    fibres = fibres[:, None] / 5
    pupil = traits.pupil
    inner = inner[:, None]
    iris = 0.62 * torch.tensor(traits.iris, device=device) * (1 + 0.30 * fibres)
    iris = iris * (0.7 + 0.6 * ((inner - pupil) / (1 - pupil)).clamp(0, 1))
    collarette = torch.exp(-(((inner - pupil - 0.12) / 0.12) ** 2))
    iris = iris + collarette * torch.tensor([0.07, 0.04, 0.012], device=device) * (1 + 0.5 * fibres)
    iris = iris * (1 - 0.80 * ((inner - 0.78) / 0.22).clamp(0, 1) ** 2)
    iris = 0.004 + (iris - 0.004) * ((inner - pupil) / 0.05).clamp(0, 1)
    red = torch.tensor([0.2, 1.0, 1.0], device=device)
    out = ((radius - 0.5) / 0.6).clamp(0, 1)[:, None]
    white = torch.tensor(traits.sclera, device=device) * (1 - 0.22 * out * red)
    veins = torch.sin(angle * 9 + torch.sin(radius * 13 + angle * 3) * 2)
    veins = (veins * torch.sin(angle * 23 + radius * 9)).clamp(min=0) ** 3
    white = white * (1 - 0.28 * (veins * ((radius - 0.55) / 0.4).clamp(0, 1))[:, None] * red)
    limbus = ((inner - 0.93) / 0.16).clamp(0, 1)
    limbus = limbus * limbus * (3 - 2 * limbus)
    front = (z > 0).float()[:, None]
    albedo = (iris * (1 - limbus) + white * limbus) * front + white * (1 - front)
    return albedo, normal @ basis.T


@dataclass
class _Surface:
    """Material parameters per point."""

    albedo: Tensor
    normal: Tensor
    rough: Tensor
    f0: Tensor
    gloss: Tensor
    scatter: Tensor
    mirror: Tensor


def _materials(points: Points, person: Person, posed: Posed) -> _Surface:
    device = points.position.device
    traits, count = person.traits, len(points.material)

    def full(value: float) -> Tensor:
        return torch.full((count, 1), value, device=device)

    s = _Surface(
        torch.zeros(count, 3, device=device),
        points.normal.clone(),
        full(0.5),
        full(0.028),
        full(1.0),
        full(0.0),
        full(0.0),
    )
    at = (points.material == asset.FACE).nonzero().squeeze(1)
    if len(at):
        texel = sample_texture(person.face_texture, points.uv[at])
        s.albedo[at] = texel[:, :3]
        bump, lip, oil = texel[:, 3:5], texel[:, 5:6], texel[:, 6:7]
        s.rough[at] = 0.56 - 0.11 * oil * traits.oily - 0.14 * lip
        s.gloss[at] = 0.50 + 0.55 * oil * traits.oily + 0.35 * lip
        s.scatter[at] = 1
        n = points.normal[at]
        right = torch.tensor([1.0, 0.0, 0.0], device=device)
        tx = F.normalize(right - n * n[:, :1], dim=1)
        ty = torch.linalg.cross(n, tx)
        s.normal[at] = F.normalize(n - (tx * bump[:, :1] - ty * bump[:, 1:]) * 0.22, dim=1)
    at = (points.material == asset.SCALP).nonzero().squeeze(1)
    if len(at):
        s.albedo[at] = sample_texture(person.scalp_texture, points.uv[at])
        s.scatter[at], s.gloss[at] = 1, 0.6
    wet = (
        (asset.MOUTH, np.array([0.30, 0.085, 0.075]), 0.35, 1.0),
        (asset.ORBIT, np.array([0.55, 0.28, 0.24]), 0.40, 0.5),
        (asset.GUM, traits.gum, 0.28, 1.0),
        (asset.TONGUE, traits.tongue, 0.38, 1.0),
        (asset.TOOTH, traits.tooth, 0.22, 1.0),
    )
    for kind, colour, rough, gloss in wet:
        at = (points.material == kind).nonzero().squeeze(1)
        if len(at):
            s.albedo[at] = torch.tensor(np.asarray(colour, np.float32), device=device)
            s.rough[at], s.gloss[at], s.f0[at], s.scatter[at] = rough, gloss, 0.04, 0.4
    for which, kind in enumerate((asset.GLOBE_LEFT, asset.GLOBE_RIGHT)):
        at = (points.material == kind).nonzero().squeeze(1)
        if len(at):
            s.albedo[at], s.normal[at] = _eye(points, at, which, person, posed)
            s.rough[at], s.f0[at], s.gloss[at] = 0.12, 0.025, 0.0
            s.mirror[at], s.scatter[at] = 1.0, 0.25
    at = (points.material == asset.GARMENT).nonzero().squeeze(1)
    if len(at):
        s.albedo[at] = sample_texture(person.garment_texture, points.uv[at])
        s.rough[at], s.gloss[at] = 0.7, 0.5
    at = (points.material == asset.CAP).nonzero().squeeze(1)
    if len(at):
        s.albedo[at] = sample_texture(person.cap_texture, points.uv[at])
        s.rough[at], s.gloss[at] = 0.9, 0.2
    at = (points.material == asset.FRAME).nonzero().squeeze(1)
    if len(at):
        colour = traits.metal if traits.glasses is None else traits.glasses.colour
        s.albedo[at] = torch.tensor(colour, device=device)
        s.rough[at], s.f0[at] = 0.25, 0.05
    at = (points.material >= asset.HAND).nonzero().squeeze(1)
    if len(at):
        s.albedo[at] = sample_texture(person.held_texture, points.uv[at])
        flesh = (points.material[at] == asset.HAND).float()[:, None]
        s.rough[at], s.gloss[at], s.scatter[at] = 0.55 - 0.05 * flesh, 0.6 + 0.1 * flesh, flesh
    at = (points.material == asset.OCCLUDER).nonzero().squeeze(1)
    if len(at):
        s.albedo[at] = 0.03
        s.rough[at] = 0.45
    return s


def shade(
    points: Points, person: Person, posed: Posed, light: Light, shadow: KeyShadow
) -> Radiance:
    """Light leaving opaque points toward the camera."""
    device = points.position.device
    lit = shadow.lit(points.position, taps=12)
    lit = torch.maximum(lit, 0.85 * points.mouth)
    key = torch.tensor(light.key, device=device)
    colour = torch.tensor(light.key_colour, device=device)
    s = _materials(points, person, posed)
    # Half of the bump in the diffuse term: skin blurs fine relief before it is seen.
    facing = 0.6 * (s.normal @ key) + 0.4 * (points.normal @ key)
    wrap = torch.tensor([0.30, 0.12, 0.06], device=device) * s.scatter
    diffuse = ((facing[:, None] + wrap) / (1 + wrap)).clamp(min=0)
    # Shadow edges on skin are redder than the shadow: light enters beside the edge.
    edge = torch.stack([lit[:, 0].clamp(min=1e-6) ** 0.75, lit[:, 0], lit[:, 0] ** 1.1], 1)
    diffuse = diffuse * edge * colour * (2.2 / math.pi)
    inside = 0.03 * torch.tensor([1.15, 0.95, 0.9], device=device) * s.scatter
    diffuse = diffuse + (points.ambient + inside) * 0.9
    towards = key.expand_as(points.normal)
    gloss = _specular(s.normal, points.view, towards, s.rough, s.f0) * 0.75
    fine = (s.rough * 0.62).clamp(min=0.08)
    gloss = gloss + _specular(s.normal, points.view, towards, fine, s.f0) * 0.3
    specular = gloss * colour * lit * s.gloss * 1.7
    cosine = _dot(s.normal, points.view)
    mirrored = 2 * cosine * s.normal - points.view
    grazing = (1 - cosine.clamp(0, 1)) ** 5
    fresnel = s.f0 + (1 - s.f0) * grazing * 0.55
    open_ = points.openness.clamp(0, 1)
    reach = fresnel * open_ * open_.sqrt() * s.gloss * (1 - s.rough) * 0.7
    specular = specular + light.environment(mirrored) * reach
    at = (s.mirror[:, 0] > 0).nonzero().squeeze(1)
    if len(at):
        fresnel = 0.022 + 0.978 * grazing[at]
        seen = (points.openness[at] * 1.12).clamp(0, 1) ** 1.7
        lamps = _reflected_lamps(mirrored[at], light)
        specular[at] = lamps * fresnel * seen * (0.35 + 0.65 * lit[at]) * 1.1
        diffuse[at] *= 0.18 + 0.82 * seen
    return Radiance(s.albedo, diffuse, specular, s.scatter)


def shade_hair(
    points: Points, tangent: Tensor, person: Person, light: Light, shadow: KeyShadow
) -> Tensor:
    """Colour of hair fragments, (n, 3): a two-lobe strand highlight (Kajiya and Kay 1989)."""
    device = points.position.device
    normal, view = points.normal, points.view
    lit = shadow.lit(points.position + normal * 0.25, taps=8, blur=1.3)
    key = torch.tensor(light.key, device=device)
    colour = torch.tensor(light.key_colour, device=device)
    strand = sample_texture(person.hair_light, points.uv)
    hair = torch.tensor(person.traits.hair_colour, device=device)
    albedo = hair * (0.35 + 0.65 * strand)
    along = (tangent @ key)[:, None]
    across = (1 - along * along).clamp(min=0).sqrt()
    facing = (normal @ key)[:, None]
    diffuse = 0.45 * across * ((facing + 0.4) / 1.4).clamp(min=0) + 0.55 * facing.clamp(min=0)
    half = F.normalize(view + key, dim=1)

    def lobe(shift: Tensor, sharpness: float) -> Tensor:
        angle = _dot(F.normalize(tangent + normal * shift, dim=1), half)
        return (1 - angle * angle).clamp(min=1e-6) ** (sharpness / 2)

    jitter = (strand - 1) * 0.12
    shine = lobe(jitter - 0.08, 90) * (0.035 + 0.05 * float(hair.mean().sqrt()))
    shine = shine + lobe(jitter + 0.12, 22) * 0.33 * hair.sqrt()
    shine = shine * ((facing + 0.25) / 1.25).clamp(0, 1) * lit * (0.4 + 0.6 * strand)
    sky = points.ambient * 0.95 * (0.45 + 0.55 * points.openness)
    return albedo * (diffuse * lit * colour * (2.4 / math.pi) + sky) + shine * colour * 0.55
