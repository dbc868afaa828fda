"""What covers parts of some faces: hands, cups, phones, microphones, locks of hair, collars.

Everything is built for the subject's left and mirrored for the right. Centimetres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vivant import latent
from vivant.export.synth.people import hand as hands
from vivant.export.synth.people import keypoints
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.fit import Mesh, ribbons, tube, unit_rows
from vivant.export.synth.people.hand import Grip, Hand
from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.sample import Held
from vivant.export.synth.people.textures import smooth_noise

_ATLAS = 128
_COLUMNS = 4
"""Plain colours in the top quarter of the texture: sleeve and three of the object."""


@dataclass
class Cover:
    """Meshes before a face, in the person's world."""

    points: Array  # (V, 3)
    faces: NDArray[np.int64]  # (T, 3)
    uv: Array  # (T, 3, 2)
    material: NDArray[np.int64]  # (T,)
    follow: Array
    """Share of the head's motion that each vertex takes part in, (V,)."""
    texture: Array  # (h, w, 3) linear RGB


@dataclass
class _Parts:
    points: list[Array] = field(default_factory=list)
    faces: list[NDArray[np.int64]] = field(default_factory=list)
    uv: list[Array] = field(default_factory=list)
    material: list[NDArray[np.int64]] = field(default_factory=list)
    follow: list[Array] = field(default_factory=list)
    count: int = 0

    def add(self, mesh: Mesh, at: Array, kind: int, follow: Array) -> None:
        """Add a mesh with texture coordinates per vertex (V, 2)."""
        points, faces = mesh
        self.points.append(points.astype(np.float32))
        self.faces.append(faces + self.count)
        self.uv.append(np.broadcast_to(at, (len(points), 2))[faces].astype(np.float32))
        self.material.append(np.full(len(faces), kind, np.int64))
        self.follow.append(np.broadcast_to(follow, (len(points),)).astype(np.float32))
        self.count += len(points)

    def thing(self, mesh: Mesh, column: int, follow: Array | float) -> None:
        """Add a mesh of one plain colour."""
        at = np.array([(column + 0.5) / _COLUMNS, 0.875], np.float32)
        self.add(mesh, at, asset.HELD, np.asarray(follow))


@dataclass
class _Pose:
    """Where a hand is put."""

    grip: Grip
    anchor: Array
    """Place of the hand that comes to lie on the target, in the hand's frame."""
    target: Array
    fingers: tuple[float, float, float]
    """Where the fingers point."""
    palm: tuple[float, float, float]
    """Where the palm faces."""
    away: tuple[float, float, float]
    """How the hand gives way to the head."""
    elbow: tuple[float, float, float]


def _grip(rng: np.random.Generator, *curl: float, spread: float = 3.0, thumb: float = 0.3) -> Grip:
    """Four fingers bent alike, the little one most, with some disorder."""
    bend = np.array(curl) * np.linspace(0.9, 1.15, 4)[:, None] + rng.normal(0, 4, (4, 3))
    bend = np.clip(bend, -8, 100)
    return Grip(bend, spread + rng.normal(0, 2), float(np.clip(thumb + rng.normal(0, 0.12), 0, 1)))


def _jitter(rng: np.random.Generator, place: Array, spread: float = 0.6) -> Array:
    return np.asarray(place + rng.normal(0, spread, 3), np.float32)


