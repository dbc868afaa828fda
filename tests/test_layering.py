"""The runtime is thin: no training library, and each vendor library behind one lazy import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "runtime"

BASE = {"numpy", "PIL", "soundfile", "soxr"}
"""Third-party packages that the base install brings."""

VENDORS = {
    "onnxruntime": "backends/ort.py",
    "openvino": "backends/ov.py",
    "CoreML": "backends/coreml.py",
    "Foundation": "backends/coreml.py",
    "objc": "backends/coreml.py",
    "av": "media.py",
    "cv2": "composite.py",
}
"""Vendor libraries and the one file of the runtime that may import each, inside a function."""


def imports(path: Path) -> list[tuple[str, bool]]:
    """Top-level names that a file imports, and whether each import runs when the file loads."""
    found = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, not lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.module, not lazy))
        inner = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(path.read_text()), False)
    return [(name.split(".")[0], eager) for name, eager in found]


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda p: p.name)
def test_runtime_imports_only_what_the_base_install_has(path: Path) -> None:
    """A stranger's app that bundles the runtime never finds torch, or a vendor out of its file."""
    here = path.relative_to(RUNTIME).as_posix()
    for name, eager in imports(path):
        if name in sys.stdlib_module_names or name in BASE or name == "vivant":
            continue
        assert VENDORS.get(name) == here, f"{here} imports {name}"
        assert not eager, f"{here} imports {name} when it loads; import it inside a function"


def test_command_line_starts_without_torch_or_vendors() -> None:
    """``vivant --help`` loads neither torch nor any vendor library."""
    code = (
        "import sys, vivant, vivant.cli\n"
        "heavy = {'torch', 'onnx', 'scipy', 'onnxruntime', 'openvino', 'av', 'cv2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_file_outgrows_a_reader() -> None:
    """No module is longer than 600 lines."""
    long = {
        str(p.relative_to(ROOT)): n
        for folder in ("runtime", "export", "quant", "devices", "benchmarks", "tests")
        for p in (ROOT / folder).rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 600
    }
    assert not long
