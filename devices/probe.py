"""Which backends and devices this machine offers, found without trusting any vendor's library.

A vendor's library may crash or hang while it looks for hardware, so each one is loaded in a child
process that is given a few seconds and whose end, of whatever kind, is only a line in the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

BACKENDS: tuple[str, ...] = ("coreml", "openvino", "onnxruntime")
"""Backends that are asked; see ``vivant.backends``."""

SECONDS = 20.0
"""Time a vendor has to answer; a cold disk needs several seconds to load the larger ones."""

# Runs in the child: prints one JSON object, or dies trying.
_CHILD = """
import json, sys
from vivant.backends import load_backend
from vivant.errors import BackendError
try:
    backend = load_backend(sys.argv[1])
except BackendError as error:
    print(json.dumps({"reason": str(error)}))
else:
    devices = {device: backend.describe(device) for device in backend.devices()}
    print(json.dumps({"version": backend.version(), "devices": devices}))
"""


@dataclass(frozen=True)
class Probe:
    """One backend's answer."""

    backend: str
    version: str = ""
    """Empty when the backend cannot be used."""
    devices: dict[str, str] = field(default_factory=dict)
    """Device as ``--backend`` takes it, and its full name."""
    reason: str = ""
    """Why the backend cannot be used."""


def probe(backend: str, seconds: float = SECONDS, child: str = _CHILD) -> Probe:
    """Ask one backend; never raises, never takes longer than ``seconds``."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", child, backend],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(backend, reason=f"no answer within {seconds:g} s")
    except OSError as error:
        return Probe(backend, reason=f"no process could be started: {error}")
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return Probe(backend, reason=f"exit code {run.returncode}: {last[:200]}")
    try:
        answer = json.loads(run.stdout)
        if "reason" in answer:
            return Probe(backend, reason=answer["reason"])
        return Probe(backend, answer["version"], answer["devices"])
    except (ValueError, KeyError, TypeError):
        return Probe(backend, reason=f"answered nonsense: {run.stdout.strip()[:80]!r}")


def machine() -> dict[str, str | int]:
    """The machine as benchmark records name it."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processors": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``devices`` to the command line."""
    text = "list the backends and devices of this machine"
    verb = verbs.add_parser("devices", help=text, description=text)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``devices``; returns the exit code."""
    probes = [probe(backend) for backend in BACKENDS]
    if args.json:
        print(json.dumps({"machine": machine(), "backends": [asdict(p) for p in probes]}))
    else:
        print("\n".join(_lines(probes)))
    return 0


def _lines(probes: Sequence[Probe]) -> list[str]:
    lines = [", ".join(f"{key}: {value}" for key, value in machine().items())]
    for found in probes:
        if found.reason:
            lines.append(f"{found.backend}: not usable, {found.reason}")
        for device, name in found.devices.items():
            lines.append(f"{found.backend}:{device}  {name}  (version {found.version})")
    return lines
