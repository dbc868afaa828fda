"""Pictures of training: curves and sheets of samples."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vivant.export.nets.warp import composite


def picture(image: Tensor, size: int = 256) -> np.ndarray:
    """(3, h, w) or (1, h, w), 0..1 -> (size, size, 3) u8."""
    array = (image.detach().float().clamp(0, 1) * 255).byte().cpu().numpy().transpose(1, 2, 0)
    if array.shape[2] == 1:
        array = array.repeat(3, 2)
    array = np.ascontiguousarray(array)
    return cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write RGB u8 as PNG, whole or not at all."""
    part = path.with_name(path.stem + ".part.png")
    cv2.imwrite(str(part), image[..., ::-1])
    part.replace(path)


def sample_sheet(batch: dict[str, Tensor], show: dict[str, Tensor], rows: int = 6) -> np.ndarray:
    """Source, driver, composite, first-flow warp, occlusion, paint; one driver a row."""
    drivers = len(batch["motion"]) // len(batch["photo"])
    photo = batch["photo"].repeat_interleave(drivers, 0)
    nothing = torch.zeros_like(show["occlusion"])
    first = composite(photo, show["first"], nothing, show["paint"])
    lines = []
    for k in range(0, len(photo), max(1, len(photo) // rows)):
        cells = [photo[k], batch["target"][k], show["out"][k], first[k]]
        cells += [show["occlusion"][k], show["paint"][k]]
        lines.append(np.concatenate([picture(cell) for cell in cells], 1))
    return np.concatenate(lines[:rows], 0)


class Means:
    """Means of what the steps since the last row have logged, however many they are."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.count = 0

    def add(self, figures: Mapping[str, float | Tensor]) -> None:
        """Count one step's figures."""
        for name, figure in figures.items():
            self.sums[name] += float(figure)
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, which start anew."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums.clear()
        self.count = 0
        return means


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add one line to a CSV file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})


def plot_curves(table: Path, out: Path) -> None:
    """Draw every column of a CSV file over ``step``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "minutes")]
    columns = 4
    figure, axes = pyplot.subplots(-(-len(names) // columns), columns, figsize=(16, 9))
    steps = [float(row["step"]) for row in rows]
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(steps, [float(row[name]) for row in rows])
        axis.set_title(name)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=60)
    pyplot.close(figure)
