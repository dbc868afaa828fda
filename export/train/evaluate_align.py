"""Evaluate ``align``: one table on held-out synthetic people, and overlays of real photos::

    python -m vivant.export.train.evaluate_align --checkpoint RUN/final.pt --data HELD_OUT
        [--photos DIR] [--tracker DIR] [--sheets OUT] [--json]

Landmark errors are mean distances in per cent of the interpupillary distance. ``--photos`` may
hold pictures and video clips. ``--tracker`` is a folder with an independent face detector and
mesh as ONNX files (see ``tracker.py``), to compare with.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from vivant.errors import UsageError
from vivant.export.nets.align import Align
from vivant.export.train.align import load_align
from vivant.export.train.align_clutter import SIDE, damage
from vivant.export.train.align_data import Array, Scene, Scenes, place, shards, warp
from vivant.export.train.tracker import tracker
from vivant.photo import load_photo
from vivant.portrait import ACCEPT, Face, Graph, align, decode, find_faces

WIDTHS = (20, 30, 45, 70, 110, 170)
"""Face widths measured, pixels of the tile."""
TILTS = (0, 15, 30, 45)
"""In-plane rotations measured, degrees."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
CLIPS = (".mpg", ".mp4", ".avi", ".mov")
FRAMES = 6
"""Frames measured of a clip."""
MESH = {0: (33, 133), 1: (362, 263), 2: (1,), 3: (61,), 4: (291,), 7: (152,)}
"""Our landmarks as means of vertices of the tracker's mesh, where both mean the same point."""


def graph_of(net: Align) -> Graph:
    """The network as the runtime calls a compiled stage."""

    def run(feeds: object) -> dict[str, Array]:
        with torch.no_grad():
            score, landmarks = net(torch.from_numpy(feeds["image"]))  # type: ignore[index]
        return {"score": score.numpy(), "landmarks": landmarks.numpy()}

    return run


def match(found: Face, landmarks: Array) -> float:
    """Distance of the points of two faces, IPD."""
    apart = np.linalg.norm(found.landmarks - landmarks, axis=1).mean()
    return float(apart) / Face(landmarks, 1.0).interpupillary


