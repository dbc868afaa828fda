"""The report as a picture: one line an artifact, one panel a question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivant.errors import OutputError, UsageError

if TYPE_CHECKING:
    from vivant.benchmarks.report import Row

INK, SOFT, GRID = "#1f2430", "#667085", "#e4e7ec"
COLOURS = {"onnxruntime": "#2f6fb0", "openvino": "#e08a2c", "coreml": "#6b7280"}
"""Of backends."""
FORMATS = {"onnx": "#2f6fb0", "openvino": "#e08a2c", "coreml": "#6b7280"}
QUALITY = (38.0, 50.0)
"""Decibels asked of INT8 frames, and of 16 bits."""
PLACES = (0.0, 0.36, 0.68)
"""Columns of the last panel."""
MOST = 4.0
"""Longest bar of the speed, times floating point."""
LINE, HEAD = 0.34, 1.55
"""Inches of a row, and of everything above and below the rows."""


def check(path: Path) -> None:
    """Refuse early what could not be drawn in the end; UsageError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--png needs matplotlib, which is not installed", fix="Run: pip install matplotlib"
        ) from None
    if path.suffix.lower() != ".png":
        raise UsageError("--png is no PNG", expected="a name ending in .png", got=path.name)


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write the picture; raises OutputError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = _heights(rows)
    with pyplot.rc_context({"font.size": 9, "font.family": "DejaVu Sans", "text.color": INK}):
        figure, panels = pyplot.subplots(
            1,
            5,
            figsize=(15, HEAD + LINE * (heights[-1] + 1)),
            width_ratios=[2.5, 2, 3, 3.4, 3.4],
            sharey=True,
        )
        for panel in panels:
            _clear(panel, rows, heights)
        _names(panels[0], rows, heights)
        _sizes(panels[1], rows, heights)
        _fidelity(panels[2], rows, heights)
        _speed(panels[3], rows, heights)
        _places(panels[4], rows, heights)
        panels[0].set_ylim(heights[-1] + 0.6, -0.9)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold")
        figure.tight_layout(rect=(0, 0, 1, 0.99), w_pad=1.2)
        try:
            figure.savefig(path, dpi=130, facecolor="white")
        except OSError as error:
            raise OutputError(f"cannot write {path}", got=str(error)) from None
        finally:
            pyplot.close(figure)


def _heights(rows: Sequence[Row]) -> list[float]:
    """A place for each row, with a gap between stages."""
    places, at = [], 0.0
    for index, row in enumerate(rows):
        if index:
            at += 1.0 if rows[index - 1].stage == row.stage else 1.7
        places.append(at)
    return places


def _clear(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)
    panel.tick_params(left=False, labelleft=False, length=0, colors=SOFT)
    for index in range(1, len(rows)):
        if rows[index].stage != rows[index - 1].stage:
            panel.axhline((heights[index] + heights[index - 1]) / 2, color=GRID, linewidth=1)


def _head(panel: Any, text: str, x: float = 0.0) -> None:
    panel.text(x, 1.01, text, fontsize=9, color=SOFT, transform=panel.transAxes)


