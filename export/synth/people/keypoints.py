"""Named surface points of the head, and how expression, gaze and head pose move them.

``keypoint_basis()`` needs only the small file beside the networks; ``compute`` derives that file
from the asset pack once::

    python -m vivant.export.synth.people.keypoints --pack PACK

Coordinates are in interpupillary distances (IPD), origin at the midpoint of the pupils, x to the
right of the image (the subject's left), y up, z toward the camera. A point is posed by::

    X = R(w * yaw, w * pitch, w * roll) (S + B e + G g - pivot) + pivot + t
    R(yaw, pitch, roll) = Ry(yaw) Rx(-pitch) Rz(-roll)

with S the person's neutral point (generic: ``neutral``), e the latent's 55 weights, B ``basis``,
g the two gaze angles in degrees, G ``gaze`` (non-zero at the pupils only), w the point's rigid
weight (1 on the head, falling to 0 down the neck), t = (headX, headY, headZ) in IPD.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivant import latent
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people.pack import Array

FILE = Path(__file__).resolve().parents[2] / "nets" / "keypoints.npz"

PIVOT = np.array([0.0, -9.0, 0.0], np.float32)
"""Centre of head rotation, cm in the pack's frame: the middle of the cervical spine."""
VERGENCE = 4.2
"""Degrees each eye turns toward the nose so that both look at a camera about a metre away."""

_SIDED = {
    # Right vertex, left vertex, subject's sides.
    "jaw0": (1225, 3443),
    "jaw2": (1052, 3272),
    "jaw4": (1719, 3924),
    "jaw5": (1722, 3927),
    "jaw6": (2199, 4390),
    "jaw7": (1447, 3661),
    "brow0": (268, 2509),
    "brow1": (493, 2734),
    "brow2": (1914, 4114),
    "brow3": (2044, 4240),
    "brow4": (1401, 3615),
    "nostril0": (1140, 3360),
    "nostril1": (2075, 4269),
    "lidOuter": (1507, 3721),
    "lidUpper0": (1542, 3756),
    "lidUpper1": (1537, 3751),
    "lidInner": (1528, 3742),
    "lidLower1": (1518, 3732),
    "lidLower0": (1511, 3725),
    "lipCorner": (5708, 6213),
    "lipUpper0": (5695, 6200),
    "lipUpper1": (2081, 4275),
    "lipLower0": (5841, 6346),
    "lipLower1": (5957, 6461),
    "lipInnerCorner": (5702, 6207),
    "lipInnerUpper": (5711, 6216),
    "lipInnerLower": (5966, 6470),
    "cheekUp": (2169, 4362),
    "cheekMid": (354, 2595),
    "cheekLow": (195, 2436),
    "nasolabial": (461, 2702),
    "forehead": (1741, 3944),
    "temple": (1004, 3224),
    "skullUpper": (9852, 9874),
    "skullSide": (8767, 8717),
    "neckSide": (8992, 9312),
    "chest": (10890, 11185),
    "shoulder": (10741, 11045),
}
_MIDDLE = {
    "chin": 966,
    "glabella": 1398,
    "noseBridge": 978,
    "noseRidge": 4942,
    "noseTip": 4857,
    "noseBase": 1147,
    "lipUpperMid": 0,
    "lipLowerMid": 5518,
    "lipInnerUpperMid": 5533,
    "lipInnerLowerMid": 5517,
    "foreheadMid": 975,
    "hairline": 8171,
    "skullTop": 10038,
    "neckFront": 9023,
    "sternum": 8889,
    "teethUpper": 18108,
    "teethLower": 20275,
    "tongueTip": 16761,
}
_EARS = {"earTop": (-7.78, 6.42, -1.97), "earLobe": (-7.64, -1.9, 0.99)}

