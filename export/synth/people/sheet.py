"""Contact sheets: look at shards before training on them.

python -m vivant.export.synth.people.sheet DIR/person_*.npz --out sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from vivant.export.synth.people import flow as correspondence
from vivant.export.synth.people.pack import Array
from vivant.export.synth.people.shard import Shard

_COLOURS = np.array(
    [
        [40, 40, 40],
        [230, 180, 150],
        [110, 60, 30],
        [60, 110, 200],
        [250, 250, 250],
        [220, 40, 60],
        [240, 210, 40],
        [60, 200, 90],
    ],
    np.uint8,
)


def frames_row(shard: Shard, height: int = 256) -> np.ndarray:
    """All frames of a person side by side, (height, F * height, 3) uint8."""
    return np.concatenate(
        [
            cv2.resize(np.asarray(image), (height, height), interpolation=cv2.INTER_AREA)
            for image in shard["image"]
        ],
        1,
    )


def pair_row(shard: Shard, index: int, height: int = 256) -> np.ndarray:
    """Source, driver, source warped (unseen in magenta), flow, classes and keypoints."""
    driver, source = (int(k) for k in np.asarray(shard["pairs"])[index])
    size = (height, height)
    photo, wanted = (
        cv2.resize(np.asarray(shard["image"])[k], size, interpolation=cv2.INTER_AREA)
        for k in (source, driver)
    )
    flow = np.asarray(shard["flow"][index], np.float32)
    dense = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in flow])
    seen = cv2.resize(np.asarray(shard["visible"][index], np.uint8), size, interpolation=0) > 0
    tensor = torch.tensor(photo.astype(np.float32) / 255)
    warped = correspondence.to_bytes(correspondence.warp(tensor, torch.tensor(dense)))
    warped[~seen] = (255, 0, 255)
    hue = (np.arctan2(dense[1], dense[0]) + np.pi) * 90 / np.pi
    value = np.clip(np.hypot(*dense) * 2000, 0, 255)
    coded = np.stack([hue, np.full_like(hue, 255), value], -1).astype(np.uint8)
    labels = _COLOURS[np.asarray(shard["segmentation"])[driver]]
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    marked = wanted.copy()
    for x, y, _ in np.asarray(shard["keypoints"], np.float32)[driver] * height:
        cv2.circle(marked, (int(x), int(y)), 1, (0, 255, 0), -1)
    for x, y in np.asarray(shard["landmarks"], np.float32)[driver] * height:
        cv2.circle(marked, (int(x), int(y)), 2, (255, 0, 0), -1)
    parts = [photo, wanted, warped, cv2.cvtColor(coded, cv2.COLOR_HSV2RGB), labels, marked]
    return np.concatenate(parts, 1)


def warp_error(shard: Shard, index: int) -> tuple[float, float]:
    """PSNR (dB) of the warped source against the driver where visible, and without warping."""
    driver, source = (int(k) for k in np.asarray(shard["pairs"])[index])
    images: Array = np.asarray(shard["image"], np.float32) / 255
    size = images.shape[1]
    flow = np.asarray(shard["flow"][index], np.float32)
    dense = np.stack([cv2.resize(plane, (size, size)) for plane in flow])
    label = np.asarray(shard["segmentation"])[driver]
    mask = ((np.asarray(shard["visible"][index]) > 0) & (label > 0)).astype(np.uint8)
    mask = cv2.erode(cv2.resize(mask, (size, size), interpolation=0), np.ones((3, 3))) > 0
    warped = correspondence.warp(torch.tensor(images[source]), torch.tensor(dense)).numpy()
    errors = [((a - images[driver])[mask] ** 2).mean() for a in (warped, images[source])]
    warped_db, still_db = (float(-10 * np.log10(e + 1e-9)) for e in errors)
    return warped_db, still_db


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--pairs", action="store_true", help="show correspondence, not frames")
    parser.add_argument("--height", type=int, default=160)
    options = parser.parse_args(arguments)
    rows = []
    for path in options.shards:
        with np.load(path) as stored:
            shard: Shard = {k: stored[k] for k in stored.files}
        if not options.pairs:
            rows.append(frames_row(shard, options.height))
            continue
        for index in np.linspace(0, len(shard["pairs"]) - 1, 3).astype(int):
            rows.append(pair_row(shard, int(index), options.height))
            warped, still = warp_error(shard, int(index))
            print(f"{path.name} pair {index}: {warped:.1f} dB warped, {still:.1f} dB unwarped")
    cv2.imwrite(str(options.out), np.concatenate(rows, 0)[..., ::-1])


if __name__ == "__main__":
    main()
