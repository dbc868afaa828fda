"""A changed motion network is judged by a whole recording: its errors feed on themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from vivant.bundle import Bundle
from vivant.cli import main as vivant
from vivant.errors import BundleError
from vivant.export.gate import COSINE
from vivant.graph import load_graph
from vivant.quant import moves
from vivant.quant.moves import CLOSED, Judge

Tensors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    """The tiny bundle."""
    return Bundle.open(bundle_path)


@pytest.fixture(scope="module")
def judge(bundle: Bundle) -> Judge:
    """A judge with two seconds of noise that comes and goes."""
    random = np.random.default_rng(5)
    loudness = np.repeat(random.random(20), 1600)
    return Judge(bundle, (random.standard_normal(32000) * 0.2 * loudness).astype(np.float32))


def test_the_same_network_on_another_backend_moves_the_same(bundle: Bundle, judge: Judge) -> None:
    """What is not changed passes with a cosine of one."""
    for stage in ("listen", "denoise"):
        figures = judge.check(stage, load_graph(bundle, stage, "openvino"))
        assert figures["motion_cosine"] > 0.999999
        assert figures["closed_change"] == 0


def test_a_small_error_that_adds_up_is_refused(bundle: Bundle, judge: Judge) -> None:
    """An error of each tick that a golden tensor would not show spoils the recording."""
    plain = load_graph(bundle, "listen", "onnxruntime")

    def leaky(tensors: Tensors) -> dict[str, np.ndarray]:
        out = plain(tensors)
        return {**out, "state_out": out["state_out"] + tensors["state"] * np.float32(0.2)}

    with pytest.raises(BundleError, match="moves the face otherwise"):
        judge.check("listen", leaky)


def test_a_stream_that_goes_elsewhere_is_refused(
    bundle: Bundle, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is right on the old past and leaves it by itself is not the same."""
    graph = load_graph(bundle, "denoise", "onnxruntime")
    assert judge.check("denoise", graph)["stream_cosine"] > 0.999999
    right = moves.motion
    monkeypatch.setattr(moves, "motion", lambda *given: right(*given)[::-1])
    with pytest.raises(BundleError, match="moves the face otherwise"):
        judge.check("denoise", graph)


def test_lips_that_never_close_are_refused(
    bundle: Bundle, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A motion that looks the same as a whole still has to close the lips as often."""
    shut = iter([np.zeros(10), np.linspace(0, 1, 10)])
    monkeypatch.setattr("vivant.quant.moves.aperture", lambda motion: next(shut))
    with pytest.raises(BundleError, match="closed lips"):
        judge.check("denoise", load_graph(bundle, "denoise", "onnxruntime"))


def test_compressing_a_network_that_moves_is_judged_and_says_so(
    bundle_path: Path, tmp_path: Path
) -> None:
    """``vivant compress`` runs the embedded sentence, and the manifest keeps what it found."""
    out = ["--out", str(tmp_path), "--formats", "onnx", "--stages", "denoise", "--replace"]
    assert vivant(["compress", "--bundle", str(bundle_path), *out]) == 0
    (artifact,) = Bundle.open(tmp_path).stage("denoise").artifacts
    assert artifact.precision == "w8"
    assert artifact.fidelity["motion_cosine"] >= COSINE
    assert artifact.fidelity["closed_change"] <= CLOSED