NAMES: tuple[str, ...] = (
    *(f"{name}{side}" for name in (*_SIDED, *_EARS, "pupil") for side in ("Right", "Left")),
    *_MIDDLE,
)
SHAPES = latent.ARKIT + latent.TONGUE
"""Names of the 55 shapes of ``basis``, in order."""
COUNT = len(NAMES)
INDEX: dict[str, int] = {name: k for k, name in enumerate(NAMES)}
MIRROR: tuple[int, ...] = tuple(
    INDEX[name[:-5] + "Left"]
    if name.endswith("Right")
    else INDEX[name[:-4] + "Right"]
    if name.endswith("Left")
    else INDEX[name]
    for name in NAMES
)
"""Index of each keypoint's mirror image (left and right exchanged)."""

LANDMARKS: tuple[str, ...] = (
    "pupilRight",
    "pupilLeft",
    "noseTip",
    "lipCornerRight",
    "lipCornerLeft",
    "lipUpperMid",
    "lipLowerMid",
    "chin",
    "earLobeRight",
    "earLobeLeft",
    "hairline",
    "glabella",
)
"""The keypoints that are the alignment network's landmarks, in its order."""


@dataclass(frozen=True)
class KeypointBasis:
    """Generic keypoints and how they move, IPD units; see the module for the formula."""

    neutral: Array
    """Neutral position of the mean head, (K, 3)."""
    basis: Array
    """Displacement at weight 1 of the latent's 55 shapes, (55, K, 3)."""
    gaze: Array
    """Displacement per degree of gaze yaw and of gaze pitch, (2, K, 3)."""
    rigid: Array
    """Share of the head's rotation a point follows, (K,), 0..1."""
    pivot: Array
    """Centre of head rotation, (3,)."""
    vertex: NDArray[np.int32]
    """Vertex of the pack behind each keypoint, (K,); -1 at the pupils."""
    ipd: Array
    """Interpupillary distance of the mean head in cm, ()."""


def rotations(yaw: Array, pitch: Array, roll: Array) -> Array:
    """Head rotations Ry(yaw) Rx(-pitch) Rz(-roll): arrays (...,) of degrees -> (..., 3, 3)."""
    y, p, r = (np.deg2rad(np.asarray(a, np.float32)) for a in (yaw, -pitch, -roll))
    cy, sy, cp, sp, cr, sr = np.cos(y), np.sin(y), np.cos(p), np.sin(p), np.cos(r), np.sin(r)
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)


