"""An artifact leaves the exporter only when the runtime computes with it what torch computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_bundle import tiny_head, write_tiny_bundle
from torch import Tensor, nn

from vivant import latent
from vivant.backends import Options, Signature, load_backend
from vivant.bundle import MANIFEST, Bundle
from vivant.controls import CONDITIONS
from vivant.errors import BundleError, PhotoError, UsageError
from vivant.export import examples, gate, to_onnx, write
from vivant.export.gate import psnr
from vivant.export.to_onnx import (
    convert,
    fold_constants,
    halve_constants,
    rounded,
    serialise,
    to_stage,
)
from vivant.graph import compare, load_graph
from vivant.tensor import TensorSpec


class Listen(nn.Module):
    """A small ``listen``: enough operators to go wrong, weights that 16 bits hold exactly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hear = nn.Linear(256, 32)
        self.keep = nn.Linear(8, 32)
        self.out = nn.Linear(32, 16)
        with torch.no_grad():
            for weights in self.parameters():
                weights.copy_(weights.half().float())

    def forward(self, mel: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 4, 64), (1, 8) -> (1, 8), (1, 8)."""
        x = self.out(nn.functional.silu(self.hear(mel.flatten(1)) + self.keep(state)))
        return x[:, :8], torch.tanh(x[:, 8:])


class Denoise(nn.Module):
    """A small ``denoise``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.see = nn.Linear(126 + 126 + 2 + 8 + 16 + 1, 126)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See the stage."""
        noisy, previous, time, audio, conditions, cache, history = inputs
        x = torch.cat([noisy, previous, time, audio, conditions, history], 1)
        fresh = (previous[:, :12] + cache.mean()).reshape(1, 2, 1, 6)
        return self.see(x), torch.cat([cache[:, :, 1:], fresh], 2)


def inputs(seed: int) -> dict[str, Any]:
    """Inputs of ``listen``."""
    random = np.random.default_rng(seed)
    return {
        "mel": random.standard_normal((1, 4, 64)).astype(np.float32),
        "state": random.standard_normal((1, 8)).astype(np.float32),
    }


EXAMPLES = [inputs(0), inputs(1)]


@pytest.fixture(scope="module")
def full() -> write.StageData:
    """The small network with weights in 32 bits."""
    return to_stage("listen", Listen(), EXAMPLES, write.UNITS, precision="fp32")


@pytest.fixture(scope="module")
def half() -> write.StageData:
    """The small network with weights in 16 bits."""
    return to_stage("listen", Listen(), EXAMPLES, write.UNITS)


def test_the_artifact_is_the_network(full: write.StageData, tmp_path: Path) -> None:
    """Written, read back and run by each backend, it gives what torch gives on new inputs."""
    bundle = write.write_bundle(tmp_path / "bundle", {"listen": full}, tiny_head())
    new = inputs(2)
    with torch.no_grad():
        audio, state = Listen()(torch.from_numpy(new["mel"]), torch.from_numpy(new["state"]))
    expected = {"audio": audio.numpy(), "state_out": state.numpy()}
    for backend in ("onnxruntime", "openvino"):
        got = load_graph(bundle, "listen", backend)(new)
        assert max(compare(expected, got).values()) < 1e-5
    figures = bundle.stage("listen").artifacts[0].fidelity
    assert min(figures.values()) == figures["psnr_db"] > 100


def test_half_the_size_and_the_same_arithmetic(
    full: write.StageData, half: write.StageData
) -> None:
    """16-bit weights halve the file; where 16 bits hold the weights, results stay fp32's."""
    assert len(half.artifacts[0].data) < 0.6 * len(full.artifacts[0].data)
    assert half.artifacts[0].fidelity["psnr_db"] > 100


def test_the_same_network_is_the_same_bytes(half: write.StageData) -> None:
    """A second export, after others, gives the same file and the same golden tensors."""
    again = to_stage("listen", Listen(), EXAMPLES, write.UNITS)
    assert again.artifacts == half.artifacts
    for first, second in zip(again.golden, half.golden, strict=True):
        assert {k: v.tobytes() for k, v in first.items()} == {
            k: v.tobytes() for k, v in second.items()
        }


def test_nothing_of_the_machine_is_in_the_file(full: write.StageData) -> None:
    """Neither paths nor stack traces nor the exporter's version reach the artifact."""
    data = full.artifacts[0].data
    for trace in (b".py", b"stack", b"torch", str(Path.home()).encode(), b"forward"):
        assert trace not in data
    model = onnx.load_from_string(data)
    assert [entry.version for entry in model.opset_import] == [18]


def test_below_the_threshold_nothing_comes_out() -> None:
    """When the PSNR is short of the bar, the error names the output, the bar and the figure."""
    with pytest.raises(BundleError, match=r"expected PSNR of \w+ >= 190 dB; got 1\d\d"):
        to_stage("listen", Listen(), EXAMPLES, {}, least=190)


