"""A GPU that is not there: tensors that compute on the CPU but behave as if they were elsewhere.

Within ``PretendGpu()`` tensors made with ``device="cuda"`` report that device, refuse to meet
tensors of the CPU (except scalars, as on real devices) and refuse to become numpy arrays. Code
that runs under it takes its GPU path and makes no mistake about devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda")


class Away(Tensor):
    """A tensor on the pretended GPU."""


class DeviceMistake(AssertionError):
    """What CUDA would have refused."""


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(_mapped(v, change) for v in values))
    if isinstance(values, (list, tuple)):
        return type(values)(_mapped(v, change) for v in values)
    if isinstance(values, dict):
        return {k: _mapped(v, change) for k, v in values.items()}
    if type(values).__module__ == "torch.return_types":
        return tuple(_mapped(v, change) for v in values)
    return values


def _here(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def _away(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Away)


def _is_gpu(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


class PretendGpu(TorchFunctionMode):
    """Context in which the device ``cuda`` exists; see the module."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(args[0], Away)
        if func == Tensor.device.__get__ and isinstance(args[0], Away):  # type: ignore[attr-defined]
            return GPU
        if func is Tensor.cpu:
            return _here(args[0])
        given = list(_tensors(args)) + list(_tensors(kwargs))
        away = any(isinstance(t, Away) for t in given)
        if func in (Tensor.numpy, Tensor.__array__) and away:
            raise DeviceMistake(f"{name}() of a tensor on the GPU")
        target = None
        if func is Tensor.to:
            target = next((a for a in args[1:] if isinstance(a, (str, torch.device))), None)
            target = kwargs.get("device", target)
        elif "device" in kwargs:
            target = kwargs["device"]
        elif away and any(not isinstance(t, Away) and t.dim() > 0 for t in given):
            raise DeviceMistake(f"{name}() of tensors on the GPU and on the CPU")
        if target is not None:
            away = _is_gpu(target)
            args = tuple("cpu" if _is_gpu(a) else a for a in args)
            if "device" in kwargs:
                kwargs["device"] = "cpu"
        out = func(*_mapped(args, _here), **_mapped(kwargs, _here))
        return _mapped(out, _away) if away else out
