"""Exact correspondence between two frames of a person, and per-pixel labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import raster
from vivant.export.synth.people.classes import BROWS, CLOTHES, EYES, HAIR, MOUTH, SKIN, WORN
from vivant.export.synth.people.person import Person
from vivant.export.synth.people.render import Frame

_CLASS = {
    asset.FACE: SKIN,
    asset.SCALP: SKIN,
    asset.MOUTH: MOUTH,
    asset.ORBIT: EYES,
    asset.GUM: MOUTH,
    asset.TONGUE: MOUTH,
    asset.TOOTH: MOUTH,
    asset.GLOBE_LEFT: EYES,
    asset.GLOBE_RIGHT: EYES,
    asset.LASH: BROWS,
    asset.HAIR: HAIR,
    asset.GARMENT: CLOTHES,
    asset.FLYAWAY: HAIR,
    asset.FRAME: WORN,
    asset.OCCLUDER: WORN,
    asset.CAP: WORN,
    asset.HAND: WORN,
    asset.HELD: WORN,
}
_TOLERANCE = 0.0018
"""Relative depth within which two surfaces are the same: 1.8 mm at a metre, two pixels' slope."""
_LAYER = {
    **dict.fromkeys((asset.ORBIT, asset.GLOBE_LEFT, asset.GLOBE_RIGHT), -1),
    **dict.fromkeys((asset.MOUTH, asset.GUM, asset.TONGUE, asset.TOOTH), -2),
    **dict.fromkeys((asset.HAND, asset.HELD), 1),
}
"""What lies so close behind lids, lips and hands that depth alone cannot tell it is covered.

Negative: within a cavity, seen where the same cavity shows. Positive: before everything else.
"""


def _centres(size: int, cells: int) -> Tensor:
    """Row or column of a ``size`` image nearest to the centre of each of ``cells`` cells."""
    return ((torch.arange(cells) + 0.5) * size / cells).long()


def _of_cells(plane: Tensor, cells: int) -> Tensor:
    """Values of a (size, size, ...) plane at the cells' centres, (cells * cells, ...)."""
    at = _centres(len(plane), cells).to(plane.device)
    return plane[at[:, None], at[None]].flatten(0, 1)


def _owners(frame: Frame, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixel centres (n, 2), owning triangle (n,), barycentrics (n, 3), owned (n,) of the cells."""
    triangle, share = (_of_cells(p, cells) for p in (frame.triangle, frame.barycentric))
    at = _centres(len(frame.triangle), cells).to(triangle.device)
    y, x = torch.meshgrid(at + 0.5, at + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2), triangle, share, triangle >= 0


def _layers(person: Person) -> Tensor:
    """Layer of each triangle of the person, 0 for most."""
    table = torch.zeros(len(_CLASS), dtype=torch.int64, device=person.material.device)
    for material, layer in _LAYER.items():
        table[material] = layer
    return table[torch.cat([person.material, person.blended_material])]


def surface_flow(person: Person, driver: Frame, source: Frame, cells: int) -> tuple[Tensor, Tensor]:
    """Backward flow (2, cells, cells), frame fractions, and visibility (cells, cells) bool.

    The surface point at p of the driver lies at p + flow in the source; visible where it is seen
    there. The background does not move: flow 0, visible where the source shows it too.
    """
    size = len(driver.triangle)
    here, triangle, share, owned = _owners(driver, cells)
    faces = person.all_faces[triangle.clamp(min=0)]
    there = raster.interpolate(torch.cat([source.xy, source.inverse[:, None]], 1), faces, share)
    flow = torch.where(owned[:, None], (there[:, :2] - here) / size, 0.0)
    # Perspective-correct depth: shares weigh depth, not its inverse.
    depth = raster.interpolate(1 / source.inverse.clamp(min=1e-6)[:, None], faces, share)[:, 0]
    x, y = (there[:, k].floor().long() for k in (0, 1))
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    # The farthest of the surrounding surfaces, so that silhouettes do not hide their own edge.
    found = source.farthest[y.clamp(0, size - 1), x.clamp(0, size - 1)]
    visible = owned & inside & (1 / depth >= found * (1 - _TOLERANCE))
    layers = _layers(person)
    mine = layers[triangle.clamp(min=0)]
    front = source.triangle[y.clamp(0, size - 1), x.clamp(0, size - 1)]
    theirs = torch.where(front >= 0, layers[front.clamp(min=0)], 0)
    visible &= (mine == theirs) | ((mine >= 0) & (theirs <= mine))
    source_free = _of_cells(source.triangle, cells) < 0
    visible |= ~owned & source_free
    return flow.T.reshape(2, cells, cells), visible.reshape(cells, cells)


def segmentation(person: Person, frame: Frame, cells: int) -> Tensor:
    """Class of every cell, (cells, cells) uint8."""
    _, triangle, share, owned = _owners(frame, cells)
    device = triangle.device
    table = torch.zeros(len(_CLASS), dtype=torch.uint8, device=device)
    for kind, value in _CLASS.items():
        table[kind] = value
    material = torch.cat([person.material, person.blended_material])[triangle.clamp(min=0)]
    label = torch.where(owned, table[material], 0)
    uv_all = torch.cat([person.uv, person.blended_uv])
    for kind, texture in zip((asset.FACE, asset.SCALP), person.labels, strict=True):
        at = (owned & (material == kind)).nonzero().squeeze(1)
        if not len(at):
            continue
        uv = raster.interpolate_corners(uv_all, triangle[at], share[at])
        size = len(texture)
        x = ((uv[:, 0] % 1) * size).long().clamp(0, size - 1)
        y = ((1 - uv[:, 1] % 1) * size).long().clamp(0, size - 1)
        painted = texture[y, x]
        label[at] = torch.where(painted > 0, painted, label[at])
    return label.reshape(cells, cells)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Backward warp: (H, W, 3) image sampled at p + flow, flow (2, H, W) in frame fractions."""
    height, width = flow.shape[1:]
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    grid = torch.stack([x + flow[0].cpu(), y + flow[1].cpu()], -1) * 2 - 1
    out = F.grid_sample(
        image.cpu().permute(2, 0, 1)[None], grid[None], align_corners=False, padding_mode="border"
    )
    return out[0].permute(1, 2, 0)


def to_bytes(image: Tensor) -> np.ndarray:
    """An sRGB 0..1 image as uint8."""
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
