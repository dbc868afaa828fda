"""Training samples of the face networks: pairs of frames of one synthetic person, augmented.

A sample is one source frame and several drivers of the same person with exact backward flow.
Whatever changes geometry (crop, scale, mirror) or colour is applied to source and drivers alike;
whatever damages a photograph (noise, blur, JPEG, occluders) reaches only the encoder's input.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch

from vivant.errors import UsageError
from vivant.export.nets.mirror import MOTION_MIRROR
from vivant.export.nets.pose import load_rig
from vivant.export.synth.people.classes import CAVITIES, FACE, HAIR, MOUTH, WORN
from vivant.export.train.face_background import sample_texture, with_background
from vivant.export.train.face_loss import HIDDEN_WEIGHT
from vivant.export.train.face_pose import Seen, as_seen, find_scene
from vivant.export.train.face_teeth import bared

OPEN = 80
"""Cells of a mouth's interior, of 128 x 128, that make it wide open."""
SOLID = tuple({*FACE, HAIR, WORN} - {*CAVITIES})
"""Classes of a head that turns as one."""
TURNS = 2
"""Exact flows to a frame that the encoder alone sees: they tell its depth."""
HELD_OUT = 100_000
"""Persons numbered from here on are never trained on."""
KEYS = ("image", "motion", "keypoints", "segmentation", "pairs", "flow", "visible")
MEMBERS: dict[str, tuple[int, ...]] = {
    "image": (-1, -1, 3),
    "motion": (63,),
    "keypoints": (-1, 3),
    "segmentation": (128, 128),
    "flow": (2, 128, 128),
    "visible": (128, 128),
}

Array = np.ndarray
Batch = dict[str, torch.Tensor]


def load_person(path: Path) -> dict[str, Array]:
    """Read one person's shard; raises ``UsageError`` naming what is missing, misshapen or no
    number."""
    with np.load(path) as file:
        missing = [key for key in KEYS if key not in file]
        if missing:
            raise UsageError(
                f"{path.name} is no synthetic person",
                expected=f"members {', '.join(KEYS)}",
                got=f"no {missing[0]}",
            )
        person = {key: file[key] for key in KEYS}
    for key, shape in MEMBERS.items():
        got = person[key].shape[1:]
        if len(got) != len(shape) or any(w not in (-1, g) for w, g in zip(shape, got, strict=True)):
            raise UsageError(
                f"{path.name} is no synthetic person",
                expected=f"{key} of shape (N, *{shape})",
                got=str(person[key].shape),
            )
        if not np.isfinite(person[key]).all():
            raise UsageError(f"{path.name} is no synthetic person", expected=f"finite {key}")
    return person


def shards(folder: Path, held_out: bool = False) -> list[Path]:
    """The folder's person files, in order, either those trained on or those held out."""
    found = sorted(folder.glob("person_*.npz"))
    return [path for path in found if (int(path.stem.split("_")[1]) >= HELD_OUT) == held_out]


@dataclass
class Augment:
    """How far samples stray from the shards; zero everywhere for evaluation."""

    mirror: float = 0.5
    """Probability of a mirror image."""
    crop: float = 0.6
    """Probability of a changed framing."""
    zoom: tuple[float, float] = (0.9, 1.15)
    """Range of the changed framing's scale."""
    shift: float = 0.04
    """Largest shift of the framing, frame fractions."""
    colour: float = 0.8
    """Probability of a changed tone curve and white balance."""
    damage: float = 0.6
    """Probability, each, of noise, blur and JPEG on the encoder's input, halved."""
    occluder: float = 0.2
    """Probability of a blob over the encoder's input."""
    style: float = 0.1
    """Probability of a painted or drawn look."""
    teeth: float = 0.5
    """Probability of brighter teeth, as flashes and dentists make them."""
    bare: float = 0.7
    """Probability that parted lips are drawn further apart, or teeth painted between them, where
    the encoder alone sees a frame."""
    textured: float = 0.3
    """Probability of a sharp background."""
    open: float = 10.0
    """How much more often than a shut mouth a wide open one is driven: one frame in sixteen shows
    one, and what is seen but seldom is painted blurred."""


NONE = Augment(0, 0, (1, 1), 0, 0, 0, 0, 0, 0, 0, 0, 1)
"""No augmentation at all."""


