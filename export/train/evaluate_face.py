"""Evaluate the face networks: one table on held-out synthetic people and on real photos::

    python -m vivant.export.train.evaluate_face --checkpoint RUN/checkpoint.pt --data HELD_OUT
        [--photos DIR] [--tracker DIR] [--attention PYTHON] [--pack PACK] [--sheets OUT] [--json]

Errors are stated at 512 pixels. A pooled PSNR is that of all pixels of a region in all frames
together, a PSNR "mean of frames" the mean of each frame's own. ``--tracker`` is a folder with an
independent face detector and mesh as ONNX files (see ``tracker.py``): with it, what is commanded
of the photos is compared with what it sees. ``--attention`` adds what a mesh sees that is sharper
at lips and lids (see ``tracker_attention.py``). With ``--pack``, the generator's assets, both look
at true pictures of synthetic people who do the same, and at our frames of those people: that is
the trackers' own part of every figure, and their gains, by which turns are divided.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant import latent
from vivant.benchmarks.photos import GESTURES, KINDS, gesture
from vivant.benchmarks.photos import table as photo_table
from vivant.composite import Compositor
from vivant.errors import UsageError
from vivant.export.nets.encode import PARTS, Encode
from vivant.export.nets.pose import PERSPECTIVE
from vivant.export.nets.render import Render
from vivant.export.nets.warp import composite, resize, sample
from vivant.export.synth.people.classes import FACE, HAIR, WORN
from vivant.export.synth.people.sample import HAIR_STYLES
from vivant.export.train.evaluate_tracked import (
    Draw,
    gains_of,
    judge,
    measure,
    openings,
    summary,
)
from vivant.export.train.face import example_inputs, load_face
from vivant.export.train.face_data import NONE, collate, load_person, make_sample, shards, to_device
from vivant.export.train.face_loss import FRAME, Regions, among, edges, end_point
from vivant.export.train.face_pose import about_neck
from vivant.export.train.face_sheet import write_png
from vivant.export.train.tracker import Track, tracker
from vivant.export.train.tracker_attention import attention

WITH = "worn "
"""Errors of the face with what is worn or held: no part of it, and moved by nobody's code."""
BINS = {"|yaw|<=15": (0, 15), "|yaw|<=30": (0, 30), "15<=|yaw|<=30": (15, 30), "all": (0, 180)}
"""Ranges of |yaw| of the driver, degrees."""
BESIDE = 6
"""Pixels of 256 beside an outline within which its sharpness is judged."""


def gflop(encode: Encode, render: Render) -> dict[str, float]:
    """Multiply-adds counted twice, in billions, of one call of each stage."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = example_inputs()
    out = {}
    for name, net in (("encode", encode), ("render", render)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(*inputs[name])
        out[name] = counter.get_total_flops() / 1e9
    return out


def psnr(error: float, count: float) -> float:
    """PSNR of a sum of squared errors of values 0..1, dB."""
    return float("nan") if count == 0 else -10 * float(np.log10(max(error / count, 1e-10)))


def portrait_pairs(person: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The person with only those pairs whose source is its most frontal one, like a portrait."""
    yaw, pitch = latent.INDEX["headYaw"], latent.INDEX["headPitch"]
    turned = np.abs(person["motion"][:, [yaw, pitch]]).sum(1)
    sources = person["pairs"][:, 1]
    best = sources[np.argmin(turned[sources])]
    rows = np.flatnonzero(sources == best)
    return person | {key: person[key][rows] for key in ("pairs", "flow", "visible")}


def regions_of(batch: dict[str, Tensor], regions: Regions) -> dict[str, Tensor]:
    """Where errors of one source's drivers are counted, by name, (B, 1, 256, 256) bool."""
    segment = batch["target_segment"]
    mouth, eyes = regions.blobs(batch["target_points"], 256)
    head, worn = (
        resize(among(segment, (*FACE, HAIR, *more)).float(), 256) for more in ((), (WORN,))
    )
    masks = {"face": head, "head, all worn too,": worn, "mouth": mouth, "eyes": eyes}
    return {name: mask > 0.5 for name, mask in masks.items()}