def _poses(kind: str, rng: np.random.Generator, at: Callable[[str], Array]) -> _Pose:
    """A hand before the face; ``at`` gives the place of a keypoint on this head."""
    j = _jitter
    if kind == "cheek":
        curl = rng.choice([0.6, 1.0, 2.2])
        grip = _grip(rng, 15 * curl, 22 * curl, 12 * curl, thumb=0.35)
        target = j(rng, 0.5 * (at("cheekLowLeft") + at("jaw4Left")))
        fingers, palm = (0.2, 0.95, -0.3), (-0.75, 0.1, -0.55)
        anchor = np.array([0.3, 6.0, -1.3])
        return _Pose(grip, anchor, target, fingers, palm, (0.85, -0.2, 0.45), (8, -34, 14))
    if kind == "fist":
        grip = _grip(rng, 72, 92, 55, spread=0, thumb=0.95)
        target = j(rng, at("jaw5Left"))
        fingers, palm = (-0.35, 0.9, -0.1), (-0.75, -0.2, -0.6)
        anchor = np.array([0.3, 10.0, -2.0])
        return _Pose(grip, anchor, target, fingers, palm, (0.4, -0.75, 0.5), (13, -34, 12))
    if kind == "chin":
        grip = _grip(rng, 28, 32, 15, spread=2, thumb=0.4)
        target = j(rng, at("chin") + np.array([0.5, -0.4, -1.0]))
        fingers, palm = (-0.92, 0.3, 0.15), (-0.15, -0.9, -0.25)
        anchor = np.array([0.0, 10.0, 1.0])
        return _Pose(grip, anchor, target, fingers, palm, (0.1, -0.85, 0.5), (15, -34, 11))
    if kind == "think":  # thumb under the jaw, index along the cheek
        grip = _grip(rng, 62, 80, 40, spread=0, thumb=0.25)
        grip.curl[0] = (8, 12, 6)
        target = j(rng, at("cheekLowLeft") + np.array([0.4, 0.0, 0.0]))
        fingers, palm = (0.25, 0.9, -0.3), (-0.6, 0.1, -0.75)
        anchor = np.array([2.5, 11.0, -0.8])
        return _Pose(grip, anchor, target, fingers, palm, (0.6, -0.3, 0.75), (11, -34, 14))
    if kind == "lips":
        grip = _grip(rng, 12, 20, 12, spread=2, thumb=0.3)
        target = at("lipUpperMid") + np.array([rng.uniform(-1, 2.5), rng.uniform(-3.5, 0.3), 0])
        tilt = rng.uniform(0.25, 1.0)
        fingers, palm = (-1.0 + 0.5 * tilt, tilt, -0.05), (-0.1, 0.0, -1.0)
        anchor = np.array([0.2, rng.uniform(9.5, 13.0), -0.9])
        return _Pose(grip, anchor, target, fingers, palm, (0.1, -0.1, 1.0), (15, -30, 13))
    if kind == "hush":
        grip = _grip(rng, 74, 92, 50, spread=0, thumb=0.9)
        grip.curl[0] = (4, 8, 6)
        target = j(rng, at("lipLowerMid"), 0.4)
        fingers, palm = (-0.25, 0.95, -0.1), (-0.3, 0.0, -0.95)
        anchor = np.array([3.0, 14.0, -0.8])
        return _Pose(grip, anchor, target, fingers, palm, (0.1, -0.1, 1.0), (13, -34, 16))
    if kind == "hair":
        grip = _grip(rng, 20, 30, 22, spread=7, thumb=0.2)
        target = j(rng, 0.5 * (at("templeLeft") + at("foreheadLeft")), 1.2)
        fingers, palm = (-0.45, 0.85, -0.3), (-0.65, 0.0, -0.75)
        anchor = np.array([0.5, 13.5, -1.5])
        return _Pose(grip, anchor, target, fingers, palm, (0.75, 0.1, 0.65), (17, -24, 15))
    if kind == "brow":  # hand on the forehead, shading or despairing
        grip = _grip(rng, 14, 20, 14, spread=3, thumb=0.25)
        target = j(rng, at("foreheadLeft"), 0.7)
        fingers, palm = (-0.85, 0.5, -0.15), (-0.25, -0.1, -0.95)
        anchor = np.array([0.2, 11.0, -0.9])
        return _Pose(grip, anchor, target, fingers, palm, (0.4, 0.1, 0.9), (19, -22, 17))
    # "wave": an open hand raised in front and to the side
    grip = _grip(rng, 8, 10, 8, spread=6, thumb=0.05)
    target = np.array([rng.uniform(5, 12), rng.uniform(-7, 2), 17.0])
    palm = (rng.normal(0, 0.4), 0.0, -1.0 if rng.random() < 0.4 else 1.0)
    fingers = (rng.normal(0.1, 0.25), 1.0, rng.normal(0, 0.15))
    return _Pose(grip, np.array([0.0, 7, 0]), target, fingers, palm, (0.5, 0, 1), (14, -34, 10))


HANDS = ("cheek", "fist", "chin", "think", "lips", "hush", "hair", "brow", "wave")
"""Poses of a bare hand."""