def _colour(rng: np.random.Generator) -> tuple[Array, Array]:
    """A colour matrix (3, 4) and a tone curve (256, 1, 3) of u8."""
    saturation = float(rng.uniform(0.3, 1.4)) if rng.random() < 0.7 else 1.0
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    matrix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * luma[None]
    level = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    gain = np.exp(rng.normal(0, 0.08, 3)) * np.exp(rng.normal(0, 0.18))
    gamma = np.exp(rng.normal(0, 0.2))
    contrast = np.exp(rng.normal(0, 0.15))
    curve = (np.clip(level * gain, 0, 1) ** gamma - 0.5) * contrast + 0.5
    return np.pad(matrix, ((0, 0), (0, 1))), np.clip(curve * 255, 0, 255).astype(np.uint8)[:, None]


WHITE = np.array([236, 230, 220], np.float32)


def _whitened(image: Array, segment: Array, amount: float) -> Array:
    """Teeth, the bright and colourless part of the mouth's inside, drawn toward white."""
    inside = (segment == MOUTH).astype(np.float32)
    if not inside.any():
        return image
    inside = cv2.resize(inside, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    left, top, width, height = cv2.boundingRect((inside > 0).astype(np.uint8))
    box = np.s_[top : top + height, left : left + width]
    colour = image[box].astype(np.float32)
    most = colour.max(-1) + 1
    pale = np.clip((colour.min(-1) / most - 0.55) * 5, 0, 1) * np.clip((most - 50) / 50, 0, 1)
    share = (amount * inside[box] * pale)[..., None]
    out = image.copy()
    out[box] = (colour + share * (WHITE - colour)).astype(np.uint8)
    return out


def _painted(image: Array, kind: int, strength: float) -> Array:
    """A u8 image as a painting (0), a print of few tones (1) or an inked drawing (2)."""
    smooth = cv2.bilateralFilter(image, 7, 20 + 40 * strength, 3)
    if kind == 0:
        smooth = cv2.medianBlur(smooth, 5)
        return cv2.addWeighted(smooth, 1.6, cv2.GaussianBlur(smooth, (0, 0), 2.0), -0.6, 0)
    if kind == 1:
        step = 12 + 24 * strength
        level = np.arange(256, dtype=np.float32)
        stairs = (np.round(level / step) * step * 0.8 + level * 0.2).clip(0, 255).astype(np.uint8)
        return cv2.LUT(smooth, stairs)
    grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edge = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 2.0)
    ink = np.clip(1 + edge * (0.05 + 0.1 * strength), 0.15, 1)[..., None]
    return (smooth * ink).astype(np.uint8)


def _damage(image: Array, rng: np.random.Generator, augment: Augment) -> Array:
    """Photographic damage and occluders on one u8 image."""
    chance = augment.damage * 0.5
    if rng.random() < augment.occluder:
        image = image.copy()
        for _ in range(int(rng.integers(1, 3))):
            centre = (int(rng.uniform(0, 256)), int(rng.uniform(90, 256)))
            axes = (int(rng.uniform(8, 40)), int(rng.uniform(8, 40)))
            tint = tuple(int(v) for v in rng.integers(0, 256, 3))
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, tint, -1)
    if rng.random() < chance:
        small = int(rng.integers(80, 220))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)
    if rng.random() < chance:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
    if rng.random() < chance:
        grain = rng.normal(0, rng.uniform(2, 14), image.shape).astype(np.float32)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < chance:
        quality = int(rng.integers(20, 90))
        code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        image = image if decoded is None else decoded
    return image


_MIRROR, _NAMES = load_rig().mirror, load_rig().names
_PUPILS = [_NAMES.index("pupilRight"), _NAMES.index("pupilLeft")]
_LIPS = [k for k, name in enumerate(_NAMES) if name.startswith("lip")]


@dataclass
class Geometry:
    """One framing change, shared by all frames of a sample."""

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirror: bool = False

    def picture(self, image: Array, nearest: bool = False) -> Array:
        """Apply to an image or a map, any channels."""
        if self.scale != 1.0 or self.shift != (0.0, 0.0):
            side = image.shape[0]
            offset = [side * (0.5 + s - 0.5 * self.scale) for s in self.shift]
            # Pixel centres lie half a pixel in.
            inner = 0.5 * (self.scale - 1)
            matrix = np.array(
                [[self.scale, 0, offset[0] + inner], [0, self.scale, offset[1] + inner]]
            )
            flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            image = cv2.warpAffine(
                image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
        return np.ascontiguousarray(image[:, ::-1]) if self.mirror else image

    def points(self, keypoints: Array) -> Array:
        """Apply to keypoints (K, 3)."""
        out = keypoints * self.scale
        out[:, :2] = (keypoints[:, :2] - 0.5) * self.scale + 0.5 + np.array(self.shift)
        if self.mirror:
            out = out[_MIRROR]
            out[:, 0] = 1 - out[:, 0]
        return out.astype(np.float32)

    def flow(self, flow: Array) -> Array:
        """Apply to a flow field (2, H, W)."""
        field_ = self.picture(np.ascontiguousarray(flow.astype(np.float32).transpose(1, 2, 0)))
        field_ = field_ * self.scale
        if self.mirror:
            field_[..., 0] *= -1
        return np.ascontiguousarray(field_.transpose(2, 0, 1))

    def direction(self, vector: Array) -> Array:
        """Apply to a vector of the head (3,)."""
        return (vector * np.array([-1 if self.mirror else 1, 1, 1])).astype(np.float32)

    def code(self, motion: Array) -> Array:
        """Apply to a motion code (63,)."""
        return motion @ MOTION_MIRROR if self.mirror else motion


def _side256(image: Array) -> Array:
    if image.shape[0] == 256:
        return image
    return cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)