def outline_energy(picture: Tensor, segment: Tensor) -> Tensor:
    """Energy of the gradient of pictures (B, 3, 256, 256) within ``BESIDE`` pixels of the outline
    of the person that the classes ``segment`` (B, H, W) tell, (B,)."""
    person, side = resize((segment > 0).float()[:, None], 256), 2 * BESIDE + 1
    wide, narrow = (F.max_pool2d(s * person, side, 1, BESIDE) for s in (1, -1))
    band = wide + narrow
    across, down = edges(picture)
    across, down = across * across * band[..., :-1], down * down * band[..., :-1, :]
    return across.sum((1, 2, 3)) + down.sum((1, 2, 3))


class Trackers(NamedTuple):
    """Who looks at frames."""

    plain: Track | None = None
    sharper: Track | None = None
    """At lips and lids."""


class Tally:
    """Squared errors by region and yaw, in all and by frame, and flow errors, of one way to drive
    the network."""

    def __init__(self) -> None:
        self.squares: dict[str, float] = defaultdict(float)
        self.counts: dict[str, float] = defaultdict(float)
        self.frames: dict[str, list[float]] = defaultdict(list)
        self.flows: dict[str, list[Tensor]] = defaultdict(list)
        self.outlines: list[Tensor] = []

    def add(self, batch: dict[str, Tensor], masks: dict[str, Tensor], out: Tensor) -> None:
        """Count one source's drivers, by the regions ``masks`` tell (B, 1, 256, 256)."""
        error = ((out - batch["target"]) ** 2).mean(1, keepdim=True)
        for row, yaw in enumerate(batch["motion"][:, latent.INDEX["headYaw"]].abs().tolist()):
            labels = [label for label, (low, high) in BINS.items() if low <= yaw <= high]
            for name, mask in masks.items():
                weight = mask[row].float()
                square, count = float((error[row] * weight).sum()), float(weight.sum())
                for label in labels:
                    key = f"{name} {label}"
                    self.squares[key] += square
                    self.counts[key] += count
                    if count > 0:
                        self.frames[key].append(psnr(square, count))

    def add_outline(self, batch: dict[str, Tensor], out: Tensor) -> None:
        """Count how sharp the outlines of one source's drivers are."""
        pictures = out, batch["target"]
        ours, true = (outline_energy(x, batch["target_segment"]) for x in pictures)
        self.outlines.append(ours / true.clamp_min(1e-6))

    def add_flow(self, batch: dict[str, Tensor], flow: Tensor, first: Tensor) -> None:
        """Count the flow of one source's drivers, before and after its correction."""
        seen = batch["visible"] > 0.5
        face = among(batch["target_segment"], FACE) & seen
        worn = among(batch["target_segment"], (*FACE, WORN)) & seen
        for name, got, mask in (("", flow, face), (WITH, flow, worn), ("first ", first, face)):
            self.flows[name].append(end_point(got, batch["flow"])[mask])

    def table(self) -> dict[str, float]:
        """The figures."""
        flows = {name: torch.cat(errors) for name, errors in self.flows.items()}
        sharp = torch.cat(self.outlines).median().item()
        return {
            "flow error, median visible face, px": flows[""].median().item(),
            "flow error, mean visible face, px": flows[""].mean().item(),
            "flow error, median, all worn too, px": flows[WITH].median().item(),
            "first flow error, median visible face, px": flows["first "].median().item(),
            "outline, gradient energy to the true, median": sharp,
        } | self.pictures()

    def pictures(self, region: str = "") -> dict[str, float]:
        """PSNR of the regions whose names start with ``region``."""
        out = {}
        for key in sorted(key for key in self.squares if key.startswith(region)):
            out[f"PSNR {key}, pooled, dB"] = psnr(self.squares[key], self.counts[key])
            out[f"PSNR {key}, mean of frames, dB"] = float(np.mean(self.frames[key] or np.nan))
        return out


