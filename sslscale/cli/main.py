"""The `sslscale` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from sslscale.cli import cluster
from sslscale.cli.parser import parser
from sslscale.errors import ConfigError, DataError, ResourceError, Stopped, UserError
from sslscale.interrupts import Terminable
from sslscale.storage import mirror

_PATHS = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)  # of a path that is not usable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug, signals = "--debug" in arguments, Terminable()
    try:
        with signals:
            options = _parse(arguments)
            if "root" in options and options.call is not cluster.submit:
                options.root = mirror.open_root(options.root)
            return options.call(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return Stopped.exit_code if signals.terminated else 130
    except Exception as error:
        if debug:
            raise
        code = _tell(error)
        return Stopped.exit_code if signals.terminated else code  # what was interrupted may fail on its way to the end


def _tell(error: Exception) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        where = f"{str(error.filename)[:200]}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error} (--debug shows where)", file=sys.stderr)
        return (DataError if error.errno in _PATHS else ResourceError).exit_code
    text = (str(error).strip() or "no message").splitlines()[0]
    print(f"error: {type(error).__name__}: {text}\n(--debug shows where; this may be a defect)", file=sys.stderr)
    return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse; key=value words may stand anywhere among the flags of `run` and `eval`."""
    for word in arguments:
        if "\0" in word:
            raise ConfigError(f"{word!r}: has a NUL byte")
    top = parser()
    if arguments[:1] in (["run"], ["plan"], ["eval"], ["tune"], ["submit"], ["replay"], ["show"]):
        overrides = [word for word in arguments[1:] if "=" in word and not word.startswith("-")]
        options = top.parse_args([word for word in arguments if word not in overrides])
        options.overrides += overrides
        return options
    return top.parse_args(arguments)
