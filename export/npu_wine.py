"""Set up the NPU's compiler on Linux, from the package index alone::

    apt-get install --no-install-recommends wine wine64 gcc-mingw-w64-x86-64-posix
    python -m vivant.export.npu_wine FOLDER

The Linux wheel of OpenVINO lacks the compiler, the Windows wheel has it, and Wine runs it. Half a
minute, 1 GB. Prints the command to give to ``python -m vivant.export.npu --compiler``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vivant.cli import run_module
from vivant.errors import BackendError

PACKAGES = ("openvino==2026.4.1", "msvc-runtime==14.44.35112")
"""Windows wheels: the compiler with its libraries, and the C++ runtime that Wine's own is not."""

GCC = "x86_64-w64-mingw32-gcc"
LIBRARIES = (
    *("msvcp140", "msvcp140_1", "msvcp140_2", "msvcp140_atomic_wait"),
    *("vcruntime140", "vcruntime140_1", "concrt140"),
)
"""Libraries that must be Microsoft's and not Wine's."""


def build(folder: Path) -> Path:
    """Fill ``folder`` and return the command; raises BackendError when a tool or package fails."""
    for tool in ("wine", GCC):
        if not shutil.which(tool):
            raise BackendError(
                f"{tool} is not installed",
                fix="Run: apt-get install --no-install-recommends wine wine64 "
                "gcc-mingw-w64-x86-64-posix",
            )
    run, wheels, include = folder / "run", folder / "wheels", folder / "include"
    run.mkdir(parents=True, exist_ok=True)
    target = ["--platform", "win_amd64", "--python-version", "3.11", "--only-binary", ":all:"]
    download = ["-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), *target]
    _call([sys.executable, *download, *PACKAGES], "fetching the Windows wheels")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                base = Path(name).name
                if base.lower().endswith(".dll"):
                    (run / base).write_bytes(archive.read(name))
                elif base == "openvino_c.lib" or "openvino/include/" in name:
                    archive.extract(name, include)
    source = Path(__file__).with_name("npu_compile.c")
    headers, library = include / "openvino/include", include / "openvino/libs/openvino_c.lib"
    program = [str(source), str(library), "-o", str(run / "npu_compile.exe")]
    _call([GCC, "-O1", "-w", "-I", str(headers), *program], "compiling the program")
    command = folder / "npu-compiler"
    command.write_text(
        "#!/bin/sh\n"
        f"export WINEPREFIX='{folder / 'prefix'}' WINEDEBUG=-all\n"
        f"export WINEDLLOVERRIDES='{','.join(LIBRARIES)}=n,b'\n"
        f"exec wine '{run / 'npu_compile.exe'}' \"$@\"\n",
        encoding="utf-8",
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "WINEPREFIX": str(folder / "prefix"), "WINEDEBUG": "-all"}
    _call(["wine", "wineboot", "-i"], "preparing Wine", environment)
    return command


def _call(command: Sequence[str], doing: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").split("\n")
        raise BackendError(f"{doing} failed", got=" ".join(" ".join(said[-8:]).split())[-300:])


def main(argv: Sequence[str] | None = None) -> int:
    """Set the compiler up; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vivant.export.npu_wine",
        description="Set up the NPU's compiler on Linux, with Wine and Windows wheels.",
    )
    parser.add_argument("folder", type=Path, help="where to put it, 1 GB")
    args = parser.parse_args(argv)
    print(build(args.folder.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(run_module(main))
