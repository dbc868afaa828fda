"""A graph of a bundle, ready to run: hashed, compiled, and right on its golden tensors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .backends import Executable, Options, Signature, load_backend
from .bundle import Artifact, Bundle, Stage
from .cache import Cache, Key
from .errors import BackendError, BundleError
from .tensor import Array, TensorSpec, check_tensors

__all__ = ["CompiledGraph", "GoldenError", "Graph", "TensorSpec", "compare", "load_graph"]

_QUIET = 1e-3
"""Peak below which an output's error counts as if its peak were this."""


class GoldenError(BundleError):
    """A backend ran the golden inputs and gave something else."""


class Graph(Protocol):
    """What the pipeline sees of a stage."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name."""
        ...


@dataclass(frozen=True)
class Loading:
    """How a graph came up."""

    seconds: float
    """From reading the artifact to the golden output."""
    cached: bool
    """Whether the compiled graph came from the cache."""
    error: float
    """Largest golden error, relative to the output's peak; NaN when it was not checked."""
    note: str = ""
    """What went wrong without stopping the load, such as a cache that cannot be written."""


class CompiledGraph:
    """A stage compiled by one backend. Threads may share it; they wait for one another."""

    def __init__(
        self,
        stage: Stage,
        artifact: Artifact,
        backend: str,
        options: Options,
        executable: Executable,
        loading: Loading,
    ) -> None:
        self.stage, self.artifact = stage, artifact
        self.backend, self.options, self.loading = backend, options, loading
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self._executable = executable

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, the caller's own, for inputs by name.

        Raises UsageError on wrong names, element types or shapes, with expected and got.
        """
        ordered = check_tensors(self.stage.name, self.inputs, tensors)
        return _named(self.outputs, self._executable.run(ordered))

    def __str__(self) -> str:
        where = f"{self.stage.name}: {self.backend} {self.options.device}"
        source = "from cache" if self.loading.cached else "compiled"
        return f"{where} {self.artifact.precision}, {source} in {self.loading.seconds * 1e3:.0f} ms"


def _named(specs: tuple[TensorSpec, ...], values: list[Array]) -> dict[str, Array]:
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def compare(expected: Mapping[str, Array], got: Mapping[str, Array]) -> dict[str, float]:
    """Largest error of each output relative to its expected peak; infinite for any NaN."""
    errors = {}
    for name, want in expected.items():
        peak = max(float(np.abs(want).max()), _QUIET)
        error = float(np.abs(got[name] - want).max()) / peak
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors


def check_golden(bundle: Bundle, stage: Stage, artifact: Artifact, executable: Executable) -> float:
    """Run the golden inputs; the largest relative error. Raises GoldenError beyond tolerance."""
    inputs, expected = bundle.golden(stage)
    got = _named(stage.outputs, executable.run(list(inputs.values())))
    errors = compare(expected, got)
    worst = max(errors, key=lambda name: errors[name])
    tolerance = artifact.tolerance or stage.golden.tolerance
    if not errors[worst] <= tolerance:
        raise GoldenError(
            f"{bundle.path / artifact.file.file}: output {worst} differs from the golden one",
            expected=f"a relative error of at most {tolerance:g}",
            got=f"{errors[worst]:.3g}",
            fix="Try another --backend, or update the vendor's runtime.",
        )
    return errors[worst]


def load_graph(
    bundle: Bundle,
    stage: str,
    backend: str,
    *,
    device: str = "CPU",
    threads: int = 0,
    precision: str | None = None,
    cache: Cache | None = None,
) -> CompiledGraph:
    """Load a stage on one backend: SHA-256, compile, golden output, and only then seal the cache.

    ``precision`` picks an artifact, else the first that the backend reads; ``cache`` None keeps
    nothing. Raises BundleError when the artifact is damaged, GoldenError when its golden
    output is wrong, BackendError when the backend cannot run it.
    """
    start = time.perf_counter()
    part = bundle.stage(stage)
    vendor = load_backend(backend)
    artifact = _choose(part, vendor.FORMATS, precision, backend)
    model, weights = bundle.graph(artifact)
    options = Options(device, threads, artifact.precision)
    signature = Signature(part.inputs, part.outputs)
    if device not in (devices := vendor.devices()):
        raise BackendError(
            f"{backend} has no device {device} here", expected=" or ".join(devices), got=device
        )
    key = Key(
        "+".join(ref.sha256 for ref in artifact.files),
        backend,
        vendor.version(),
        vendor.describe(device),
        str(options),
    )

    def ready(executable: Executable, cached: bool) -> CompiledGraph:
        error = check_golden(bundle, part, artifact, executable)
        loading = Loading(time.perf_counter() - start, cached, error)
        return CompiledGraph(part, artifact, backend, options, executable, loading)

    if cache and (blob := cache.get(key)) is not None:
        try:
            return ready(vendor.restore(blob, signature, options), True)
        except Exception:  # of any type, the vendor's; compiling anew decides
            cache.discard(key)
    try:
        executable = vendor.compile(model, signature, options, weights)
    except BundleError as problem:
        raise BundleError(
            f"{bundle.path / artifact.file.file}: {problem.what}",
            expected=problem.expected,
            got=problem.got,
        ) from None
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        raise BackendError(
            f"{backend} cannot compile {artifact.file.file}",
            got=f"{type(problem).__name__}: {text}",
        ) from problem
    graph = ready(executable, False)
    if cache and (exported := executable.export()) is not None:
        graph.loading = replace(graph.loading, note=cache.put(key, exported))
    return graph


def _choose(
    stage: Stage, formats: tuple[str, ...], precision: str | None, backend: str
) -> Artifact:
    for artifact in stage.artifacts:
        if artifact.format in formats and precision in (None, artifact.precision):
            return artifact
    had = ", ".join(f"{a.format} {a.precision}" for a in stage.artifacts)
    raise BackendError(
        f"stage {stage.name} has no artifact for {backend}",
        expected=f"{' or '.join(formats)}{f' {precision}' if precision else ''}",
        got=had,
    )
