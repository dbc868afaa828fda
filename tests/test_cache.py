"""A compiled graph comes back from the cache exactly as it was sealed, or not at all."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vivant import cache as module
from vivant.cache import Cache, Key, cache_folder, write_atomic

KEY = Key("0" * 64, "openvino", "2026.4", "CPU", "threads=1")
CONTENT = bytes(range(256)) * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path)


def test_what_was_sealed_comes_back(cache: Cache) -> None:
    """An entry is read back byte for byte, and is missing before."""
    assert cache.get(KEY) is None
    assert cache.put(KEY, CONTENT) == ""
    assert cache.get(KEY) == CONTENT


@pytest.mark.parametrize("name", [field.name for field in fields(Key)])
def test_another_machine_has_another_entry(cache: Cache, name: str) -> None:
    """Another model, backend, version, device or option never finds this entry."""
    cache.put(KEY, CONTENT)
    assert cache.get(replace(KEY, **{name: "other"})) is None
    assert cache.get(KEY) == CONTENT


@pytest.mark.parametrize("at", [0, 14, 15, 46, 47, 9000, -1])
def test_a_flipped_bit_discards_the_entry(cache: Cache, at: int) -> None:
    """One wrong bit anywhere, in the head, the seal or the content, and the entry is gone."""
    cache.put(KEY, CONTENT)
    data = bytearray(cache.path(KEY).read_bytes())
    data[at] ^= 1
    cache.path(KEY).write_bytes(data)
    assert cache.get(KEY) is None
    assert not cache.path(KEY).exists()


@pytest.mark.parametrize("length", [0, 10, 47, 5000])
def test_a_truncated_entry_is_discarded(cache: Cache, length: int) -> None:
    """A half-written or empty entry is gone."""
    cache.put(KEY, CONTENT)
    os.truncate(cache.path(KEY), length)
    assert cache.get(KEY) is None
    assert not cache.path(KEY).exists()


def test_a_renamed_entry_is_discarded(cache: Cache) -> None:
    """An entry of another key in this key's place is not believed."""
    other = replace(KEY, model="1" * 64)
    cache.put(other, CONTENT)
    cache.path(other).rename(cache.path(KEY))
    assert cache.get(KEY) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Without a place for the cache the reason is returned, and the run goes on."""
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file")
    assert "not written" in cache.put(KEY, CONTENT)
    assert cache.get(KEY) is None


def test_the_oldest_entries_make_room(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stays below its bound, and what was used last stays longest."""
    monkeypatch.setattr(module, "MAX_BYTES", 3 * len(CONTENT))
    keys = [replace(KEY, version=str(i)) for i in range(4)]
    for number, key in enumerate(keys):
        cache.put(key, CONTENT)
        os.utime(cache.path(key), (number, number))
    cache.get(keys[2])
    cache.put(KEY, CONTENT)
    assert [cache.get(key) is not None for key in keys] == [False, False, True, False]
    assert cache.get(KEY) == CONTENT


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``VIVANT_CACHE`` wins; else the platform's folder is used."""
    monkeypatch.setenv("VIVANT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VIVANT_CACHE")
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/vivant"
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "vivant")
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local/vivant/Cache"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails, the old file is whole and no draft is left behind."""
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
