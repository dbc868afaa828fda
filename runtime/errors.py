"""Every error a user can cause, and the exit code the command line gives it."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class VivantError(Exception):
    """What was wrong, what was expected, what was got, and what to do, in one line."""

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = [what.rstrip(".")]
        if expected:
            parts.append(f"expected {expected}")
        if got:
            parts.append(f"got {got.rstrip('.')}")
        line = "; ".join(parts)
        text = f"{line}. {fix}" if fix else f"{line}."
        # The name of a file may hold line breaks and the terminal's own commands.
        super().__init__(_CONTROL.sub(lambda found: ascii(found[0])[1:-1], text))


class UsageError(VivantError):
    """A flag or argument is wrong."""

    exit_code = 2


class PhotoError(VivantError):
    """The photo cannot be used: unreadable, no face, too small."""

    exit_code = 3


class AudioError(VivantError):
    """The recording cannot be used: unreadable, empty, not audio."""

    exit_code = 4


class BundleError(VivantError):
    """The bundle is malformed, corrupt, or fails its golden output."""

    exit_code = 5


class BackendError(VivantError):
    """No backend can run a stage; lists each candidate's reason."""

    exit_code = 6


class OutputError(VivantError):
    """The output cannot be written."""

    exit_code = 7