@dataclass
class Look:
    """Framing and colours, shared by all frames of a sample."""

    geometry: Geometry
    matrix: Array | None
    curve: Array | None
    style: tuple[int, float] | None
    white: float
    """How far teeth are drawn toward white, 0..1."""
    background: Array | None
    """What is behind the person instead, RGB 0..1, (256, 256, 3)."""

    @classmethod
    def sample(cls, rng: np.random.Generator, augment: Augment) -> Look:
        """Draw one."""
        geometry = Geometry()
        if rng.random() < augment.crop:
            geometry.scale = float(rng.uniform(*augment.zoom))
            across, down = rng.uniform(-augment.shift, augment.shift, 2)
            geometry.shift = (float(across), float(down))
        geometry.mirror = bool(rng.random() < augment.mirror)
        matrix, curve = _colour(rng) if rng.random() < augment.colour else (None, None)
        style = None
        if rng.random() < augment.style:
            style = (int(rng.integers(3)), float(rng.random()))
        white = float(rng.uniform(0, 0.8)) if rng.random() < augment.teeth else 0.0
        background = sample_texture(rng) if rng.random() < augment.textured else None
        return cls(geometry, matrix, curve, style, white, background)

    def picture(self, image: Array, segment: Array) -> Array:
        """Apply to a u8 image of these classes, which becomes 256 x 256."""
        image = _side256(image)
        if self.white > 0:
            image = _whitened(image, segment, self.white)
        if self.background is not None:
            image = with_background(image, segment, self.background)
        image = self.geometry.picture(image)
        if self.style is not None:
            image = _painted(image, *self.style)
        if self.matrix is None or self.curve is None:
            return image
        return cv2.LUT(cv2.transform(image, self.matrix), self.curve)


def _alone(
    person: dict[str, Array],
    known: Seen,
    index: int,
    look: Look,
    rng: np.random.Generator,
    augment: Augment,
) -> dict[str, Array]:
    """One frame as the encoder alone sees it, of codes and keypoints as ``as_seen`` tells
    them: ``seen``, ``code``, ``points``, ``perspective``, ``segment``."""
    codes, points, perspective = known
    frame = (_side256(person["image"][index]), person["segmentation"][index], codes[index], points)
    if rng.random() < augment.bare:
        frame = bared(*frame, rng)
    image, classes, code, points = frame
    geometry = look.geometry
    return {
        "seen": _damage(look.picture(image, classes), rng, augment),
        "code": geometry.code(code),
        "points": geometry.points(points),
        "perspective": perspective,
        "segment": geometry.picture(classes, nearest=True)[::2, ::2],
    }


