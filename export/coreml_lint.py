"""What in a Core ML program would leave the Neural Engine, run slowly there, or leave fp16.

Apple documents no operator set of the Neural Engine; what is known was measured by others, and
each rule names its source. A program without findings is likely, not certain, to stay there:
Core ML decides on the device, by the cost of each switch as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vivant.export.coreml_eval import HALF_MAX
from vivant.export.coreml_program import Operation, Program, Value

OPERATORS = "S. Bryngelson, ane-guide, appendix A (measured on M1, M2, M5)"
SHAPES = "S. Bryngelson, ane-guide, chapter 17 (measured on M1)"
TYPES = f"{SHAPES}, data types"
ISSUES = "coremltools issues 1875 and 2299"
LAYERS = "M. Hollemans, neural-engine, unsupported-layers.md"
LAYOUT = "Apple, Deploying Transformers on the Apple Neural Engine, 2022"
NUMBERS = "IEEE 754 binary16"

CHIPS = ("M1", "M2", "M3", "M4")
"""Generations of the Neural Engine in Macs; A14 is the M1's, A15 the M2's, and so on."""

NEVER = frozenset(
    "acos acosh asin asinh atanh band_part cosh gru logical_and logical_or logical_xor lstm mod "
    "non_zero one_hot random_bernoulli random_categorical random_normal reduce_prod "
    "reverse_sequence rnn scatter scatter_along_axis scatter_nd shape sinh sliding_windows tan "
    "cond while_loop list_read list_write non_maximum_suppression range_1d".split()
)
"""Operators without a path on any generation."""

SINCE = {
    "affine": "M2",
    "argsort": "M2",
    "cos": "M3",
    "crop_resize": "M2",
    "gather_nd": "M2",
    "reduce_argmin": "M3",
    "resample": "M2",
    "sin": "M3",
    "topk": "M2",
}
"""First generation that runs an operator."""

SIDE, CHANNELS, RANK, KERNEL, ON_CHIP = 16384, 65536, 5, 13, 2 << 20
"""Limits: width and height; channels; axes; kernel width in fp16; bytes that stay on the chip."""
FACTORS = (2, 3, 4, 8)
"""Factors of pixel_shuffle that the engine has."""
ALIGNED = 64
"""Bytes to a multiple of which the last axis is padded."""
LARGE = 1 << 16
"""Elements from which padding is worth a remark."""

LEVELS = {
    "off": "leaves the Neural Engine",
    "doubtful": "reported to leave it, or known to only on some systems",
    "range": "leaves the range of fp16",
    "slow": "stays, but costs more than it need",
}
"""Kinds of findings, worst first."""


@dataclass(frozen=True)
class Finding:
    """One rule that one operator breaks."""

    level: str
    """One of LEVELS."""
    kind: str
    """The operator's type."""
    name: str
    """Name of its first output."""
    rule: str
    source: str


def lint(
    program: Program, *, chip: str = "M1", peaks: Mapping[str, float] | None = None
) -> list[Finding]:
    """Findings for one generation of CHIPS, in the program's order.

    ``peaks`` are magnitudes by value name, as ``evaluate(..., half=False, peaks=...)`` fills them
    in on real inputs.
    """
    edge = {value.name for value in program.inputs} | set(program.outputs)
    findings = []
    for op in program.operations:
        # Inputs and outputs are float32 by our contract; Core ML casts them at the border.
        border = op.kind == "cast" and bool(edge & {op.name, *op.inputs["x"]})
        for level, rule, source in _rules(program, op, chip, border):
            findings.append(Finding(level, op.kind, op.name, rule, source))
        for value in op.outputs:
            if peaks and peaks.get(value.name, 0.0) > HALF_MAX:
                rule = f"values up to {peaks[value.name]:.3g} overflow"
                findings.append(Finding("range", op.kind, op.name, rule, NUMBERS))
    return findings


def _rules(
    program: Program, op: Operation, chip: str, border: bool
) -> Iterator[tuple[str, str, str]]:
    if op.kind in NEVER:
        yield "off", "no path on any generation", OPERATORS
    since = SINCE.get(op.kind, CHIPS[0])
    if CHIPS.index(since) > CHIPS.index(chip):
        yield "off", f"needs {since} or later", OPERATORS
    elif op.kind == "resample":
        yield "doubtful", "seen on the CPU on M1 and M2 (macOS 13 to 15)", ISSUES
    if op.kind == "gather":
        yield "doubtful", "seen to leave the engine; on M1 only for a batch of one", LAYERS
    if op.kind == "pixel_shuffle" and _number(program, op, "upscale_factor") not in FACTORS:
        yield "off", f"factor other than {FACTORS}", OPERATORS
    if op.kind == "conv":
        weight = program.constants.get(op.inputs["weight"][0])
        if weight is None:
            yield "doubtful", "weights are computed", OPERATORS
        elif weight.shape[-1] > KERNEL:
            yield "off", f"kernel wider than {KERNEL}", SHAPES
    for value in () if border else op.outputs:
        yield from _value_rules(value)
    for name in (name for names in op.inputs.values() for name in names):
        constant = program.constants.get(name)
        if not isinstance(constant, np.ndarray) or constant.dtype != np.float16:
            continue
        if not np.isfinite(constant).all():
            yield "range", "a constant overflows", NUMBERS


def _value_rules(value: Value) -> Iterator[tuple[str, str, str]]:
    shape = value.shape
    if value.dtype != "float16":
        yield "off", f"{value.dtype} result: the engine computes in float16", TYPES
    if min(shape, default=1) < 0:
        yield "off", "size not known before it runs", SHAPES
        return
    if len(shape) > RANK:
        yield "off", f"more than {RANK} axes", SHAPES
    if max(shape[-2:], default=1) > SIDE or max(shape[:-2], default=1) > CHANNELS:
        yield "off", f"an axis of more than {SIDE} ({CHANNELS} for channels)", SHAPES
    count = math.prod(shape)
    if 2 * count > ON_CHIP:
        yield "slow", "result of more than 2 MiB goes through memory", SHAPES
    if count >= LARGE and 2 * shape[-1] % ALIGNED:
        yield "slow", f"last axis is padded to {ALIGNED} bytes", LAYOUT


def _number(program: Program, op: Operation, key: str) -> int:
    return int(np.asarray(program.constants[op.inputs[key][0]]))


def table(program: Program, findings: list[Finding]) -> str:
    """The findings for people: by level, operator and rule, with counts and sources."""
    off = {finding.name for finding in findings if finding.level == "off"}
    lines = [f"{len(program.operations)} operators, {len(off)} off the Neural Engine"]
    for level, meaning in LEVELS.items():
        groups: dict[tuple[str, str, str], int] = {}
        for f in findings:
            if f.level == level:
                key = (f.kind, f.rule, f.source)
                groups[key] = groups.get(key, 0) + 1
        if groups:
            lines.append(f"{level}: {meaning}")
        for (kind, rule, source), count in sorted(groups.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:4} {kind:18} {rule}  [{source}]")
    return "\n".join(lines)
