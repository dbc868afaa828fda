"""Perspective camera framed like the aligned portrait."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivant.export.synth.people.person import Person

EYES = (0.5, 0.42)
"""Where the midpoint of the pupils lies in the neutral portrait, fractions of the frame."""
INTERPUPILLARY = 0.165
"""Distance of the pupils in the neutral portrait, fraction of the frame's width."""


@dataclass(frozen=True)
class Camera:
    """Looks along -z from (x, y, distance) cm; a shifted sensor keeps the face in place."""

    x: float
    y: float
    distance: float
    focal: float
    """Frame widths per unit of slope."""
    centre: tuple[float, float]
    """Where the optical axis meets the frame, fractions."""
    reference: float
    """Depth (z, cm) of the neutral pupils: the origin of keypoint depth."""

    def project(self, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Points (..., 3) cm to pixels (..., 2) of a ``size`` frame, and 1/depth (0 behind)."""
        depth = self.distance - points[..., 2]
        inverse = torch.where(depth > 1, 1 / depth, torch.zeros_like(depth))
        gain = self.focal * size * inverse
        u = self.centre[0] * size + (points[..., 0] - self.x) * gain
        v = self.centre[1] * size - (points[..., 1] - self.y) * gain
        return torch.stack([u, v], -1), inverse

    def position(self, device: torch.device) -> Tensor:
        return torch.tensor([self.x, self.y, self.distance], device=device)

    def fractions(self, points: Tensor) -> Tensor:
        """World points (K, 3) as (x, y, z): frame fractions, z toward the camera, same scale."""
        xy, _ = self.project(points, 1)
        scale = self.focal / (self.distance - self.reference)
        return torch.cat([xy, (points[:, 2:] - self.reference) * scale], 1)


def framed(
    person: Person,
    distance: float = 100.0,
    zoom: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    tilt: tuple[float, float] = (0.0, 0.0),
) -> Camera:
    """Camera at ``distance`` cm from the neutral pupils, which fall on EYES + shift, at zoom x IPD.

    ``tilt``: degrees by which the camera stands to the right of and above the eyes.
    """
    ex, ey, ez = (float(c) for c in person.eyes_middle)
    x = ex + distance * math.tan(math.radians(tilt[0]))
    y = ey + distance * math.tan(math.radians(tilt[1]))
    focal = INTERPUPILLARY * zoom * distance / person.ipd
    centre = (
        EYES[0] + shift[0] - (ex - x) * focal / distance,
        EYES[1] + shift[1] + (ey - y) * focal / distance,
    )
    return Camera(x, y, distance + ez, focal, centre, ez)


def sample_camera(rng: np.random.Generator, person: Person) -> Camera:
    """A camera between arm's length and a studio's distance, framing varied about the portrait."""
    return framed(
        person,
        distance=float(np.exp(rng.uniform(math.log(48), math.log(190)))),
        zoom=rng.uniform(0.8, 1.2),
        shift=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
        tilt=(rng.normal(0, 1.0), rng.normal(0, 2.0)),
    )
