"""What is not a face, and what happens to photographs: clutter, occluders, damage."""

from __future__ import annotations

import math

import cv2
import numpy as np

Array = np.ndarray
Rng = np.random.Generator

SIDE = 256
"""Side of every picture here, pixels."""


def at(point: Array) -> tuple[int, int]:
    """A point as OpenCV draws it."""
    return int(point[0]), int(point[1])


def colour(rng: Rng) -> tuple[int, int, int]:
    """Any colour; a third of them near skin."""
    if rng.random() < 0.35:
        light = rng.uniform(0.25, 1.0)
        skin = np.array([235, 190, 160]) * light * rng.uniform(0.9, 1.1, 3)
        r, g, b = np.clip(skin, 0, 255).astype(int).tolist()
    else:
        r, g, b = rng.integers(0, 256, 3).tolist()
    return r, g, b


class Clutter:
    """A store of procedural pictures, slowly renewed."""

    def __init__(self, rng: Rng, most: int = 200) -> None:
        self.rng, self.most = rng, most
        self.store = [paint_clutter(rng) for _ in range(10)]

    def picture(self) -> Array:
        """A piece of a stored picture, turned and recoloured, (256, 256, 3) u8."""
        rng = self.rng
        if len(self.store) < self.most and rng.random() < 0.2:
            self.store.append(paint_clutter(rng))
        elif rng.random() < 0.02:
            self.store[rng.integers(len(self.store))] = paint_clutter(rng)
        image = self.store[rng.integers(len(self.store))]
        side = int(rng.uniform(90, image.shape[0]))
        x, y = rng.integers(0, image.shape[0] - side + 1, 2)
        image = image[y : y + side, x : x + side]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = np.rot90(image, int(rng.integers(4)))[..., rng.permutation(3)]
        return cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE))

    def patch(self) -> Array:
        """A texture for occluders, (256, 256, 3) u8."""
        if self.rng.random() < 0.5:
            plain = np.empty((SIDE, SIDE, 3), np.uint8)
            plain[:] = colour(self.rng)
            return plain
        return self.picture()


def paint_clutter(rng: Rng, size: int = 320) -> Array:
    """Gradients, cloudy noise, shapes, limbs, dots, strokes and letters, (size, size, 3) u8."""
    image = cloud(rng, size)
    for _ in range(int(rng.integers(1, 5))):
        rng.choice([shapes, limbs, dots, strokes, letters, grid, shapes, discs])(rng, image)  # type: ignore[arg-type]
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 6))
    return image


def cloud(rng: Rng, size: int) -> Array:
    """A gradient between two colours along a line, with noise of several octaves."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    angle = rng.uniform(0, 2 * math.pi)
    along = (xx - 0.5) * math.cos(angle) + (yy - 0.5) * math.sin(angle)
    share = np.clip(along * rng.uniform(0, 2) + 0.5, 0, 1)[..., None]
    image = np.array(colour(rng)) * share + np.array(colour(rng)) * (1 - share)
    strength = rng.uniform(0, 60)
    for octave in (3, 9, 27, 81, 240):
        tint = rng.normal(0, 1, (octave, octave, 1)) + 0.3 * rng.normal(0, 1, (octave, octave, 3))
        noise = cv2.resize(tint.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        image = image + noise * strength * rng.uniform(0, 0.8)
    return np.clip(image, 0, 255).astype(np.uint8)


def shapes(rng: Rng, image: Array) -> None:
    """Rectangles, ellipses and polygons."""
    size = image.shape[0]
    for _ in range(int(rng.integers(3, 25))):
        x, y = rng.integers(0, size, 2).tolist()
        a, b = np.exp(rng.uniform(1, 4.6, 2)).astype(int).tolist()
        width = -1 if rng.random() < 0.7 else int(rng.integers(1, 7))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + a, y + b), colour(rng), width, cv2.LINE_AA)
        elif kind == 1:
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(image, (x, y), (a, b), turn, 0, 360, colour(rng), width, cv2.LINE_AA)
        else:
            corners = rng.normal(0, 1, (int(rng.integers(3, 7)), 2)) * (a, b) + (x, y)
            cv2.fillPoly(image, [corners.astype(np.int32)], colour(rng), cv2.LINE_AA)


def limbs(rng: Rng, image: Array) -> None:
    """Hands and arms: a skin-coloured palm with fingers, shaded."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        light = rng.uniform(0.25, 1.0)
        skin = np.array([230, 180, 150]) * light
        x, y = rng.uniform(0, size, 2)
        length, turn = rng.uniform(10, 70), rng.uniform(0, 2 * math.pi)
        for finger in rng.permutation(6):
            angle = turn + (math.pi if finger == 5 else 0.28 * (finger - 2))
            reach = length * (2.5 if finger == 5 else rng.uniform(0.8, 1.3))
            thick = max(2, int(length * (0.5 if finger == 5 else 0.24)))
            tone = tuple(int(v) for v in np.clip(skin * rng.uniform(0.85, 1.1), 0, 255))
            end = (int(x + reach * math.cos(angle)), int(y + reach * math.sin(angle)))
            cv2.line(image, (int(x), int(y)), end, tone, thick, cv2.LINE_AA)


