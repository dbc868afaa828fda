"""A parametric hand and forearm: round cones blended into one skin, bent at the knuckles.

Own frame, centimetres: wrist at the origin, fingers along +y, palm toward -z, thumb at +x, which
is a left hand seen from its back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivant.export.synth.people import raster
from vivant.export.synth.people.fit import Mesh, unit_rows
from vivant.export.synth.people.pack import Array

_KNUCKLES = ((2.95, 8.7, 0.0), (0.95, 9.1, 0.2), (-1.05, 8.7, 0.1), (-2.85, 7.9, -0.2))
_LENGTHS = ((4.5, 2.7, 2.0), (5.0, 3.1, 2.1), (4.6, 2.9, 2.1), (3.6, 2.1, 1.9))
_RADII = (
    (0.96, 0.86, 0.79, 0.64),
    (0.96, 0.88, 0.81, 0.66),
    (0.92, 0.83, 0.76, 0.62),
    (0.84, 0.72, 0.65, 0.54),
)
"""Index, middle, ring, little finger of an adult; joint radii from knuckle to tip."""
_THUMB = (4.2, 3.2, 2.3)
_OPEN = ((0.72, 0.68, -0.25), (0.55, 0.82, -0.18), (0.45, 0.88, -0.12))
_CLOSED = ((0.40, 0.66, -0.62), (-0.15, 0.66, -0.74), (-0.70, 0.40, -0.58))
_CELL = 0.4
"""Cells of the mesh, cm: three pixels of a 384-pixel frame."""


@dataclass
class Grip:
    """How the fingers are held, degrees."""

    curl: Array
    """Bend of the three joints of index, middle, ring, little finger, (4, 3)."""
    spread: float
    thumb: float
    """0 stretched away, 1 laid across the fingers."""


@dataclass
class Hand:
    """Bones with a skin around them."""

    start: Array  # (B, 3)
    stop: Array  # (B, 3)
    radius: Array  # (B, 2) at both ends
    soft: Array  # (B,) how far a bone's skin runs into that of the bones before it
    nails: list[tuple[int, Array]]
    """Last bones of the fingers and the direction of their nails."""

    def distance(self, points: Array) -> Array:
        """Signed distance (n,) of points (n, 3) to the skin, negative inside."""
        out = np.empty(len(points), np.float32)
        flat = np.ascontiguousarray(points, np.float32)
        _distance(flat, self.start, self.stop, self.radius, self.soft, out)
        return out

    def gradient(self, points: Array) -> Array:
        """Unit direction (n, 3) away from the skin."""
        step = 0.03
        here = self.distance(points)
        ahead = [self.distance(points + step * e) for e in np.eye(3, dtype=np.float32)]
        return unit_rows(np.stack(ahead, 1) - here[:, None])

    def tip(self, finger: int) -> Array:
        """Pad of a finger's end (3,): 0 index to 3 little, 4 thumb."""
        bone, dorsal = self.nails[finger]
        return np.asarray(self.stop[bone] - dorsal * self.radius[bone, 1], np.float32)


def _turned(direction: Array, side: Array, degrees: float) -> Array:
    """Rotate a direction about the unit vector ``side`` (Rodrigues)."""
    angle = math.radians(degrees)
    across = np.cross(side, direction)
    return np.asarray(direction * math.cos(angle) + across * math.sin(angle), np.float32)


