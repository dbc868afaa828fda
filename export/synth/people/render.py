"""A frame: geometry to pixels, shading, hair, exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.export.synth.people import light as lighting
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import raster
from vivant.export.synth.people.camera import Camera
from vivant.export.synth.people.light import Ambient, KeyShadow, Light
from vivant.export.synth.people.person import Person, Posed
from vivant.export.synth.people.shade import Points, shade, shade_hair

_LIPS = (0, 5518, 4275, 2081, 966)  # vertices that stand for the light before the mouth


@dataclass
class Frame:
    """One rendered frame and, per pixel, which surface owns it."""

    image: Tensor  # (R, R, 3) sRGB 0..1
    triangle: Tensor  # (R, R) index into the person's all_faces, -1 background
    barycentric: Tensor  # (R, R, 3)
    inverse_depth: Tensor  # (R, R) of the owning surface, 0 background
    farthest: Tensor  # (R, R) least inverse depth in the 3x3 pixels around
    xy: Tensor  # (V, 2) projected vertices, pixels of R
    inverse: Tensor  # (V,) 1/depth of the vertices
    exposure: float


@dataclass
class Scene:
    """What stays the same over a person's frames."""

    person: Person
    camera: Camera
    light: Light
    ambient: Ambient
    background: Tensor  # (R, R, 3) linear
    size: int
    exposure: float | None = None
    """Set by the first frame, so that all frames share it."""


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (1, C, R, R), zero outside."""
    radius = max(1, int(3 * sigma))
    if not image.is_cuda:
        import cv2

        side, border = 2 * radius + 1, cv2.BORDER_CONSTANT
        planes = image[0].contiguous().numpy()
        soft = [cv2.GaussianBlur(p, (side, side), sigma, borderType=border) for p in planes]
        return torch.from_numpy(np.stack(soft))[None]
    k = torch.arange(-radius, radius + 1, device=image.device)
    g = torch.exp(-(k**2) / (2 * sigma * sigma))
    g = (g / g.sum()).view(1, 1, 1, -1).expand(image.shape[1], 1, 1, -1)
    image = F.conv2d(image, g, padding=(0, radius), groups=image.shape[1])
    return F.conv2d(image, g.transpose(2, 3), padding=(radius, 0), groups=image.shape[1])


def _scattered(diffuse: Tensor, scatter: Tensor, pixel: Tensor, size: int) -> Tensor:
    """Blur irradiance over skin, red furthest, as light does under it (d'Eon et al. 2007)."""
    skin = (scatter > 0.5).float()
    plane = torch.zeros(size * size, 4, device=diffuse.device)
    plane[pixel] = torch.cat([diffuse * skin, skin], 1)
    grid = plane.reshape(1, size, size, 4).permute(0, 3, 1, 2)
    out = []
    for channel, width in enumerate((3.6, 1.8, 1.1)):
        both = _blur(grid[:, [channel, 3]], width * size / 1024)
        out.append(both[:, 0] / both[:, 1].clamp(min=1e-3))
    soft = torch.stack(out, -1).reshape(-1, 3)[pixel]
    return torch.where(skin > 0, diffuse * 0.25 + soft * 0.75, diffuse)


def _points(
    attributes: Tensor, faces: Tensor, share: Tensor, uv: Tensor, material: Tensor, eye: Tensor
) -> Points:
    at = raster.interpolate(attributes, faces, share)
    position, normal = at[:, :3], F.normalize(at[:, 3:6], dim=1)
    view = F.normalize(eye - position, dim=1)
    away = (normal * view).sum(1, keepdim=True) < -0.3
    normal = torch.where(away, -normal, normal)
    return Points(position, normal, view, at[:, 6:9], at[:, 9:10], at[:, 10:11], uv, material)


def tone(linear: Tensor) -> Tensor:
    """Exposed linear RGB to sRGB 0..1: a shoulder, the sRGB curve, a little contrast."""
    x = 1 - torch.exp(-1.3 * linear)
    x = torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
    x = x.clamp(0, 1)
    return x * 0.80 + 0.20 * (x * x * (3 - 2 * x))


def render(scene: Scene, posed: Posed) -> Frame:
    """Render one frame; the first one fixes the scene's exposure."""
    person, light, size = scene.person, scene.light, scene.size
    device = posed.vertices.device
    xy, inverse = scene.camera.project(posed.vertices, size)
    surface = raster.rasterize(xy, inverse, person.faces, size, size)
    normals = raster.vertex_normals(posed.vertices, person.all_faces)
    ambient, openness = lighting.irradiance(person, posed, normals, light, scene.ambient)
    ambient = torch.maximum(ambient, _mouth_ambient(person, normals, ambient, light))
    attributes = torch.cat(
        [posed.vertices, normals, ambient, openness, person.mouth_light[:, None]], 1
    )
    # Cells of a millimetre where pixels are as wide, finer ones for larger pictures.
    cells = 512 if size <= 400 else 704
    shadow = lighting.key_shadow(posed, person.faces_cast, light, cells)
    eye = scene.camera.position(device)
    pixel = (surface.triangle.reshape(-1) >= 0).nonzero().squeeze(1)
    triangle = surface.triangle.reshape(-1)[pixel]
    share = surface.barycentric.reshape(-1, 3)[pixel]
    uv = raster.interpolate_corners(person.uv, triangle, share)
    points = _points(attributes, person.faces[triangle], share, uv, person.material[triangle], eye)
    out = shade(points, person, posed, light, shadow)
    diffuse = _scattered(out.diffuse, out.scatter, pixel, size)
    image = scene.background.reshape(-1, 3).clone()
    image[pixel] = out.albedo * diffuse + out.specular
    if scene.exposure is None:
        face = points.material == asset.FACE
        level = float(diffuse[face].mean()) if bool(face.any()) else 1.0
        scene.exposure = light.gain * 0.80 / max(level, 0.05)
    frame = Frame(
        image,
        surface.triangle.reshape(-1),
        surface.barycentric.reshape(-1, 3),
        surface.inverse_depth.reshape(-1),
        surface.inverse_depth,
        xy,
        inverse,
        scene.exposure,
    )
    _add_blended(scene, posed, frame, surface, attributes, shadow, eye)
    frame.image = tone(frame.image * scene.exposure).reshape(size, size, 3)
    frame.triangle = frame.triangle.reshape(size, size)
    frame.barycentric = frame.barycentric.reshape(size, size, 3)
    frame.inverse_depth = frame.inverse_depth.reshape(size, size)
    frame.farthest = -F.max_pool2d(-frame.inverse_depth[None, None], 3, 1, 1)[0, 0]
    return frame


def _mouth_ambient(person: Person, normals: Tensor, ambient: Tensor, light: Light) -> Tensor:
    """Least light inside the mouth: what falls on the lips, fading with depth."""
    lips = torch.tensor(_LIPS, device=normals.device)
    key = torch.tensor(light.key, device=normals.device)
    colour = torch.tensor(light.key_colour, device=normals.device)
    before = ambient[lips].mean(0) + 0.35 * colour * (normals[lips] @ key).clamp(min=0).mean()
    forward = (normals[:, 2:] * 0.5 + 0.5).clamp(0, 1)
    return person.mouth_light[:, None] * (0.42 + 1.15 * forward) * before


def _add_blended(
    scene: Scene,
    posed: Posed,
    frame: Frame,
    surface: raster.Surface,
    attributes: Tensor,
    shadow: KeyShadow,
    eye: Tensor,
) -> None:
    """Blend lashes and hair over the opaque image; hair that dominates a pixel owns it."""
    person, size, device = scene.person, scene.size, frame.image.device
    kind = person.blended_material
    style = torch.where(kind == asset.LASH, 0, torch.where(kind == asset.HAIR, 1, 2))
    found = raster.fragments(
        frame.xy,
        frame.inverse,
        person.blended_faces,
        person.blended_uv,
        style,
        (person.lash_alpha, person.hair_alpha),
        0.5,
        surface,
    )
    if len(found.pixel) == 0:
        return
    material = kind[found.triangle]
    uv = raster.interpolate_corners(person.blended_uv, found.triangle, found.barycentric)
    lash = torch.tensor(person.traits.brow_colour * 0.5, device=device).clamp(max=0.02)
    colour = lash.expand(len(found.pixel), 3).clone()
    at = (material != asset.LASH).nonzero().squeeze(1)
    if len(at):
        faces = person.blended_faces[found.triangle[at]]
        share = found.barycentric[at]
        points = _points(attributes, faces, share, uv[at], material[at], eye)
        facing = (points.normal * points.view).sum(1, keepdim=True) < 0
        points.normal = torch.where(facing, -points.normal, points.normal)
        tangent = raster.interpolate(person.hair_tangent, faces, share) @ posed.rotation.T
        tangent = F.normalize(tangent, dim=1)
        colour[at] = shade_hair(points, tangent, person, scene.light, shadow)
    cover = torch.zeros(size * size, 1, device=device)
    cover.index_add_(0, found.pixel, found.weight[:, None])
    frame.image *= 1 - cover
    frame.image.index_add_(0, found.pixel, colour * found.weight[:, None])
    # The heaviest fragment owns the pixel where hair covers more than half of it.
    heaviest = torch.zeros(size * size, device=device)
    heaviest.scatter_reduce_(0, found.pixel, found.weight, "amax")
    owns = (found.weight == heaviest[found.pixel]) & (cover[found.pixel, 0] > 0.5)
    owns &= material != asset.LASH
    at = owns.nonzero().squeeze(1)
    pixel, share = found.pixel[at], found.barycentric[at]
    faces = person.blended_faces[found.triangle[at]]
    frame.triangle = frame.triangle.clone()
    frame.barycentric = frame.barycentric.clone()
    frame.inverse_depth = frame.inverse_depth.clone()
    frame.triangle[pixel] = found.triangle[at] + len(person.faces)
    frame.barycentric[pixel] = share
    frame.inverse_depth[pixel] = raster.interpolate(frame.inverse[:, None], faces, share)[:, 0]


def reduced(image: Tensor, size: int) -> Tensor:
    """Area-average an (R, R, 3) image to (size, size, 3)."""
    if image.is_cuda:
        step = len(image) / size
        edge = torch.arange(size, device=image.device)[:, None] * step
        cell = torch.arange(len(image), device=image.device)[None]
        # How much of each source pixel lies in each of the target's.
        part = torch.minimum(cell + 1, edge + step) - torch.maximum(cell + 0 * edge, edge)
        part = part.clamp(min=0) / step
        return torch.einsum("ip,pqc,jq->ijc", part, image, part)
    import cv2

    return torch.from_numpy(cv2.resize(image.numpy(), (size, size), interpolation=cv2.INTER_AREA))