def one_face(scenes: Scenes, width: float, tilt: float) -> Scene:
    """A scene with one face of a given width and rotation on clutter, damaged."""
    frame = scenes.crowd.pick()
    low = min(0.5 * width, SIDE / 2 - 8)
    x, y = scenes.rng.uniform(low, SIDE - low, 2)
    # The person's own roll is part of the tilt.
    turn = tilt - Face(frame.landmarks, 1.0).roll
    transform = place(frame, x, y, width, turn)
    image = scenes.paste(scenes.background(), frame, transform)
    points = (frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
    return Scene(damage(scenes.rng, image), (points,))


def tiles(graph: Graph, scenes: Scenes, count: int) -> dict[str, float]:
    """Recall, false faces and landmark error of single tiles, by width and by rotation."""
    hits: dict[str, list[float]] = defaultdict(list)
    errors: dict[str, list[float]] = defaultdict(list)
    false = []
    for k in range(count):
        for width in WIDTHS:
            tilt = TILTS[k % len(TILTS)] * (1 if k % 2 else -1)
            scene = one_face(scenes, width, tilt)
            faces = tile_faces(graph, scene.image)
            near = [match(face, scene.faces[0]) for face in faces]
            hit = [error for error in near if error < 0.5]
            for name in (f"width {width:3d}", f"tilt {abs(tilt):2d}"):
                hits[name].append(bool(hit))
                errors[name] += hit[:1]
            false.append(len(faces) - bool(hit))
        false.append(len(tile_faces(graph, scenes.scatter(0).image)))
    table = {f"tile recall, {name}, %": 100 * float(np.mean(v)) for name, v in sorted(hits.items())}
    table |= {
        f"tile landmark error, {name}, % IPD": 100 * float(np.mean(v))
        for name, v in sorted(errors.items())
        if v
    }
    table["tile false faces per 100 tiles"] = 100 * float(np.mean(false))
    return table


def tile_faces(graph: Graph, image: Array) -> list[Face]:
    """Faces that one pass over a tile (256, 256, 3) u8 finds."""
    tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return decode(graph({"image": tensor}), ACCEPT)


def photos(graph: Graph, scenes: Scenes, count: int) -> dict[str, float]:
    """Recall, precision and error of the whole search in large composed photos, one face each."""
    errors, found, missed = [], 0, 0
    for _ in range(count):
        zoom = float(scenes.rng.choice([2, 3, 5]))
        width = math.exp(scenes.rng.uniform(math.log(40), math.log(400)))
        big, landmarks = enlarge(scenes, width, zoom)
        faces = find_faces(big, graph)
        found += len(faces)
        near = [error for error in (match(face, landmarks) for face in faces) if error < 0.5]
        errors += near[:1]
        missed += not near
    recall = 100 * (count - missed) / count
    table = {"photo recall, faces from 40 px, %": recall}
    if found:
        table["photo precision, %"] = 100 * (count - missed) / found
    if errors:
        table["photo landmark error, % IPD"] = 100 * float(np.mean(errors))
        worst = float(np.quantile(errors, 0.95))
        table["photo landmark error, 95th percentile, % IPD"] = 100 * worst
    return table


def enlarge(scenes: Scenes, width: float, zoom: float) -> tuple[Array, Array]:
    """A square photo ``zoom`` tiles wide with one face of a width in pixels, and its landmarks."""
    side = int(SIDE * zoom)
    image = cv2.resize(scenes.background(), (side, side), interpolation=cv2.INTER_CUBIC)
    frame, rng = scenes.crowd.pick(), scenes.rng
    tilt = float(np.clip(rng.normal(0, 18), -45, 45)) - Face(frame.landmarks, 1.0).roll
    low = min(0.6 * width, side / 2 - 8)
    x, y = rng.uniform(low, side - low, 2)
    transform = place(frame, x, y, width, tilt)
    person, mask = (warp(a, transform, size=side) for a in (frame.image, frame.mask))
    share = mask[..., None].astype(np.float32) / 255
    image = (image * (1 - share) + person * share).astype(np.uint8)
    points = (frame.landmarks @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
    return image, points


def pictures(folder: Path) -> Iterator[tuple[str, Array]]:
    """Every photo of a folder, and some frames of every clip, (H, W, 3) u8 RGB."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield path.name, load_photo(path)
        elif path.suffix.lower() in CLIPS:
            import av

            with av.open(str(path)) as clip:
                frames = [f.to_ndarray(format="rgb24") for f in clip.decode(video=0)]
            for k in np.linspace(0, len(frames) - 1, FRAMES).astype(int):
                yield f"{path.name} #{k}", frames[k]


def overlay(photo: Array, faces: list[Face], mesh: Array | None, size: int = 320) -> Array:
    """The photo with our landmarks (green; others' faces yellow) and the tracker's (red)."""
    scale = size / max(photo.shape[:2])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.zeros((size, size, 3), np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small
    for k, face in enumerate(faces):
        for x, y in (face.landmarks * scale).tolist():
            cv2.circle(cell, (round(x), round(y)), 2, (0, 255, 0) if k == 0 else (255, 255, 0), -1)
    if mesh is not None:
        for x, y in (mesh[[v for k in MESH.values() for v in k], :2] * scale).tolist():
            cv2.circle(cell, (round(x), round(y)), 1, (255, 0, 0), -1)
    return cell


def main(arguments: list[str] | None = None) -> None:
    """Command line of the evaluation; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", help="folder whose held-out person_*.npz are measured")
    parser.add_argument("--count", type=int, default=60, help="scenes of each width")
    parser.add_argument("--photos", help="folder of real photos and clips")
    parser.add_argument("--tracker", help="folder of an independent tracker's ONNX files")
    parser.add_argument("--sheets", help="folder for overlays and aligned portraits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    net = load_align(options.checkpoint)
    graph = graph_of(net)
    table = {"parameters, million": sum(p.numel() for p in net.parameters()) / 1e6}
    if options.data:
        if not shards(Path(options.data), held_out=True):
            raise UsageError("no held-out persons", expected="person_1*.npz", got=options.data)
        scenes = Scenes(Path(options.data), options.seed, held_out=True)
        table |= tiles(graph, scenes, options.count)
        table |= photos(graph, scenes, options.count)
    if options.photos:
        table |= real(graph, options)
    if options.json:
        print(json.dumps(table, indent=1))
    else:
        wide = max(map(len, table))
        for name, value in table.items():
            print(f"{name:{wide}}  {value:8.2f}")


def real(graph: Graph, options: argparse.Namespace) -> dict[str, float]:
    """Faces found in each real picture and, with a tracker, how far its points are from ours."""
    track = tracker(Path(options.tracker)) if options.tracker else None
    table: dict[str, float] = {}
    cells = []
    for name, photo in pictures(Path(options.photos)):
        faces = find_faces(photo, graph)
        mesh = track(photo) if track else None
        table[f"{name}: faces"] = len(faces)
        if faces and mesh is not None:
            theirs = np.stack([mesh[list(v), :2].mean(0) for v in MESH.values()])
            ours = faces[0].landmarks[list(MESH)]
            ipd = float(np.linalg.norm(theirs[1] - theirs[0]))
            away = np.linalg.norm(ours - theirs, axis=1).mean() / ipd
            table[f"{name}: from the tracker, % IPD"] = 100 * float(away)
        aligned = align(photo, faces[0]) if faces else np.zeros((512, 512, 3), np.uint8)
        pair = [overlay(photo, faces, mesh), cv2.resize(aligned, (320, 320))]
        cells.append(np.concatenate(pair, 1))
    if options.sheets:
        out = Path(options.sheets)
        out.mkdir(parents=True, exist_ok=True)
        for k in range(0, len(cells), 12):
            part = cells[k : k + 12] + [np.zeros_like(cells[0])] * (-len(cells[k : k + 12]) % 3)
            rows = [np.concatenate(part[i : i + 3], 1) for i in range(0, len(part), 3)]
            page = np.concatenate(rows)[..., ::-1]
            cv2.imwrite(str(out / f"photos_{k // 12}.png"), page)
    return table


if __name__ == "__main__":
    main()