def held_out(encode: Encode, render: Render, files: list[Path], seed: int) -> dict[str, float]:
    """Errors on held-out persons from their most frontal frame, driven by true codes.

    Once from the photo alone, and once with the photo's true own code: the difference is what
    the encoder's own code costs, which offsets every frame alike. And to compare with: the latter
    without its light, and the photo warped by the exact flow, with what it does not show taken from
    the true picture, which is as far as flow and paint go, without light and in the network's own.
    """
    regions = Regions(torch.device("cpu"))
    alone, told, unlit, exact, lit = (Tally() for _ in range(5))
    keypoints, owns, flickers, codes, views = [], [], [], [], []
    for k, path in enumerate(files):
        print(f"person {k + 1} of {len(files)}", file=sys.stderr)
        person = portrait_pairs(load_person(path))
        every = len(person["pairs"])
        made = make_sample(person, np.random.default_rng((seed, k)), every, NONE)
        batch = to_device(collate([made]), torch.device("cpu"))
        # A stream's code knows nothing of where a person's neck is.
        batch["code"] = about_neck(batch["code"], batch["away"])
        count = len(batch["motion"])
        batch["motion"] = about_neck(batch["motion"], batch["away"].expand(count, -1))
        photo, masks = batch["photo"].expand(count, -1, -1, -1), regions_of(batch, regions)
        with torch.no_grad():
            features, points, own = encode(batch["photo"])
            still = composite(batch["photo"], *render(features, points, own, own))
            # No picture tells a step aside from a shifted frame: the driver's is from the true one.
            own = torch.cat([own[:, :60], batch["code"][:, 60:]], 1)
            looks, places = features.expand(count, -1, -1, -1), points.expand(count, -1, -1)
            mine, true = (
                render.predict(looks, places, code.expand(count, -1), batch["motion"])
                for code in (own, batch["code"])
            )
            for tally, got in ((alone, mine), (told, true)):
                out = composite(photo, got.flow, got.occlusion, got.paint)
                tally.add(batch, masks, out)
                tally.add_outline(batch, out)
                tally.add_flow(batch, got.flow, got.first)
            unlit.add(batch, masks, composite(photo, true.flow, *true.bare))
            flow, seen, light = (
                resize(x, photo.shape[-1]) for x in (batch["flow"], batch["visible"], true.light)
            )
            warped, target = sample(photo, flow), batch["target"]
            exact.add(batch, masks, seen * warped + (1 - seen) * target)
            moved = (warped * light.exp()).clamp(0, 1)
            lit.add(batch, masks, seen * moved + (1 - seen) * target)
            start, path_ = own.expand(count, -1), batch["motion"] - own
            three = [
                composite(photo, *render(looks, places, start, start + share * path_))
                for share in (0.45, 0.5, 0.55)
            ]
        flickers.append(float((three[0] - 2 * three[1] + three[2]).abs().mean()) * 255)
        owns.append(psnr(float(((still - batch["photo"]) ** 2).mean()), 1))
        away = ((points - batch["points"])[0, :, :2] * FRAME).norm(dim=-1)
        keypoints.append(away[regions.points > 0.5].median().item())
        codes.append((own - batch["code"])[0].abs())
        views.append([told_view(features), float(batch["perspective"])])
    error = torch.stack(codes).mean(0)
    table = {
        "persons": float(len(files)),
        "keypoint error, median, px": float(np.median(keypoints)),
        "perspective, share of variance told": told_share(np.array(views)),
        "own-motion PSNR, least, dB": min(owns),
        "second difference of 5 % steps, levels": float(np.mean(flickers)),
    }
    for name in ("headYaw", "headPitch", "headRoll", "jawOpen", "eyeBlinkLeft", "gazeYaw"):
        table[f"own {name}, mean error"] = error[latent.INDEX[name]].item()
    table |= alone.table()
    table |= {f"true own code: {key}": value for key, value in told.table().items()}
    table |= {f"the same, light left: {k}": v for k, v in unlit.pictures("face").items()}
    table |= {f"exact flow and paint: {k}": v for k, v in exact.pictures("face").items()}
    return table | {f"the same, our light: {k}": v for k, v in lit.pictures("face").items()}