def dots(rng: Rng, image: Array) -> None:
    """Pairs of dark dots, buttons, knobs."""
    size = image.shape[0]
    for _ in range(int(rng.integers(2, 14))):
        x, y = rng.uniform(0, size, 2)
        gap, radius = rng.uniform(6, 60), int(rng.uniform(2, 10))
        angle, tone = rng.uniform(0, math.pi), colour(rng)
        for side in (-1, 1):
            spot = (
                int(x + side * gap / 2 * math.cos(angle)),
                int(y + side * gap / 2 * math.sin(angle)),
            )
            cv2.circle(image, spot, radius, tone, -1, cv2.LINE_AA)


def discs(rng: Rng, image: Array) -> None:
    """Skin-coloured ovals with soft shading: balls, fruit, backs of heads, knees."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.integers(0, size, 2).tolist()
        a = float(np.exp(rng.uniform(2, 4.5)))
        tone, turn = np.array(colour(rng)), float(rng.uniform(0, 180))
        for k in range(5):
            shade = tuple(int(v) for v in np.clip(tone * (0.7 + 0.1 * k), 0, 255))
            axes = (int(a * (1 - 0.17 * k)), int(a * 1.3 * (1 - 0.17 * k)))
            spot = (int(x + a * 0.06 * k), int(y - a * 0.06 * k))
            cv2.ellipse(image, spot, axes, turn, 0, 360, shade, -1, cv2.LINE_AA)


def strokes(rng: Rng, image: Array) -> None:
    """Hair-like or twig-like bundles of lines."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 5))):
        base, tone = rng.uniform(0, size, 2), np.array(colour(rng))
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(15, 130)
        for _ in range(int(rng.integers(10, 80))):
            start = base + rng.normal(0, length / 4, 2)
            way = angle + rng.normal(0, 0.25)
            end = start + length * rng.uniform(0.3, 1.0) * np.array([math.cos(way), math.sin(way)])
            shade = tuple(int(v) for v in np.clip(tone * rng.uniform(0.6, 1.3), 0, 255))
            a, b = start.astype(int).tolist(), end.astype(int).tolist()
            cv2.line(image, a, b, shade, int(rng.integers(1, 4)), cv2.LINE_AA)


