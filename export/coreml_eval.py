"""Evaluate a Core ML program operator by operator, on any machine.

Independent of the converter: it reads the saved protobuf (``coreml_program``) and computes what
the MIL operator set of macOS 14 says each operator means (coremltools 9.0's operator reference),
with PyTorch's arithmetic. Only the operators that our networks use are known.

Values that the program declares float16 are computed in float32 and, unless asked otherwise,
rounded to float16 after every operator, as on a device that keeps tensors in 16 bits and
accumulates in more. Devices differ from this by the order and width of accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vivant.errors import BundleError, UsageError
from vivant.export.coreml_program import Operation, Program
from vivant.tensor import Array

HALF_MAX = float(np.finfo(np.float16).max)
"""Largest finite float16, 65504."""


def evaluate(
    program: Program,
    feeds: Mapping[str, Array],
    *,
    half: bool = True,
    peaks: dict[str, float] | None = None,
) -> dict[str, Array]:
    """Outputs by name for inputs by name.

    ``half`` rounds float16 values after every operator; ``peaks``, when given, is filled with the
    largest magnitude of every float16 value. Raises UsageError for wrong inputs and BundleError
    for an operator that is not known or whose result has not the declared shape.
    """
    known: dict[str, Any] = dict(program.constants)
    if set(feeds) != {value.name for value in program.inputs}:
        raise UsageError(
            "wrong tensors for the Core ML program",
            expected=", ".join(value.name for value in program.inputs),
            got=", ".join(feeds),
        )
    for value in program.inputs:
        known[value.name] = torch.from_numpy(np.array(feeds[value.name], order="C"))
        _check(value.name, known[value.name], value.shape)
    with torch.no_grad():
        for op in program.operations:
            if op.kind not in OPERATORS:
                raise BundleError(f"unknown Core ML operator {op.kind}", got=op.name)
            got = OPERATORS[op.kind](Arguments(op, known))
            results = got if isinstance(got, tuple) else (got,)
            for value, result in zip(op.outputs, results, strict=True):
                _check(f"{op.kind} {value.name}", result, value.shape)
                if value.dtype == "float16":
                    if peaks is not None:
                        peaks[value.name] = float(result.abs().max())
                    result = result.half().float() if half else result.float()
                known[value.name] = result
    return {name: np.ascontiguousarray(known[name].numpy()) for name in program.outputs}


def _check(what: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise BundleError(
            f"{what} has another shape than declared", expected=str(shape), got=str(value.shape)
        )


@dataclass(frozen=True)
class Arguments:
    """Parameters of one operator, by the names that the operator set gives them."""

    op: Operation
    known: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.op.inputs

    def raw(self, key: str) -> Any:
        """A parameter as it is stored."""
        return self.known[self.op.inputs[key][0]]

    def tensor(self, key: str) -> Tensor:
        """A tensor; floating point ones as float32."""
        return _tensor(self.raw(key))

    def tensors(self, key: str) -> list[Tensor]:
        """The tensors of a list."""
        return [_tensor(self.known[name]) for name in self.op.inputs[key]]

    def ints(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """Whole numbers; ``default`` when the parameter is not given."""
        if default is not None and key not in self:
            return list(default)
        return [int(v) for v in np.atleast_1d(np.asarray(self.raw(key)))]

    def whole(self, key: str, default: int | None = None) -> int:
        """One whole number."""
        return default if default is not None and key not in self else self.ints(key)[0]

    def flags(self, key: str, count: int) -> list[bool]:
        """Truth values, all false when not given."""
        return [bool(v) for v in self.ints(key, [0] * count)]

    def flag(self, key: str, default: bool = False) -> bool:
        """One truth value."""
        return bool(self.whole(key, int(default)))

    def number(self, key: str, default: float | None = None) -> float:
        """One number."""
        if default is not None and key not in self:
            return default
        return float(np.asarray(self.raw(key)).reshape(-1)[0])

    def text(self, key: str) -> str:
        """One option's name."""
        return str(self.raw(key))

    def only(self, key: str, *allowed: str) -> str:
        """One option's name, which must be one that is implemented; raises BundleError."""
        value = self.text(key)
        if value not in allowed:
            raise BundleError(
                f"Core ML operator {self.op.kind}: unknown {key}",
                expected=" or ".join(allowed),
                got=value,
            )
        return value


def _tensor(value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    return tensor.float() if tensor.is_floating_point() else tensor


Result = Tensor | tuple[Tensor, ...]
DTYPES = {
    "fp16": torch.float32,  # rounded where the program declares it
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "uint16": torch.int32,
    "bool": torch.bool,
}


def cast(a: Arguments) -> Result:
    """Another element type."""
    return a.tensor("x").to(DTYPES[a.only("dtype", *DTYPES)])


def reshape(a: Arguments) -> Result:
    """0 keeps a size, -1 takes what is left."""
    x = a.tensor("x")
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(a.ints("shape"))])


