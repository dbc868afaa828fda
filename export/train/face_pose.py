"""Where a synthetic head stands, told as a picture of it shows it.

A shard states poses in its scene, of which a picture hides three things. The camera's sensor is
shifted: it stands a few degrees beside or above the eyes, which looks like a head turned by as
much. Which pose of a head is upright is the generator's word, and another head's shape tilted.
And heads turn about a point that lies elsewhere for everyone. All are constants of a person's
shard, and follow exactly from its keypoints. Codes are restated relative to the line of sight to
the eyes of one photo and to the pose in which a face looks like the generic one, as ``pose.py``
assumes; where a head turns is told to the training of the renderer, and ``about_neck`` states a
code for the generic neck (``Rig.pivot``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vivant.export.nets.pose import load_rig, rotation

Array = np.ndarray
Floats = NDArray[np.float64]

FOCAL = 2.6
"""Frame widths per unit of slope where a shard does not tell: a face at one metre."""
TILT = 0.2
"""Bound of the camera's slope against the line of sight; the generator stays within 0.15."""
AWAY = 0.6
"""Bound of a head's own pivot from the generic one, IPD; the generator stays within 0.4."""
UPRIGHT = 15
"""Bound of the pitch between the generator's and our upright, degrees."""
TRUST = 1e-4
"""Weight of the expectation against the keypoints, which are exact when heads turn enough."""

_RIG = load_rig()
_RIGID = [
    k
    for k, name in enumerate(_RIG.names)
    if _RIG.weight[k] > 0.999
    and name.startswith(("skull", "ear", "temple", "hairline", "foreheadMid", "noseBridge"))
]
_FACE = [
    k
    for k, name in enumerate(_RIG.names)
    if name.startswith(("brow", "nos", "lid", "lip", "cheek", "nasolabial", "forehead", "temple"))
    or name.startswith(("glabella", "jaw", "chin", "pupil"))
    if not name.startswith("lipInner")
]
"""What is seen of a face, and tells how it is held."""
_PUPILS = [_RIG.names.index("pupilRight"), _RIG.names.index("pupilLeft")]
_UP = np.array([1.0, -1.0, 1.0])


class Scene(NamedTuple):
    """What a person's frames share."""

    focal: float
    """Frame widths per unit of slope."""
    centre: Floats
    """(2,) where the optical axis meets the frame, frame fractions."""
    upright: Floats
    """(3, 3) rotation from our upright (see ``_upright``) to the shard's."""
    away: Floats
    """(3,) the head's own pivot from the generic one, in that pose, IPD, y down."""


def turns(degrees: Array) -> Floats:
    """``pose.rotation`` of angles (..., 3) in degrees: (..., 3, 3), y down."""
    flat = torch.from_numpy(np.asarray(degrees, np.float64).reshape(-1, 3))
    return rotation(flat).numpy().reshape(*np.shape(degrees), 3)


