"""Which backend runs which stage: an explicit ladder, climbed down until one is right."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from .backends import BACKENDS
from .bundle import Bundle
from .cache import Cache
from .errors import BackendError, BundleError, UsageError, VivantError
from .graph import CompiledGraph, GoldenError, load_graph


def ladder(system: str) -> tuple[str, ...]:
    """Backends and devices in the order in which they are tried when none is asked for.

    On a Mac, Core ML alone has the GPU and the Neural Engine.
    """
    rungs = ("openvino:CPU", "onnxruntime:CPU")
    return ("coreml:ALL", *rungs) if system == "darwin" else rungs


LADDER = ladder(sys.platform)
"""This system's."""


def candidates(preference: str | None) -> tuple[tuple[str, str], ...]:
    """Pairs of backend and device to try for a preference such as ``onnxruntime``.

    ``openvino:GPU`` asks for a device too; None or ``auto`` is the ladder. What was asked for is
    never replaced by something else. Raises UsageError for an unknown backend.
    """
    asked = LADDER if preference in (None, "", "auto") else (str(preference),)
    pairs = []
    for name in asked:
        backend, _, device = name.partition(":")
        if backend not in BACKENDS:
            raise UsageError(
                "unknown backend",
                expected=" or ".join(("auto", *BACKENDS)) + ", with :DEVICE if need be",
                got=repr(preference),
            )
        pairs.append((backend, device or "CPU"))
    return tuple(pairs)


@dataclass
class Plan:
    """Loads stages by preference, and remembers what was loaded and what was turned down."""

    backend: str | None = None
    """As in ``candidates``."""
    threads: int = 0
    """Threads a graph may use; 0: the vendor's choice."""
    precision: str | None = None
    """Precision of the artifacts; None: the bundle's first choice."""
    cache: Cache | None = field(default_factory=Cache)
    """Where compiled graphs are kept; None keeps nothing."""
    loaded: dict[str, CompiledGraph] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    """Why candidates were passed over before another one worked: one line for each reason."""

    def load(self, bundle: Bundle, stage: str) -> CompiledGraph:
        """The stage on the first candidate that compiles it and gives its golden output.

        Raises BundleError when the bundle lacks the stage or its files are damaged. When none
        works, one error has every candidate's reason: BundleError when each of them gave a wrong
        output, else BackendError.
        """
        failures: list[VivantError] = []
        lines = []
        for backend, device in candidates(self.backend):
            try:
                graph = load_graph(
                    bundle,
                    stage,
                    backend,
                    device=device,
                    threads=self.threads,
                    precision=self.precision,
                    cache=self.cache,
                )
            except (BackendError, GoldenError) as error:
                failures.append(error)
                lines.append(f"{backend}:{device}: {error}")
                continue
            self.rejected += [line for line in lines if line not in self.rejected]
            self.loaded[stage] = graph
            return graph
        wrong = all(isinstance(failure, GoldenError) for failure in failures)
        asked = self.backend not in (None, "", "auto")
        raise (BundleError if wrong else BackendError)(
            f"no backend can run stage {stage}",
            got=" | ".join(lines),
            fix="See what this machine has with: vivant devices"
            if asked
            else "Run: pip install --upgrade openvino",
        )

    def load_all(self, bundle: Bundle, stages: Iterable[str]) -> dict[str, CompiledGraph]:
        """Several stages by name."""
        return {name: self.load(bundle, name) for name in stages}

    def lines(self) -> list[str]:
        """What runs where, and what was turned down, for people."""
        return [*map(str, self.loaded.values()), *(f"turned down {line}" for line in self.rejected)]
