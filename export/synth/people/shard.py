"""Write training shards: one file per synthetic person, with exact flow between its frames.

    python -m vivant.export.synth.people.shard --pack PACK --out DIR --people 0:200

Each ``person_NNNNNN.npz`` (uncompressed) holds, for F frames, K keypoints and P pairs:

``image`` (F, S, S, 3) uint8 RGB; ``motion`` (F, 63) float32, as rendered, resting face included;
``keypoints`` (F, K, 3) float32, frame fractions, z toward the camera; ``landmarks`` (F, 12, 2)
float32; ``segmentation`` (F, 128, 128) uint8; ``pairs`` (P, 2) int16 (driver, source);
``flow`` (P, 2, 128, 128) float16 backward flow in frame fractions; ``visible`` (P, 128, 128) uint8.
The first two frames look like portraits. A person's number alone decides everything about it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vivant.errors import UsageError
from vivant.export.synth.people import background, camera, flow, keypoints, light, motions
from vivant.export.synth.people import pack as asset
from vivant.export.synth.people import person as people
from vivant.export.synth.people.pack import Pack
from vivant.export.synth.people.render import Frame, Scene, reduced, render
from vivant.export.synth.people.sample import sample_person

CELLS = 128
"""Resolution of flow, visibility and segmentation."""
SOURCES = 3
"""Sources paired with each driver."""
HELD_OUT = 100_000
"""Numbers from here on are never trained on."""

Shard = dict[str, NDArray[np.generic]]


def render_size(size: int) -> int:
    """Size rendered before area reduction: an odd multiple of the cells, which so have a centre."""
    return CELLS * 3 if size <= 256 else CELLS * 5


def make_scene(
    pack: Pack, number: int, seed: int, size: int, device: torch.device | str = "cpu"
) -> tuple[Scene, np.random.Generator]:
    """A person, light, camera and background; ``size`` is the rendered size in pixels."""
    rng = np.random.default_rng([seed, number])
    traits = sample_person(rng, pack)
    person = people.build(pack, traits, device, texture=512 if size <= 512 else 1024)
    lamp = light.sample_light(rng)
    scene = Scene(
        person=person,
        camera=camera.sample_camera(rng, person),
        light=lamp,
        ambient=light.ambient_visibility(person),
        background=torch.tensor(background.sample_background(rng, size), device=device),
        size=size,
    )
    return scene, rng


def choose_pairs(count: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Each frame as driver with SOURCES others, one of the first two always among them."""
    pairs = []
    for driver in range(count):
        first = [k for k in (0, 1) if k != driver and k < count]
        chosen = [int(rng.choice(first))] if first else []
        rest = [k for k in range(count) if k != driver and k not in chosen]
        extra = min(len(rest), SOURCES - len(chosen))
        chosen += [int(k) for k in rng.choice(rest, extra, replace=False)]
        pairs += [(driver, source) for source in chosen]
    return np.array(pairs, np.int16)


def make_shard(
    pack: Pack, number: int, frames: int, size: int, seed: int, device: torch.device | str = "cpu"
) -> Shard:
    """Everything of one person, as described in the module."""
    scene, rng = make_scene(pack, number, seed, render_size(size), device)
    person = scene.person
    motion = np.stack([motions.sample_motion(rng, person.traits, k < 2) for k in range(frames)])
    rendered: list[Frame] = []
    points, images, labels = [], [], []
    for latent in motion:
        posed = person.pose(latent)
        frame = render(scene, posed)
        images.append(flow.to_bytes(reduced(frame.image, size)))
        points.append(scene.camera.fractions(person.keypoints(posed)).cpu().numpy())
        labels.append(flow.segmentation(person, frame, CELLS).cpu().numpy())
        rendered.append(frame)
    pairs = choose_pairs(frames, rng)
    flows, seen = [], []
    for driver, source in pairs:
        f, v = flow.surface_flow(person, rendered[driver], rendered[source], CELLS)
        flows.append(f.cpu().numpy().astype(np.float16))
        seen.append(v.cpu().numpy().astype(np.uint8))
    at = [keypoints.INDEX[name] for name in keypoints.LANDMARKS]
    located = np.stack(points).astype(np.float32)
    return {
        "image": np.stack(images),
        "motion": motion.astype(np.float32),
        "keypoints": located,
        "landmarks": located[:, at, :2],
        "segmentation": np.stack(labels),
        "pairs": pairs,
        "flow": np.stack(flows),
        "visible": np.stack(seen),
    }


def write_shard(shard: Shard, path: Path) -> None:
    """Write atomically: readers see the whole file or none."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as out:
        np.savez(out, **shard)  # type: ignore[arg-type]
    partial.replace(path)


def path_of(folder: Path, number: int) -> Path:
    return folder / f"person_{number:06d}.npz"


def _numbers(text: str) -> range:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(p.isdigit() for p in parts):
        raise UsageError(
            "--people is not a range", expected="START:STOP or START:STOP:STEP", got=text
        )
    return range(*(int(p) for p in parts))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pack", required=True, help="the asset pack (.npz)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the shards")
    parser.add_argument("--people", default="0:200", help="START:STOP[:STEP]")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, choices=(256, 512))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; each takes every nth")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(options.people)
    if options.workers > 1:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        split = [numbers[k :: options.workers] for k in range(options.workers)]
        crew = [context.Process(target=_work, args=(options, part)) for part in split]
        for worker in crew:
            worker.start()
        for worker in crew:
            worker.join()
        if any(worker.exitcode for worker in crew):
            raise SystemExit(1)
        return
    _work(options, numbers)


def _work(options: argparse.Namespace, numbers: range) -> None:
    """Write the missing shards of ``numbers``, telling progress on stderr."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # blurred light in full precision, as on the CPU
    pack = asset.load(options.pack)
    todo = [n for n in numbers if not path_of(options.out, n).exists()]
    start = time.perf_counter()
    for done, number in enumerate(todo, 1):
        shard = make_shard(pack, number, options.frames, options.size, options.seed, options.device)
        write_shard(shard, path_of(options.out, number))
        spent = time.perf_counter() - start
        rate = done * options.frames / spent
        left = (len(todo) - done) * spent / done
        print(
            f"person {number}: {done}/{len(todo)}, {rate:.2f} frames/s, {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