def _names(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    panel.set_xlim(0, 1)
    panel.set_xticks([])
    _head(panel, "stage, format, precision")
    for index, (row, y) in enumerate(zip(rows, heights, strict=True)):
        if not index or rows[index - 1].stage != row.stage:
            panel.text(0, y, row.stage, va="center", fontweight="bold", fontsize=10)
        panel.text(0.36, y, row.format, va="center", color=FORMATS[row.format])
        panel.text(0.76, y, row.precision, va="center", family="DejaVu Sans Mono")


def _sizes(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    sizes = [row.bytes / 1e6 for row in rows]
    panel.barh(heights, sizes, height=0.62, color="#c3cad6")
    panel.set_xlim(0, 1.3 * max(sizes))
    panel.set_xticks([])
    _head(panel, "size, MB")
    for size, y in zip(sizes, heights, strict=True):
        panel.text(size, y, f" {size:.2f}", va="center")


def _fidelity(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    _head(panel, "worst output vs fp32, dB  ◆ composed frame")
    top = max([80.0, *(row.psnr_db or 0 for row in rows), *(r.frame_psnr_db or 0 for r in rows)])
    panel.set_xlim(20, top + 0.28 * (top - 20))
    for bar in QUALITY:
        panel.axvline(bar, color=GRID, linewidth=1.2, zorder=0)
    panel.set_xticks(QUALITY, [f"{bar:g}" for bar in QUALITY])
    for row, y in zip(rows, heights, strict=True):
        value = row.psnr_db
        if value is None:
            made = row.recorded.get("psnr_db")
            text = "not measured here" if made is None else f"{made:.1f} when it was made"
            panel.text(21, y, text, va="center", color=SOFT, style="italic")
            continue
        low = max(value, 20)
        panel.plot([20, low], [y, y], color="#8fb8a3", linewidth=2.5, solid_capstyle="butt")
        panel.plot(low, y, "o", color="#2e7d5b", markersize=6)
        right, text = low, f"{value:.1f}"
        if row.frame_psnr_db is not None:
            panel.plot(row.frame_psnr_db, y, "D", color="#2e7d5b", markersize=5)
            right, text = max(low, row.frame_psnr_db), f"{text}  ◆ {row.frame_psnr_db:.1f}"
        if row.motion is not None:
            text += f"  cos {row.motion:.4f}" if row.motion < 0.99995 else "  cos 1"
        panel.text(right, y, f"  {text}", va="center")


def _speed(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    _head(panel, "times as fast as floating point, same backend")
    ratios = [run.ratio or 0 for row in rows for run in row.runs.values()]
    most = min(MOST, max([1.5, *ratios]))
    panel.set_xlim(0, 1.75 * most)
    panel.axvline(1, color=GRID, linewidth=1.2, zorder=0)
    panel.axvline(2, color=GRID, linewidth=1.2, zorder=0)
    panel.set_xticks([1, 2], ["1×", "2×"])
    shown: dict[str, Any] = {}
    for row, y in zip(rows, heights, strict=True):
        if not row.runs:
            panel.text(0, y, " not run here", va="center", color=SOFT, style="italic")
        thick = 0.74 / max(1, len(row.runs))
        for index, (where, run) in enumerate(row.runs.items()):
            at = y + (index - (len(row.runs) - 1) / 2) * thick
            ratio = min(MOST, run.ratio or 0)
            bar = panel.barh(
                at, ratio, height=thick * 0.86, color=COLOURS[where.partition(":")[0]], alpha=0.85
            )
            shown.setdefault(where, bar)
            text = f" {run.ratio:.2f}×  {run.ms:.2f} ms" if run.ratio else f" {run.ms:.2f} ms"
            panel.text(ratio, at, text, va="center", fontsize=9 if len(row.runs) == 1 else 7.5)
    if shown:
        panel.legend(
            shown.values(),
            shown.keys(),
            loc="upper left",
            bbox_to_anchor=(-0.02, 0, 1, 0),
            borderaxespad=2.2,
            ncols=len(shown),
            frameon=False,
            fontsize=8,
        )


def _places(panel: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    panel.set_xlim(0, 1)
    panel.set_xticks([])
    for x, text in zip(PLACES, ("runs here", "Intel NPU", "Apple Neural Engine"), strict=True):
        _head(panel, text, x)
    for row, y in zip(rows, heights, strict=True):
        here = "yes" if row.runs else _short(next(iter(row.reasons.values()), "no"))
        npu, ane = (value.partition(": ")[0] for value in (row.npu, row.ane))
        colour = "#2e7d5b" if row.runs else SOFT
        cells = (here, "" if npu == "-" else npu, "" if ane == "-" else ane)
        for x, text in zip(PLACES, cells, strict=True):
            panel.text(x, y, text, va="center", fontsize=8.5, color=INK if x else colour)


def _short(reason: str) -> str:
    """What was expected, which is what a reader can do something about."""
    _, _, expected = reason.partition("expected ")
    return f"no: {(expected.partition(';')[0] or reason)[:24]}"