def _frame(fingers: Array, palm: Array) -> Array:
    """Columns: the hand's x, y, z in the world, (3, 3)."""
    y = unit_rows(np.asarray(fingers, np.float32))
    z = -np.asarray(palm, np.float32)
    z = unit_rows(z - y * (z @ y))
    return np.stack([np.cross(y, z), y, z], 1).astype(np.float32)


def _yielded(
    hand: Hand, frame: Array, place: Array, away: Array, head: Array, size: float, gap: float
) -> Array:
    """Move the hand along ``away`` until it lies ``gap`` from the nearest of head points (n, 3).

    Without points it stays.
    """
    for _ in range(14 if len(head) else 0):
        near = float(hand.distance((head - place) @ frame / size).min()) * size
        place = place + np.clip(gap - near, -2.0, 2.0) * away
    return place


def _arm(
    parts: _Parts, pose: _Pose, leaning: bool, head: Array, size: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Add a hand, its forearm and perhaps a sleeve; returns its frame and place."""
    frame = _frame(np.array(pose.fingers), np.array(pose.palm))
    place = pose.target - frame @ np.asarray(pose.anchor, np.float32) * size
    elbow = _jitter(rng, np.array(pose.elbow, np.float32), 2.0)
    hand = hands.bent(pose.grip, (elbow - place) @ frame / size)
    away = unit_rows(np.array(pose.away, np.float32))
    place = _yielded(hand, frame, place, away, head, size, -0.12 if leaning else 0.8)
    hand = hands.bent(pose.grip, (elbow - place) @ frame / size)
    points, faces = hands.skin(hand)
    blemish = hands.blemishes(hand, points)
    at = np.stack([0.02 + 0.96 * blemish[:, 0], 0.02 + 0.46 * blemish[:, 1]], 1)
    world = (points * size) @ frame.T + place
    axis = elbow - place

    def follow(at: Array) -> Array:
        """All of a leaning hand, less and less of its forearm (n, 3), and nothing else."""
        if not leaning:
            return np.zeros(len(at))
        along = np.clip((at - place) @ axis / (axis @ axis), 0, 1)
        return np.asarray(1 - along * along * (3 - 2 * along))

    parts.add((world, faces), at.astype(np.float32), asset.HAND, follow(world))
    if rng.random() < 0.65:
        start = place + axis * rng.uniform(0.08, 0.5)
        path = start + (elbow - start) * np.linspace(0, 1, 12)[:, None]
        path = path + 0.10 * np.sin(np.linspace(0, 19, 12))[:, None] * np.array([1, 0.3, 0.5])
        width = rng.uniform(3.4, 4.6) * size
        sleeve = tube(path.astype(np.float32), width, False, 18)
        parts.thing(sleeve, 0, follow(sleeve[0]))
    return frame, place


def _lattice(rows: int, sides: int) -> NDArray[np.int64]:
    """Triangles between closed rings of ``sides`` points each, seen from where they run around."""
    i, k = np.meshgrid(np.arange(rows - 1), np.arange(sides), indexing="ij")
    a, b = i * sides + k, i * sides + (k + 1) % sides
    pair = [np.stack([a, b, a + sides], -1), np.stack([b, b + sides, a + sides], -1)]
    return np.concatenate(pair).reshape(-1, 3).astype(np.int64)


def _turned_solid(profile: Array, sides: int = 28) -> Mesh:
    """A solid of revolution about y; its profile (n, 2), radius and height, runs upward outside."""
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(turn), np.zeros(sides), np.sin(turn)], 1)
    points = profile[:, :1, None] * ring[None] + np.array([0, 1, 0]) * profile[:, 1:, None]
    return points.reshape(-1, 3).astype(np.float32), _lattice(len(profile), sides)[:, ::-1]


def _box(half: Array, corner: float = 0.8) -> Mesh:
    """A slab with rounded outline: half width, half height, half thickness."""
    turn = np.arange(40) * 2 * np.pi / 40 + 0.01
    power = 0.35
    x = half[0] * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
    y = half[1] * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (power * corner)
    rows = []
    for shrink, z in ((0.0, -1), (0.97, -1), (1.0, -0.5), (1.0, 0.5), (0.97, 1), (0.0, 1)):
        rows.append(np.stack([x * shrink, y * shrink, np.full(40, z * half[2])], 1))
    points = np.concatenate(rows).astype(np.float32)
    return points, _lattice(6, 40)


def _cup(parts: _Parts, rng: np.random.Generator, head: Array, size: float) -> None:
    """A mug, glass or paper cup before the mouth, in a hand or left to stand."""
    wide, high = rng.uniform(3.2, 4.3), rng.uniform(8.0, 12.0)
    taper = rng.uniform(0.7, 1.0)
    profile = np.array(
        [
            [0.01, -high / 2],
            [wide * taper, -high / 2],
            [wide * (0.5 + 0.5 * taper), 0.0],
            [wide, high / 2],
            [wide * 0.92, high / 2],
            [wide * 0.9, high / 2 - 2.0],
            [0.01, high / 2 - 2.0],
        ]
    )
    cup, faces = _turned_solid(profile)
    centre = np.array([rng.uniform(-1, 4), rng.uniform(-11, -5.5), 18.0], np.float32)
    nearest = head[np.abs(head[:, 1] - centre[1]) < high]
    centre[2] = max(14.5, float(nearest[:, 2].max()) + wide + 1.0)
    lean = np.array([rng.normal(0, 0.12), 1.0, rng.uniform(-0.5, 0.1)], np.float32)
    up = unit_rows(lean)
    palm = unit_rows(np.array([-0.9, 0.0, rng.uniform(-0.5, 0.5)], np.float32))
    fingers = np.cross(-palm, up)
    frame = np.stack([up, unit_rows(fingers), -unit_rows(palm)], 1)
    # The cup's axis lies along the hand's x, before the palm.
    upright = np.stack([frame[:, 1], frame[:, 0], -frame[:, 2]], 1)
    parts.thing((cup @ upright.T + centre, faces), 1, 0.0)
    if rng.random() < 0.35:  # a sleeve of cardboard, a stripe
        band = _turned_solid(
            np.array([[wide * (0.5 + 0.5 * taper) + 0.12, -high * 0.2], [wide + 0.06, high * 0.22]])
        )
        parts.thing((band[0] @ upright.T + centre, band[1]), 2, 0.0)
    grip = _grip(rng, 32, 48, 30, spread=3, thumb=0.35)
    anchor = np.array([rng.uniform(-1, 0.5), 9.0, -(wide / size + 1.05)])
    pose = _Pose(
        grip,
        anchor,
        centre,
        tuple(frame[:, 1]),
        tuple(-frame[:, 2]),
        (0, 0, 1),
        (14, -34, 16),
    )
    _arm(parts, pose, False, head[:0], size, rng)


def _phone(parts: _Parts, rng: np.random.Generator, head: Array, size: float, call: bool) -> None:
    """A phone at the ear, or held up between the face and the camera."""
    half = np.array([rng.uniform(3.4, 3.9), rng.uniform(6.9, 8.1), 0.45], np.float32)
    grip = _grip(rng, 26, 44, 30, spread=4, thumb=0.3)
    if call:
        fingers, palm = np.array([-0.1, 0.85, -0.5]), np.array([-0.85, 0.0, -0.55])
        frame = _frame(fingers, palm)
        centre = _jitter(rng, np.array([7.6, -1.0, 5.5], np.float32), 0.5)
        away = unit_rows(np.array([0.9, 0.0, 0.45], np.float32))
        local = (head - centre) @ frame
        near = (np.abs(local[:, 0]) < half[0]) & (np.abs(local[:, 1]) < half[1])
        sunk = -local[near, 2] if near.any() else np.array([0.5])
        centre = centre + away * max(0.0, 0.45 - float(sunk.min()))
        follow = 1.0
    else:
        palm = np.array([rng.normal(0, 0.15), rng.normal(0, 0.1), -1.0])
        frame = _frame(np.array([rng.normal(-0.25, 0.3), 1.0, 0.0]), palm)
        centre = np.array([rng.uniform(-2, 7), rng.uniform(-10, 2), 22.0], np.float32)
        follow = 0.0
    slab, faces = _box(half)
    parts.thing((slab @ frame.T + centre, faces), 1, follow)
    lens = _turned_solid(np.array([[0.65, 0.0], [0.65, 0.2], [0.01, 0.2]]), 14)
    swivel = np.stack([frame[:, 0], frame[:, 2], -frame[:, 1]], 1)
    for k in range(int(rng.integers(1, 4))):
        spot = np.array([-half[0] + 1.1, half[1] - 1.2 - 1.7 * k, half[2]])
        parts.thing((lens[0] @ swivel.T + centre + frame @ spot, lens[1]), 2, follow)
    anchor = np.array([0.4, 8.5, -1.9 / size])
    elbow = (19, -22, 6) if call else (16, -34, 12)
    pose = _Pose(grip, anchor, centre, tuple(frame[:, 1]), tuple(palm), (1, 0, 0), elbow)
    _arm(parts, pose, call, head[:0], size, rng)


def _microphone(parts: _Parts, rng: np.random.Generator, head: Array, size: float) -> None:
    """A microphone before the mouth or chest, in a hand or on a stand."""
    top = np.array([rng.uniform(-3, 4), rng.uniform(-13, -5), rng.uniform(14.5, 18)], np.float32)
    down = unit_rows(np.array([rng.uniform(0.0, 0.5), -1.0, rng.uniform(-0.1, 0.3)], np.float32))
    ball = rng.uniform(2.0, 2.7)
    turn = np.linspace(np.pi - 0.4, 0.05, 10)
    globe = _turned_solid(np.stack([ball * np.sin(turn), ball * np.cos(turn)], 1))
    side = unit_rows(np.cross(down, np.array([0.0, 0.0, 1.0])))
    basis = np.stack([side, -down, np.cross(side, -down)], 1)
    parts.thing((globe[0] @ basis.T + top, globe[1]), 1, 0.0)
    parts.thing(tube(np.stack([top + down * ball * 0.8, top + down * 24]), 1.15, False, 14), 2, 0.0)
    if rng.random() < 0.6:
        centre = top + down * rng.uniform(7, 12)
        palm = unit_rows(np.array([-0.75, 0.0, -0.65], np.float32))
        fingers = unit_rows(np.cross(-palm, -down))
        pose = _Pose(
            _grip(rng, 55, 80, 45, spread=0, thumb=0.9),
            np.array([0.0, 9.2, -(1.15 / size + 1.2)]),
            centre,
            tuple(fingers),
            tuple(palm),
            (0, 0, 1),
            (13, -34, 14),
        )
        _arm(parts, pose, False, head[:0], size, rng)


def _headset(
    parts: _Parts, rng: np.random.Generator, head: Array, at: Callable[[str], Array]
) -> None:
    """Ear pads, a band over the head and a boom to the mouth."""
    ear = at("earTopLeft") * np.array([1, 0, 1]) + np.array([0.6, 2.2, 1.2])
    mouth = at("lipCornerLeft") + np.array([0.6, -0.6, rng.uniform(1.3, 2.6)])
    s = np.linspace(0, 1, 14)[:, None]
    bow = np.array([2.2, -2.6, 3.6])
    path = (1 - s) * ear + s * mouth + np.sin(np.pi * s) * bow
    parts.thing(tube(path, 0.22, False, 8), 1, 1.0)
    turn = np.linspace(0.05, np.pi - 0.05, 9)
    foam = _turned_solid(np.stack([np.sin(turn), -np.cos(turn)], 1), 16)
    parts.thing((foam[0] * rng.uniform(0.6, 1.0) + path[-1], foam[1]), 2, 1.0)
    for sign in (1.0, -1.0):
        pad = foam[0] * np.array([1.5, 3.3, 3.0]) + ear * np.array([sign, 1, 1])
        parts.thing((pad, foam[1]), 1, 1.0)
    arc = np.linspace(-1, 1, 25) * 1.75
    crown = float(head[:, 1].max()) + 0.9
    high = (crown - ear[1]) / (1 - np.cos(1.75))
    band = np.stack(
        [
            ear[0] / np.sin(1.75) * np.sin(arc),
            ear[1] + high * (np.cos(arc) - np.cos(1.75)),
            np.full(25, ear[2] + 0.5),
        ],
        1,
    )
    parts.thing(tube(band, 0.75, False, 10), 1, 1.0)


def _collar(parts: _Parts, rng: np.random.Generator, head: Array) -> None:
    """A collar or scarf turned up to the chin, the mouth or beyond."""
    rows, around = 9, 64
    top = rng.uniform(-8.5, -3.0)
    turn = np.arange(around) * 2 * np.pi / around
    front = (1 + np.cos(turn)) / 2
    rings = []
    phase = rng.uniform(0, 6.28, 4)
    for k in range(rows):
        s = k / (rows - 1)
        height = -19.0 + (top + 19.0) * s + (1 - front) * 2.0 * s
        skin = head[np.abs(head[:, 1] - (-19.0 + (top + 19.0) * s)) < 1.6]
        deep = max(float(skin[:, 2].max()) if len(skin) else 6.0, 8.5) + 1.2
        deep = max(deep, 13.2) if s > 0.6 else deep * (1 - s) + s * 13.2
        wide = 9.0 + 1.5 * (1 - s) ** 2
        fold = sum(
            0.28 * np.sin(n * turn + p + 3 * s) for n, p in zip((3, 5, 9, 14), phase, strict=True)
        )
        x = (wide + fold) * np.sin(turn)
        z = 1.0 + np.where(np.cos(turn) > 0, deep - 1.0, 9.0) * np.cos(turn) + fold * np.cos(turn)
        rings.append(np.stack([x, height + 0.3 * fold, z], 1))
    grid = np.stack(rings)
    points = grid.reshape(-1, 3).astype(np.float32)
    at = np.stack(
        [
            np.tile(turn / 6.2832 * 0.96 + 0.02, rows),
            np.repeat(np.linspace(0.53, 0.72, rows), around),
        ],
        1,
    )
    share = 0.35 * keypoints.rigid_weight(points)
    parts.add((points, _lattice(rows, around)), at, asset.HELD, share)


def lock(head: Array, seed: int, side: float) -> tuple[Array, NDArray[np.int64], Array]:
    """A lock of hair across the face: ribbons as vertices, triangles, (T, 3, 2) uv."""
    rng = np.random.default_rng(seed)
    skin = head[asset.SKIN]
    count, steps = int(rng.integers(50, 160)), 18
    root = np.array([rng.uniform(-1.5, 3.5) * side, 11.5])
    tip = np.array([rng.uniform(2.0, 6.0) * side, rng.uniform(-7, 3.5)])
    bow = rng.uniform(-1.0, 3.0) * side
    s = np.linspace(0, 1, steps)[:, None]
    spread = rng.uniform(0.5, 1.1)
    across = rng.normal(0, 1, (count, 1, 2)) * np.array([1.0, 0.3]) * spread
    reach = rng.uniform(0.7, 1.0, (count, 1, 1)) * s  # strands end at different places
    line = root + (tip - root) * reach ** np.array([1.6, 1.0])
    line = line + np.array([1.0, 0.0]) * bow * np.sin(np.pi * reach)
    # Wide at the root, gathered toward the tip.
    line = line + across * (1 - 0.75 * reach) + 0.12 * np.sin(3 * reach + 5 * across)
    # Strands hang before the farthest skin in their column of the picture.
    cells = np.full((64, 64), 5.0, np.float32)
    front = skin[skin[:, 2] > 4]
    where = np.clip(((front[:, :2] + 16) * 2).astype(int), 0, 63)
    np.maximum.at(cells, (where[:, 0], where[:, 1]), front[:, 2])
    for _ in range(2):
        cells = np.maximum.reduce([np.roll(cells, k, a) for a in (0, 1) for k in (-1, 0, 1)])
    put = np.clip(((line + 16) * 2).astype(int), 0, 63)
    depth = cells[put[..., 0], put[..., 1]] + 0.3 + rng.uniform(0, 0.4, (count, 1))
    for _ in range(6):
        depth[:, 1:-1] = np.maximum(depth[:, 1:-1], (depth[:, :-2] + depth[:, 2:]) / 2)
        depth[:, 1:-1] = (depth[:, :-2] + 2 * depth[:, 1:-1] + depth[:, 2:]) / 4
    width = np.array([0.055, 0.01, 0.02]) * (1 - 0.7 * s**3)
    at = np.stack([rng.uniform(0.1, 0.9, count), np.full(count, 0.5)], 1)
    return ribbons(np.concatenate([line, depth[..., None]], -1), width, at)


def _texture(held: Held, skin: Array, rng: np.random.Generator) -> Array:
    """Skin by redness and shade, nails, cloth with a pattern, plain colours; (S, S, 3)."""
    size = _ATLAS
    out = np.zeros((size, size, 3), np.float32)
    u = (np.arange(size) + 0.5)[None, :, None] / size
    v = (np.arange(size)[::-1] + 0.5)[:, None, None] / size
    red = np.clip(u / 0.5, 0, 1)
    colour = skin * np.exp(-red * np.array([0.04, 0.28, 0.22]) * 1.1)
    nail = 0.5 * skin + 0.5 * held.nails
    colour = np.where(u > 0.55, nail, colour)
    colour = colour * np.exp(-np.clip(v / 0.48 - 0.15, 0, 1) * np.array([0.45, 0.62, 0.68]))
    out[:] = colour
    cloth = held.colours[3] * np.exp(0.10 * smooth_noise(rng, size, 2.0))[..., None]
    if rng.random() < 0.4:
        turns = int(rng.integers(2, 9))
        wave = np.sin(2 * np.pi * (u * turns * 4 if rng.random() < 0.5 else v * turns * 5))
        cloth = np.where(wave > 0.2, held.colours[2], cloth)
    out = np.where(v > 0.5, cloth, out)
    for k in range(_COLUMNS):
        inside = (v > 0.75) & (u >= k / _COLUMNS) & (u < (k + 1) / _COLUMNS)
        out = np.where(inside, held.colours[k], out)
    return np.clip(out, 0.003, 0.92).astype(np.float32)


def cover(pack: Pack, held: Held, head: Array, skin: Array) -> Cover | None:
    """What a person holds before the face; ``head`` (V0, 3) at rest, ``skin`` (3,) linear RGB.

    None for a lock of hair, which ``lock`` makes.
    """
    if held.kind == "lock":
        return None
    rng = np.random.default_rng(held.seed)
    mirror = np.array([held.side, 1.0, 1.0], np.float32)
    vertex = keypoints.vertices_of(pack.mean)

    def at(name: str) -> Array:
        if held.side < 0:
            name = name[:-4] + "Right" if name.endswith("Left") else name
        return np.asarray(head[vertex[keypoints.INDEX[name]]] * mirror)

    opened = head + 0.3 * pack.expressions[latent.INDEX["jawOpen"]]
    near = head[asset.SKIN, 1] > -11
    moves = [head[asset.SKIN][near][::2], opened[asset.SKIN][near][::2]]
    if not held.leaning:
        for yaw, pitch in ((15.0, 0.0), (-15.0, 0.0), (0.0, -10.0), (0.0, 10.0)):
            angles = (np.float32(yaw), np.float32(pitch), np.float32(0))
            turn = keypoints.rotations(*(np.asarray(a) for a in angles))
            moves.append((moves[0] - keypoints.PIVOT) @ turn.T + keypoints.PIVOT)
    around = np.concatenate(moves) * mirror
    parts = _Parts()
    if held.kind in HANDS:
        pose = _poses(held.kind, rng, at)
        _arm(parts, pose, held.leaning, around, held.size, rng)
    elif held.kind == "cup":
        _cup(parts, rng, around, held.size)
    elif held.kind in ("phone", "call"):
        _phone(parts, rng, around, held.size, held.kind == "call")
    elif held.kind == "microphone":
        _microphone(parts, rng, around, held.size)
    elif held.kind == "headset":
        _headset(parts, rng, head[asset.SKIN] * mirror, at)
    else:
        _collar(parts, rng, head[asset.SKIN] * mirror)
    points, faces = np.concatenate(parts.points) * mirror, np.concatenate(parts.faces)
    uv = np.concatenate(parts.uv)
    if held.side < 0:
        faces, uv = faces[:, ::-1], uv[:, ::-1]
    return Cover(
        points.astype(np.float32),
        np.ascontiguousarray(faces),
        np.ascontiguousarray(uv),
        np.concatenate(parts.material),
        np.concatenate(parts.follow),
        _texture(held, skin, rng),
    )
