"""Outputs that appear whole or not at all, and streams that cannot."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

StrPath = str | os.PathLike[str]

_FIXES = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EFBIG: "Write to another disk, or make the output shorter.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


class AtomicFile:
    """A file written under a temporary name beside its destination, then renamed onto it.

    ``inputs`` are files that it must never replace. Write to ``stream``, or by ``temporary``'s
    name. After ``discard``, or without ``commit``, an earlier file is as it was.
    """

    def __init__(self, path: StrPath, inputs: Iterable[StrPath] = ()) -> None:
        self.path = Path(path).expanduser()
        self.temporary = self.path
        self.stream: BinaryIO = io.BytesIO()
        self._inputs, self._opened = list(inputs), False

    def __str__(self) -> str:
        return f"The output '{self.path}'"

    def errors(self) -> AbstractContextManager[None]:
        """Inside, any ``OSError`` becomes an OutputError about this file."""
        return output_errors(self.path)

    def open(self) -> None:
        """Make the temporary file. Raises OutputError when the destination cannot be written."""
        if os.path.islink(self.path):  # the file it points to is written, as other programs do
            self.path = Path(os.path.realpath(self.path))
        check_parent(self.path)
        if self.path.is_dir():
            raise OutputError(f"{self} is a folder", expected="a file", fix="Add a file name.")
        if is_stream(self.path):
            raise OutputError(f"{self} is a device or pipe", expected="a file")
        for source in self._inputs:
            if self.path.exists() and os.path.exists(source) and self.path.samefile(source):
                raise OutputError(
                    f"{self} is also an input",
                    expected="a file of its own",
                    fix="Choose another name for the output.",
                )
        with self.errors():
            if self.path.exists() and not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            handle, name = tempfile.mkstemp(".part", ".vivant-", self.path.parent)
            self.temporary, self._opened = Path(name), True
            self.stream = os.fdopen(handle, "wb")

    def commit(self) -> None:
        """Put the complete file in place, on the disk before under its name."""
        with self.errors():
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else None
            self.temporary.chmod(0o666 & ~umask() if mode is None else mode)
            self.temporary.replace(self.path)
            self._opened = False

    def discard(self) -> None:
        """Remove the temporary file; harmless when there is none."""
        if self._opened:
            self._opened = False
            with suppress(OSError):  # A full disk refuses the last buffer; the file goes anyway.
                self.stream.close()
            with suppress(OSError):
                self.temporary.unlink(missing_ok=True)


class Stream:
    """Standard output (``-``), a named pipe or a device: written as it comes, never replaced."""

    def __init__(self, path: StrPath) -> None:
        self._path = os.fspath(path)
        self.stream: BinaryIO = io.BytesIO()

    def errors(self) -> AbstractContextManager[None]:
        """Inside, any ``OSError`` but a broken pipe becomes an OutputError."""
        return output_errors(self._path)

    def open(self) -> None:
        """Open for writing. Raises OutputError, also for standard output on a terminal."""
        if self._path != "-":
            with self.errors():
                self.stream = Path(self._path).open("wb")  # noqa: SIM115 - see discard
        elif sys.stdout is None:
            raise OutputError("Standard output is closed", expected="a pipe or a file")
        elif sys.stdout.isatty():
            raise OutputError(
                "Binary output would flood the terminal",
                expected="a pipe or a file",
                fix="Append '| PROGRAM' or '> FILE'.",
            )
        else:
            self.stream = sys.stdout.buffer

    def commit(self) -> None:
        """Hand over what is buffered."""
        with self.errors():
            self.stream.flush()
        self.discard()

    def discard(self) -> None:
        """Let go; what was written is with the reader."""
        if self._path != "-":
            with suppress(OSError):
                self.stream.close()


def is_stream(path: StrPath) -> bool:
    """Whether ``path`` is standard output or something that exists and is no file or folder."""
    if os.fspath(path) == "-":
        return True
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_parent(path: Path) -> None:
    """Raise OutputError unless ``path`` can be a name in an existing folder."""
    if "\0" in os.fspath(path):
        raise OutputError("The output's name holds a NUL character", fix="Choose another name.")
    folder = path.parent
    if not os.path.isdir(folder):
        there = os.path.exists(folder)
        raise OutputError(
            f"The folder '{folder}' {'is a file' if there else 'does not exist'}",
            expected="a folder to write to",
            fix="Choose another output." if there else "Create it first.",
        )
    with output_errors(path), suppress(FileNotFoundError):
        os.lstat(path)  # finds names that are too long before the work, not after it


@contextmanager
def output_errors(path: StrPath) -> Iterator[None]:
    """Turn ``OSError`` into an OutputError that says what to do; a broken pipe stays one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as cause:
        raise OutputError(
            f"The output '{os.fspath(path)}' cannot be written",
            got=(cause.strerror or str(cause))[:120],
            fix=_FIXES.get(cause.errno or 0, "Check the path and the disk."),
        ) from cause


def umask() -> int:
    """The process's file mode creation mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
