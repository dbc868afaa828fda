"""The default portrait: an adult who does not exist, rendered with care.

python -m vivant.export.synth.people.demo --pack PACK --out runtime/default/portrait.jpg
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from vivant.export.synth.people import background, camera, light, motions, pack, person
from vivant.export.synth.people.flow import to_bytes
from vivant.export.synth.people.light import Light, unit
from vivant.export.synth.people.pack import Array, Pack
from vivant.export.synth.people.render import Scene, reduced, render
from vivant.export.synth.people.sample import Traits, sample_adult

SEED = 12


def sitter(assets: Pack, seed: int = SEED) -> Traits:
    """A young woman near the mean face, with long dark brown hair and little make-up."""
    rng = np.random.default_rng([9, seed])
    traits = sample_adult(rng, assets)
    while not traits.female:
        traits = sample_adult(rng, assets)
    axes = traits.axes * 0.5
    axes[assets.axis_names.index("male_minus_female")] = -1.05
    for name, value in (
        ("old", 0.0),
        ("eyes:l-eye-scale-incr", 0.30),
        ("chin:chin-width-incr", -0.35),
        ("chin:chin-bones-incr", -0.25),
        ("cheek:l-cheek-bones-incr", 0.20),
        ("cheek:l-cheek-volume-incr", -0.35),
        ("head:head-scale-horiz-incr", -0.20),
        ("eyes:l-eye-trans-out", -0.15),
        ("mouth:mouth-upperlip-volume-incr", 0.20),
    ):
        axes[assets.axis_names.index(name)] = value
    hair = np.array([0.050, 0.029, 0.018], np.float32)
    return replace(
        traits,
        identity=traits.identity * 0.45,
        axes=axes,
        hair="long01",
        scalp="long01",
        hair_colour=hair,
        brow="eyebrow001",
        brow_density=1.35,
        brow_colour=hair * 0.8,
        flyaways=2200,
        melanin=0.04,
        haemoglobin=0.03,
        blush=0.34,
        detail=1.6,
        oily=0.45,
        liner=0.28,
        lip_tint=np.array([0.0, -0.26, -0.16], np.float32),
        lip_dark=0.0,
        shadow=np.zeros(3, np.float32),
        freckles=70,
        iris=(0.17, 0.11, 0.05),
        pupil=0.33,
        lash=1.8,
        garment="male_casualsuit02",
        garment_tint=np.array([0.42, 0.52, 0.56], np.float32),
        garment_mix=1.0,
        pattern=0.0,
        glasses=None,
        cap=None,
        scarf=None,
        earrings=0.0,
        wrinkles=0.0,
        held=None,
        child=0.0,
        lid=0.05,
        squint=0.06,
        rest=np.zeros(55, np.float32),
    )


def window_light() -> Light:
    """A large window to the right, a bright room, a little light on the hair from behind."""
    return Light(
        key=unit(0.75, 0.5, 1.0),
        key_colour=2.3 * np.array([1.05, 1.0, 0.93], np.float32),
        key_size=0.17,
        soft=[
            (unit(-1.0, 0.1, 0.6), 0.45 * np.array([0.92, 0.98, 1.06], np.float32), 0.5),
            (unit(-0.8, 0.5, -1.0), 3.0 * np.array([1.08, 1.0, 0.92], np.float32), 0.28),
            (unit(0.9, 0.5, -1.0), 1.6 * np.array([1.05, 1.0, 0.95], np.float32), 0.25),
        ],
        top=np.array([0.44, 0.46, 0.50], np.float32),
        middle=np.array([0.28, 0.29, 0.305], np.float32),
        bottom=np.array([0.19, 0.175, 0.16], np.float32),
        gain=1.0,
    )


def developed(image: Array, seed: int = 0) -> Array:
    """A photograph's finish: halation, vignetting, fine grain. sRGB 0..1 (S, S, 3)."""
    size = len(image)
    rng = np.random.default_rng(seed)
    linear = image**2.2
    glow = cv2.GaussianBlur(linear, (0, 0), size * 0.008)
    linear = linear * 0.95 + glow * 0.05
    yy, xx = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    linear = linear * (1 - 0.16 * ((xx**2 + yy**2) / 2)[..., None] ** 1.2)
    out = np.clip(linear, 0, 1) ** (1 / 2.2)
    grain: Array = rng.normal(0, 0.012, (size, size, 1)) + rng.normal(0, 0.006, (size, size, 3))
    grain = cv2.GaussianBlur(grain.astype(np.float32), (0, 0), 0.7)
    return np.clip(out + grain * (1 - 0.5 * out), 0, 1).astype(np.float32)


def portrait(assets: Pack, size: int = 1024, supersample: int = 2, seed: int = SEED) -> Array:
    """The portrait as sRGB 0..1, (size, size, 3)."""
    full = size * supersample
    model = person.build(assets, sitter(assets, seed), texture=1024, hair_levels=2)
    scene = Scene(
        person=model,
        camera=camera.framed(model, distance=130, zoom=0.98, shift=(0.0, 0.01), tilt=(0.0, 2.0)),
        light=window_light(),
        ambient=light.ambient_visibility(model, 96, 320),
        background=torch.tensor(background.window_room(full)),
        size=full,
    )
    motion = np.zeros(63, np.float32)
    shapes = {"mouthSmile": 0.38, "cheekSquint": 0.22, "mouthDimple": 0.12, "mouthShrugLower": 0.09}
    motion[:55] = motions.encode({**shapes, "eyeWide": 0.12, "eyeSquint": 0.06})
    motion[55:60] = (-4.0, 3.0, 5.0, -1.5, -2.0)  # gaze back at the camera, head a little turned
    frame = render(scene, model.pose(motions.finish(motion)))
    return developed(reduced(frame.image, size).numpy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pack", required=True, help="the asset pack (.npz)")
    parser.add_argument("--out", type=Path, default=Path("portrait.jpg"))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--supersample", type=int, default=2)
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    image = portrait(pack.load(options.pack), options.size, options.supersample, options.seed)
    pixels = np.ascontiguousarray(to_bytes(torch.tensor(image))[..., ::-1])
    cv2.imwrite(str(options.out), pixels, [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    print(f"{options.out}: {options.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
