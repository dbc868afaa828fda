"""The command line: each verb is a stage of the product, text goes to stderr, data to stdout."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import NoReturn

from . import animate_cli, bundle_cli, mark_cli
from .devices import probe
from .errors import OutputError, UsageError, VivantError
from .progress import say

EXIT_CODES = """\
exit codes:
  0  done                        5  the bundle is corrupt or malformed
  1  a fault in vivant itself    6  no backend can run a stage
     (detect: no mark found)     7  the output cannot be written
  2  a flag or argument is wrong 130  stopped with Ctrl-C
  3  the photo cannot be used    143  stopped by SIGTERM (129: SIGHUP)
  4  the recording cannot be used
"""

TRAINING = {
    "train": ("train a network: align, face or motion", "vivant.export.train", ""),
    "evaluate": ("measure a network: align, face or motion", "vivant.export.train", "evaluate_"),
}
"""Verbs of the training side: help, package, prefix of the module that each network has there."""

MODULES = {
    "distill": (
        "distil the motion network to few sampling steps (needs the extra export)",
        "vivant.export.train.distill",
    ),
    "export": ("turn checkpoints into a bundle (needs the extra export)", "vivant.export.write"),
    "quantize": (
        "add measured INT8 artifacts to a bundle (needs the extra quant)",
        "vivant.quant.quantize",
    ),
    "report": (
        "size, fidelity and speed of every artifact of a bundle, and where it can run",
        "vivant.benchmarks.report",
    ),
    "compress": (
        "store a bundle's weights in 8, 6 or 4 bits, measured (needs the extras of the formats)",
        "vivant.quant.compress",
    ),
    "bench": (
        "compare the pipeline's speed on the backends of this machine",
        "vivant.benchmarks.pipeline",
    ),
}
"""Verbs with a command line of their own: help and module."""

NETWORKS = ("align", "face", "motion")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is told, and where to read on."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += ", and one that begins with a minus sign behind =, as in --gaze=-10,0"
        say(f"vivant: error: {message}. See: {self.prog} --help")
        raise SystemExit(UsageError.exit_code)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root: argparse.ArgumentParser = _Parser(
        prog="vivant",
        description="Living portraits, on the device: a photo and a recording become a talking "
        "face. Every output is marked as AI-generated.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"vivant {version('vivant')}")
    root.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)
    animate_cli.add_parser(verbs)
    bundle_cli.add_parser(verbs)
    mark_cli.add_parser(verbs)
    probe.add_parser(verbs)
    for verb, (text, package, prefix) in TRAINING.items():
        sub = verbs.add_parser(verb, help=f"{text} (needs the extras train and export)")
        networks = sub.add_subparsers(metavar="NETWORK", required=True)
        for network in NETWORKS:
            _passes_on(networks, f"{verb} {network}", text, f"{package}.{prefix}{network}")
    for verb, (text, module) in MODULES.items():
        _passes_on(verbs, verb, text, module)
    return root


def _passes_on(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, module: str
) -> None:
    """Add a verb whose arguments, ``--help`` too, go to the ``main(argv)`` of a module."""
    verb = verbs.add_parser(name.split()[-1], help=text, add_help=False)
    verb.set_defaults(passes_on=(name, module))


def _delegate(module: str, arguments: Sequence[str]) -> int:
    """Run ``main(argv)`` of a module whose libraries the base install does not bring."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vivant"):
            raise
        raise UsageError(
            f"this verb needs {error.name}, which is not installed",
            fix='Run: pip install ".[train,export,quant]" in a checkout of vivant',
        ) from error
    return int(loaded.main(list(arguments)) or 0)


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which then clean up just as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets handlers in the main thread alone.
        return

    def stop(number: int, frame: object) -> None:
        raise _Terminated(number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    debug = False
    try:
        root = parser()
        args, rest = root.parse_known_args(argv)
        debug = args.debug
        passes_on = getattr(args, "passes_on", None)
        if rest and not passes_on:
            root.error(f"unrecognized arguments: {' '.join(rest)}")
        with _terminable():
            if passes_on:
                sys.argv[0] = f"vivant {passes_on[0]}"  # what its own --help calls it
                code = _delegate(passes_on[1], rest)
            else:
                code = int(args.run(args))
        _flush()
        return code
    except SystemExit:  # after --help and --version
        with suppress(OSError):
            _flush()
        raise
    except VivantError as error:
        if debug:
            traceback.print_exc()
        say(f"vivant: error: {error}")
        return error.exit_code
    except KeyboardInterrupt as stopped:
        say("vivant: stopped")
        return stopped.exit_code if isinstance(stopped, _Terminated) else 130
    except BrokenPipeError:
        _let_go()
        return 0  # The reader of our stdout is gone, which is its good right.
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _let_go()
            say(f"vivant: error: standard output cannot be written; got {error.strerror}.")
            return OutputError.exit_code
        if debug:
            raise
        say(
            f"vivant: internal error: {type(error).__name__}: {error}. This is a fault in vivant; "
            "run again with --debug (before the verb) and report what it prints."
        )
        return 1


def run_module(command: Callable[[], int]) -> int:
    """Run a command of ``python -m`` as the verbs are run: a mistake is one line and its code."""
    try:
        return command()
    except VivantError as error:
        say(f"error: {error}")
        return error.exit_code


def _flush() -> None:
    """Write out what was printed, so that a failure shows here and not when Python ends."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            _let_go()
            raise


def _let_go() -> None:
    """Give up standard output, so that Python's own flush at the end keeps quiet."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
