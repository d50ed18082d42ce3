"""One line that moves on a terminal while a command works."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def busy(text: str, folder: Path | None = None) -> Iterator[None]:
    """Show `text`, the time it takes, and the share done that a context's progress notes in `folder`.

    It goes to stderr, and nowhere if that is no terminal; the line is gone at the end.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from sslscale.cli.progress import spinner
    from sslscale.cli.units import show_clock

    started = time.monotonic()

    def line() -> Text:
        share = ""
        if folder is not None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                seen = json.loads((folder / "progress.json").read_text("utf-8"))
                share = f" {100 * seen['done'] / max(seen['total'], 1):.0f} %"
        return Text(f"{spinner()} {text}{share}  {show_clock(time.monotonic() - started)}", no_wrap=True)

    with Live(
        console=Console(stderr=True),
        get_renderable=line,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
    ):
        yield
