"""Strict JSON: duplicate keys, NaN, unknown keys, wrong types and unbounded values are errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from .errors import BundleError

MAX_TEXT = 4096
"""Longest string accepted, in characters."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse(data: bytes, where: str) -> object:
    """The value of UTF-8 JSON ``data``; ``where`` names the source in errors.

    Raises BundleError on invalid UTF-8 or JSON, duplicate keys, NaN or infinity, and nesting
    too deep to read.
    """

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in items:
            if key in result:
                raise BundleError(f"{where}: key {show(key)} appears twice", expected="one value")
            result[key] = value
        return result

    def constant(name: str) -> object:
        raise BundleError(f"{where}: not strict JSON", expected="finite numbers", got=name)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise BundleError(f"{where}: not UTF-8 text", got=error.reason) from None
    except RecursionError:
        raise BundleError(f"{where}: nested too deeply", expected="a few levels") from None
    except ValueError as error:
        raise BundleError(f"{where}: not JSON", got=_short(str(error))) from None


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def show(value: object) -> str:
    """``value`` as short, printable ASCII for an error line."""
    try:
        return _short(ascii(value)) if not isinstance(value, dict | list) else type(value).__name__
    except ValueError:  # an integer too long to print
        return "a number too long to print"


class Reader:
    """One JSON object; each key is taken by type and bounds, and ``done`` refuses the rest."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(where, expected="an object", got=show(value))
        self.where = where
        self._left: dict[str, object] = dict(value)

    def _take(self, key: str) -> object:
        if key not in self._left:
            raise BundleError(f"{self.where}: {key} is missing")
        return self._left.pop(key)

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and has not been taken."""
        return key in self._left

    def left(self) -> list[str]:
        """The keys that have not been taken."""
        return list(self._left)

    def done(self) -> None:
        """Raise BundleError when a key was not taken."""
        if self._left:
            keys = ", ".join(show(key) for key in list(self._left)[:5])
            raise BundleError(f"{self.where}: unknown key {keys}")

    def text(
        self, key: str, *, one_of: Iterable[str] | None = None, pattern: str | None = None
    ) -> str:
        """A string of at most ``MAX_TEXT`` characters, optionally from a set or of a form."""
        return _text(self._take(key), f"{self.where}.{key}", one_of, pattern)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer within ``low..high``."""
        return _integer(self._take(key), f"{self.where}.{key}", low, high)

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number within ``low..high``."""
        return _number(self._take(key), f"{self.where}.{key}", low, high)

    def reader(self, key: str) -> Reader:
        """A nested object."""
        return Reader(self._take(key), f"{self.where}.{key}")

    def _list(self, key: str, low: int, high: int) -> list[object]:
        value = self._take(key)
        where = f"{self.where}.{key}"
        if not isinstance(value, list):
            raise BundleError(where, expected="an array", got=show(value))
        if not low <= len(value) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise BundleError(where, expected=f"{wanted} entries", got=str(len(value)))
        return value

    def readers(self, key: str, low: int, high: int) -> list[Reader]:
        """An array of ``low..high`` objects."""
        items = self._list(key, low, high)
        return [Reader(item, f"{self.where}.{key}[{i}]") for i, item in enumerate(items)]

    def texts(
        self, key: str, low: int, high: int, *, one_of: Iterable[str] | None = None
    ) -> tuple[str, ...]:
        """An array of ``low..high`` strings."""
        items = self._list(key, low, high)
        return tuple(
            _text(item, f"{self.where}.{key}[{i}]", one_of, None) for i, item in enumerate(items)
        )

    def integers(self, key: str, count: tuple[int, int], low: int, high: int) -> tuple[int, ...]:
        """An array of integers within ``low..high``; ``count`` bounds its length."""
        items = self._list(key, *count)
        return tuple(
            _integer(item, f"{self.where}.{key}[{i}]", low, high) for i, item in enumerate(items)
        )

    def numbers(
        self, key: str, count: tuple[int, int], low: float, high: float
    ) -> tuple[float, ...]:
        """An array of finite numbers within ``low..high``; ``count`` bounds its length."""
        items = self._list(key, *count)
        return tuple(
            _number(item, f"{self.where}.{key}[{i}]", low, high) for i, item in enumerate(items)
        )


def _text(value: object, where: str, one_of: Iterable[str] | None, pattern: str | None) -> str:
    if not isinstance(value, str):
        raise BundleError(where, expected="a string", got=show(value))
    if len(value) > MAX_TEXT:
        raise BundleError(where, expected=f"at most {MAX_TEXT} characters", got=str(len(value)))
    if _CONTROL.search(value):
        raise BundleError(where, expected="printable text", got=show(value))
    if one_of is not None and value not in (allowed := list(one_of)):
        raise BundleError(where, expected=" or ".join(allowed), got=show(value))
    if pattern is not None and not re.fullmatch(pattern, value, re.ASCII):
        raise BundleError(where, expected=f"the form {pattern}", got=show(value))
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BundleError(where, expected="an integer", got=show(value))
    if not low <= value <= high:
        raise BundleError(where, expected=f"{low} to {high}", got=show(value))
    return value


def _number(value: object, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(where, expected="a number", got=show(value))
    # Comparing before converting: an integer may be too large for a float.
    if not low <= value <= high or not math.isfinite(value):
        raise BundleError(where, expected=f"{low:g} to {high:g}", got=show(value))
    return float(value)
