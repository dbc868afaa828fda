"""Analytic posing: from keypoints and two motion codes to a first, dense backward flow.

A photo's keypoints are brought to its own neutral with its own code, posed again by the driven
code, and projected. Between keypoints, depth and expression are interpolated by normalised
Gaussians; the rigid motion of the head is then exact for the interpolated depth. A Gaussian is
separable, so a whole map is two matrix products. Everything is matmul and elementwise.

Camera coordinates: x right, y down, z toward the camera, in interpupillary distances (IPD),
z = 0 at the photo's eyes, through which the optical axis goes: a head's pose is told relative to
the line of sight to its eyes, which is all that a cropped photo can tell. Names with ``frame`` are
in fractions of the frame's width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vivant import latent

PERSPECTIVE = 1 / 14
"""What is expected of a camera's perspective, the reciprocal of its distance, 1/IPD: of one that
stands at 90 cm, the middle of what faces are seen from. Parallel projection would have none."""

SCALE = (0.25,) * 55 + (8.0,) * 5 + (0.1, 0.1, 0.3)
"""A typical change of each latent in its own unit: one normalised unit of a motion code."""

BASIS = Path(__file__).with_name("keypoints.npz")
TEETH = ("teethUpper", "teethLower")
"""The middle of the edge of either row."""
HIDDEN = (*TEETH, "tongueTip")
"""Keypoints that lie inside the head and must not carry the skin's flow."""


WIDE, FAR = 0.7, 0.01
"""Reach in IPD, and weight, of what else each keypoint says far around it."""
IRIS = 3.0
"""Further weight of the pupils: an iris moves as one, though lids that do not are close to it."""


class Rig(NamedTuple):
    """The generic keypoints and what moves them; see ``export/synth/people/keypoints.py``."""

    names: tuple[str, ...]
    """K names."""
    delta: np.ndarray
    """(57, K, 3) displacement per unit of the first 57 latents, IPD, y down."""
    neutral: np.ndarray
    """(K, 3) mean neutral shape from the midpoint of the pupils, IPD, y down."""
    weight: np.ndarray
    """(K,) share of the head's rotation a point follows."""
    pivot: np.ndarray
    """(3,) centre of rotation from the midpoint of the pupils, IPD, y down."""
    mirror: np.ndarray
    """(K,) index of each keypoint's mirror image."""


def load_rig(path: Path = BASIS) -> Rig:
    """Read the committed keypoint file into image axes (y down)."""
    down = np.array([1, -1, 1], np.float32)
    with np.load(path) as file:
        delta = np.concatenate([file["basis"].astype(np.float32), file["gaze"]])
        return Rig(
            names=tuple(str(name) for name in file["names"]),
            delta=delta * down,
            neutral=file["neutral"] * down,
            weight=file["rigid"],
            pivot=file["pivot"] * down,
            mirror=file["mirror"],
        )


