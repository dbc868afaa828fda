"""``vivant bundle info|verify``: what a bundle holds, and whether it is whole and right here."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .backends import BACKENDS, load_backend
from .bundle import Artifact, Bundle, Stage
from .errors import BackendError, BundleError, VivantError
from .graph import load_graph
from .plan import candidates


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``bundle`` to the command line."""
    verb = verbs.add_parser("bundle", help="describe or verify a bundle of weights")
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("info", "name, licence, provenance, stages and sizes"),
        ("verify", "check every hash, then every golden output on every backend installed"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "path", nargs="?", type=Path, help="folder of the bundle (default: the embedded one)"
        )
        action.add_argument("--json", action="store_true", help="print JSON")
        if name == "verify":
            action.add_argument("--backend", help="only this backend, such as openvino:GPU")
            action.add_argument("--threads", type=int, default=0, help="threads a graph may use")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run ``bundle info`` or ``bundle verify``; returns the exit code."""
    if args.action == "info":
        return info(args.path, as_json=args.json)
    return verify(args.path, backend=args.backend, threads=args.threads, as_json=args.json)


def info(path: Path | None = None, *, as_json: bool = False) -> int:
    """Print what the manifest says; nothing is hashed or run. Raises BundleError."""
    bundle = Bundle.open(path)
    head, stages = bundle.manifest, bundle.manifest.stages
    files = [ref for stage in stages.values() for ref in stage.files]
    size = sum(ref.bytes for ref in files)
    if as_json:
        facts: dict[str, Any] = {
            "path": str(bundle.path),
            "name": head.name,
            "version": head.version,
            "license": head.license,
            "description": head.description,
            "provenance": [vars(source) for source in head.provenance],
            "latent": {"kind": head.latent.kind, "rate": head.latent.rate},
            "schedule": head.sampler.schedule,
            "conditions": head.conditions,
            "bytes": size,
            "stages": {name: _facts(stage) for name, stage in stages.items()},
        }
        print(json.dumps(facts, indent=2))
        return 0
    lines = [
        f"{head.name} {head.version}  ({head.license}, {size / 1e6:.1f} MB)",
        f"{head.description}",
        f"folder      {bundle.path}",
        f"latent      {head.latent.kind}, {len(head.latent.names)} numbers at "
        f"{head.latent.rate} Hz",
        f"sampler     {head.sampler.kind}, {len(head.sampler.schedule) - 1} evaluations a tick of "
        f"{head.audio.tick / head.audio.rate * 1e3:g} ms",
        *(f"trained on  {p.name} ({p.license}): {p.use}" for p in head.provenance),
    ]
    for stage in stages.values():
        lines += ["", stage.name]
        lines += [f"  in   {spec}  {spec.unit}" for spec in stage.inputs]
        lines += [f"  out  {spec}  {spec.unit}" for spec in stage.outputs]
        for artifact in stage.artifacts:
            measured = ", ".join(f"{key} {value:g}" for key, value in artifact.fidelity.items())
            size = sum(ref.bytes for ref in artifact.own)
            lines.append(
                f"  file {artifact.file.file}  {size / 1e6:.2f} MB  "
                f"{artifact.format} {artifact.precision}  {measured}"
            )
    print("\n".join(lines))
    return 0


def _facts(stage: Stage) -> dict[str, Any]:
    return {
        "inputs": [vars(spec) for spec in stage.inputs],
        "outputs": [vars(spec) for spec in stage.outputs],
        "artifacts": [
            {
                **vars(artifact.file),
                **{
                    key: vars(ref)
                    for key in ("weights", "package", "base")
                    if (ref := getattr(artifact, key))
                },
                "format": artifact.format,
                "precision": artifact.precision,
                "fidelity": artifact.fidelity,
            }
            for artifact in stage.artifacts
        ],
    }


def verify(
    path: Path | None = None,
    *,
    backend: str | None = None,
    threads: int = 0,
    as_json: bool = False,
) -> int:
    """Check every file's hash and every stage's golden output; print a line for each.

    Without ``backend``, every installed backend is checked on the CPU. Returns 0 when all is
    well, 5 when a file is damaged or an output wrong, 6 when a backend cannot run a stage. Raises
    BundleError when the manifest cannot be read, BackendError when no backend is installed.
    """
    bundle = Bundle.open(path)
    pairs = candidates(backend) if backend not in (None, "auto") else _installed()
    results: list[dict[str, Any]] = []
    code = 0
    for stage in bundle.manifest.stages.values():
        for ref in stage.files:
            result = {"stage": stage.name, "check": f"sha256 {ref.file}"}
            start = time.perf_counter()
            try:
                bundle.read(ref)
            except BundleError as error:
                result["error"] = str(error)
                code = error.exit_code
            results.append(result | {"ms": round((time.perf_counter() - start) * 1e3, 1)})
        tried = [(pair, artifact) for pair in pairs for artifact in _readable(pair[0], stage)]
        # Where there is nothing to try, loading says why.
        tried = tried or [(pair, stage.artifacts[0]) for pair in pairs]
        for (name, device), artifact in tried:
            check = f"golden {name}:{device} {artifact.precision}"
            result = {"stage": stage.name, "check": check}
            start = time.perf_counter()
            try:
                graph = load_graph(
                    bundle,
                    stage.name,
                    name,
                    device=device,
                    threads=threads,
                    precision=artifact.precision,
                )
                result["golden_error"] = f"{graph.loading.error:.2g}"
            except VivantError as error:
                result["error"] = str(error)
                code = code or error.exit_code
            results.append(result | {"ms": round((time.perf_counter() - start) * 1e3, 1)})
    if as_json:
        print(json.dumps({"path": str(bundle.path), "ok": code == 0, "checks": results}, indent=2))
        return code
    for result in results:
        good = "ok  " if "error" not in result else "FAIL"
        detail = result.get("error") or result.get("golden_error", "")
        print(f"{good} {result['stage']:8} {result['check']}  {detail}".rstrip())
    failed = sum("error" in result for result in results)
    print(
        f"{bundle.manifest.name} {bundle.manifest.version}: {len(results)} checks, "
        f"{failed or 'none'} failed",
        file=sys.stderr,
    )
    return code


def _readable(backend: str, stage: Stage) -> tuple[Artifact, ...]:
    """The artifacts that a backend reads; none where it cannot be loaded."""
    try:
        formats = load_backend(backend).FORMATS
    except BackendError:
        return ()
    return tuple(a for a in stage.artifacts if a.format in formats)


def _installed() -> tuple[tuple[str, str], ...]:
    pairs, reasons = [], []
    for name in BACKENDS:
        try:
            load_backend(name)
            pairs.append((name, "CPU"))
        except BackendError as error:
            reasons.append(str(error))
    if not pairs:
        raise BackendError("no backend is installed", got=" | ".join(reasons))
    return tuple(pairs)
