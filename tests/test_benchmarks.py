"""Benchmarks measure every backend on the same work, and say so in ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import portrait

from vivant.benchmarks.pipeline import compare, table
from vivant.bundle import Bundle
from vivant.errors import BackendError


def test_every_backend_gets_a_row_relative_to_the_first(bundle_path: Path) -> None:
    """The same sound goes through each backend; the first one is the unit."""
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    backends = ["onnxruntime:CPU", "openvino:CPU"]
    rows = compare(Bundle.open(bundle_path), backends, portrait(), sound, rounds=1)
    assert [row.backend for row in rows] == backends
    assert rows[0].ratio == 1.0
    assert rows[1].ratio == pytest.approx(rows[1].fps / rows[0].fps)
    assert {"listen", "denoise", "render", "composite"} <= set(rows[0].stages_ms)
    assert len(table(rows).splitlines()) == 3


def test_no_usable_backend_is_an_error_with_reasons(bundle_path: Path) -> None:
    """A device that is not there is named, not replaced by another."""
    sound = np.zeros(800, np.float32)
    with pytest.raises(BackendError, match="CUDA"):
        compare(Bundle.open(bundle_path), ["onnxruntime:CUDA"], portrait(), sound)
