"""Compile one graph for an NPU that need not be here; under any Python that has OpenVINO::

    python npu_compile.py GRAPH.xml BLOB PLATFORM

Exit code 0: BLOB is written. 1: the compiler refused the graph, and said why. 3: this OpenVINO
has no compiler (only the Windows wheel and Intel's driver bring one). ``npu_compile.c`` is the
same program for machines with no such Python, such as Wine.
"""

from __future__ import annotations

import sys
from pathlib import Path

NO_COMPILER = 3


def main(graph: str, blob: str, platform: str) -> int:
    """Write the compiled graph; returns the exit code."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        print(error, file=sys.stderr)
        return NO_COMPILER
    core = openvino.Core()
    core.set_property("NPU", {"NPU_COMPILER_TYPE": "PLUGIN", "LOG_LEVEL": "LOG_INFO"})
    try:
        core.get_property("NPU", "NPU_COMPILER_VERSION")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return NO_COMPILER
    print(f"OpenVINO {openvino.get_version()}")
    try:
        core.set_property("NPU", {"NPU_PLATFORM": platform})
        Path(blob).write_bytes(core.compile_model(graph, "NPU").export_model().getbuffer())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