def squeeze(a: Arguments) -> Result:
    """Drop axes of size one."""
    x = a.tensor("x")
    axes = a.ints("axes", [i for i, n in enumerate(x.shape) if n == 1])
    return x.squeeze(tuple(axes))


def expand_dims(a: Arguments) -> Result:
    """Insert axes of size one; axes count in the result."""
    x = a.tensor("x")
    rank = x.ndim + len(a.ints("axes"))
    for axis in sorted(n % rank for n in a.ints("axes")):
        x = x.unsqueeze(axis)
    return x


def slice_by_index(a: Arguments) -> Result:
    """Python's slice on every axis; a mask lets a bound go, ``squeeze_mask`` takes one index."""
    x = a.tensor("x")
    free = a.flags("begin_mask", x.ndim), a.flags("end_mask", x.ndim)
    steps, drop = a.ints("stride", [1] * x.ndim), a.flags("squeeze_mask", x.ndim)
    for axis in reversed(range(x.ndim)):
        begin, end = a.ints("begin")[axis], a.ints("end")[axis]
        if drop[axis]:
            x = x.select(axis, begin)
            continue
        span = slice(None if free[0][axis] else begin, None if free[1][axis] else end, steps[axis])
        at = torch.arange(x.shape[axis]).numpy()[span].copy()
        x = x.index_select(axis, torch.from_numpy(at))
    return x


def split(a: Arguments) -> Result:
    """Parts along an axis, by sizes or by number."""
    x, axis = a.tensor("x"), a.whole("axis")
    if "split_sizes" in a:
        return torch.split(x, a.ints("split_sizes"), axis)
    return torch.split(x, x.shape[axis] // a.whole("num_splits"), axis)


def concat(a: Arguments) -> Result:
    """Join along an axis."""
    if a.flag("interleave"):
        raise BundleError("Core ML operator concat: interleave is not known")
    return torch.cat(a.tensors("values"), a.whole("axis"))


def gather(a: Arguments) -> Result:
    """Elements of an axis by index, without batch axes."""
    x, index, axis = a.tensor("x"), a.tensor("indices").long(), a.whole("axis", 0)
    if a.whole("batch_dims", 0):
        raise BundleError("Core ML operator gather: batch_dims is not known")
    axis %= x.ndim
    flat = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def pad(a: Arguments) -> Result:
    """Constant padding, (before, after) for each of the last axes."""
    a.only("mode", "constant")
    pairs = np.reshape(a.ints("pad"), (-1, 2))[::-1].reshape(-1).tolist()
    return F.pad(a.tensor("x"), pairs, value=a.number("constant_val", 0.0))


def _padded(a: Arguments, x: Tensor, value: float = 0.0) -> Tensor:
    if a.only("pad_type", "custom", "valid") == "valid":
        return x
    return F.pad(x, np.reshape(a.ints("pad"), (-1, 2))[::-1].reshape(-1).tolist(), value=value)


def conv(a: Arguments) -> Result:
    """Convolution over the axes after the first two, ``weight`` (O, I/groups, ...)."""
    x, weight = _padded(a, a.tensor("x")), a.tensor("weight")
    ones = [1] * (weight.ndim - 2)
    run: Callable[..., Tensor] = {3: F.conv1d, 4: F.conv2d}[weight.ndim]
    return run(
        x,
        weight,
        a.tensor("bias") if "bias" in a else None,
        stride=a.ints("strides", ones),
        dilation=a.ints("dilations", ones),
        groups=a.whole("groups", 1),
    )


def avg_pool(a: Arguments) -> Result:
    """Mean over windows; padding counts as zeros, or not at all."""
    x, sizes = a.tensor("x"), (a.ints("kernel_sizes"), a.ints("strides"))
    mean = F.avg_pool2d(_padded(a, x), *sizes)
    if a.flag("exclude_padding_from_average"):
        mean = mean / F.avg_pool2d(_padded(a, torch.ones_like(x)), *sizes)
    return mean


def max_pool(a: Arguments) -> Result:
    """Largest value in each window; padding is never the largest."""
    x = _padded(a, a.tensor("x"), -math.inf)
    return F.max_pool2d(x, a.ints("kernel_sizes"), a.ints("strides"))


def linear(a: Arguments) -> Result:
    """x W^T + b."""
    return F.linear(a.tensor("x"), a.tensor("weight"), a.tensor("bias") if "bias" in a else None)


def matmul(a: Arguments) -> Result:
    """Batched matrix product."""
    x, y = a.tensor("x"), a.tensor("y")
    x = x.transpose(-1, -2) if a.flag("transpose_x") else x
    return x @ (y.transpose(-1, -2) if a.flag("transpose_y") else y)


def layer_norm(a: Arguments) -> Result:
    """Zero mean, unit variance over ``axes``, then scale and shift."""
    x, axes = a.tensor("x"), a.ints("axes")
    centred = x - x.mean(axes, keepdim=True)
    x = centred / torch.sqrt((centred**2).mean(axes, keepdim=True) + a.number("epsilon", 1e-5))
    x = x * a.tensor("gamma") if "gamma" in a else x
    return x + a.tensor("beta") if "beta" in a else x


def upsample_bilinear(a: Arguments) -> Result:
    """Resize by factors; unless corners are aligned, pixel centres lie at half pixels."""
    x, corners = a.tensor("x"), a.flag("align_corners", True)
    if not corners and not a.flag("half_pixel_centers", True):
        raise BundleError("Core ML operator upsample_bilinear: these pixel centres are not known")
    size = (
        int(x.shape[2] * a.number("scale_factor_height", 1.0)),
        int(x.shape[3] * a.number("scale_factor_width", 1.0)),
    )
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)