def bent(grip: Grip, elbow: Array) -> Hand:
    """A hand in a grip; ``elbow`` (3,) is where the forearm ends."""
    bones: list[tuple[Array, Array, float, float, float]] = []
    nails: list[tuple[int, Array]] = []

    def bone(a: Array, b: Array, ra: float, rb: float, soft: float) -> None:
        bones.append((np.asarray(a, np.float32), np.asarray(b, np.float32), ra, rb, soft))

    for knuckle, root in zip(_KNUCKLES, (1.4, 0.5, -0.5, -1.4), strict=True):
        bone(np.array([root, 0.9, 0.0]), np.array(knuckle), 1.35, 0.95, 0.8)
    bone(np.array([-1.9, 1.6, -0.5]), np.array([-2.5, 6.0, -0.5]), 1.35, 1.1, 0.7)
    elbow = np.asarray(elbow, np.float32)
    along = unit_rows(elbow)
    wide = np.array([0.8, 0.0, 0.0], np.float32)
    for side in (wide, -wide):
        bone(0.9 * side + 0.3 * along, elbow + 0.6 * side, 1.9, 3.5, 1.0)
    for k, (knuckle, lengths, radii) in enumerate(zip(_KNUCKLES, _LENGTHS, _RADII, strict=True)):
        fan = math.radians(grip.spread * (1.2, 0.25, -0.6, -1.6)[k])
        direction = np.array([math.sin(fan), math.cos(fan), 0.0], np.float32)
        side = np.array([math.cos(fan), -math.sin(fan), 0.0], np.float32)
        at = np.array(knuckle, np.float32)
        for j in range(3):
            direction = _turned(direction, side, -float(grip.curl[k, j]))
            ahead = at + direction * lengths[j]
            bone(at, ahead, radii[j], radii[j + 1], 0.3 if j == 0 else 0.12)
            at = ahead
        nails.append((len(bones) - 1, np.cross(side, direction)))
    at = np.array([1.7, 1.8, -0.6], np.float32)
    radii = (1.55, 1.10, 0.92, 0.70)
    for j in range(3):
        mix = (1 - grip.thumb) * np.array(_OPEN[j]) + grip.thumb * np.array(_CLOSED[j])
        direction = unit_rows(mix.astype(np.float32))
        ahead = at + direction * _THUMB[j]
        bone(at, ahead, radii[j], radii[j + 1], 0.9 if j == 0 else 0.3)
        at = ahead
    dorsal = np.array([0.75, 0.0, 0.65]) * (1 - grip.thumb) + np.array([0.3, 0.6, 0.75]) * (
        grip.thumb
    )
    dorsal = unit_rows(dorsal - direction * (dorsal @ direction))
    nails.append((len(bones) - 1, dorsal))
    start, stop = (np.stack([b[k] for b in bones]).astype(np.float32) for k in (0, 1))
    return Hand(
        start,
        stop,
        np.array([b[2:4] for b in bones], np.float32),
        np.array([b[4] for b in bones], np.float32),
        [(k, np.asarray(d, np.float32)) for k, d in nails],
    )


@raster.compiled
def _distance(points, start, stop, radius, soft, out):  # type: ignore[no-untyped-def]
    """Round cones joined by the polynomial smooth minimum."""
    middle = (start + stop) / 2
    reach = np.empty(len(start), np.float32)
    for b in range(len(start)):
        half = math.sqrt(((stop[b] - start[b]) ** 2).sum()) / 2
        reach[b] = half + max(radius[b, 0], radius[b, 1]) + soft[b]
    for n in range(points.shape[0]):
        total = np.float32(1e3)
        for b in range(start.shape[0]):
            off = np.float32(0)
            for c in range(3):
                off += (points[n, c] - middle[b, c]) ** 2
            most = total + reach[b]
            if most > 0 and off > most * most:  # too far to matter
                continue
            dot = np.float32(0)
            long = np.float32(1e-9)
            for c in range(3):
                axis = stop[b, c] - start[b, c]
                dot += (points[n, c] - start[b, c]) * axis
                long += axis * axis
            t = min(max(dot / long, np.float32(0)), np.float32(1))
            far = np.float32(0)
            for c in range(3):
                off = points[n, c] - start[b, c] - t * (stop[b, c] - start[b, c])
                far += off * off
            d = math.sqrt(far) - radius[b, 0] - t * (radius[b, 1] - radius[b, 0])
            k = soft[b]
            h = max(k - abs(total - d), 0.0) / k
            total = min(total, d) - h * h * k * 0.25
        out[n] = total


