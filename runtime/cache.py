"""Compiled graphs between two runs: sealed with a hash of our own, believed only when it matches.

Vendors load damaged caches without a word, so an entry carries the SHA-256 of its key and its
content. A damaged or foreign entry is discarded and built again; it is never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"vivant cache 1\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size

MAX_BYTES = 1 << 29
"""The oldest entries are removed when the cache grows beyond this."""


def cache_folder() -> Path:
    """Where this platform keeps caches; ``VIVANT_CACHE`` names another folder."""
    if chosen := os.environ.get("VIVANT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "vivant/Cache"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/vivant"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivant"


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    Creates the folder. Raises OSError, and then leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


REVISION = 1
"""Counts the ways in which backends have changed graphs before they compiled them: what was kept
in another is not taken."""


@dataclass(frozen=True)
class Key:
    """What a compiled graph depends on; another value of any field is another entry, and so is
    another ``REVISION``."""

    model: str
    """SHA-256 of the artifact."""
    backend: str
    version: str
    """Of the vendor's runtime."""
    device: str
    """Full name of the processor, with its driver where there is one."""
    options: str
    """Everything else that changes the compiled graph, such as threads and precision."""

    def digest(self) -> bytes:
        """SHA-256 of all fields and ``REVISION``."""
        fields = [self.model, self.backend, self.version, self.device, self.options, REVISION]
        return hashlib.sha256(json.dumps(fields).encode()).digest()


class Cache:
    """Sealed entries in one folder, one file each."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / "graphs"

    def path(self, key: Key) -> Path:
        """The entry's file."""
        return self.folder / f"{key.digest().hex()[:32]}.blob"

    def get(self, key: Key) -> bytes | None:
        """The sealed content, or None; a damaged entry is removed."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content = data[_HEAD:]
        if data[:_HEAD] == _MAGIC + _seal(key, content):
            with contextlib.suppress(OSError):
                os.utime(path)
            return content
        self.discard(key)
        return None

    def put(self, key: Key, content: bytes) -> str:
        """Seal and store ``content``; returns what went wrong, or an empty string.

        A full disk or a read-only home costs start-up time, not the run.
        """
        try:
            write_atomic(self.path(key), _MAGIC + _seal(key, content) + content)
            self._prune()
        except OSError as error:
            return f"cache not written: {error}"
        return ""

    def discard(self, key: Key) -> None:
        """Remove the entry, if there is one and it can be removed."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def _prune(self) -> None:
        entries = []
        for path in self.folder.glob("*.blob"):
            with contextlib.suppress(OSError):  # another process may have removed it
                entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = 0
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > MAX_BYTES:
                with contextlib.suppress(OSError):
                    path.unlink()


def _seal(key: Key, content: bytes) -> bytes:
    return hashlib.sha256(key.digest() + hashlib.sha256(content).digest()).digest()