def told_view(features: Tensor) -> float:
    """The perspective in one portrait's features (1, C, 64, 64), 1/IPD."""
    _, _, _, view, _, _ = features.split(PARTS, 1)
    return float(view[0, 0, 0, 0])


def told_share(views: np.ndarray) -> float:
    """How much of the variance about ``PERSPECTIVE`` a guess explains: (N, 2) guess and truth."""
    guess, truth = views.T
    return float(1 - np.square(guess - truth).sum() / np.square(truth - PERSPECTIVE).sum())


def aligned(path: Path) -> np.ndarray:
    """The middle square of a photo, which should be an aligned portrait, (512, 512, 3) u8."""
    image = cv2.imread(str(path))
    if image is None:
        raise UsageError(f"cannot read {path.name}", expected="an image")
    image = image[..., ::-1]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return cv2.resize(square, (FRAME, FRAME), interpolation=cv2.INTER_AREA)


class Driven(NamedTuple):
    """A portrait that can be moved."""

    points: Tensor
    """(K, 3) its keypoints, frame fractions."""
    own: Tensor
    """(63,) its own code."""
    distance: float
    """Of its camera from the eyes, as ``encode`` tells it, IPD."""
    draw: Draw
    """From a code to a frame, composited by the product's own code."""


def driver(encode: Encode, render: Render, portrait: np.ndarray) -> Driven:
    """A portrait (512, 512, 3) u8 as a stream would move it."""
    photo = torch.from_numpy(portrait.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        features, points, own = encode(F.avg_pool2d(photo, 2))
    compositor = Compositor(portrait)

    def draw(motion: np.ndarray) -> np.ndarray:
        code = torch.from_numpy(motion.astype(np.float32))[None]
        with torch.no_grad():
            return compositor(*(part.numpy() for part in render(features, points, own, code)))

    return Driven(points[0], own[0], 1 / told_view(features), draw)


def animate(
    portrait: np.ndarray, points: Tensor, own: Tensor, draw: Draw
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """All gestures of one aligned portrait: pictures 512 x 512, and figures of the photo."""
    frames = {name: draw(gesture(own.numpy(), change)) for name, change in GESTURES.items()}
    still = frames["own"].astype(np.float32) - portrait.astype(np.float32)
    figures = {"own-motion PSNR, dB": psnr(float((still**2).mean()) / 255**2, 1)}
    dots = portrait.copy()
    for x, y, _ in points.tolist():
        cv2.circle(dots, (int(x * FRAME), int(y * FRAME)), 2, (0, 255, 0), -1)
    frames["keypoints"] = dots
    return frames, figures


def observed(
    photo: np.ndarray, own: np.ndarray, draw: Draw, tracks: Trackers, gains: dict[str, float]
) -> dict[str, float]:
    """Everything that trackers say of a portrait (512, 512, 3) u8 with its own code (63,)."""
    plain, sharper = tracks
    figures: dict[str, float] = {}
    frames: dict[bytes, np.ndarray] = {}

    def drawn(motion: np.ndarray) -> np.ndarray:
        """Each frame is drawn once, whoever looks at it."""
        key = motion.tobytes()
        if key not in frames:
            frames[key] = draw(motion)
        return frames[key]

    if plain is not None:
        figures |= measure(photo, own, drawn, plain)
        figures |= judge(figures, own, gains)
    if sharper is not None:
        figures |= openings(own, drawn, sharper, "attention: ")
    return figures


def compared(
    encode: Encode,
    render: Render,
    assets: Path,
    count: int,
    tracks: Trackers,
    hair: str | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """The plain tracker's gains, and a table of what trackers say of true pictures of ``count``
    people who do as told, of one style of ``hair`` or of any, and of our frames of the same people
    and commands."""
    from vivant.export.train.evaluate_rendered import people

    true, ours = [], []
    for k, (code, truth) in enumerate(people(assets, count, hair=hair)):
        print(f"rendered person {k + 1} of {count}", file=sys.stderr)
        portrait = truth(code)
        true.append(observed(portrait, code, truth, tracks, {}))
        _, own, _, draw = driver(encode, render, portrait)
        ours.append(observed(portrait, own.numpy(), draw, tracks, {}))
    table = summary(true, "true pictures") | summary(ours, "our frames of these")
    return gains_of(true) if tracks.plain is not None else {}, table


def photographs(
    encode: Encode,
    render: Render,
    folder: Path,
    tracks: Trackers,
    gains: dict[str, float],
    sheets: Path | None,
) -> dict[str, dict[str, float]]:
    """Figures by photo of a folder of aligned portraits; their animation sheets are written."""
    if not folder.is_dir():
        raise UsageError("no folder of photos", expected="aligned portraits", got=str(folder))
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)
    if not paths:
        raise UsageError("no photos", expected=", ".join(KINDS), got=str(folder))
    rows = {}
    for k, path in enumerate(paths):
        print(f"photo {k + 1} of {len(paths)}: {path.name}", file=sys.stderr)
        portrait = aligned(path)
        points, own, distance, draw = driver(encode, render, portrait)
        frames, figures = animate(portrait, points, own, draw)
        figures["camera told, IPD"] = distance
        rows[path.name] = figures | observed(portrait, own.numpy(), draw, tracks, gains)
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            write_png(sheets / f"{path.stem}.png", sheet(frames))
    return rows


def sheet(frames: dict[str, np.ndarray], size: int = 320, columns: int = 5) -> np.ndarray:
    """Named pictures as one picture, with their names."""
    cells = []
    for name, frame in frames.items():
        cell = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        cv2.putText(cell, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 0), 1)
        cells.append(cell)
    while len(cells) % columns:
        cells.append(np.zeros_like(cells[0]))
    rows = [np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)]
    return np.concatenate(rows, 0)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the evaluation; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", help="folder whose held-out person_*.npz are measured")
    parser.add_argument("--persons", type=int, default=40, help="at most so many persons")
    parser.add_argument("--photos", help="folder of aligned portraits")
    parser.add_argument("--tracker", help="folder of an independent tracker's ONNX files")
    parser.add_argument("--attention", help="a Python with mediapipe==0.10.21, sharper at lids")
    parser.add_argument("--pack", help="the generator's assets: trackers see true pictures too")
    parser.add_argument("--rendered", type=int, default=16, help="people rendered for --pack")
    parser.add_argument("--hair", choices=HAIR_STYLES, help="only people of one style of hair")
    parser.add_argument("--sheets", help="folder for the photos' animation sheets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    tracks = Trackers(
        tracker(Path(options.tracker)) if options.tracker else None,
        attention(options.attention) if options.attention else None,
    )
    if options.pack and (not any(tracks) or options.rendered < 1):
        raise UsageError(
            "--pack has nobody to look at anybody",
            expected="--tracker or --attention, and --rendered of 1 or more",
        )
    gains: dict[str, float] = {}
    encode, render = load_face(options.checkpoint)
    table: dict[str, float] = {
        "parameters, million": sum(p.numel() for net in (encode, render) for p in net.parameters())
        / 1e6,
    }
    table |= {f"{name}, GFLOP": value for name, value in gflop(encode, render).items()}
    if options.data:
        files = shards(Path(options.data), held_out=True)[: options.persons]
        if not files:
            raise UsageError("no held-out persons", expected="person_1*.npz", got=options.data)
        table |= held_out(encode, render, files, options.seed)
    if options.pack:
        assets = Path(options.pack)
        gains, seen = compared(encode, render, assets, options.rendered, tracks, options.hair)
        table |= seen
    rows: dict[str, dict[str, float]] = {}
    if options.photos:
        sheets = Path(options.sheets) if options.sheets else None
        rows = photographs(encode, render, Path(options.photos), tracks, gains, sheets)
        table |= summary(rows.values())
    if options.json:
        table |= {f"{photo}: {k}": value for photo, row in rows.items() for k, value in row.items()}
        print(json.dumps({k: None if np.isnan(v) else v for k, v in table.items()}, indent=1))
    else:
        width = max(len(name) for name in table)
        for name, value in table.items():
            print(f"{name:{width}}  {value:8.3f}")
        if rows:
            print(photo_table(rows))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