def _inside(hand: Hand, axes: list[Array], cell: float) -> NDArray[np.bool_]:
    """Which points of a grid lie inside; blocks far from the skin are settled by their middle."""
    wide = 6
    shape = tuple(len(a) for a in axes)
    blocks = [a[::wide] + (wide - 1) * cell / 2 for a in axes]
    middles = np.stack(np.meshgrid(*blocks, indexing="ij"), -1)
    far = hand.distance(middles.reshape(-1, 3)).reshape(middles.shape[:3])
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    every = far
    for k in range(3):
        every = np.repeat(every, wide, k)
    every = every[: shape[0], : shape[1], : shape[2]]
    inside = every < 0
    near = np.abs(every) <= wide * cell * 0.9
    inside[near] = hand.distance(grid[near]) < 0
    return inside


def skin(hand: Hand, cell: float = _CELL) -> Mesh:
    """Mesh of a hand's skin by surface nets (Gibson 1998)."""
    reach = hand.radius.max(1, keepdims=True) + 2 * cell
    low = np.minimum(hand.start - reach, hand.stop - reach).min(0)
    high = np.maximum(hand.start + reach, hand.stop + reach).max(0)
    shape = np.ceil((high - low) / cell).astype(int) + 1
    axes = [low[k] + cell * np.arange(shape[k], dtype=np.float32) for k in range(3)]
    inside = _inside(hand, axes, cell)
    quads = []
    for axis in range(3):  # a quad of cells around every grid edge that crosses the skin
        here = inside.transpose(axis, (axis + 1) % 3, (axis + 2) % 3)
        crossing = here[:-1] != here[1:]
        i, j, k = np.nonzero(crossing)
        outward = here[i, j, k]
        around = []
        for dj, dk in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
            at = np.stack([i, j + dj, k + dk], 1)
            around.append(np.roll(at, axis, 1))
        quad = np.stack(around, 1)
        quad[~outward] = quad[~outward][:, ::-1]
        quads.append(quad)
    corner = np.concatenate(quads)
    number = np.ravel_multi_index(tuple(corner.reshape(-1, 3).T), tuple(shape))
    cells, local = np.unique(number, return_inverse=True)
    four = local.reshape(-1, 4).astype(np.int64)
    at = np.stack(np.unravel_index(cells, tuple(shape)), 1)
    points = (low + (at + 0.5) * cell).astype(np.float32)
    for _ in range(2):
        far = np.clip(hand.distance(points), -cell, cell)[:, None]
        points = points - far * hand.gradient(points)
    faces = np.concatenate([four[:, [0, 1, 2]], four[:, [0, 2, 3]]])
    return points.astype(np.float32), faces


def blemishes(hand: Hand, points: Array) -> Array:
    """Texture coordinates (V, 2) of the skin.

    u: redness in 0..0.5, nails beyond; v: how much of the surroundings the hand itself hides, 0..1.
    """
    normal = hand.gradient(points)
    hidden = 1 - np.clip(hand.distance(points + 0.7 * normal) / 0.7, 0, 1)
    red = np.zeros(len(points), np.float32)
    nail = np.zeros(len(points), np.float32)
    for bone, dorsal in hand.nails:
        a, b = hand.start[bone], hand.stop[bone]
        along = unit_rows(b - a)
        offset = points - a
        forward = offset @ along / np.linalg.norm(b - a)
        radius = hand.radius[bone, 1]
        up = offset @ dorsal / radius
        across = np.abs(offset @ np.cross(along, dorsal)) / radius
        margin = np.minimum.reduce([forward - 0.35, 1.28 - forward, up - 0.35, 0.85 - across])
        margin = np.minimum(margin, 1.4 - up)
        nail = np.maximum(nail, np.clip(0.5 + 2.2 * margin, 0, 1) * (margin > -0.25))
        red = np.maximum(red, 0.6 * np.exp(-np.linalg.norm(points - b, axis=1) / 1.1))
    for knuckle in _KNUCKLES:
        away = np.linalg.norm(points - np.array(knuckle), axis=1)
        red = np.maximum(red, 0.8 * np.exp(-((away / 1.2) ** 2)))
    return np.stack([np.maximum(0.5 * red, nail), hidden], 1).astype(np.float32)
