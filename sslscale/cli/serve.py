"""`sslscale serve`: a checkpoint behind HTTP."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path


def serve(options: argparse.Namespace) -> int:
    """Serve a checkpoint until Ctrl-C."""
    from sslscale.cli.images import checkpoint_folder
    from sslscale.cli.roots import require_port
    from sslscale.cluster.serving import ServeOptions, serve_checkpoint
    from sslscale.experiment import quiet
    from sslscale.settings.model import read_info

    require_port(options.port)
    folder = checkpoint_folder(options)
    info = read_info(folder)
    log = Path(tempfile.mkdtemp(prefix="sslscale-serve-")) / "serve.log"
    chosen = ServeOptions(
        port=options.port,
        replicas=options.replicas,
        gpus=options.gpus,
        threads=max((os.cpu_count() or 1) // options.replicas, 1),
        batch_size=options.batch,
        max_bytes=options.max_mb * 1_000_000,
    )
    what = f"one of {len(info.classes)} classes" if info.head else "features"
    print(f"{info.model.name}: an image in, {what} out; log: {log}", flush=True)
    try:
        with quiet(log):
            serve_checkpoint(folder, chosen, lambda line: print(line, flush=True))
    except KeyboardInterrupt:  # which is how a server ends
        print("stopped")
    return 0