def upsample_nearest(a: Arguments) -> Result:
    """Repeat rows and columns."""
    x = a.tensor("x")
    for axis, key in ((2, "scale_factor_height"), (3, "scale_factor_width")):
        x = x.repeat_interleave(int(a.number(key, 1.0)), axis)
    return x


def resample(a: Arguments) -> Result:
    """Bilinear samples of ``x`` (B, C, H, W) at ``coordinates`` (B, h, w, 2), x then y, border.

    -1 and 1 are the image's edges, or the centres of its corner pixels with ``align_corners``.
    """
    a.only("sampling_mode", "bilinear")
    a.only("coordinates_mode", "normalized_minus_one_to_one")
    padding = {"border": "border", "constant": "zeros"}[
        a.only("padding_mode", "border", "constant")
    ]
    if padding == "zeros" and a.number("padding_value"):
        raise BundleError("Core ML operator resample: only zeros are known outside")
    return F.grid_sample(
        a.tensor("x"),
        a.tensor("coordinates"),
        mode="bilinear",
        padding_mode="border",
        align_corners=a.flag("align_corners"),
    )


def select(a: Arguments) -> Result:
    """``a`` where ``cond``, else ``b``."""
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Result]:
    return lambda a: function(a.tensor("x"))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments], Result]:
    return lambda a: function(a.tensor("x"), a.tensor("y"))


def _reduce(function: Callable[..., Tensor]) -> Callable[[Arguments], Result]:
    def run(a: Arguments) -> Result:
        x = a.tensor("x")
        axes = a.ints("axes", list(range(x.ndim)))
        return function(x, dim=axes, keepdim=a.flag("keep_dims"))

    return run


OPERATORS: dict[str, Callable[[Arguments], Result]] = {
    "abs": _unary(torch.abs),
    "add": _binary(torch.add),
    "avg_pool": avg_pool,
    "cast": cast,
    "clip": lambda a: a.tensor("x").clamp(a.number("alpha"), a.number("beta")),
    "concat": concat,
    "conv": conv,
    "cos": _unary(torch.cos),
    "exp": _unary(torch.exp),
    "expand_dims": expand_dims,
    "fill_like": lambda a: torch.full_like(a.tensor("ref_tensor"), a.number("value", 0.0)),
    "gather": gather,
    "identity": _unary(torch.clone),
    "inverse": lambda a: 1 / (a.tensor("x") + a.number("epsilon", 1e-4)),
    "layer_norm": layer_norm,
    "leaky_relu": lambda a: F.leaky_relu(a.tensor("x"), a.number("alpha", 0.01)),
    "linear": linear,
    "matmul": matmul,
    "max_pool": max_pool,
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mul": _binary(torch.mul),
    "pad": pad,
    "pixel_shuffle": lambda a: F.pixel_shuffle(a.tensor("x"), a.whole("upscale_factor")),
    "pow": _binary(torch.pow),
    "real_div": _binary(torch.div),
    "reduce_max": _reduce(torch.amax),
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(torch.sum),
    "relu": _unary(F.relu),
    "resample": resample,
    "reshape": reshape,
    "rsqrt": lambda a: torch.rsqrt(a.tensor("x") + a.number("epsilon", 1e-12)),
    "select": select,
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(F.silu),
    "sin": _unary(torch.sin),
    "slice_by_index": slice_by_index,
    "softmax": lambda a: torch.softmax(a.tensor("x"), a.whole("axis", -1)),
    "split": split,
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "squeeze": squeeze,
    "stack": lambda a: torch.stack(a.tensors("values"), a.whole("axis")),
    "sub": _binary(torch.sub),
    "tanh": _unary(torch.tanh),
    "tile": lambda a: a.tensor("x").repeat(a.ints("reps")),
    "transpose": lambda a: a.tensor("x").permute(a.ints("perm")),
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest,
}
"""What each known operator computes."""
