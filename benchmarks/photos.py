"""Look at real photos: for each of a folder, a sheet of gestures and of speech, and two figures::

    python -m vivant.benchmarks.photos PHOTOS OUT [--sound FILE] [--seconds 4] [--bundle DIR]

``OUT/NAME.png`` shows the aligned portrait, every gesture of ``GESTURES`` and then frames of the
portrait speaking. Nothing replaces looking at it; the table says what should stand still and does
not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from vivant.audio import RATE, embedded_speech, load_audio
from vivant.cli import run_module
from vivant.composite import Compositor
from vivant.errors import PhotoError, UsageError
from vivant.latent import INDEX, NAMES, UNITS
from vivant.photo import PhotoSource
from vivant.render import GraphCall, Renderer
from vivant.session import Session, open_session

Array = NDArray[np.float32]
Image = NDArray[np.uint8]

KINDS = (".png", ".jpg", ".jpeg", ".webp")
SHUT = {name: -1.0 for name in NAMES if name.startswith(("jaw", "mouth", "tongue", "cheekPuff"))}
"""Takes every shape of the mouth away, whatever the photo shows."""
GESTURES: Mapping[str, Mapping[str, float]] = {
    "own": {},
    "shut": SHUT,
    "jaw .5": SHUT | {"jawOpen": 0.5},
    "jaw 1": SHUT | {"jawOpen": 1.0},
    "smile": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "jawOpen": 0.1},
    "pucker": SHUT | {"mouthPucker": 0.8, "mouthFunnel": 0.3},
    "talk": SHUT
    | {
        "jawOpen": 0.3,
        "mouthUpperUpLeft": 0.3,
        "mouthUpperUpRight": 0.3,
        "mouthLowerDownLeft": 0.4,
        "mouthLowerDownRight": 0.4,
        "headRoll": 6.0,
    },
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "gaze +20": {"gazeYaw": 20.0, "eyeLookOutLeft": 0.57, "eyeLookInRight": 0.57},
    "gaze -20": {"gazeYaw": -20.0, "eyeLookInLeft": 0.57, "eyeLookOutRight": 0.57},
    "brows": {"browInnerUp": 0.8, "browOuterUpLeft": 0.7, "browOuterUpRight": 0.7},
    "yaw +15": {"headYaw": 15.0},
    "yaw -15": {"headYaw": -15.0},
    "pitch +10": {"headPitch": 10.0},
    "pitch -10": {"headPitch": -10.0},
    "roll +8": {"headRoll": 8.0},
}
"""Changes of a photo's own code; a weight that changes stays within 0..1."""
EDGE = 1 / 16
"""Width of the strips at the left and right, above the shoulders, that are surely background."""
COLUMNS, CELL, FRAMES = 6, 256, 12
"""Pictures in a row of a sheet, their side in pixels, and frames of speech on a sheet."""


def gesture(own: Array, change: Mapping[str, float]) -> Array:
    """A photo's own code (63,) with a change added."""
    motion = own.copy()
    for name, value in change.items():
        k = INDEX[name]
        motion[k] += value
        if UNITS[k] == "weight":
            motion[k] = min(max(motion[k], 0), 1)
    return motion


def background(frames: Sequence[Image], photo: Image) -> tuple[float, float]:
    """How far what should stand still is from the photo, and how much it flickers, in levels.

    Mean absolute difference and mean absolute second difference over time, in the strips of
    ``EDGE`` at either side of the upper half of the frames (H, W, 3).
    """
    height, width = photo.shape[:2]
    strip = max(round(width * EDGE), 1)

    def strips(image: Image) -> NDArray[np.int16]:
        upper = image[: height // 2].astype(np.int16)
        return np.concatenate([upper[:, :strip], upper[:, -strip:]], 1)

    still = strips(photo)
    seen = [strips(frame) for frame in frames]
    away = np.mean([np.abs(now - still).mean() for now in seen])
    turns = [
        np.abs(before - 2 * now + after).mean()
        for before, now, after in zip(seen[:-2], seen[1:-1], seen[2:], strict=True)
    ]
    return float(away), float(np.mean(turns)) if turns else 0.0


def sheet(pictures: Sequence[tuple[str, Image]]) -> Pillow.Image:
    """Named pictures side by side, with their names."""
    page = Pillow.new("RGB", (COLUMNS * CELL, -(-len(pictures) // COLUMNS) * CELL))
    for k, (name, picture) in enumerate(pictures):
        cell = Pillow.fromarray(picture).resize((CELL, CELL), Pillow.Resampling.LANCZOS)
        ImageDraw.Draw(cell).text((4, 4), name, (255, 255, 0), stroke_width=1, stroke_fill="black")
        page.paste(cell, (k % COLUMNS * CELL, k // COLUMNS * CELL))
    return page


def look(
    session: Session, render: GraphCall, photo: PhotoSource, sound: Array
) -> tuple[Pillow.Image, dict[str, float]]:
    """The sheet and the figures of one photo; ``sound`` is (n,) at 16 kHz. Raises PhotoError."""
    portrait = session.use_portrait(photo)
    renderer = Renderer(render, portrait, Compositor(portrait.photo))
    own = portrait.motion[0]
    pictures = [("photo", portrait.photo)]
    pictures += [(name, renderer.draw(gesture(own, change))) for name, change in GESTURES.items()]
    frames = [frame.rgb for frame in session.animate((sound, RATE), marker=lambda frame: frame)]
    shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    spoken = [(f"frame {k}", frames[k]) for k in shown.tolist()]
    moved, flicker = background(frames, portrait.photo)
    error = np.square(pictures[1][1].astype(np.float32) - portrait.photo).mean()
    figures = {
        "own-motion PSNR, dB": float(-10 * np.log10(max(float(error) / 255**2, 1e-10))),
        "background moved, levels": moved,
        "background flicker, levels": flicker,
    }
    return sheet(pictures + spoken), figures


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The figures for people, and their medians."""
    names = list(next(iter(rows.values())))
    width = max(len(name) for name in (*rows, "median"))
    middle = {name: float(np.nanmedian([row[name] for row in rows.values()])) for name in names}
    lines = [" " * width + "".join(f"  {name}" for name in names)]
    for photo, row in {**rows, "median": middle}.items():
        lines.append(f"{photo:{width}}" + "".join(f"  {row[n]:{len(n)}.2f}" for n in names))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheets and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vivant.benchmarks.photos",
        description="Write a sheet of gestures and speech for each photo of a folder.",
        allow_abbrev=False,
    )
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("out", type=Path, help="folder for the sheets")
    parser.add_argument("--sound", help="recording to speak (default: the embedded)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of it (default: 4)")
    parser.add_argument("--bundle", help="weights to use (default: the embedded)")
    parser.add_argument("--backend", help="as for vivant animate")
    parser.add_argument("--threads", type=int, default=0, help="of each graph (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if not args.photos.is_dir():
        raise UsageError("there is no such folder", expected="photos", got=str(args.photos))
    files = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in KINDS)
    if not files:
        raise UsageError("no photos", expected=", ".join(KINDS), got=str(args.photos))
    sound = load_audio(args.sound).samples if args.sound else embedded_speech()
    sound = sound[: round(args.seconds * RATE)]
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    with open_session(bundle=args.bundle, backend=args.backend, threads=args.threads) as session:
        render = session.plan.load(session.bundle, "render")
        for path in files:
            try:
                page, rows[path.name] = look(session, render, path, sound)
            except PhotoError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                continue
            page.save(args.out / f"{path.stem}.png")
    if not rows:
        raise PhotoError("none of the photos could be animated")
    print(json.dumps(rows, indent=1) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