def rotation(degrees: Tensor) -> Tensor:
    """Head rotation Ry(yaw) Rx(-pitch) Rz(-roll), (B, 3) degrees -> (B, 3, 3), y down."""
    angle = degrees * (math.pi / 180)
    c, s = torch.cos(angle), torch.sin(angle)
    cy, cp, cr = c[:, 0], c[:, 1], c[:, 2]
    sy, sp, sr = s[:, 0], -s[:, 1], -s[:, 2]
    # The rows and columns of y change sign against the y-up formula.
    rows = (
        (cy * cr + sy * sp * sr, cy * sr - sy * sp * cr, sy * cp),
        (-cp * sr, cp * cr, sp),
        (cy * sp * sr - sy * cr, -sy * sr - cy * sp * cr, cy * cp),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


class Posed(NamedTuple):
    """A photo posed by a motion code."""

    photo: Tensor
    """(B, K, 3) the photo's keypoints: x, y in frame fractions, z in IPD."""
    points: Tensor
    """(B, K, 3) driven keypoints: x, y in frame fractions, z in IPD."""
    still: Tensor
    """(B, K, 3) the same with the photo's own expression."""
    shift: Tensor
    """(B, K, 3) expression to remove on the way back to the photo, IPD, camera axes."""
    amplitude: Tensor
    """(B, K) weight of each keypoint in the interpolation."""
    size: Tensor
    """(B, 1, 1) interpupillary distance, frame fractions."""
    axis: Tensor
    """(B, 1, 2) the photo's eyes, where the optical axis meets the frame, frame fractions."""
    perspective: Tensor
    """(B, 1, 1) reciprocal of the camera's distance from the photo's eyes, 1/IPD."""
    back: Tensor
    """(B, 3, 3) rotation from the driven to the photo's head."""
    pivot: Tensor
    """(B, 1, 3) driven centre of rotation, IPD, camera coordinates."""
    pivot_photo: Tensor
    """(B, 1, 3) the same in the photo."""
    travel: Tensor
    """(B, 1, 3) translation from driven back to the photo, IPD."""
    head: Tensor
    """(B, 3, 3) driven head rotation."""
    aside: Tensor
    """(B, 1, 1) sine of how far the photo's head looks away from where it is turned to."""
    eyes: Tensor
    """(B, 1, 3) driven neutral midpoint of the pupils, camera coordinates."""
    anchors: Tensor
    """(B, 3, 2) mouth, right and left eye of the expressionless driven head, frame fractions."""
    teeth: Tensor
    """(B, 2, 3) the driven middle of the edges of upper and lower teeth, as ``points``."""


def _project(points: Tensor, size: Tensor, axis: Tensor, perspective: Tensor) -> Tensor:
    """Camera coordinates (B, N, 3), IPD -> frame fractions (B, N, 2)."""
    return points[..., :2] / (1 - points[..., 2:] * perspective) * size + axis


def in_camera(
    keypoints: Tensor, pupils: Tensor, perspective: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints (B, K, 3) of a photo in camera coordinates, (B, K, 3); the interpupillary distance
    (B, 1, 1) and the middle of the eyes (B, 1, 2), frame fractions. ``pupils`` (2, K) picks them;
    ``perspective`` (B, 1, 1) is the camera's.
    """
    pair = torch.matmul(pupils, keypoints)  # (B, 2, 3)
    gap = pair[:, 1:] - pair[:, :1]
    size = torch.sqrt((gap * gap).sum(-1, keepdim=True) + 1e-6)
    middle = 0.5 * (pair[:, :1] + pair[:, 1:])
    depth = (keypoints[..., 2:] - middle[..., 2:]) / size
    plane = (keypoints[..., :2] - middle[..., :2]) / size * (1 - depth * perspective)
    return torch.cat([plane, depth], -1), size, middle[..., :2]


class Poser(nn.Module):
    """Pose keypoints and interpolate them into dense maps. No input of it is learned but widths."""

    delta: Tensor
    weight: Tensor
    offset: Tensor
    pupils: Tensor
    groups: Tensor
    each: Tensor
    shown: Tensor
    rows: Tensor
    lips: Tensor

    def __init__(self) -> None:
        super().__init__()
        rig = load_rig()
        self.count = len(rig.names)
        index = {name: k for k, name in enumerate(rig.names)}
        self.register_buffer("delta", torch.from_numpy(rig.delta.reshape(57, -1).copy()))
        self.register_buffer("weight", torch.from_numpy(rig.weight.copy())[None, :, None])
        self.register_buffer("offset", torch.from_numpy(rig.pivot.copy())[None, None])
        pupils = torch.zeros(2, self.count)
        pupils[0, index["pupilRight"]] = pupils[1, index["pupilLeft"]] = 1
        self.register_buffer("pupils", pupils)
        anchors = torch.zeros(3, self.count)
        for k, name in enumerate(rig.names):
            if name.startswith("lip") and not name.startswith("lipInner"):
                anchors[0, k] = 1
            if name.startswith("lid"):
                anchors[1 if name.endswith("Right") else 2, k] = 1
        # Apart, for a mean's weights are not exact in the 16 bits in which they are stored.
        self.register_buffer("groups", anchors, persistent=False)
        self.register_buffer("each", 1 / anchors.sum(1, keepdim=True), persistent=False)
        shown = torch.tensor([0.0 if name in HIDDEN else 1.0 for name in rig.names])
        self.register_buffer("shown", shown[None])
        for name, starts in (("rows", TEETH), ("lips", ("lipInnerUpper", "lipInnerLower"))):
            picked = torch.tensor([[float(n.startswith(s)) for n in rig.names] for s in starts])
            picked = picked / picked.sum(1, keepdim=True)
            self.register_buffer(name, picked, persistent=False)
        self.blink = (latent.INDEX["eyeBlinkRight"], latent.INDEX["eyeBlinkLeft"])
        # A keypoint's reach is its distance to its nearest neighbours.
        gap = np.linalg.norm(rig.neutral[:, None, :2] - rig.neutral[None, :, :2], axis=-1)
        near = np.sort(gap, axis=1)[:, 1:4].mean(1)
        self.reach = nn.Parameter(torch.from_numpy(np.log(0.6 * near + 0.02)).float())
        self.gain = nn.Parameter(torch.zeros(self.count))
        self.nearness = nn.Parameter(torch.tensor(1.5))

    def forward(
        self,
        keypoints: Tensor,
        source: Tensor,
        motion: Tensor,
        perspective: Tensor,
        away: Tensor | None = None,
    ) -> Posed:
        """(B, K, 3), (B, 63), (B, 63), (B, 1) -> the photo's keypoints posed by ``motion``.

        ``away`` (B, 1, 3): the head's own pivot from the generic one, IPD, known in training alone.
        """
        batch = keypoints.shape[0]
        view = perspective[..., None]
        photo, size, axis = in_camera(keypoints, self.pupils, view)
        codes = torch.cat([source, motion])
        turn_s, turn_d = rotation(codes[:, 57:60]).chunk(2)
        up = torch.tensor([1.0, -1.0, 1.0], device=source.device)
        move_s, move_d = (source[:, None, 60:] * up), (motion[:, None, 60:] * up)  # (B, 1, 3)
        both = torch.matmul(codes[:, :57], self.delta)
        own, driven = both.view(2 * batch, self.count, 3).chunk(2)
        rows_s, rows_d = turn_s.transpose(1, 2), turn_d.transpose(1, 2)  # X = H @ rows
        plain = photo - torch.matmul(own, rows_s)  # posed, without expression
        eyes = torch.matmul(self.pupils, plain).mean(1, keepdim=True)
        offset = self.offset.expand(batch, 1, 3)
        arm = torch.matmul(offset if away is None else offset + away, rows_s)
        rest = eyes + arm - move_s  # the pivot before translation
        head = torch.matmul(plain - rest - move_s, turn_s)  # neutral, from the pivot
        posed = torch.matmul(head + driven, rows_d) + rest + move_d
        carried = photo + move_d - move_s
        points = carried + self.weight * (posed - carried)
        shift = torch.matmul(driven - own, rows_s)
        shut = torch.stack([motion[:, self.blink[0]], motion[:, self.blink[1]]], 1)
        hide = torch.matmul(torch.clamp(shut, 0, 1), self.pupils)
        front = torch.exp(torch.clamp(self.nearness * (points[..., 2] + 0.5), -6.0, 2.0))
        amplitude = front * torch.exp(self.gain) * self.shown * (1 - hide) * (1 - hide)
        amplitude = amplitude * (1 + (IRIS - 1) * self.pupils.sum(0))
        calm = torch.matmul(head, rows_d) + rest + move_d
        ahead, other = turn_s[:, :2, 2:], turn_d[:, :2, 2:]
        way = ahead - other
        far = torch.sqrt((way * way).sum(1, keepdim=True) + 1e-4)
        places = _project(points, size, axis, view)
        seen = torch.cat([places, points[..., 2:]], -1)
        same = points - self.weight * torch.matmul(driven - own, rows_d)
        still = torch.cat([_project(same, size, axis, view), same[..., 2:]], -1)
        return Posed(
            photo=keypoints,
            points=seen,
            still=still,
            shift=self._sharper(places, size, amplitude, shift),
            amplitude=amplitude,
            size=size,
            axis=axis,
            perspective=view,
            back=torch.matmul(turn_s, rows_d),
            pivot=rest + move_d,
            pivot_photo=rest + move_s,
            travel=move_s - move_d,
            head=turn_d,
            aside=(ahead * way).sum(1, keepdim=True) / far,
            eyes=torch.matmul(self.pupils, calm).mean(1, keepdim=True),
            anchors=_project(torch.matmul(self.groups, calm) * self.each, size, axis, view),
            teeth=torch.matmul(self.rows, seen),
        )

    def with_teeth(self, posed: Posed, truth: Tensor) -> Posed:
        """The same with its teeth between its lips as they are in ``truth``, the driven frame's own
        keypoints (B, K, 3), known in training alone."""
        beside = torch.matmul(self.lips, (posed.points - truth)[..., :2])
        places = torch.matmul(self.rows, truth[..., :2]) + beside
        return posed._replace(teeth=torch.cat([places, posed.teeth[..., 2:]], -1))

    def _sharper(self, places: Tensor, size: Tensor, amplitude: Tensor, shift: Tensor) -> Tensor:
        """Shifts (B, K, 3) of which the interpolation makes at each keypoint nearly its own.

        A weighted mean of neighbours smooths: of a chin's fall it left half. What it lacks is
        added to each, twice (Jacobi's method; more rounds gain nothing).
        """
        at = places[..., 0], places[..., 1]

        def weights(bumps: tuple[Tensor, Tensor]) -> Tensor:
            across, down = bumps
            return across.transpose(1, 2) * down * amplitude[:, None]  # (B, at K, of K)

        near, far = weights(self._fine(places, size, *at)), weights(_wide(places, size, *at))
        near = near / ((near + FAR * far).sum(2, keepdim=True) + 1e-6)
        once = 2 * shift - torch.matmul(near, shift)
        return once + shift - torch.matmul(near, once)

    def spread(self, posed: Posed, xs: Tensor, ys: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate keypoint values over the grid ``xs`` (B, W) by ``ys`` (B, H).

        Returns expression shift, depth and rotation share (B, 5, H, W), and heat maps of the
        keypoint mixtures ``extra`` (E, K) -> (B, E, H, W).
        """
        fx, fy = self._fine(posed.points, posed.size, xs, ys)
        values = torch.cat([self._values(posed), extra.expand(len(xs), -1, -1)], 1)
        shift, rest, heats = _sums(values, fy, fx).split([3, 3, len(extra)], 1)
        return self._maps(posed, xs, ys, shift, rest), heats

    def spread_halved(
        self, posed: Posed, xs: Tensor, ys: Tensor, extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``spread`` with the heat maps averaged over 2x2 cells, (B, E, H/2, W/2).

        A mean over a cell is the product of the means over its columns and rows.
        """
        fx, fy = self._fine(posed.points, posed.size, xs, ys)
        shift, rest = _sums(self._values(posed), fy, fx).split([3, 3], 1)
        mx, my = 0.5 * (fx[:, :, ::2] + fx[:, :, 1::2]), 0.5 * (fy[:, ::2] + fy[:, 1::2])
        heats = _sums(extra.expand(len(xs), -1, -1), my, mx)
        return self._maps(posed, xs, ys, shift, rest), heats

    def _fine(self, points: Tensor, size: Tensor, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
        """Each keypoint's own Gaussian over columns (B, K, W) and rows (B, H, K)."""
        return _bumps(points, xs, ys, torch.exp(self.reach)[None] * size[:, 0])

    def _values(self, posed: Posed) -> Tensor:
        """What is summed by the Gaussians: shift (3), depth, share, 1, weighted, (B, 6, K)."""
        share = self.weight.expand(posed.points.shape[0], -1, -1)
        values = torch.cat([posed.shift, posed.points[..., 2:], share, torch.ones_like(share)], -1)
        return (values * posed.amplitude[..., None]).transpose(1, 2)

    def _maps(self, posed: Posed, xs: Tensor, ys: Tensor, shift: Tensor, rest: Tensor) -> Tensor:
        """Normalised sums, (B, 5, H, W)."""
        # Far from every keypoint the expression fades out while depth is extrapolated.
        wx, wy = _wide(posed.points, posed.size, xs, ys)
        rest = rest + _sums(FAR * self._values(posed)[:, 3:], wy, wx)
        values, total = rest.split([2, 1], 1)
        return torch.cat([shift, values], 1) / (total + 1e-6)

    def flow(self, posed: Posed, xs: Tensor, ys: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """First backward flow of a point on the person with its expression, and the flow that the
        head's motion alone would be: (B, 2, H, W) each.

        A difference of two projections, written as the small step that it is: no large numbers
        cancel, so that it is exact in 16 bits too.
        """
        column, row = _plane(posed, xs, ys)
        shift, depth, share = maps.split([3, 1, 1], 1)
        # Turning moves a point by (R - 1)(point - pivot), and the pivot by the travel.
        turn = posed.back - torch.eye(3, device=maps.device)
        view = posed.perspective[..., None]
        moved = _turned(turn, posed.pivot, column, row, depth, view)
        rigid = share * moved + posed.travel.transpose(1, 2)[..., None]

        def project(step: Tensor) -> Tensor:
            across, down, toward = step.split(1, 1)
            scale = posed.size[..., None] / (1 - (depth + toward) * view)
            toward = toward * view
            return torch.cat([(across + column * toward), (down + row * toward)], 1) * scale

        return project(rigid - shift), project(rigid)

    def local(self, posed: Posed, xs: Tensor, ys: Tensor, depth: Tensor) -> Tensor:
        """Where the points of ``depth`` (B, 1, H, W) lie on the driven head, (B, 3, H, W), IPD from
        the midpoint of the pupils."""
        column, row = _plane(posed, xs, ys)
        turn, view = posed.head.transpose(1, 2), posed.perspective[..., None]
        return _turned(turn, posed.eyes, column, row, depth, view)


def _bumps(points: Tensor, xs: Tensor, ys: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussians of ``reach`` (B, K or 1) about points (B, K, 2 or 3), (B, K, W) and (B, H, K)."""
    u = (xs[:, None] - points[..., 0:1]) / reach[..., None]
    v = (ys[:, :, None] - points[:, None, :, 1]) / reach[:, None]
    return torch.exp(-0.5 * u * u), torch.exp(-0.5 * v * v)


def _wide(points: Tensor, size: Tensor, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """A wide Gaussian about each keypoint, over columns (B, K, W) and rows (B, H, K)."""
    return _bumps(points, xs, ys, WIDE * size[:, 0])


def _sums(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums over K: (B, E, K) values of (B, H, K) by (B, K, W) products -> (B, E, H, W)."""
    batch, count, points = values.shape
    left = (values[:, :, None] * rows[:, None]).reshape(batch, count * rows.shape[1], points)
    return torch.matmul(left, columns).reshape(batch, count, rows.shape[1], columns.shape[2])


def _plane(posed: Posed, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """The grid on the plane z = 0, IPD from the optical axis: (B, 1, 1, W) and (B, 1, H, 1)."""
    size = posed.size[:, 0]
    across, down = posed.axis[:, 0].split(1, 1)
    column, row = (xs - across) / size, (ys - down) / size
    return column[:, None, None, :], row[:, None, :, None]


def _turned(
    turn: Tensor, origin: Tensor, column: Tensor, row: Tensor, depth: Tensor, perspective: Tensor
) -> Tensor:
    """``turn`` (B, 3, 3) of the grid's points at ``depth`` (B, 1, H, W) from ``origin`` (B, 1, 3).

    A point at depth z lies at (column, row) (1 - z ``perspective``): the result is linear in z.
    """
    fixed = torch.matmul(turn, origin.transpose(1, 2))[..., None]  # (B, 3, 1, 1)
    x, y, z = (part[..., None] for part in turn.split(1, 2))
    plane = x * column + y * row  # (B, 3, H, W)
    return plane + (z - plane * perspective) * depth - fixed
