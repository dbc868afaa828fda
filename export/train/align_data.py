"""Training scenes of ``align``, composed on the fly: synthetic people cut out and scattered.

A scene is a 256 x 256 picture with up to four faces of any size and tilt on clutter, or with none
but much that resembles one, then damaged as photographs are. Its targets are a heat map of face
centres and the landmarks at the cells around each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor

from vivant.errors import UsageError
from vivant.export.nets.align import POINTS, STRIDE
from vivant.export.train.align_clutter import Clutter, cover_face, damage, occlude
from vivant.portrait import CROP_IPD, Face

SIDE = 256
"""Side of a scene, pixels."""
CELLS = SIDE // STRIDE
HELD_OUT = 100_000
"""Persons numbered from here on are never trained on."""
MIRROR = [1, 0, 2, 4, 3, 5, 6, 7, 9, 8, 10, 11]
"""Landmarks of the mirror image, by index."""
SMALLEST, LARGEST = 18.0, 210.0
"""Range of face widths in a scene, pixels."""
UPRIGHT, FLIPPED = 55.0, 80.0
"""Tilt up to which a face must be found, and from which it must not; between, neither."""

Array = np.ndarray


@dataclass(frozen=True)
class Frame:
    """One render of a person."""

    image: Array
    """(256, 256, 3) u8 RGB."""
    mask: Array
    """(256, 256) u8, 255 on the person."""
    landmarks: Array
    """(12, 2) pixels."""
    person: int


@dataclass(frozen=True)
class Scene:
    """A picture and its faces."""

    image: Array
    """(256, 256, 3) u8 RGB."""
    faces: tuple[Array, ...]
    """Landmarks of the faces that must be found, each (12, 2) pixels."""
    unsure: tuple[Array, ...] = ()
    """Faces, or what is left of them, that may be found or not."""


def shards(folder: Path, held_out: bool = False) -> list[Path]:
    """The people of a folder (and the folders in it) to train on, or those held out."""
    found = {}
    for path in sorted(folder.glob("**/person_*.npz")):
        number = int(path.stem.split("_")[1])
        if (number >= HELD_OUT) == held_out:
            found[number] = path
    return [found[number] for number in sorted(found)]


def load_frames(path: Path) -> list[Frame]:
    """Every frame of one person's shard; raises ``UsageError`` when it is none."""
    try:
        with np.load(path) as file:
            images, landmarks = file["image"], file["landmarks"]
            segmentation = file["segmentation"]
    except (KeyError, ValueError, BadZipFile, OSError, EOFError) as error:
        raise UsageError(f"{path.name} is no synthetic person", got=str(error)) from error
    frames = []
    for image, points, labels in zip(images, landmarks, segmentation, strict=True):
        scale = SIDE / image.shape[0]
        if scale != 1:
            image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        mask = cv2.resize((labels > 0).astype(np.uint8) * 255, (SIDE, SIDE))
        mask = cv2.erode(mask, np.ones((3, 3), np.uint8))
        number = int(path.stem.split("_")[1])
        frames.append(Frame(image, mask, points.astype(np.float32) * SIDE, number))
    return frames


class Crowd:
    """A rotating choice of people held in memory; new shards of a growing folder join it."""

    def __init__(
        self, folder: Path, rng: np.random.Generator, held_out: bool = False, most: int = 3000
    ) -> None:
        self.folder, self.rng, self.held_out, self.most = folder, rng, held_out, most
        self.frames: list[Frame] = []
        self.unread = shards(folder, held_out)
        self.seen = set(self.unread)
        self.rng.shuffle(self.unread)  # type: ignore[arg-type]
        for _ in range(12):
            self.turn_over()
        if not self.frames:
            raise UsageError(
                "no synthetic people to train on",
                expected="person_*.npz",
                got=str(folder),
                fix="Write some with `python -m vivant.export.synth.people`.",
            )

    def turn_over(self) -> None:
        """Read one more person, and let the oldest go when there are too many."""
        if not self.unread:
            now = set(shards(self.folder, self.held_out))
            self.unread = sorted(now - self.seen) or (
                sorted(now) if len(self.frames) >= self.most else []
            )
            self.rng.shuffle(self.unread)  # type: ignore[arg-type]
            self.seen |= now
        if self.unread:
            try:
                self.frames += load_frames(self.unread.pop())
            except UsageError:  # still being written
                return
            self.frames = self.frames[-self.most :]

    def pick(self) -> Frame:
        """A frame of anyone, mirrored half the time."""
        frame = self.frames[self.rng.integers(len(self.frames))]
        if self.rng.random() < 0.5:
            return frame
        points = frame.landmarks[MIRROR] * (-1, 1) + (SIDE, 0)
        return Frame(
            np.ascontiguousarray(frame.image[:, ::-1]),
            np.ascontiguousarray(frame.mask[:, ::-1]),
            points.astype(np.float32),
            frame.person,
        )