def test_another_graph_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that changes the network is found by running it."""
    other = Listen()
    with torch.no_grad():
        other.out.weight[0, 0] += 0.1
    original = convert
    monkeypatch.setattr(
        to_onnx, "convert", lambda module, *rest: original(other, *rest) if module else None
    )
    with pytest.raises(BundleError, match="not the network that was trained"):
        to_stage("listen", Listen(), EXAMPLES, {})


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_matrix_and_its_transpose_stay_apart(backend: str) -> None:
    """Every backend multiplies by the right one of W and W.T (OpenVINO 2026.4 mixes them up)."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((126, 126)).astype(np.float32)
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        main (float[1, 126] x) => (float[1, 126] a, float[1, 126] b)
        { a = MatMul(x, w) t = Transpose <perm = [1, 0]> (w) b = MatMul(x, t) }""")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    fold_constants(model)
    spec, *outputs = (TensorSpec(name, "float32", (1, 126)) for name in "xab")
    signature = Signature((spec,), tuple(outputs))
    graph = load_backend(backend).compile(serialise(model), signature, Options())
    x = random.standard_normal((1, 126)).astype(np.float32)
    first, second = graph.run([x])
    np.testing.assert_allclose(first, x @ weights, atol=1e-3)
    np.testing.assert_allclose(second, x @ weights.T, atol=1e-3)


def test_a_diverged_network_is_refused() -> None:
    """NaN in the network's own output is an error before anything is converted."""
    module = Listen()
    with torch.no_grad():
        module.out.bias[3] = float("nan")
    with pytest.raises(BundleError, match=r"output audio is unusable.*NaN"):
        to_stage("listen", module, EXAMPLES, {})


def test_constants_that_16_bits_cannot_hold_stay() -> None:
    """Small constants, integers and values beyond 65504 keep their type."""
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        main (float[1, 300] x) => (float[1, 300] y) { y = Mul(x, x) }""")
    values = {
        "large": np.linspace(-1, 1, 300, dtype=np.float32),
        "small": np.ones(10, np.float32),
        "huge": np.full(300, 1e6, np.float32),
        "whole": np.arange(300),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    halve_constants(graph)
    kinds = {t.name: numpy_helper.to_array(t).dtype.name for t in graph.graph.initializer}
    assert kinds == {"largeh": "float16", "small": "float32", "huge": "float32", "whole": "int64"}
    serialise(graph)


def test_psnr_by_definition() -> None:
    """An error of one hundredth of the peak is 40 dB; equal is BEST; NaN is below everything."""
    ones = np.ones((4, 4), np.float32)
    assert psnr(ones, ones + np.float32(0.01)) == pytest.approx(40, abs=1e-3)
    assert psnr(ones, ones - np.float32(0.01), peak=10.0) == pytest.approx(60, abs=1e-3)
    assert psnr(ones, ones) == gate.BEST
    assert psnr(ones, ones * np.nan) == -np.inf


def test_rounding_keeps_the_asked_bits() -> None:
    """Rounding to n bits is within half a unit in the last place, and keeps 0 and sign."""
    values = np.array([0.0, 1.0, -1 / 3, 1e-20, 12345.678], np.float32)
    kept = rounded(values, 11)
    assert np.all(np.abs(kept - values) <= np.abs(values) * 2.0**-11)
    assert np.array_equal(np.sign(kept), np.sign(values))
    assert np.array_equal(rounded(kept, 11), kept)


def test_pictures_are_portraits_by_shape() -> None:
    """Made-up pictures are 0..1 in steps of 1/255, differ by seed, and repeat."""
    first, again, other = (examples.picture(seed) for seed in (1, 1, 2))
    assert first.shape == (1, 3, 256, 256)
    assert first.min() >= 0 <= first.max() <= 1
    assert np.allclose(first * 255, np.round(first * 255), atol=1e-4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_wrong_photo_is_named(tmp_path: Path) -> None:
    """A file that is no image is an error that names it."""
    (tmp_path / "photo.png").write_text("no")
    with pytest.raises(PhotoError, match=r"photo\.png"):
        examples.read_picture(tmp_path / "photo.png")


def test_a_bundle_based_on_another_is_the_same(tmp_path: Path) -> None:
    """Without checkpoints every stage and the head are taken over, byte for byte."""
    base = write_tiny_bundle(tmp_path / "base").path
    assert write.main(["--base", str(base), "--out", str(tmp_path / "out")]) == 0
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()
    }


def test_motion_replaces_only_motion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A motion checkpoint brings its stages and statistics; face and align stay the base's."""
    facts = {
        "latent": {"mean": [0.5] * latent.SIZE, "std": [2.0] * latent.SIZE},
        "audio": {"mean": [-5.0] * 64, "std": [2.5] * 64},
        "sampler": {"kind": "flow", "schedule": [1.0, 0.0], "noise_correlation": 0.5},
        "sizes": {"state": 8, "features": 8, "cache": [2, 4, 6]},
    }
    monkeypatch.setattr(
        "vivant.export.train.motion.load_motion", lambda path: (Listen(), Denoise(), facts)
    )
    base = write_tiny_bundle(tmp_path / "base")
    out = tmp_path / "out"
    arguments = ["--base", str(base.path), "--out", str(out), "--motion", "motion.pt"]
    assert write.main([*arguments, "--version", "2"]) == 0
    new = Bundle.open(out)
    assert new.manifest.version == "2"
    assert new.manifest.name == "tiny"
    assert new.manifest.sampler.schedule == (1.0, 0.0)
    assert new.manifest.latent.mean[0] == 0.5
    assert new.manifest.audio.std[0] == 2.5
    for stage in ("align", "encode", "render"):
        assert new.stage(stage) == base.stage(stage)
    for stage in ("listen", "denoise"):
        assert new.stage(stage).artifacts[0].precision == "w16"
        assert load_graph(new, stage, "onnxruntime").loading.error < 5e-2


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    """Neither a checkpoint nor a base is a usage error, and nothing is written."""
    with pytest.raises(UsageError, match="nothing to export"):
        write.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_first_head_is_a_manifest(tmp_path: Path) -> None:
    """A first bundle needs no base: its head has every key, with the names the runtime knows."""
    bundle = write.write_bundle(tmp_path / "bundle", {}, write.first_head())
    assert bundle.manifest.conditions == tuple(CONDITIONS)
    assert json.loads((bundle.path / MANIFEST).read_text())["license"] == "Apache-2.0"