def _turns(
    person: dict[str, Array],
    codes: Array,
    index: int,
    look: Look,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """How ``TURNS`` other frames, of these ``codes``, lead to frame ``index``: ``motion``
    (TURNS, 63), ``flow`` (TURNS, 2, 64, 64) and how far it teaches, ``told`` (TURNS, 64, 64), but
    at lips that ``bared`` may have moved."""
    rows = np.flatnonzero(person["pairs"][:, 1] == index)
    rows = rng.choice(rows, TURNS, replace=len(rows) < TURNS)
    drivers = person["pairs"][rows, 0]
    geometry = look.geometry
    flows, masks = [], []
    for row, driver in zip(rows, drivers, strict=True):
        flow = geometry.flow(person["flow"][row])
        flows.append(flow.reshape(2, 64, 2, 64, 2).mean((2, 4)))
        classes = geometry.picture(person["segmentation"][driver], nearest=True)
        seen = geometry.picture(person["visible"][row], nearest=True) > 0
        share = np.where(seen, 1, HIDDEN_WEIGHT).astype(np.float32)
        told: Array = share * np.isin(classes, SOLID)
        points = geometry.points(person["keypoints"][driver])[:, :2] * len(told)
        gap = np.linalg.norm(points[_PUPILS[0]] - points[_PUPILS[1]])
        x, y = points[_LIPS].mean(0)
        cv2.ellipse(
            told, (round(x), round(y)), (round(0.8 * gap), round(0.7 * gap)), 0, 0, 360, 0, -1
        )
        masks.append(told.reshape(64, 2, 64, 2).min((1, 3)))
    motion = np.stack([geometry.code(codes[k]) for k in drivers])
    return {"motion": motion, "flow": np.stack(flows), "told": np.stack(masks)}


def make_frames(
    person: dict[str, Array], rng: np.random.Generator, count: int, augment: Augment
) -> dict[str, Array]:
    """``count`` frames of one person for the encoder alone, each in its own look.

    Returns ``seen`` (N, 256, 256, 3) u8, ``code`` (N, 63), ``points`` (N, K, 3), ``perspective``
    (N, 1), ``segment`` (N, 64, 64).
    """
    classes = person["segmentation"]
    scene = find_scene(person["keypoints"], person["motion"])
    # Open mouths are what an encoder errs in, and where it is seen most.
    share = 1 + np.minimum(2, (classes == MOUTH).sum((1, 2)) / 20)
    chosen = [int(k) for k in rng.choice(len(classes), count, False, share / share.sum())]
    each = []
    for k in chosen:
        known = as_seen(scene, person["keypoints"], person["motion"], k)
        each.append(_alone(person, known, k, Look.sample(rng, augment), rng, augment))
    return {key: np.stack([frame[key] for frame in each]) for key in each[0]}


def make_sample(
    person: dict[str, Array],
    rng: np.random.Generator,
    drivers: int,
    augment: Augment,
    extra: int = 1,
) -> dict[str, Array]:
    """One source, ``drivers`` drivers of one person; arrays without batch dimension.

    Returns encoder input ``seen`` and clean ``photo`` (256, 256, 3) u8, ``code`` (63,),
    ``points`` (K, 3), ``perspective`` (1,), ``segment`` (64, 64); per driver ``target``,
    ``motion``, ``target_points``, ``target_segment`` (128, 128), ``flow`` (2, 128, 128),
    ``visible`` (128, 128); and ``extra`` frames for the encoder alone: ``more_seen``,
    ``more_code``, ``more_points``, ``more_perspective``, ``more_segment``, with the flows to them,
    ``more_motion``, ``more_flow`` and ``more_told`` (see ``_turns``).
    """
    pairs = person["pairs"]
    mouth = (person["segmentation"] == MOUTH).sum((1, 2))[pairs[:, 0]]
    share = 1 + (augment.open - 1) * np.minimum(1, mouth / OPEN)
    source = int(pairs[rng.choice(len(pairs), p=share / share.sum()), 1])
    rows = np.flatnonzero(pairs[:, 1] == source)
    share = share[rows] / share[rows].sum()
    rows = rng.choice(rows, drivers, replace=len(rows) < drivers, p=share)
    look = Look.sample(rng, augment)
    geometry = look.geometry
    scene = find_scene(person["keypoints"], person["motion"])

    def seen(index: int) -> Seen:
        return as_seen(scene, person["keypoints"], person["motion"], index)

    def picture(index: int) -> Array:
        return look.picture(person["image"][index], person["segmentation"][index])

    def segment(index: int) -> Array:
        return geometry.picture(person["segmentation"][index], nearest=True)

    frames = [int(pairs[row, 0]) for row in rows]
    more = [int(k) for k in rng.choice(np.unique(pairs[:, 1]), extra)]
    codes, own_points, perspective = seen(source)
    each = [(k, seen(k)) for k in more]
    others = [_alone(person, known, k, look, rng, augment) for k, known in each]
    turns = [_turns(person, known.codes, k, look, rng) for k, known in each]
    others = [frame | turn for frame, turn in zip(others, turns, strict=True)]
    photo = picture(source)
    return {
        "photo": photo,
        "seen": _damage(photo, rng, augment),
        "code": geometry.code(codes[source]),
        "points": geometry.points(own_points),
        "perspective": perspective,
        "away": geometry.direction(scene.away),
        "segment": segment(source)[::2, ::2],
        "target": np.stack([picture(k) for k in frames]),
        "motion": np.stack([geometry.code(codes[k]) for k in frames]),
        "target_points": np.stack([geometry.points(person["keypoints"][k]) for k in frames]),
        "target_segment": np.stack([segment(k) for k in frames]),
        "flow": np.stack([geometry.flow(person["flow"][row]) for row in rows]),
        "visible": np.stack([geometry.picture(person["visible"][row], True) for row in rows]),
    } | {
        name: np.stack([frame[key] for frame in others])
        for name, key in (
            ("more_seen", "seen"),
            ("more_code", "code"),
            ("more_points", "points"),
            ("more_perspective", "perspective"),
            ("more_segment", "segment"),
            ("more_motion", "motion"),
            ("more_flow", "flow"),
            ("more_told", "told"),
        )
    }


def collate(samples: list[dict[str, Array]]) -> Batch:
    """Stack samples; pictures stay u8 with channels last until ``to_device``."""
    return {
        key: torch.from_numpy(np.ascontiguousarray(np.stack([s[key] for s in samples])))
        for key in samples[0]
    }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch; pictures become float 0..1 with channels first, drivers join the batch axis."""
    out: Batch = {}
    for key, value in batch.items():
        value = value.to(device, non_blocking=True)
        if key in ("photo", "seen", "more_seen", "target"):
            value = value.float().div_(255)
            value = value.flatten(0, 1) if key in ("target", "more_seen") else value
            value = value.permute(0, 3, 1, 2)
        elif key not in ("code", "points", "perspective", "away", "segment"):
            value = value.flatten(0, 1)
        out[key] = value
    out["visible"] = out["visible"][:, None].float()
    return out


@dataclass
class People:
    """The persons of a folder, listed again every epoch as new ones arrive, read when drawn."""

    folder: Path
    seed: int = 0
    drivers: int = 2
    augment: Augment = field(default_factory=Augment)
    extra: int = 1
    """Further frames of each sample's person for the encoder."""
    rank: int = 0
    """Which part of the persons this process takes, of ``world``."""
    world: int = 1
    fixed: list[Path] | None = None
    """Exactly these persons, instead of the folder's training part."""
    workers: int = 1
    """Threads that make the samples of a batch, which is the same with any number."""
    known: int = 0
    """How many persons the last listing found."""

    def listed(self) -> list[Path]:
        """This process's persons as of now."""
        everyone = shards(self.folder) if self.fixed is None else self.fixed
        mine = everyone[self.rank :: self.world]
        self.known = len(mine)
        return mine

    def batches(self, sources: int, start: int = 0) -> Iterator[Batch]:
        """Endless batches of ``sources`` samples; what is drawn depends on the seed, the step
        and the persons that exist. A half-written file is passed over.

        Raises ``UsageError`` when the folder holds no person that can be read.
        """
        step = start
        pile = Pile(self.listed, load_person, self.folder)

        def sample(person: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
            return make_sample(person, rng, self.drivers, self.augment, self.extra)

        with ThreadPoolExecutor(self.workers) as crew:
            while True:
                rng = np.random.default_rng((self.seed, self.rank, step))
                pile.failures = 0
                persons = [pile.draw(rng) for _ in range(sources)]
                yield collate(list(crew.map(sample, persons, rng.spawn(sources))))
                step += 1


@dataclass
class Pile:
    """Persons in random order; the folder is listed again when all were drawn."""

    listed: Callable[[], list[Path]]
    """The persons as of now."""
    load: Callable[[Path], dict[str, Array]]
    folder: Path
    """Where they are, for the error."""
    order: list[Path] = field(default_factory=list)
    failures: int = 0
    """Files that could not be read since the caller set this to 0."""

    def draw(self, rng: np.random.Generator) -> dict[str, Array]:
        """The next person that can be read; UsageError without one, or after 100 failures."""
        while True:
            if not self.order:
                found = self.listed()
                self.order = [found[k] for k in rng.permutation(len(found))]
            if not self.order or self.failures > 100:
                raise UsageError(
                    "no training data",
                    expected="person_*.npz files numbered below 100000",
                    got=f"none readable in {self.folder.name}/",
                    fix="Make them with: python -m vivant.export.synth.people.shard",
                )
            try:
                return self.load(self.order.pop())
            except (OSError, EOFError, BadZipFile, KeyError):
                self.failures += 1


def prefetch(batches: Iterator[Batch], depth: int = 3) -> Iterator[Batch]:
    """Run an iterator in a thread, at most ``depth`` batches ahead; its errors come through."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)

    def work() -> None:
        try:
            for batch in batches:
                ready.put(batch)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = ready.get()
        if isinstance(item, BaseException):
            raise item
        yield item