def place(frame: Frame, x: float, y: float, width: float, tilt: float) -> Array:
    """Affine map (2, 3) that brings a frame's face to ``x, y`` at a width, turned by ``tilt``."""
    face = Face(frame.landmarks, 1.0)
    scale, angle = width / face.width, math.radians(tilt)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, np.array([x, y]) - linear @ face.centre])


def warp(
    image: Array, transform: Array, border: int = cv2.BORDER_CONSTANT, size: int = SIDE
) -> Array:
    """Image (u8) through an affine map of pixel corners onto a square; area-true by octaves."""
    scale = math.hypot(*transform[:, 0])
    linear, offset = transform[:, :2], transform[:, 2]
    while scale < 0.6:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
        linear, scale = linear * 2, scale * 2
    shift = offset + linear @ (0.5, 0.5) - 0.5  # OpenCV counts from pixel centres
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


class Scenes:
    """An endless supply of training scenes."""

    def __init__(self, folder: Path, seed: int, held_out: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.crowd = Crowd(folder, self.rng, held_out)
        self.clutter = Clutter(self.rng)

    def scene(self) -> Scene:
        """A portrait, a scattered scene, or one without faces."""
        kind = self.rng.random()
        if kind < 0.36:
            scene = self.portrait()
        elif kind < 0.84:
            scene = self.scatter(int(self.rng.integers(1, 5)))
        else:
            scene = self.scatter(0)
        return Scene(damage(self.rng, scene.image), scene.faces, scene.unsure)

    def portrait(self) -> Scene:
        """One face as the second look sees it: near the middle, nearly upright."""
        rng, frame = self.rng, self.crowd.pick()
        width = 2.2 * CROP_IPD * math.exp(rng.normal(0, 0.2))
        x, y = rng.normal(SIDE / 2, 14, 2)
        transform = place(frame, x, y, width, rng.normal(0, 9))
        if rng.random() < 0.4:
            border = int(rng.choice([cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101]))
            image = warp(frame.image, transform, border)
        else:
            image = self.paste(self.background(), frame, transform)
        points = (frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
        if rng.random() < 0.3:
            image = occlude(rng, image, points, self.clutter.patch())
        return self.sort(image, [points], [np.ones(POINTS, bool)])

    def scatter(self, count: int) -> Scene:
        """Faces of any size on clutter, the smaller behind; or none, but much like one."""
        rng = self.rng
        image = self.background()
        if count == 0 or rng.random() < 0.25:
            for _ in range(int(rng.integers(1, 4))):
                image = self.distract(image)
        points: list[Array] = []
        seen: list[Array] = []  # (12,) bool: what later people leave of each face
        widths = np.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST), count))
        if count > 1:
            widths = np.minimum(widths, 110)
        for width in np.sort(widths):
            x, y = rng.uniform(-4, SIDE + 4, 2)
            frame = self.crowd.pick()
            tilt = rng.uniform(-180, 180) if rng.random() < 0.1 else rng.normal(0, 24)
            transform = place(frame, x, y, width, tilt)
            if rng.random() < 0.12:  # a picture in the picture
                square = np.full((SIDE, SIDE), 255, np.uint8)
                frame = Frame(frame.image, square, frame.landmarks, frame.person)
            image = self.paste(image, frame, transform)
            cover = warp(frame.mask, transform) > 127
            seen = [left & ~within(cover, other) for left, other in zip(seen, points, strict=True)]
            moved = (frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
            if rng.random() < 0.2:
                image = occlude(rng, image, moved, self.clutter.patch())
            points.append(moved)
            seen.append(np.ones(POINTS, bool))
        return self.sort(image, points, seen)

    def paste(self, image: Array, frame: Frame, transform: Array) -> Array:
        """The person over the picture, colours now and then matched to it."""
        person = warp(frame.image, transform)
        mask = warp(frame.mask, transform)
        if self.rng.random() < 0.5:
            gain = np.clip(self.rng.normal(1, 0.1, 3) * self.rng.uniform(0.7, 1.2), 0.4, 1.7)
            levels = np.arange(256)[:, None] * gain  # (256, 3)
            person = cv2.LUT(person, np.minimum(levels, 255).astype(np.uint8)[None])
        cover = mask.astype(np.float32)
        return cv2.blendLinear(person, image, cover, 255 - cover)

    def background(self) -> Array:
        """Clutter, or a magnified piece of a person's picture without the face."""
        if self.rng.random() < 0.7:
            return self.clutter.picture()
        frame = self.crowd.pick()
        image = cover_face(self.rng, frame.image, frame.landmarks, self.clutter.patch())
        width = math.exp(self.rng.uniform(math.log(60), math.log(400)))
        x, y = self.rng.uniform(0, SIDE, 2)
        border = int(self.rng.choice([cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE]))
        return warp(image, place(frame, x, y, width, self.rng.uniform(-180, 180)), border)

    def distract(self, image: Array) -> Array:
        """A person without a face, cut out."""
        rng, frame = self.rng, self.crowd.pick()
        bare = cover_face(rng, frame.image, frame.landmarks, self.clutter.patch())
        width = math.exp(rng.uniform(math.log(20), math.log(200)))
        x, y = rng.uniform(0, SIDE, 2)
        transform = place(frame, x, y, width, rng.normal(0, 40))
        return self.paste(image, Frame(bare, frame.mask, frame.landmarks, 0), transform)

    def sort(self, image: Array, points: list[Array], seen: list[Array]) -> Scene:
        """Which faces must be found: upright, large enough, their centre and most points seen."""
        frame = np.full((SIDE, SIDE), True)
        if self.rng.random() < 0.12:  # a tile that the photo does not fill
            cut = int(self.rng.uniform(0.03, 0.4) * SIDE)
            bars = (np.s_[:cut], np.s_[SIDE - cut :], np.s_[:, :cut], np.s_[:, SIDE - cut :])
            bar = bars[self.rng.integers(4)]
            image[bar], frame[bar] = 128, False
        sure, unsure = [], []
        for landmarks, left in zip(points, seen, strict=True):
            face = Face(landmarks, 1.0)
            share = (left & within(frame, landmarks)).mean()
            whole = bool(within(frame, face.centre[None])[0]) and share > 0.6
            tilt = abs(face.roll)
            if tilt > FLIPPED or share == 0:
                continue
            if whole and tilt <= UPRIGHT and face.width >= SMALLEST:
                sure.append(landmarks)
            else:
                unsure.append(landmarks)
        return Scene(image, tuple(sure), tuple(unsure))


def within(mask: Array, points: Array) -> Array:
    """Which points (N, 2), pixels, lie on a mask (256, 256): (N,) bool."""
    inside = ((points >= 0) & (points < SIDE)).all(1)
    x, y = np.clip(points, 0, SIDE - 1).astype(int).T
    return inside & mask[y, x]


def targets(scene: Scene) -> tuple[Array, Array, Array, Array]:
    """What the heads should say of a scene.

    Returns ``heat`` (h, w), 1 at each face's cell; ``care`` (h, w), 0 where either answer is
    right; ``offsets`` (2L, h, w) in pixels from the cell; ``weight`` (h, w), positive where the
    offsets count, there one over the interpupillary distance.
    """
    heat = np.zeros((CELLS, CELLS), np.float32)
    care = np.ones((CELLS, CELLS), np.float32)
    offsets = np.zeros((2 * POINTS, CELLS, CELLS), np.float32)
    weight = np.zeros((CELLS, CELLS), np.float32)
    at = (np.arange(CELLS, dtype=np.float32) + 0.5) * STRIDE
    for landmarks in scene.unsure:
        face = Face(landmarks, 1.0)
        x, y = face.centre
        near = ((at - x) ** 2)[None, :] + ((at - y) ** 2)[:, None] < (0.6 * face.width) ** 2
        care[near] = 0
    for landmarks in scene.faces:
        face = Face(landmarks, 1.0)
        x, y = face.centre
        sigma = 4.0 + 0.05 * face.width  # pixels
        bump = np.exp(-(((at - x) ** 2)[None, :] + ((at - y) ** 2)[:, None]) / (2 * sigma**2))
        column, row = (min(int(v // STRIDE), CELLS - 1) for v in (x, y))
        bump[row, column] = 1.0
        rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        care[rows, columns] = 1
        offsets[:POINTS, rows, columns] = landmarks[:, 0, None, None] - at[columns]
        offsets[POINTS:, rows, columns] = landmarks[:, 1, None, None] - at[rows, None]
        weight[rows, columns] = 1 / face.interpupillary
        heat = np.maximum(heat, bump)
    return heat, care, offsets, weight


def batches(scenes: Scenes, size: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches: ``image`` (B, 3, 256, 256) 0..1 and the targets of `targets`."""
    names = ("heat", "care", "offsets", "weight")
    while True:
        chosen = [scenes.scene() for _ in range(size)]
        images = np.stack([scene.image for scene in chosen])
        batch = {"image": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255}
        made = zip(*map(targets, chosen), strict=True)
        for name, arrays in zip(names, made, strict=True):
            batch[name] = torch.from_numpy(np.stack(arrays))
        scenes.crowd.turn_over()
        yield batch
