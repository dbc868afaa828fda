"""What an independent tracker sees of commanded motion: jaw, lids and pose, for ``evaluate_face``.

A portrait is driven by one command at a time and tracked in every frame anew. Turns are told
between a frame and the portrait's own frame, by a rigid fit of what expression does not move, and
stated like the command: as degrees of yaw and pitch beside the portrait's own pose. A tracker errs
too: measured in the same way, true pictures of people who do as told tell its own part
(``evaluate_rendered.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vivant.benchmarks.photos import SHUT, gesture
from vivant.export.train.face_pose import angles, turns
from vivant.export.train.tracker import VERTICES, Array, Track
from vivant.latent import INDEX

Draw = Callable[[Array], Array]
"""From a motion code (63,) to the portrait's frame (H, W, 3) u8."""
Pair = tuple[int, int]

RIGID = (
    *(10, 151, 9, 8, 168, 6, 197, 195, 5),  # middle of the forehead, root and bridge of the nose
    *(109, 67, 103, 54, 338, 297, 332, 284),  # hairline
    *(33, 133, 263, 362),  # eye corners
    *(21, 162, 127, 139, 34, 251, 389, 356, 368, 264),  # temples
    *(234, 227, 116, 111, 454, 447, 345, 340),  # before the ears, cheekbones
)
"""Vertices of the mesh that jaw, lips, lids and brows move least."""
EYES = ([33, 133], [263, 362])
"""Corners of the right and the left eye."""
LIPS = ((13, 14), (82, 87), (312, 317))
"""Pairs of the upper and lower inner lip, about the middle."""
LIDS = (((159, 145), (158, 153), (160, 144)), ((386, 374), (385, 380), (387, 373)))
"""Pairs of the upper and lower lid of the right and the left eye."""
JAWS = tuple(np.linspace(0, 0.8, 9).tolist())
"""Commanded jaw, the rest of the mouth at rest."""
BLINKS = (0.0, 0.5, 1.0)
"""Commanded lids."""
TURNS = (-15.0, -10.0, -5.0, 5.0, 10.0, 15.0)
"""Commanded yaw or pitch beside the portrait's own, degrees."""
AXES = {"yaw": "headYaw", "pitch": "headPitch"}
NEAR = {"headYaw": 1.5, "jawOpen": 0.03}
"""A change that all but rests: every pixel of the head is drawn anew, and hardly stirs."""
CLOSED = 0.75
"""Opening of the lids, of the open eye's, up to which the plain mesh sees it closed: on true
renders of a full blink it says .57 to .77, as its mesh has thick lids, and .81 of half a blink."""
HALF = 0.5
"""The same of the mesh with attention: of people in videos who blink it says .12 to .40."""
REACH = 20.0
"""Yaw and pitch up to which turns are judged, degrees: of true renders that turn on beyond, the
tracker sees but half."""
WITHIN = 3.0
"""Error of yaw and pitch that the project aims at, degrees."""


