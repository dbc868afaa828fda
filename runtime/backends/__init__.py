"""Backends: each vendor in one file, imported when it is tried, behind the smallest protocol."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from ..errors import BackendError, BundleError
from ..tensor import Array, TensorSpec

BACKENDS = {
    "coreml": "vivant.backends.coreml",
    "openvino": "vivant.backends.ov",
    "onnxruntime": "vivant.backends.ort",
}
"""Module of each backend, in the order in which they are tried."""


@dataclass(frozen=True)
class Signature:
    """The tensors of a graph, in the order in which ``run`` takes and gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Options:
    """How a graph is compiled."""

    device: str = "CPU"
    threads: int = 0
    """0: the vendor's choice."""
    precision: str = "fp32"
    """Precision of the artifact; a backend never computes in less unless the artifact says so."""


class Executable(Protocol):
    """A compiled graph of one vendor; several threads may call it."""

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        """Outputs for ``tensors``, both in the signature's order; outputs are the caller's own."""
        ...

    def export(self) -> bytes | None:
        """The compiled graph for ``restore``, or None where nothing is worth keeping."""
        ...


class Backend(Protocol):
    """What a backend's module holds. Every function may raise any exception of its vendor."""

    FORMATS: tuple[str, ...]
    """Formats of artifacts that it reads."""
    PACKAGE: str
    """What pip installs."""

    def version(self) -> str:
        """The vendor's version; ImportError when not installed, BackendError when never here."""
        ...

    def devices(self) -> tuple[str, ...]:
        """Devices of this machine that it can use."""
        ...

    def describe(self, device: str) -> str:
        """Full name of a device, for people and for the cache's key."""
        ...

    def compile(
        self, model: bytes, signature: Signature, options: Options, weights: bytes = b""
    ) -> Executable:
        """Compile an artifact; raises when any part would run elsewhere than asked.

        ``weights`` is the second file of the formats that have one.
        Raises BundleError when the artifact has not the signature's tensors.
        """
        ...

    def restore(self, blob: bytes, signature: Signature, options: Options) -> Executable:
        """The executable that ``export`` gave; ``blob`` must be known to be whole."""
        ...


def match(
    kind: str, specs: Sequence[TensorSpec], ports: Sequence[tuple[set[str], str, tuple[int, ...]]]
) -> list[int]:
    """For each spec, the index of the port (names, dtype, shape) that has its name.

    Raises BundleError unless every spec has one port of its dtype and shape, and no port is left.
    """
    order = []
    for spec in specs:
        found = [i for i, (names, _, _) in enumerate(ports) if spec.name in names]
        if len(found) != 1 or ports[found[0]][1:] != (spec.dtype, spec.shape):
            got = [f"{'|'.join(sorted(n))} {d} {s}" for n, d, s in ports]
            raise BundleError(f"the graph's {kind} differ", expected=str(spec), got=", ".join(got))
        order += found
    if sorted(order) != list(range(len(ports))):
        raise BundleError(
            f"the graph's {kind} differ", expected=f"{len(specs)}", got=f"{len(ports)}"
        )
    return order


def load_backend(name: str) -> Backend:
    """The backend called ``name``; BackendError when it is unknown, not for here, not installed."""
    if name not in BACKENDS:
        raise BackendError("unknown backend", expected=" or ".join(BACKENDS), got=repr(name))
    backend = cast(Backend, importlib.import_module(BACKENDS[name]))
    try:
        backend.version()
    except ImportError as error:
        raise BackendError(
            f"{name} is not installed",
            got=str(error),
            fix=f"Run: pip install {backend.PACKAGE}",
        ) from None
    return backend