def angles(turn: Floats) -> Floats:
    """The inverse of ``turns``, for |pitch| < 90: (..., 3, 3) -> (..., 3) degrees."""
    yaw = np.arctan2(turn[..., 0, 2], turn[..., 2, 2])
    pitch = -np.arcsin(np.clip(turn[..., 1, 2], -1, 1))
    roll = np.arctan2(turn[..., 1, 0], turn[..., 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def _rectified(points: Array, focal: float, centre: Floats) -> Floats:
    """Keypoints (..., 3) of a picture in space, frame widths at the eyes, from the optical axis."""
    points = np.asarray(points, np.float64)
    plane = (points[..., :2] - centre) * (1 - points[..., 2:] / focal)
    return np.concatenate([plane, points[..., 2:]], -1)


def find_scene(keypoints: Array, motion: Array) -> Scene:
    """Camera and pivot of a person's frames, (F, K, 3) and (F, 63) as in a shard.

    Rigid points, turned back, agree between frames for the true camera alone: a linear problem in
    1 / focal and centre / focal. What the eyes do beyond that tells the pivot.
    """
    points = np.asarray(keypoints, np.float64)[:, _RIGID]
    motion = np.asarray(motion, np.float64)
    back = turns(motion[:, 57:60])
    x, y, z = np.moveaxis(points, -1, 0)
    none = np.zeros_like(z)
    shapes = [(x, y, z), (-z * x, -z * y, none), (z, none, none), (none, z, none)]

    def spread(parts: tuple[Floats, ...]) -> Floats:
        each = np.stack(parts, -1)
        each = (each - each.mean(1, keepdims=True)) @ back  # rows times R: R's inverse
        return (each - each.mean(0)).ravel()

    known, *unknown = (spread(parts) for parts in shapes)
    expected = np.array([1, 0.5, 0.42]) / FOCAL
    matrix = np.stack(unknown, 1)
    normal = matrix.T @ matrix + TRUST * 1e-2 * np.eye(3)
    solved = expected + np.linalg.solve(normal, matrix.T @ (-known - matrix @ expected))
    focal = float(1 / np.clip(solved[0], 0.1, 1.2))
    centre = solved[1:] * focal
    space = _rectified(keypoints, focal, centre)
    pupils = space[:, _PUPILS]
    size = float(np.median(np.linalg.norm(pupils[:, 1] - pupils[:, 0], axis=-1)))
    space = space / size
    moved = np.einsum("fe,ekc->fkc", motion[:, :57], _RIG.delta.astype(np.float64))
    neutral = ((space - space[:, _RIGID].mean(1, keepdims=True)) @ back - moved).mean(0)
    neutral = neutral - neutral[_PUPILS].mean(0)
    upright = _upright(neutral)
    own = _pivot(space[:, _RIGID].mean(1), neutral[_RIGID].mean(0), motion, back)
    away = np.clip(own @ upright - _RIG.pivot, -AWAY, AWAY)
    return Scene(focal, centre, upright, away)


def _upright(neutral: Floats) -> Floats:
    """The pitch in which a neutral head's face looks from the front most like the generic one,
    but for place and size: (K, 3) -> (3, 3).

    Of all that could be called upright this is what an encoder can tell: a face's proportions.
    """
    pitch = np.linspace(-UPRIGHT, UPRIGHT, 1 + 20 * UPRIGHT)
    turn = turns(np.stack([np.zeros_like(pitch), pitch, np.zeros_like(pitch)], -1))
    generic = np.einsum("nij,kj->nki", turn[:, :2], _RIG.neutral[_FACE].astype(np.float64))
    generic = generic - generic.mean(1, keepdims=True)
    face = neutral[_FACE, :2] - neutral[_FACE, :2].mean(0)
    # What a common size leaves of the face is least where the two correlate most.
    alike = (generic * face).sum((1, 2)) / np.sqrt((generic * generic).sum((1, 2)))
    best: Floats = turn[np.argmax(alike)]
    return best


def _pivot(middle: Floats, arm: Floats, motion: Floats, turn: Floats) -> Floats:
    """Where a head turns, (3,) IPD from its eyes, of the rigid points' middle in every frame
    (F, 3) and from the eyes (3,)."""
    # middle = R (arm - pivot) + translation + a constant.
    moved = middle - motion[:, 60:63] * _UP
    steps = (turn - turn.mean(0)).reshape(-1, 3)
    wanted = (moved - moved.mean(0)).reshape(-1)
    generic = arm - _RIG.pivot
    normal = steps.T @ steps + TRUST * len(moved) * np.eye(3)
    return arm - generic - np.linalg.solve(normal, steps.T @ (wanted - steps @ generic))


class Seen(NamedTuple):
    """A person's frames as one of them, the source, shows them."""

    codes: NDArray[np.float32]
    """(F, 63) of all frames, relative to the line of sight to the eyes of the source."""
    points: NDArray[np.float32]
    """(K, 3) keypoints of the source, whose depth is along that line."""
    perspective: NDArray[np.float32]
    """(1,) reciprocal of the camera's distance from these eyes, 1/IPD."""


def as_seen(scene: Scene, keypoints: Array, motion: Array, source: int) -> Seen:
    """Restate a person's keypoints (F, K, 3) and codes (F, 63) for frame ``source``."""
    points = np.asarray(keypoints[source], np.float64)
    eyes = points[_PUPILS].mean(0)
    slope = np.clip((scene.centre - eyes[:2]) / scene.focal, -TILT, TILT)
    beside, above = np.degrees(np.arctan(slope))
    look = turns(np.array([-beside, 0, 0])) @ turns(np.array([0, above, 0]))
    seen = np.asarray(motion, np.float64).copy()
    seen[:, 60:63] = (seen[:, 60:63] * _UP) @ look.T * _UP
    seen[:, 57:60] = angles(look @ turns(seen[:, 57:60]) @ scene.upright)
    space = points - eyes
    space[:, :2] *= 1 - space[:, 2:] / scene.focal
    points[:, 2] = eyes[2] + space @ look[2]
    right, left = points[_PUPILS]
    near = np.array([np.linalg.norm(left - right) / scene.focal])
    return Seen(*(part.astype(np.float32) for part in (seen, points, near)))


def about_neck(motion: Tensor, away: Tensor) -> Tensor:
    """Codes (B, 63) of a head whose pivot is ``away`` (B, 3) from the generic one, restated as
    turns about the generic one: what turns elsewhere is moved besides."""
    turned = torch.matmul(rotation(motion[:, 57:60]), away[..., None])[..., 0]
    moved = (away - turned) * motion.new_tensor(_UP)
    return torch.cat([motion[:, :60], motion[:, 60:] + moved], 1)
