"""From anyone's photo to the aligned portrait: find faces, place landmarks, frame, encode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from .errors import PhotoError, UsageError

Graph = Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.float32]]]
"""A compiled stage: named input arrays to named output arrays."""

LANDMARKS: tuple[str, ...] = (
    "rightPupil",
    "leftPupil",
    "noseTip",
    "mouthRight",
    "mouthLeft",
    "upperLip",
    "lowerLip",
    "chin",
    "rightJaw",
    "leftJaw",
    "hairline",
    "betweenBrows",
)
"""The points of ``align``; left and right are the subject's."""

TILE = 256
"""Side of the ``align`` input, pixels."""
STRIDE = 8
"""Side of one cell of the ``align`` heads, pixels of its input."""
LEVELS: tuple[int, ...] = (256, 512, 1024, 2048)
"""Long sides the photo is searched at; a face of 20 px at the last is 40 px of a 4096 px photo."""
EXHAUSTIVE = 2
"""Levels always searched; finer ones only while no face was found."""
OVERLAP = 64
"""Pixels neighbouring tiles share: more than a face that only this level can find."""
CANDIDATE, ACCEPT = 0.3, 0.7
"""Score that makes a cell worth a second look, and that a face must reach on its own crop."""
SURE = 0.8
"""Score of a face that ends the search; upright faces of photographs reach 0.9."""
MOST = 16
"""Faces kept of a tile or a level, the best first: bounds the work on a wild network."""
CROP_IPD = 56.0
"""Interpupillary distance on the refinement crop, pixels."""
SMALLEST = 40.0
"""Width of the smallest usable face, pixels of the photo."""
FACE_WIDTH = 2.2
"""Width of a face over its interpupillary distance (bizygomatic 138 mm over 63 mm)."""
EYES_TO_MOUTH = 1.25
"""Upper range of frontal eyes-to-mouth distances, IPD; beyond it the eyes are foreshortened."""
UPRIGHT = 15.0
"""In-plane rotation a portrait keeps, degrees."""
CLOSER, ASIDE = 1.25, 0.05
"""Most a portrait is enlarged, and moved in fractions of the frame, to stay within its photo. On
people held out, keypoints and frames are as good at 1.3 times, and pitch is .7 degrees worse."""


@dataclass(frozen=True)
class Face:
    """One face in a photo."""

    landmarks: NDArray[np.float32]
    """(12, 2) x, y in pixels of the photo (its corner is 0, 0), in the order of `LANDMARKS`."""
    score: float
    """Probability that this is a face, 0..1."""

    @property
    def eyes(self) -> NDArray[np.float32]:
        """Midpoint of the pupils, (2,) pixels."""
        return _mean(self.landmarks[:2])

    @property
    def mouth(self) -> NDArray[np.float32]:
        """Midpoint of the mouth's corners, (2,) pixels."""
        return _mean(self.landmarks[3:5])

    @property
    def centre(self) -> NDArray[np.float32]:
        """Mean of pupils, nose and mouth corners, (2,) pixels."""
        return _mean(self.landmarks[:5])

    @property
    def interpupillary(self) -> float:
        """Interpupillary distance as seen from the front, pixels; a turned head keeps its size."""
        eyes = float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))
        height = float(np.linalg.norm(self.mouth - self.eyes))
        return max(eyes, height / EYES_TO_MOUTH, 1.0)

    @property
    def width(self) -> float:
        """Width of the face, pixels."""
        return FACE_WIDTH * self.interpupillary

    @property
    def roll(self) -> float:
        """In-plane rotation, degrees; positive tilts the crown toward the right of the photo."""
        across = self.landmarks[1] - self.landmarks[0]
        down = self.mouth - self.eyes
        # Both axes vote: the eye line shortens when the head turns, the other when it nods.
        return math.degrees(math.atan2(across[1] - down[0], across[0] + down[1]))


@dataclass(frozen=True)
class Framing:
    """Where the eyes of an aligned portrait are."""

    size: int = 512
    """Side of the portrait, pixels."""
    eyes: tuple[float, float] = (0.5, 0.42)
    """Midpoint of the eyes, fractions of the side."""
    interpupillary: float = 0.165
    """Interpupillary distance, fraction of the side."""


