"""The report tells of every artifact what it is worth on this machine, and never stays silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import tiny_head, tiny_stages

from vivant.benchmarks import report
from vivant.bundle import STAGES, Bundle
from vivant.cli import main
from vivant.errors import OutputError, UsageError
from vivant.export.to_openvino import to_openvino
from vivant.export.write import write_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose stages exist as OpenVINO IR too."""
    stages = {
        name: replace(data, artifacts=(to_openvino(name, data), *data.artifacts))
        for name, data in tiny_stages().items()
    }
    return write_bundle(tmp_path_factory.mktemp("report") / "both", stages, tiny_head()).path


def test_every_artifact_has_a_row_with_size_fidelity_and_speed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX is measured on both backends, IR on its own; the first floating-point one counts 1."""
    assert main(["report", str(folder), "--rounds", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = {(row["stage"], row["format"]): row for row in facts["rows"]}
    assert set(rows) == {(stage, kind) for stage in STAGES for kind in ("openvino", "onnx")}
    for (stage, kind), row in rows.items():
        assert set(row["runs"]) == {"openvino:CPU", "onnxruntime:CPU"}.difference(
            ["onnxruntime:CPU"] if kind == "openvino" else []
        )
        assert row["bytes"] == sum(
            ref.bytes
            for artifact in Bundle.open(folder).stage(stage).artifacts
            if artifact.format == kind
            for ref in artifact.own
        )
        for run in row["runs"].values():
            assert 0 < run["best_ms"] <= run["ms"]
            assert min(run["psnr_db"].values()) > 60
            assert (run["motion"] is not None) == (stage in ("encode", "listen", "denoise"))
            assert (run["frame_psnr_db"] is not None) == (stage == "render")
        assert not row["reasons"]
        first = "openvino:CPU" if kind == "openvino" else "onnxruntime:CPU"
        assert row["runs"][first]["ratio"] == 1


def test_text_and_picture_show_the_same_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line an artifact below the head, and a picture that is not blank."""
    path = tmp_path / "report.png"
    stages = ["--stages", "listen,render"]
    assert main(["report", str(folder), *stages, "--rounds", "2", "--png", str(path)]) == 0
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("tiny 1, ")
    assert head.split()[:3] == ["stage", "format", "precision"]
    kinds = [line.split()[:3] for line in lines[:4]]
    assert kinds == [[s, f, "fp32"] for s in ("listen", "render") for f in ("openvino", "onnx")]
    assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_a_damaged_artifact_is_a_row_with_a_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped bit costs that artifact its figures and the command its exit code, no more."""
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        if path.name.startswith("listen") and path.suffix == ".xml":
            data[len(data) // 2] ^= 1
        (tmp_path / path.name).write_bytes(data)
    assert main(["report", str(tmp_path), "--stages", "listen", "--rounds", "2", "--json"]) == 5
    bad, good = json.loads(capsys.readouterr().out)["rows"]
    assert "damaged" in bad["reasons"]["openvino:CPU"]
    assert not bad["runs"]
    assert good["runs"]


def test_what_cannot_run_here_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A format without its backend is a row with the reason, and no figure is made up."""
    monkeypatch.setitem(report.OWN, "openvino", "abacus")
    pairs = [("onnxruntime", "CPU")]
    rows, code = report.report(Bundle.open(folder), ["listen"], backends=pairs, rounds=2)
    assert code == 0
    assert "unknown backend" in rows[0].reasons["abacus"]
    assert rows[0].psnr_db is None
    assert "unknown backend" in "\n".join(report.lines(rows))
    assert list(rows[1].runs) == ["onnxruntime:CPU"]


def test_the_npu_column_is_the_compilers_word_or_else_the_lints(
    folder: Path, tmp_path: Path
) -> None:
    """What the compiler said of this very file goes before our own rules."""
    bundle = Bundle.open(folder)
    ir = bundle.stage("denoise").artifacts[0]
    answers = {
        "3720": {"compiled": True},
        "4000": {"compiled": False, "elsewhere": "Tanh of (1, 8)"},
    }
    table = tmp_path / "npu.json"
    table.write_text(json.dumps({"graphs": [{"sha256": ir.file.sha256, "platforms": answers}]}))
    rows, _ = report.report(bundle, ["denoise"], rounds=1, npu=report.load_npu(table))
    assert rows[0].npu == "3720: refused by 4000 Tanh of (1, 8)"
    assert rows[1].npu == "fits by lint"


def test_the_neural_engine_column_is_what_the_converter_counted() -> None:
    """Operators that stay, of all; then the kinds that may leave."""
    artifact = replace(
        Bundle.open().stage("listen").artifacts[0],
        format="coreml",
        fidelity={"psnr_db": 70.0, "operators": 30.0, "off_engine_gather": 2.0},
    )
    assert report._ane(artifact) == "28 of 30: may leave the Neural Engine: 2 gather"


def test_bad_arguments_are_told(folder: Path, tmp_path: Path) -> None:
    """Errors of usage and of output, each before or instead of a traceback."""
    assert main(["report", str(folder), "--rounds", "0"]) == UsageError.exit_code
    assert main(["report", str(folder), "--png", "report.jpg"]) == UsageError.exit_code
    assert main(["report", str(folder), "--backend", "abacus"]) == UsageError.exit_code
    assert main(["report", str(folder), "--stages", "lips"]) == 5
    missing = str(tmp_path / "none" / "report.png")
    few = ["--rounds", "1", "--stages", "listen"]
    assert main(["report", str(folder), *few, "--png", missing]) == OutputError.exit_code