def letters(rng: Rng, image: Array) -> None:
    """Lines of text."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 7))):
        text = "".join(chr(c) for c in rng.integers(33, 123, int(rng.integers(3, 20))))
        at = (int(rng.integers(-20, size - 20)), int(rng.integers(0, size)))
        scale, width = float(rng.uniform(0.3, 2.5)), int(rng.integers(1, 5))
        font = int(rng.integers(0, 8))
        cv2.putText(image, text, at, font, scale, colour(rng), width, cv2.LINE_AA)


def grid(rng: Rng, image: Array) -> None:
    """Stripes, checks and window panes."""
    size, tone = image.shape[0], colour(rng)
    step, width = int(rng.uniform(5, 60)), int(rng.integers(1, 14))
    x0, x1 = sorted(rng.integers(0, size, 2).tolist())
    for at in range(x0, x1, step):
        cv2.line(image, (at, 0), (at + int(rng.normal(0, 3)), size), tone, width, cv2.LINE_AA)
        if rng.random() < 0.8:
            cv2.line(image, (x0, at), (x1, at), tone, width, cv2.LINE_AA)


def cover_face(rng: Rng, image: Array, landmarks: Array, patch: Array) -> Array:
    """A person whose face is hidden: blurred hair or skin, a texture, or a mirrored piece."""
    chin, top = landmarks[7], landmarks[10]
    middle = (chin + top) / 2
    tall = float(np.linalg.norm(chin - top)) * rng.uniform(0.5, 0.62)
    wide = 0.5 * float(np.linalg.norm(landmarks[9] - landmarks[8])) + 0.25 * tall
    tilt = math.degrees(math.atan2(*(chin - top)))
    mask: Array = np.zeros(image.shape[:2], np.uint8)
    axes = (int(wide * rng.uniform(0.9, 1.1)), int(tall))
    cv2.ellipse(mask, at(middle), axes, -tilt, 0, 360, 255, -1)
    kind = rng.integers(3)
    if kind == 0:
        fill = np.empty_like(image)
        x, y = at(np.clip(landmarks[10] + rng.normal(0, 6, 2), 0, SIDE - 1))
        fill[:] = image[y, x]
        noise = rng.normal(1, 0.15, (SIDE, SIDE // 8, 1)).astype(np.float32)
        fill = np.clip(fill * cv2.resize(noise, (SIDE, SIDE))[..., None], 0, 255).astype(np.uint8)
    elif kind == 1:
        fill = patch
    else:
        fill = np.roll(image, int(SIDE * rng.uniform(0.35, 0.65)), int(rng.integers(2)))
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 4))
    share = mask[..., None].astype(np.float32) / 255
    return (image * (1 - share) + fill * share).astype(np.uint8)


def occlude(rng: Rng, image: Array, landmarks: Array, patch: Array) -> Array:
    """Something before a face: spectacles, a mask, a hat, a hand, a bar, a fringe."""
    image = image.copy()
    gap = landmarks[1] - landmarks[0]
    ipd = max(float(np.linalg.norm(gap)), 4.0)
    angle = math.degrees(math.atan2(gap[1], gap[0]))
    eyes = landmarks[:2].mean(0)
    kind = rng.integers(6)
    if kind <= 1:  # spectacles, clear or dark
        thick, dark = max(1, int(ipd * rng.uniform(0.02, 0.1))), rng.random() < 0.4
        tone = colour(rng) if rng.random() < 0.4 else (25, 20, 20)
        size = (int(ipd * rng.uniform(0.32, 0.45)), int(ipd * rng.uniform(0.2, 0.4)))
        layer = image.copy()
        for eye, ear in ((landmarks[0], landmarks[8]), (landmarks[1], landmarks[9])):
            fill = -1 if dark else thick
            cv2.ellipse(layer, at(eye), size, angle, 0, 360, tone, fill, cv2.LINE_AA)
            cv2.line(layer, at(eye), at(ear), tone, thick, cv2.LINE_AA)
        share = rng.uniform(0.6, 1.0)
        return cv2.addWeighted(layer, share, image, 1 - share, 0)
    mask = np.zeros(image.shape[:2], np.uint8)
    if kind == 2:  # mouth mask
        hull = landmarks[[8, 2, 9, 7]] + rng.normal(0, 0.08 * ipd, (4, 2))
        cv2.fillPoly(mask, [hull.astype(np.int32)], 255)
    elif kind == 3:  # hat or fringe down toward the brows
        up = landmarks[10] - landmarks[11]
        low = landmarks[11] + up * rng.uniform(0.1, 0.8)
        high, side = landmarks[10] + up * rng.uniform(0.5, 2), (landmarks[9] - landmarks[8]) * 0.65
        hull = np.stack([low - side, low + side, high + side * 0.7, high - side * 0.7])
        cv2.fillPoly(mask, [hull.astype(np.int32)], 255)
    elif kind == 4:  # hand or hair over one side
        middle = landmarks[rng.integers(len(landmarks))] + rng.normal(0, 0.4 * ipd, 2)
        axes = at(np.array([0.35, 0.8]) * ipd * rng.uniform(0.6, 1.4))
        cv2.ellipse(mask, at(middle), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:  # a bar or a microphone
        start, way = eyes + rng.normal(0, ipd, 2), rng.normal(0, 3 * ipd, 2)
        thick = max(2, int(ipd * rng.uniform(0.1, 0.4)))
        cv2.line(mask, at(start - way), at(start + way), 255, thick)
    return np.where(mask[..., None] > 0, patch, image)


def damage(rng: Rng, image: Array) -> Array:
    """Light, colour, blur, noise, paint and compression as photographs and scans have them."""
    if rng.random() < 0.35:
        image = soften(rng, image)
    if rng.random() < 0.12:
        image = paint_over(rng, image)
    image = tone(rng, image)
    if rng.random() < 0.4:
        sigma = rng.uniform(1, 14)
        rough = rng.standard_normal((SIDE, SIDE, 3 if rng.random() < 0.5 else 1), np.float32)
        image = np.clip(image + rough * sigma, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(12, 90))]
        packed = cv2.imencode(".jpg", image, quality)[1]
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    return image


def soften(rng: Rng, image: Array) -> Array:
    """Defocus, motion, low resolution or over-sharpening."""
    kind = rng.integers(4)
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.2))
    if kind == 1:
        length, angle = int(rng.integers(3, 9)), rng.uniform(0, math.pi)
        kernel: Array = np.zeros((9, 9), np.float32)
        half = np.array([math.cos(angle), math.sin(angle)]) * length / 2
        cv2.line(kernel, at(4.5 - half), at(4.5 + half), 1.0)
        return cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1))
    if kind == 2:
        small = int(SIDE / rng.uniform(1.2, 3))
        how = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_NEAREST
        reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        return cv2.resize(reduced, (SIDE, SIDE), interpolation=how)
    strength = rng.uniform(0.3, 1.5)
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    return cv2.addWeighted(image, 1 + strength, smooth, -strength, 0)


def paint_over(rng: Rng, image: Array) -> Array:
    """As if painted: dabs, few tones, canvas."""
    image = cv2.medianBlur(image, int(rng.choice([3, 5])))
    if rng.random() < 0.4:
        step = int(rng.choice([8, 16, 32]))
        image = np.minimum(image // step * step + step // 2, 255).astype(np.uint8)
    if rng.random() < 0.7:
        coarse = SIDE // int(rng.integers(1, 4))
        weave = rng.normal(1, 0.08, (coarse, coarse)).astype(np.float32)
        canvas = cv2.resize(weave, (SIDE, SIDE))[..., None]
        image = np.clip(image * canvas, 0, 255).astype(np.uint8)
    return image


def tone(rng: Rng, image: Array) -> Array:
    """Exposure, contrast, gamma, white balance, saturation, grey and sepia, uneven light."""
    levels = np.arange(256, dtype=np.float32) / 255
    gamma, contrast = math.exp(rng.normal(0, 0.3)), math.exp(rng.normal(0, 0.22))
    shift = rng.normal(0, 0.07)
    balance = np.exp(rng.normal(0, 0.08 if rng.random() < 0.75 else 0.25, 3))
    curve = ((levels[:, None] ** gamma - 0.45) * contrast + 0.45 + shift) * balance
    table = (np.clip(curve, 0, 1) * 255).astype(np.uint8)[None]  # (1, 256, 3)
    image = cv2.LUT(image, table)
    kind = rng.random()
    if kind < 0.45:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        keep = 0.0 if kind < 0.14 else rng.uniform(0, 1.6)
        image = cv2.addWeighted(image, keep, grey, 1 - keep, 0)
        if kind < 0.05:
            sepia = np.array([1.1, 0.95, 0.75], np.float32)
            image = np.minimum(image * sepia, 255).astype(np.uint8)
    if rng.random() < 0.3:
        corner = np.clip(rng.normal(1, 0.25, (2, 2)), 0.3, 1.6).astype(np.float32)
        light = cv2.resize(corner, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)[..., None]
        image = np.clip(image * light, 0, 255).astype(np.uint8)
    return image