@dataclass(frozen=True)
class Portrait:
    """An aligned photo and what ``encode`` made of it: all that animation needs."""

    photo: NDArray[np.uint8]
    """(512, 512, 3) RGB."""
    features: NDArray[np.float32]
    """(1, C, 64, 64)."""
    keypoints: NDArray[np.float32]
    """(1, K, 3) x, y in fractions of the frame, z on the same scale toward the camera."""
    motion: NDArray[np.float32]
    """(1, 63) the photo's own motion code."""
    transform: NDArray[np.float64]
    """(2, 3) affine map from pixels of the photo to pixels of the portrait."""
    face: Face
    """The face used."""
    notes: tuple[str, ...] = ()
    """What the user may want to know, such as which of several faces was used."""


def similarity(
    origin: ArrayLike, target: ArrayLike, scale: float, roll: float = 0.0
) -> NDArray[np.float64]:
    """Map that turns by ``-roll`` degrees, scales, and carries ``origin`` to ``target``: (2, 3)."""
    c, s = scale * math.cos(math.radians(roll)), scale * math.sin(math.radians(roll))
    linear = np.array([[c, s], [-s, c]])
    return np.column_stack([linear, np.asarray(target) - linear @ np.asarray(origin)])


def apply(transform: NDArray[np.float64], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points (..., 2) through an affine map (2, 3)."""
    moved: NDArray[np.float32] = (points @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
    return moved


def invert(transform: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse affine map, (2, 3)."""
    linear = np.linalg.inv(transform[:, :2])
    return np.column_stack([linear, -linear @ transform[:, 2]])


def resample(
    photo: NDArray[np.uint8], transform: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """The photo through a similarity, (size, size, 3) u8.

    Area-true when reducing, Lanczos when enlarging. What lies outside the photo repeats its edge,
    ever softer with distance, so that no bar or streak draws the eye.
    """
    scale = float(np.hypot(*transform[:, 0]))
    if abs(transform[1, 0]) < 1e-9 * scale and transform[0, 0] > 0:
        left, top = -transform[:, 2] / scale
        return _window(photo, scale, left, top, size)
    # Turned: take an upright window of twice the resolution, then turn it with bicubic weights.
    side = math.ceil(2 * size * math.sqrt(2)) + 4
    back = invert(transform)
    centre = back[:, :2] @ (size / 2, size / 2) + back[:, 2]
    left, top = centre - side / (4 * scale)
    upright = Image.fromarray(_window(photo, 2 * scale, left, top, side))
    linear = scale * back[:, :2]
    offset = 2 * scale * (back[:, 2] - (left, top))
    data = (*linear[0], offset[0], *linear[1], offset[1])
    turned = upright.transform(
        (2 * size, 2 * size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    return np.asarray(turned.reduce(2))


def _window(
    photo: NDArray[np.uint8], scale: float, left: float, top: float, size: int
) -> NDArray[np.uint8]:
    """Upright square of ``size`` px at ``scale`` whose corner is ``left, top`` in the photo."""
    height, width = photo.shape[:2]
    x0, x1 = _inside(left, scale, width, size)
    y0, y1 = _inside(top, scale, height, size)
    west, east = _clamp(left + x0 / scale, left + x1 / scale, width)
    north, south = _clamp(top + y0 / scale, top + y1 / scale, height)
    # Cut the part out first, with the filter's support: a large photo is costly to copy.
    support = 8 / scale + 8
    cx, cy = int(max(west - support, 0)), int(max(north - support, 0))
    part = photo[cy : math.ceil(south + support), cx : math.ceil(east + support)]
    box = (west - cx, north - cy, east - cx, south - cy)
    core = Image.fromarray(part).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box)
    pads = ((y0, size - y1), (x0, size - x1), (0, 0))
    if not any(map(any, pads)):
        return np.asarray(core)
    padded = np.pad(np.asarray(core), pads, mode="edge")
    ramp = size / 24
    soft = Image.fromarray(padded).filter(ImageFilter.GaussianBlur(size / 40))
    softer = np.asarray(soft.filter(ImageFilter.GaussianBlur(size / 16)), np.float32)
    outside = np.maximum(_distance(x0, x1, size)[None, :], _distance(y0, y1, size)[:, None])
    near = np.clip(outside / ramp, 0, 1)[..., None]  # (size, size, 1)
    far = np.clip((outside - ramp) / (3 * ramp), 0, 1)[..., None]
    blurred = np.asarray(soft, np.float32) * (1 - far) + softer * far
    return (padded * (1 - near) + blurred * near + 0.5).astype(np.uint8)


def _inside(start: float, scale: float, extent: int, size: int) -> tuple[int, int]:
    """First and past-the-last pixel of a window's row that lies wholly within the photo."""
    first = min(max(math.ceil(-start * scale - 1e-6), 0), size - 1)
    last = max(min(math.floor((extent - start) * scale + 1e-6), size), first + 1)
    return first, last


def _clamp(low: float, high: float, extent: int) -> tuple[float, float]:
    """The part of ``low..high`` within ``0..extent``; the nearest pixel when there is none."""
    low = min(max(low, 0.0), extent - 1.0)
    return low, min(max(high, low + 1e-3), float(extent))


def _distance(first: int, last: int, size: int) -> NDArray[np.float32]:
    """Distance of each pixel from the span ``first..last``, (size,) pixels."""
    at = np.arange(size, dtype=np.float32)
    return np.maximum(np.maximum(first - at, at - (last - 1)), 0)


def find_faces(photo: NDArray[np.uint8], graph: Graph) -> list[Face]:
    """Every face of a photo (H, W, 3) u8 RGB, the most prominent first.

    The photo is searched whole, then in overlapping tiles of finer levels; each candidate is
    looked at again on its own upright crop. Unless that finds a face beyond doubt, the photo is
    tried lying on its sides and upside down, and the turn with the surest face counts.
    """
    _check(photo)
    small = _shrink(photo, LEVELS[-1])
    best: list[Face] = []
    for turn in (0, 1, 3, 2):
        levels = _levels(photo.shape, LEVELS if turn == 0 else LEVELS[:EXHAUSTIVE])
        faces = _find(photo, small, turn, levels, graph)
        best = max(best, faces, key=lambda found: max((f.score for f in found), default=0.0))
        if any(face.score >= SURE for face in best):
            break
    return sorted(best, key=lambda face: -_prominence(face, photo.shape))


def _find(
    photo: NDArray[np.uint8], small: NDArray[np.uint8], turn: int, levels: list[int], graph: Graph
) -> list[Face]:
    """Faces more or less upright once ``small``, the photo reduced, is turned ``turn`` times."""
    turned = np.rot90(small, turn)
    back = np.divide(photo.shape[1::-1], small.shape[1::-1], dtype=np.float32)  # x, y
    faces: list[Face] = []
    for index, level in enumerate(levels):
        if faces and index >= EXHAUSTIVE:
            break
        for candidate in _suppress(list(_search(turned, level, graph))):
            points = _unturn(candidate.landmarks, turn, turned.shape) * back
            if refined := refine(photo, Face(points, candidate.score), graph):
                faces.append(refined)
        faces = _suppress(faces)
    return faces


def refine(photo: NDArray[np.uint8], face: Face, graph: Graph, passes: int = 2) -> Face | None:
    """Precise landmarks from an upright crop at canonical size; ``None`` when it is no face."""
    for _ in range(passes):
        scale = CROP_IPD / face.interpupillary
        crop = similarity(face.centre, (TILE / 2, TILE / 2), scale, face.roll)
        near = decode(graph({"image": _tensor(resample(photo, crop, TILE))}), CANDIDATE)
        if not near:
            return None
        # Of several faces on the crop, the one asked for is at its centre.
        best = max(near, key=lambda f: f.score * math.exp(-_offset(f) / CROP_IPD))
        if _offset(best) > CROP_IPD:
            return None
        face = Face(apply(invert(crop), best.landmarks), best.score)
    return face if face.score >= ACCEPT else None


def decode(heads: Mapping[str, NDArray[np.float32]], threshold: float) -> list[Face]:
    """Faces of one ``align`` output, landmarks in pixels of its input.

    ``score`` (1, 1, h, w) and ``landmarks`` (1, 2L, h, w): L x, then L y, from the cell's centre.
    A face is a cell that no neighbour outscores; its points are the score-weighted mean of the
    cells around it.
    """
    score = np.asarray(heads["score"], np.float32)[0, 0]  # (h, w)
    height, width = score.shape
    points = np.asarray(heads["landmarks"], np.float32)[0].reshape(2, -1, height, width)
    x = (np.arange(width, dtype=np.float32) + 0.5) * STRIDE
    y = (np.arange(height, dtype=np.float32) + 0.5) * STRIDE
    points = np.stack([points[0] + x, points[1] + y[:, None]], -1)  # (L, h, w, 2)
    around = np.pad(score, 1)
    peak = np.max([around[i : i + height, j : j + width] for i in range(3) for j in range(3)], 0)
    faces = []
    cells = np.argwhere((score >= threshold) & (score >= peak))
    cells = cells[np.argsort(-score[tuple(cells.T)], kind="stable")][: 2 * MOST]
    for i, j in cells:
        rows, columns = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
        weight = score[rows, columns, None] ** 2
        mean = (points[:, rows, columns] * weight).sum((1, 2)) / weight.sum()
        if np.abs(mean).max() <= 4 * TILE:  # neither absurd nor NaN
            faces.append(Face(mean.astype(np.float32), float(score[i, j])))
    return _suppress(faces)


def align(photo: NDArray[np.uint8], face: Face, framing: Framing = Framing()) -> NDArray[np.uint8]:
    """The aligned portrait of a face, (512, 512, 3) u8 RGB."""
    return resample(photo, portrait_transform(face, framing), framing.size)


def portrait_transform(face: Face, framing: Framing = Framing()) -> NDArray[np.float64]:
    """Map from pixels of the photo to pixels of the aligned portrait, (2, 3)."""
    scale = framing.interpupillary * framing.size / face.interpupillary
    roll = face.roll if abs(face.roll) > UPRIGHT else 0.0
    eyes = (framing.eyes[0] * framing.size, framing.eyes[1] * framing.size)
    return similarity(face.eyes, eyes, scale, roll)


def fit(face: Face, framing: Framing, shape: tuple[int, ...]) -> Framing:
    """The framing closest to the one asked for that shows least of what the photo has not.

    ``shape``: of the photo (H, W, ...). A portrait that would reach over the photo's edge is moved
    by up to ``ASIDE`` and enlarged by up to ``CLOSER``, with as much room above the head as
    before. A face that is turned upright keeps its framing: its corners are outside anyway.
    """
    if abs(face.roll) > UPRIGHT:
        return framing
    before = face.eyes / face.interpupillary  # of the photo on either side of the eyes, IPD
    after = np.subtract(shape[1::-1], face.eyes) / face.interpupillary
    best, most = framing, 0.0
    for zoom in np.linspace(1, CLOSER, 26):
        ipd = framing.interpupillary * float(zoom)
        middle = np.array(framing.eyes)
        wanted = np.minimum(middle * (1, zoom), middle + ASIDE)
        ends = before * ipd, 1 - after * ipd
        eyes = np.clip(wanted, np.minimum(*ends), np.maximum(*ends))
        eyes = np.clip(eyes, middle - ASIDE, middle + ASIDE)
        seen = float(np.prod(np.minimum(eyes, ends[0]) + np.minimum(1 - eyes, after * ipd)))
        if seen > most + 1e-4:
            best, most = Framing(framing.size, (float(eyes[0]), float(eyes[1])), ipd), seen
    return best


def choose(faces: Sequence[Face], index: int | None = None) -> tuple[Face, tuple[str, ...]]:
    """The face to animate, and a note when there were others.

    ``index`` counts from 0, the most prominent first. Raises `PhotoError` when there is no face or
    it is too small, `UsageError` when there are not that many.
    """
    if not faces:
        raise PhotoError(
            "no face found in the photo",
            expected=f"one face at least {SMALLEST:.0f} px wide, both eyes visible",
            fix="Use a clear photo of one person looking toward the camera.",
        )
    if index is not None and not 0 <= index < len(faces):
        raise UsageError(
            "no such face",
            expected=f"face 0 to {len(faces) - 1}" if len(faces) > 1 else "face 0",
            got=str(index),
            fix="Faces are counted from 0, the most prominent first.",
        )
    face = faces[index or 0]
    if face.width < SMALLEST:
        raise PhotoError(
            "the face is too small",
            expected=f"at least {SMALLEST:.0f} px wide",
            got=f"{face.width:.0f} px",
            fix="Use a larger version of the photo or one taken closer.",
        )
    if len(faces) == 1:
        return face, ()
    which = "the most prominent" if not index else f"number {index}"
    x, y = face.eyes
    return face, (f"{len(faces)} faces found; using {which}, at ({x:.0f}, {y:.0f}).",)


def make_portrait(
    photo: NDArray[np.uint8],
    graphs: Mapping[str, Graph],
    framing: Framing = Framing(),
    face: int | None = None,
) -> Portrait:
    """Find, align and encode a face of a photo (H, W, 3) u8 RGB.

    ``graphs`` holds the stages ``align`` and ``encode``; ``face`` picks one of several, the most
    prominent (large and central) being 0. Raises `PhotoError` or `UsageError`.
    """
    found, notes = choose(find_faces(photo, graphs["align"]), face)
    transform = portrait_transform(found, fit(found, framing, photo.shape))
    aligned = resample(photo, transform, framing.size)
    code = graphs["encode"]({"portrait": encode_input(aligned)})
    return Portrait(
        photo=aligned,
        features=code["features"],
        keypoints=code["keypoints"],
        motion=code["motion"],
        transform=transform,
        face=found,
        notes=notes,
    )


def encode_input(portrait: NDArray[np.uint8], size: int = 256) -> NDArray[np.float32]:
    """What ``encode`` sees of a portrait (N * size, N * size, 3) u8: block means, 0..1.

    Returns (1, 3, size, size).
    """
    block = portrait.shape[0] // size
    blocks = portrait.reshape(size, block, size, block, 3)
    mean = blocks.mean((1, 3), dtype=np.float32) / np.float32(255)  # (size, size, 3)
    return np.ascontiguousarray(mean.transpose(2, 0, 1)[None])


def _tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) u8 to (1, 3, H, W) float32, 0..1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def _check(photo: NDArray[np.uint8]) -> None:
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise PhotoError(
            "the photo is not an RGB image",
            expected="(height, width, 3) uint8",
            got=f"{photo.shape} {photo.dtype}",
        )


def _levels(shape: tuple[int, ...], sides: Sequence[int]) -> list[int]:
    """Long sides worth searching: never finer than the photo itself, at least the first."""
    longest = max(shape[:2])
    return [side for i, side in enumerate(sides) if i == 0 or sides[i - 1] < longest]


def _search(photo: NDArray[np.uint8], level: int, graph: Graph) -> Iterator[Face]:
    """Candidates on the tiles of the photo reduced to ``level`` px on its long side."""
    image = _shrink(photo, level)
    ratio = photo.shape[1] / image.shape[1]
    for top in _starts(image.shape[0]):
        for left in _starts(image.shape[1]):
            tile = np.full((TILE, TILE, 3), 128, np.uint8)
            part = image[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            for face in decode(graph({"image": _tensor(tile)}), CANDIDATE):
                at = face.landmarks + np.array([left, top], np.float32)
                yield Face(at * np.float32(ratio), face.score)


def _shrink(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The photo with at most ``side`` pixels on its long side."""
    height, width = photo.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return photo
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    how = Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(photo).resize(size, how))


def _starts(extent: int) -> list[int]:
    """Tile corners that cover ``extent`` pixels with at least `OVERLAP` between neighbours."""
    if extent <= TILE:
        return [0]
    count = math.ceil((extent - TILE) / (TILE - OVERLAP)) + 1
    return [round(i * (extent - TILE) / (count - 1)) for i in range(count)]


def _unturn(points: NDArray[np.float32], turn: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Points on ``np.rot90(photo, turn)``, whose shape is given, as points on the photo."""
    height, width = shape[:2]
    for _ in range(turn):
        points = np.stack([height - points[:, 1], points[:, 0]], -1)
        height, width = width, height
    return points


def _mean(points: NDArray[np.float32]) -> NDArray[np.float32]:
    middle: NDArray[np.float32] = points.mean(0)
    return middle


def _suppress(faces: list[Face]) -> list[Face]:
    """Non-maximum suppression: faces whose centres are within one IPD are one; best `MOST`."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        near = (
            np.linalg.norm(face.centre - other.centre)
            < max(face.interpupillary, other.interpupillary)
            for other in kept
        )
        if not any(near):
            kept.append(face)
        if len(kept) == MOST:
            break
    return kept


def _offset(face: Face) -> float:
    """Distance of a face's centre from the centre of a tile, pixels."""
    return float(np.linalg.norm(face.centre - TILE / 2))


def _prominence(face: Face, shape: tuple[int, ...]) -> float:
    """Width of the face, worth half as much in a corner of the photo, and less when unsure."""
    half = np.array([shape[1], shape[0]]) / 2
    away = float(np.linalg.norm((face.eyes - half) / half)) / math.sqrt(2)
    return face.width * (1 - 0.5 * away) * face.score**2
