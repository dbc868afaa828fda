"""Damage for files that are good: what disks, networks and strangers do to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np


def truncated(goods: Mapping[str, bytes], parts: Sequence[float]) -> Iterator[tuple[str, bytes]]:
    """Each good file cut off at each of ``parts`` of its length, with what was done to it."""
    for kind, data in goods.items():
        for part in parts:
            yield f"{kind} cut at {part}", data[: int(len(data) * part)]


def flipped(goods: Mapping[str, bytes], head: int, header: int) -> Iterator[tuple[str, bytes]]:
    """Each good file with bytes changed in its first ``head``, its first ``header``, anywhere."""
    rng = np.random.default_rng(1)
    for kind, data in goods.items():
        for where, end in (("head", head), ("header", header), ("body", len(data))):
            for count in (1, 12):
                bad = np.frombuffer(data, np.uint8).copy()
                at = rng.integers(4, min(end, len(data)), count)
                bad[at] ^= rng.integers(1, 256, count).astype(np.uint8)
                yield f"{kind} with {count} bytes of its {where} changed", bad.tobytes()
