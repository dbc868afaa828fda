"""IR and ONNX of a graph have one copy of their weights, and every byte of it is still verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import tiny_head, tiny_stages

from vivant.bundle import MANIFEST, Bundle, parse_manifest
from vivant.errors import BundleError
from vivant.export.share import LARGE, share
from vivant.export.write import add_openvino, based_on, write_bundle
from vivant.graph import load_graph


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``listen`` and ``denoise`` as IR and ONNX."""
    stages = {name: tiny_stages()[name] for name in ("listen", "denoise")}
    add_openvino(stages)
    return write_bundle(tmp_path_factory.mktemp("share") / "bundle", stages, tiny_head()).path


def test_the_weights_are_there_once(whole: Path) -> None:
    """The IR's own file holds no large constant, and the stage's size counts each file once."""
    stage = Bundle.open(whole).stage("denoise")
    ir, onnx = stage.artifacts
    assert (ir.format, onnx.format) == ("openvino", "onnx")
    assert ir.base == onnx.file
    assert ir.weights is not None
    assert ir.weights.bytes < onnx.file.bytes / 4
    assert sum(ref == onnx.file for ref in stage.files) == 1
    assert onnx.file in ir.files
    assert onnx.file not in ir.own


@pytest.mark.parametrize("stage", ["listen", "denoise"])
def test_what_is_shared_computes_the_same(whole: Path, stage: str) -> None:
    """Both artifacts give the golden output on the backends that read them."""
    bundle = Bundle.open(whole)
    graph = load_graph(bundle, stage, "openvino")
    assert graph.artifact.format == "openvino"
    assert graph.loading.error < 1e-4
    assert load_graph(bundle, stage, "onnxruntime").loading.error < 1e-4


def test_writing_again_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """A bundle read and written anew is shared the same way."""
    head, stages = based_on(whole)
    again = write_bundle(tmp_path / "again", stages, head).path
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == {
        p.name: p.read_bytes() for p in again.iterdir()
    }


def test_an_ir_alone_brings_its_weights(whole: Path, tmp_path: Path) -> None:
    """Without the ONNX artifact, or beside one of another precision, nothing is shared."""
    head, stages = based_on(whole)
    data = stages["listen"]
    ir, onnx = data.artifacts
    for artifacts in ((ir,), (ir, replace(onnx, precision="w16"))):
        new = write_bundle(tmp_path / "alone", {"listen": replace(data, artifacts=artifacts)}, head)
        assert new.stage("listen").artifacts[0].base is None
        assert load_graph(new, "listen", "openvino").loading.error < 1e-4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data[::-1],
    ],
    ids=["truncated", "one bit", "foreign"],
)
def test_a_damaged_base_is_found(
    whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """The IR is refused, with exit code 5 and the file's name, when the ONNX file is damaged."""
    head, stages = based_on(whole)
    bundle = write_bundle(tmp_path / "bundle", stages, head)
    path = bundle.path / bundle.stage("listen").artifacts[1].file.file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=f"{path.name} is damaged") as error:
        load_graph(bundle, "listen", "openvino")
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[0]["base"].update(file="../x.onnx"), "form"),
        (lambda e: e[0]["base"].pop("sha256"), "sha256 is missing"),
        (lambda e: e[0]["base"].update(surprise=1), "unknown key"),
        (lambda e: e[1].update(base=e[0]["base"]), "unknown key 'base'"),
        (lambda e: e[0].pop("weights"), "weights is missing"),
    ],
)
def test_a_malformed_base_is_refused(
    whole: Path, change: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    """A base has a file's three keys, is inside the bundle, and belongs to IR alone."""
    manifest = json.loads((whole / MANIFEST).read_text())
    change(manifest["stages"]["listen"]["artifacts"])
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(manifest).encode())


def test_constants_by_hand() -> None:
    """Found ones point into the base, the rest lies aligned behind it, equal ones lie there once.

    Sharing what is shared already changes nothing.
    """
    chance = np.random.default_rng(0)
    known, new = chance.bytes(LARGE), chance.bytes(LARGE)
    weights = known + b"abcd" + new + b"abcd"
    places = [(0, LARGE), (LARGE, 4), (LARGE + 4, LARGE), (2 * LARGE + 4, 4)]
    consts = "".join(f'<data offset="{o}" size="{s}" />' for o, s in places)
    base = b"abcd some" + known + b"file"
    graph, rest = share(f'<net><data other="1" />{consts}</net>'.encode(), weights, base)
    whole = base + rest
    assert b'<data other="1" />' in graph
    offsets = [int(part.split(b'"')[0]) for part in graph.split(b'offset="')[1:]]
    assert offsets[0] == 9
    assert offsets[1] == offsets[3] >= len(base)
    assert offsets[2] % 64 == 0
    assert [whole[o : o + s] for o, (_, s) in zip(offsets, places, strict=True)] == [
        known, b"abcd", new, b"abcd",
    ]  # fmt: skip
    assert share(graph, whole, base) == (graph, rest)
