"""Looking for hardware is safe: a vendor's crash or hang is one line of the answer."""

from __future__ import annotations

import json

import pytest

from vivant.backends import BACKENDS as KNOWN
from vivant.cli import main
from vivant.devices.probe import BACKENDS, probe


def test_every_backend_is_asked() -> None:
    """A backend that is added is found here too."""
    assert set(BACKENDS) == set(KNOWN)


def test_the_base_installs_backend_is_usable() -> None:
    """ONNX Runtime, which the base install brings, offers the processor."""
    found = probe("onnxruntime")
    assert found.reason == ""
    assert "CPU" in found.devices
    assert found.version


def test_a_backend_that_is_not_there_says_so_plainly() -> None:
    """The reason is the error's own line, with what to do, and not how a process ended."""
    assert probe("abacus").reason.startswith("unknown backend; expected coreml or")


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("import time; time.sleep(60)", "no answer"),
        ("import os; os.abort()", "exit code"),
        ("raise ImportError('no such vendor')", "no such vendor"),
        ("print('hello')", "nonsense"),
        ("print('{}')", "nonsense"),
    ],
)
def test_a_bad_vendor_costs_nothing_but_a_line(child: str, reason: str) -> None:
    """Hangs, crashes and nonsense of a vendor's library are told, and nothing else happens."""
    found = probe("onnxruntime", seconds=2, child=child)
    assert reason in found.reason
    assert not found.devices


def test_the_verb_prints_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    """``vivant devices`` for people and for programs."""
    assert main(["devices"]) == 0
    assert "onnxruntime:CPU" in capsys.readouterr().out
    assert main(["devices", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {b["backend"] for b in answer["backends"]} == set(BACKENDS)