class Bar(NamedTuple):
    """What a figure should reach."""

    value: float
    least: bool
    """Whether it is a lower bound."""

    def met(self, figures: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which figures reach it; what is not a number does not."""
        reached: NDArray[np.bool_] = figures >= self.value if self.least else figures <= self.value
        return reached


BARS = {
    "own-motion PSNR, dB": Bar(35, True),
    "sharpness": Bar(0.9, True),
    "gradient energy": Bar(0.9, True),
    "jaw r": Bar(0.95, True),
    "blink 1": Bar(CLOSED, False),
    "attention: jaw r": Bar(0.95, True),
    "attention: blink 1": Bar(HALF, False),
    "yaw mean error": Bar(WITHIN, False),
    "pitch mean error": Bar(WITHIN, False),
    "yaw error": Bar(WITHIN, False),
    "pitch error": Bar(WITHIN, False),
    "yaw error / gain": Bar(WITHIN, False),
    "pitch error / gain": Bar(WITHIN, False),
}
"""The project's aims for every photo."""


def turn_between(still: Array, mesh: Array) -> Array:
    """Rotation (3, 3) that brings the head of one mesh (468, 3) to that of another.

    Kabsch's algorithm on ``RIGID``; place and size do not matter. Not a number for a mesh of such.
    """
    one, other = (m[list(RIGID)].astype(np.float64) for m in (still, mesh))
    if np.isnan(one).any() or np.isnan(other).any():
        return np.full((3, 3), np.nan)
    u, _, vt = np.linalg.svd((other - other.mean(0)).T @ (one - one.mean(0)))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (u * sign) @ vt


def pose_beside(own: Array, turn: Array) -> Array:
    """Degrees (3,) of yaw, pitch and roll that a head at ``own`` (3,) gained by ``turn`` (3, 3)."""
    return angles(turn @ turns(own)) - own


def _gap(mesh: Array, pairs: Sequence[tuple[int, int]]) -> float:
    """Mean distance of pairs of vertices, of the distance between the eyes."""
    ends = np.array(pairs)
    apart = np.linalg.norm(mesh[ends[:, 0]] - mesh[ends[:, 1]], axis=1).mean()
    right, left = (mesh[corners].mean(0) for corners in EYES)
    return float(apart / np.linalg.norm(right - left))


def lips_apart(mesh: Array) -> float:
    """Distance of the inner lips, of the distance between the eyes."""
    return _gap(mesh, LIPS)


def lids_apart(mesh: Array) -> Array:
    """Distance of the lids of the right and the left eye, of the distance between the eyes."""
    return np.array([_gap(mesh, pairs) for pairs in LIDS])


def gradients(image: Array) -> Array:
    """Mean length and mean square of the gradient of a picture's grey, levels a pixel."""
    down, across = np.gradient(image.astype(np.float64).mean(2))
    length = np.hypot(down, across)
    return np.array([length.mean(), np.square(length).mean()])


def correlation(told: Sequence[float], seen: Sequence[float]) -> float:
    """Pearson's r; 0 where nothing moved."""
    return float(np.corrcoef(told, seen)[0, 1]) if np.ptp(seen) != 0 else 0.0


def observer(own: Array, draw: Draw, track: Track) -> Callable[[Mapping[str, float]], Array]:
    """From a change of a portrait's own code (63,) to its mesh (468, 3) as ``draw`` draws it, not a
    number without a face."""

    def seen(change: Mapping[str, float]) -> Array:
        mesh = track(draw(gesture(own, change)))
        return np.full((VERTICES, 3), np.nan, np.float32) if mesh is None else mesh

    return seen


def openings(own: Array, draw: Draw, track: Track, name: str = "") -> dict[str, float]:
    """How a portrait with its own code (63,) opens mouth and eyes, as ``draw`` moves it.

    ``jaw r``, command against opening; ``lips 0`` and ``lips 0.8``, their opening at these jaws,
    of the distance between the eyes; ``blink 0.5`` and ``blink 1``, the wider eye's opening, of the
    open eye's; each name behind ``name``. What hangs on frames without a face is not a number.
    """
    seen = observer(own, draw, track)

    def to(value: float, *names: str) -> dict[str, float]:
        return {name: value - float(own[INDEX[name]]) for name in names}

    lips = [lips_apart(seen({**SHUT, **to(jaw, "jawOpen")})) for jaw in JAWS]
    figures = {"jaw r": correlation(JAWS, lips)}
    figures |= {f"lips {jaw:g}": lips[k] for k, jaw in ((0, JAWS[0]), (-1, JAWS[-1]))}
    lids = [lids_apart(seen(to(blink, "eyeBlinkLeft", "eyeBlinkRight"))) for blink in BLINKS]
    for blink, opening in zip(BLINKS[1:], lids[1:], strict=True):
        figures[f"blink {blink:g}"] = float((opening / lids[0]).max())
    return {name + key: value for key, value in figures.items()}


def measure(photo: Array, own: Array, draw: Draw, track: Track) -> dict[str, float]:
    """Figures of one aligned portrait (H, W, 3) u8 with its own code (63,), as ``draw`` moves it.

    ``sharpness``, mean gradient near rest, and ``gradient energy``, its mean square, which grain
    and noise rule, of the photo's; its ``openings``; ``yaw -15`` and so on, degrees seen. What
    hangs on frames in which the tracker finds no face is not a number.
    """
    sharp = gradients(draw(gesture(own, NEAR))) / gradients(photo)
    figures = {"sharpness": float(sharp[0]), "gradient energy": float(sharp[1])}
    figures |= openings(own, draw, track)
    seen = observer(own, draw, track)
    still = seen({})
    for k, (axis, name) in enumerate(AXES.items()):
        for told in TURNS:
            turn = turn_between(still, seen({name: told}))
            figures[f"{axis} {told:+g}"] = float(pose_beside(own[57:60], turn)[k])
    return figures


def judge(figures: Mapping[str, float], own: Array, gains: Mapping[str, float]) -> dict[str, float]:
    """Turns seen against turns commanded, of those that end within ``REACH``, for each axis.

    ``yaw gain``, the least-squares slope; ``yaw within, %``, the share of commands seen to
    ``WITHIN``; ``yaw mean error``, the mean over commands, degrees; ``yaw error``, the largest, and
    ``yaw error / gain``, where the tracker's own ``gains`` are known, that of what is seen divided
    by them.
    """
    out = {}
    for axis, name in AXES.items():
        told = np.array([t for t in TURNS if abs(t + own[INDEX[name]]) <= REACH])
        seen = np.array([figures[f"{axis} {t:+g}"] for t in told])
        any_told = len(told) > 0
        out[f"{axis} gain"] = slope(told, seen) if any_told else np.nan
        away = np.abs(seen - told)
        out[f"{axis} within, %"] = 100 * float((away <= WITHIN).mean()) if any_told else np.nan
        out[f"{axis} mean error"] = float(away.mean()) if any_told else np.nan
        for suffix, gain in (("", 1.0), (" / gain", gains.get(axis))):
            if gain is not None:
                error = np.abs(seen / gain - told)
                out[f"{axis} error{suffix}"] = float(error.max()) if any_told else np.nan
    return out


def gains_of(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """A tracker's gain by axis: the median of its gains on pictures that are true."""
    rows = list(rows)
    return {axis: float(np.nanmedian([row[f"{axis} gain"] for row in rows])) for axis in AXES}


def slope(told: Array, seen: Array) -> float:
    """Least-squares slope, through zero, of what is seen over what is told."""
    return float(told @ seen / (told @ told))


def summary(rows: Iterable[Mapping[str, float]], of: str = "photos") -> dict[str, float]:
    """Median, worst and share within ``BARS`` of the figures of what ``of`` names, means of the
    others. A figure that is not a number misses its bar and is left out of the rest.
    """
    rows = list(rows)
    out = {}
    for name in rows[0] if rows else ():
        values = np.array([row[name] for row in rows], np.float64)
        known = values[~np.isnan(values)]
        bar = BARS.get(name)
        if len(known) and bar is None:
            out[f"{of}: {name}, mean"] = float(known.mean())
        elif len(known) and bar is not None:
            out[f"{of}: {name}, median"] = float(np.median(known))
            out[f"{of}: {name}, worst"] = float(known.min() if bar.least else known.max())
        if bar is not None:
            sign = ">=" if bar.least else "<="
            out[f"{of}: {name} {sign} {bar.value:g}, %"] = 100 * float(bar.met(values).mean())
    return out