def rigid_weight(points: Array) -> Array:
    """Share of the head's rotation that points (..., 3), cm, follow: 1 above the neck, 0 below."""
    height = points[..., 1] + 0.18 * (points[..., 2] - 2)
    t = np.clip((height + 16.5) / 8.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def pose(neutral: Array, motion: Array, table: KeypointBasis) -> Array:
    """Pose neutral keypoints (K, 3) by motion latents (..., 63); returns (..., K, 3), IPD."""
    motion = np.asarray(motion, np.float32)
    weights, gaze = motion[..., :55], motion[..., 55:57]
    points = (
        neutral
        + np.einsum("...e,ekc->...kc", weights, table.basis)
        + np.einsum("...g,gkc->...kc", gaze, table.gaze)
    )
    angles = motion[..., 57:60, None] * table.rigid  # (..., 3, K)
    turn = rotations(angles[..., 0, :], angles[..., 1, :], angles[..., 2, :])
    turned = np.einsum("...kij,...kj->...ki", turn, points - table.pivot) + table.pivot
    return turned + motion[..., None, 60:63]


def eyes(vertices: Array) -> tuple[Array, Array, Array]:
    """Centre (2, 3), radius (2,) and optical axis (2, 3) of the left and the right eyeball.

    The centre is a least-squares sphere through the back of the globe; the axis goes through the
    corneal bulge, turned toward the nose by VERGENCE.
    """
    centres, radii, axes = [], [], []
    for globe, side in zip(asset.GLOBES, (1.0, -1.0), strict=True):
        points = vertices[globe].astype(np.float64)
        back = points[points[:, 2] < points[:, 2].mean()]
        system = np.concatenate([2 * back, np.ones((len(back), 1))], 1)
        x = np.linalg.lstsq(system, (back**2).sum(1), rcond=None)[0]
        centre, radius = x[:3], float(np.sqrt(x[3] + (x[:3] ** 2).sum()))
        away = np.linalg.norm(points - centre, axis=1)
        # Of some shapes of a head the eye has no point so far out.
        bulge = points[away > min(1.10 * radius, 0.99 * away.max())]
        axis = bulge.mean(0) - centre
        turn = rotations(*(np.asarray(a, np.float32) for a in (-VERGENCE * side, 0.0, 0.0)))
        axis = turn @ (axis / np.linalg.norm(axis))
        centres.append(centre)
        radii.append(radius)
        axes.append(axis)
    return (
        np.asarray(centres, np.float32),
        np.asarray(radii, np.float32),
        np.asarray(axes, np.float32),
    )


PUPIL_DEPTH = 1.12
"""Distance of the corneal apex from the eyeball's centre, in eyeball radii."""


def vertices_of(mean: Array) -> NDArray[np.int32]:
    """Vertex of the pack behind each keypoint, (K,); -1 at the pupils."""
    skin = mean[asset.SKIN]
    chosen: list[int] = []
    for pair in _SIDED.values():
        chosen += pair
    for x, y, z in _EARS.values():
        for side in (1.0, -1.0):
            chosen.append(int(((skin - np.array([x * side, y, z])) ** 2).sum(1).argmin()))
    chosen += [-1, -1, *_MIDDLE.values()]
    return np.asarray(chosen, np.int32)


def compute(pack: asset.Pack) -> KeypointBasis:
    """Derive the generic keypoints from the pack's mean head."""
    vertex = vertices_of(pack.mean)
    centre, radius, axis = eyes(pack.mean)
    pupils = centre + PUPIL_DEPTH * radius[:, None] * axis
    ipd = float(np.linalg.norm(pupils[0] - pupils[1]))
    origin = pupils.mean(0)
    left, right = INDEX["pupilLeft"], INDEX["pupilRight"]
    neutral = pack.mean[vertex].copy()
    neutral[left], neutral[right] = pupils
    basis = pack.expressions[:, vertex].copy()
    basis[:, [left, right]] = 0
    gaze = np.zeros((2, COUNT, 3), np.float32)
    for k, r, d in zip((left, right), radius, axis, strict=True):
        arm = np.deg2rad(PUPIL_DEPTH * r) * d[2]
        gaze[0, k, 0] = arm
        gaze[1, k, 1] = arm
    return KeypointBasis(
        neutral=(neutral - origin) / ipd,
        basis=basis / ipd,
        gaze=gaze / ipd,
        rigid=rigid_weight(neutral),
        pivot=(PIVOT - origin) / ipd,
        vertex=vertex,
        ipd=np.asarray(ipd, np.float32),
    )


def save(table: KeypointBasis, path: Path = FILE) -> None:
    """Write the table, with the names and the mirror, as one .npz of half and single floats."""
    arrays: dict[str, Any] = {f.name: np.asarray(getattr(table, f.name)) for f in fields(table)}
    arrays["basis"] = arrays["basis"].astype(np.float16)
    np.savez_compressed(path, names=np.array(NAMES), mirror=np.array(MIRROR, np.int32), **arrays)


def load(path: Path = FILE) -> KeypointBasis:
    """Read the table written by ``save``; all floating arrays come back as float32."""
    with np.load(path) as stored:
        arrays = {f.name: stored[f.name] for f in fields(KeypointBasis)}
    return KeypointBasis(
        **{k: a.astype(np.float32) if a.dtype.kind == "f" else a for k, a in arrays.items()}
    )


def keypoint_basis() -> KeypointBasis:
    """The committed table: the generic keypoints every network may use, without the pack."""
    return load(FILE)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pack", required=True, help="the asset pack (.npz)")
    parser.add_argument("--out", default=str(FILE))
    options = parser.parse_args(arguments)
    table = compute(asset.load(options.pack))
    save(table, Path(options.out))
    print(f"{COUNT} keypoints -> {options.out}")


if __name__ == "__main__":
    main()
