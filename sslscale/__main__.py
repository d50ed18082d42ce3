"""`python -m sslscale` is the `sslscale` command."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading

from sslscale.cli.main import main


def command() -> None:
    """Run the command and end this process with its exit code.

    All that is registered for the end is done, but thousands of modules are not taken apart one by one, which takes a
    second or more after a run.
    """
    code = main()
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] (what the interpreter itself begins its end with)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any longer
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
