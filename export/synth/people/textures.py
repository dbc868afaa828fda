"""Skin, hair and garment textures of one person, painted in the asset pack's texture space."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.sample import Traits
from vivant.export.synth.people.wrinkles import places, wrinkles

MELANIN = np.array([0.42, 0.85, 1.45], np.float32)
HAEMOGLOBIN = np.array([0.10, 0.55, 0.42], np.float32)
"""Absorbance of the two skin pigments in linear R, G, B; ratios after Donner and Jensen (2006)."""
DEEP = np.array([0.88, 1.0, 1.06], np.float32)
"""Absorbance of further melanin in skin that is tanned already, which loses red as well.

From the light to the dark skin of the ColorChecker (McCamy et al. 1976), linear (0.54, 0.31, 0.22)
and (0.17, 0.084, 0.058), the logarithms fall as 0.89 : 1 : 1.05.
"""
_TANNED = 0.2


def linear(srgb: Array) -> Array:
    """sRGB 0..1 to linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur; wide ones at reduced size, which is many times faster and looks the same."""
    shrink = max(1, int(sigma / 3))
    if shrink == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    h, w = image.shape[:2]
    small = cv2.resize(
        image, (max(1, w // shrink), max(1, h // shrink)), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def smooth_noise(rng: np.random.Generator, size: int, scale: float) -> Array:
    """Unit-variance smooth noise (size, size) with features of about ``scale`` pixels."""
    n = max(4, int(size / scale))
    field = cv2.resize(
        rng.normal(0, 1, (n, n)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    return field / (field.std() + 1e-6)


def mask(pack: Pack, key: str, size: int) -> Array:
    """A stored mask at the given size, 0..1, cached."""
    name = f"{key}@{size}"
    if name not in pack.cache:
        image = pack.image(key)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        pack.cache[name] = image.astype(np.float32) / 255
    return pack.cache[name]


def _skin(pack: Pack, part: str, name: str, size: int) -> tuple[Array, Array]:
    """Log albedo of a skin split into low and high spatial frequencies, cached."""
    key = f"skin/{part}_{name}@{size}"
    if key not in pack.cache:
        image = cv2.resize(
            pack.image(f"img/{part}_{name}"), (size, size), interpolation=cv2.INTER_AREA
        )
        log = np.log(np.maximum(linear(image.astype(np.float32) / 255), 0.004))
        low = blur(log, 14 * size / 1024)
        pack.cache[key] = (low, log - low)
    return pack.cache[key]


def _spots(rng: np.random.Generator, traits: Traits, size: int) -> Array:
    spots = np.zeros((size, size), np.float32)
    unit = size / 1024

    def dot(x: float, y: float, radius: float, strength: float) -> None:
        centre = (int(x * unit * 16), int(y * unit * 16))
        cv2.circle(spots, centre, max(4, int(radius * unit * 16)), strength, -1, cv2.LINE_AA, 4)

    for _ in range(traits.freckles):
        dot(rng.normal(512, 150), rng.normal(400, 90), rng.uniform(0.7, 1.8), rng.uniform(0.1, 0.4))
    for _ in range(traits.moles):
        dot(
            rng.uniform(180, 840),
            rng.uniform(150, 800),
            rng.uniform(1.7, 3.3),
            rng.uniform(0.5, 1.1),
        )
    return cv2.GaussianBlur(spots, (0, 0), max(0.6, unit))


def _stubble(pack: Pack, traits: Traits, size: int) -> Array:
    """Short hairs over the beard area, (size, size) 0..1; a few variants are drawn and shared."""
    length = int(np.clip(round(traits.beard_length / 2), 1, 4)) * 2
    variant = traits.seed % 3
    key = f"stubble{length}.{variant}@{size}"
    if key not in pack.cache:
        rng = np.random.default_rng(variant)
        area = mask(pack, "mask/beard", size)
        ys, xs = np.where(area > 0.04)
        share = area[ys, xs] / area[ys, xs].sum()
        hairs = np.zeros((size, size), np.float32)
        unit = size / 1024
        for j in rng.choice(len(ys), 30000, p=share):
            x, y = xs[j] + rng.uniform(-0.5, 0.5), ys[j] + rng.uniform(-0.5, 0.5)
            angle = math.pi / 2 + rng.normal(0, 0.35) + (x / unit - 512) / 900
            reach = length * rng.uniform(0.5, 1.2) * unit
            start = (int(x * 16), int(y * 16))
            stop = (
                int((x + math.cos(angle) * reach) * 16),
                int((y + math.sin(angle) * reach) * 16),
            )
            cv2.line(hairs, start, stop, float(rng.uniform(0.35, 0.9)), 1, cv2.LINE_AA, 4)
        pack.cache[key] = hairs
    return pack.cache[key]


def absorbance(traits: Traits) -> Array:
    """What a person's pigments add to a skin's negative log albedo, linear R, G, B (3,)."""
    deep = max(0.0, traits.melanin - _TANNED)
    melanin = (traits.melanin - deep) * MELANIN + deep * DEEP
    return np.asarray(melanin + traits.haemoglobin * HAEMOGLOBIN, np.float32)


def _painted_face(pack: Pack, traits: Traits, log: Array, rng: np.random.Generator) -> Array:
    """Blush, lids, lips, spots, mottling: log albedo in and out, (S, S, 3)."""
    size = len(log)
    unit = size / 1024
    lips = mask(pack, "mask/lips", size)[..., None]
    lid = np.clip(mask(pack, "mask/lid", size)[..., None] * 1.3, 0, 1)
    log = log - mask(pack, "mask/blush", size)[..., None] * traits.blush * HAEMOGLOBIN
    # The source skins have painted eyelid slits: replace them by their surroundings.
    around = blur(log * (1 - lid), 10 * unit) / (blur(1 - lid[..., 0], 10 * unit)[..., None] + 1e-3)
    log = log * (1 - lid) + lid * (around - 0.16 * HAEMOGLOBIN - traits.liner * 1.6)
    if traits.shadow.any():
        halo = np.clip(blur(lid[..., 0], 14 * unit) * 2.2, 0, 1)[..., None]
        log = log + halo * traits.shadow
    # The inside of the lips is not painted in the source skins: continue the ring's colour.
    albedo = np.exp(log)
    ring = (lips > 0.5).astype(np.float32)
    inner = blur(albedo * ring, 9 * unit) / (blur(ring[..., 0], 9 * unit)[..., None] + 1e-4)
    ys, xs = np.where(ring[..., 0] > 0)
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    radius = np.hypot(
        (yy - ys.mean()) / ((ys.max() - ys.min()) / 2),
        (xx - xs.mean()) / ((xs.max() - xs.min()) / 2),
    )
    blend = np.clip((0.72 - radius) / 0.25, 0, 1)[..., None]
    albedo = albedo * (1 - blend) + blend * inner * np.array([0.92, 0.80, 0.80], np.float32)
    log = np.log(np.maximum(albedo, 0.003))
    log = log + lips * (traits.lip_tint - traits.lip_dark * np.array([0.2, 0.5, 0.42], np.float32))
    log = log - (_spots(rng, traits, size)[..., None] * (1 - lips)) * MELANIN * 0.7
    mottle = 0.035 * smooth_noise(rng, size, 2.5) + 0.022 * smooth_noise(rng, size, 60 * unit)
    return log - (mottle[..., None] * (1 - lips)) * np.array([0.6, 1.0, 1.0], np.float32) * 0.8


def skin_textures(
    pack: Pack, traits: Traits, size: int
) -> tuple[Array, Array, NDArray[np.uint8], NDArray[np.uint8]]:
    """Face texture (S, S, 7): albedo, bump gradient, lip, oil; scalp (S/2, S/2, 3); label maps.

    Labels mark what is painted on the skin: 0 skin, 2 hair, 6 brow (segmentation classes).
    """
    rng = np.random.default_rng(traits.seed)
    albedos, labels = [], []
    for part, s in (("face", size), ("back", size // 2)):
        low_a, high = _skin(pack, part, traits.skins[0], s)
        low_b, _ = _skin(pack, part, traits.skins[1], s)
        log = traits.skin_mix * low_a + (1 - traits.skin_mix) * low_b + high * traits.detail
        log = log - absorbance(traits)
        if part == "face":
            log = _painted_face(pack, traits, log, rng)
        albedo = np.exp(log)
        label = np.zeros((s, s), np.uint8)
        if traits.scalp != "none":
            cover = mask(pack, f"scalp/{part}_{traits.scalp}", s)[..., None] * 0.93
            grain: Array = rng.normal(0, 1, (s, s)).astype(np.float32)
            grain = cv2.GaussianBlur(grain, (0, 0), 0.8)[..., None]
            scalp = traits.hair_colour * (0.55 + 0.35 * grain).clip(0.2, 1.2)
            albedo = albedo * (1 - cover) + cover * scalp
            label[cover[..., 0] > 0.5] = 2
        if part == "face":
            brow = np.clip(mask(pack, f"mask/brow_{traits.brow}", s) * traits.brow_density, 0, 1)
            brow = np.maximum(brow, blur(brow, 2.0 * s / 1024) * 0.8)
            label[brow > 0.35] = 6
            albedo = albedo + brow[..., None] * (traits.brow_colour - albedo)
            if traits.beard > 0:
                area = mask(pack, "mask/beard", s)
                cover = _stubble(pack, traits, s) * traits.beard * min(1.0, traits.beard_density)
                cover = np.clip(cover + 0.25 * traits.beard * blur(area, 3 * s / 1024), 0, 0.95)
                albedo = albedo + cover[..., None] * (traits.brow_colour * 0.9 - albedo)
        albedos.append(np.clip(albedo, 0.002, 0.95).astype(np.float32))
        labels.append(label)
    face = albedos[0]
    lines = wrinkles(pack, traits.wrinkles, size, traits.seed) if traits.wrinkles > 0.02 else None
    if lines is not None:
        face *= np.exp(-lines[..., None] * np.array([0.85, 1.10, 1.20], np.float32))
    log = np.log(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) + 0.01)
    relief = np.clip(cv2.GaussianBlur(log, (0, 0), 0.7) - blur(log, 5 * size / 1024), -0.25, 0.25)
    relief += 0.03 * cv2.GaussianBlur(rng.normal(0, 1, log.shape).astype(np.float32), (0, 0), 0.8)
    if lines is not None:
        relief -= 1.2 * lines
    bump = np.stack([cv2.Sobel(relief, cv2.CV_32F, 1, 0), cv2.Sobel(relief, cv2.CV_32F, 0, 1)], -1)
    bump *= size / 1024
    extra = np.stack([mask(pack, "mask/lips", size), mask(pack, "mask/oil", size)], -1)
    stacked = np.concatenate([face, bump, extra], -1).astype(np.float32)
    return stacked, albedos[1], labels[0], labels[1]


def complexion(pack: Pack, face: Array) -> Array:
    """Colour of the bare cheeks and forehead of a face texture (S, S, 7), linear RGB (3,)."""
    at = places(pack)
    names = ("cheekMidLeft", "cheekMidRight", "foreheadLeft", "foreheadRight")
    centres = (np.stack([at[name] for name in names]) * len(face)).astype(int)
    wide = max(1, len(face) // 64)
    patches = [face[y - wide : y + wide, x - wide : x + wide, :3] for x, y in centres]
    return np.asarray(np.median(np.concatenate(patches), (0, 1)), np.float32)


def tone_angle(colour: Array) -> float:
    """Individual typology angle, degrees, of a skin's linear RGB (3,): Chardon et al. 1991.

    Above 55 very light, 41 light, 28 intermediate, 10 tan, -30 brown, below dark.
    """
    lab = cv2.cvtColor(colour.reshape(1, 1, 3).astype(np.float32), cv2.COLOR_LRGB2Lab)[0, 0]
    return math.degrees(math.atan2(float(lab[0]) - 50, max(float(lab[2]), 1e-3)))


def hair_texture(pack: Pack, traits: Traits) -> tuple[Array, Array]:
    """Relative lightness of the strands (h, w) and their alpha (h, w)."""
    key = f"strands/{traits.hair}"
    if key not in pack.cache:
        rgba = pack.image(f"hair/{traits.hair}/tex")
        light = linear(rgba[..., :3].astype(np.float32) / 255) @ np.array([0.3, 0.5, 0.2])
        alpha = rgba[..., 3].astype(np.float32) / 255
        mean = light[alpha > 0.5].mean()
        light = np.clip(light / (mean + 1e-4), 0, 4) ** 0.8
        alpha = np.clip((alpha - 0.08) / 0.84, 0, 1)
        pack.cache[key] = (light.astype(np.float32), alpha.astype(np.float32))
    light, alpha = pack.cache[key]
    if traits.hair in ("long01", "ponytail01"):  # strands run along v in these two
        rng = np.random.default_rng(traits.seed + 1)
        h, w = light.shape
        for width, length, gain in ((1.5, 60, 0.38), (8, 140, 0.22)):
            noise: Array = rng.normal(0, 1, (max(4, h // length), int(w / width))).astype(
                np.float32
            )
            noise = cv2.resize(noise, (w, h), interpolation=cv2.INTER_LINEAR)
            light = light * np.clip(1 + gain * noise / noise.std(), 0.3, 2.2)
    return np.ascontiguousarray(light, np.float32), alpha


def garment_texture(pack: Pack, traits: Traits) -> Array:
    """Linear RGB texture (h, w, 3) of the garment, dyed and perhaps patterned."""
    key = f"dye/{traits.garment}"
    if key not in pack.cache:
        image = pack.image(f"cloth/{traits.garment}/tex")
        image = cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA)
        pack.cache[key] = linear(image.astype(np.float32) / 255)
    colour: Array = pack.cache[key]
    light = colour.mean(-1, keepdims=True)
    dyed = light / (light.mean() + 0.05) * 0.22
    colour = colour * (1 - traits.garment_mix) + traits.garment_mix * dyed
    colour = colour * traits.garment_tint
    if traits.pattern > 0:
        rng = np.random.default_rng(traits.seed + 2)
        h, w = colour.shape[:2]
        yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
        turns = rng.uniform(15, 70)
        wave = np.sin(xx / w * turns * 6.28)
        if rng.random() < 0.5:
            wave = wave + np.sin(yy / h * turns * 6.28)
        tint = rng.uniform(-1, 1, 3).astype(np.float32)
        colour = colour * np.exp(traits.pattern * np.clip(wave * 3, -1, 1)[..., None] * tint)
    return np.clip(colour, 0.002, 0.95).astype(np.float32)
