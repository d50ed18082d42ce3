"""What a running stage knows of where it runs, and how it reports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sslscale.graph.resources import Resources
from sslscale.storage import mirror
from sslscale.storage.jsonio import write_bytes
from sslscale.storage.scratch import Local, scratch

STOP = "stop"  # in a stage's folder: the attempt that is to end


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how a stage runs. It bears no identity: nothing read from it may change a result."""

    path: Path
    root: Path
    name: str
    resources: Resources
    threads: int = 1
    store: str = ""  # the root's URL, if the root mirrors one
    inputs: tuple[Path, ...] = ()  # the folders of what the stage reads
    attempt: str = ""  # which run of the graph this is

    @property
    def local(self) -> Local:
        """What this machine keeps on its own disk for all runs: decoded images, shards fetched from stores."""
        return Local(scratch() / "cache", self.resources.shard_bytes)

    def pull_inputs(self, *, exact: bool = False) -> None:
        """If the root is in an object store: download the stage's inputs, and what the stage has written so far.

        Shards are downloaded when they are first opened. With `exact`, local files that the store does not have are
        removed, so that all workers start from the same files.
        """
        if self.store:
            own = mirror.at(self.store, self.root)
            for folder in self.inputs:
                own.pull(folder)
            self.pull(exact=exact)

    def pull(self, *, exact: bool = False) -> None:
        """If the root is in an object store: download what other machines have written for this stage."""
        if self.store:
            self.path.mkdir(parents=True, exist_ok=True)
            mirror.at(self.store, self.root).pull(self.path, exact=exact)

    def push(self) -> None:
        """If the root is in an object store: upload what this machine has written since the last push."""
        if self.store:
            mirror.at(self.store, self.root).push(self.path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row to metrics.jsonl (the tracker mirrors it; the file is the truth)."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop rows after `step`, which a killed attempt wrote beyond the checkpoint it is resumed from."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            rows = [line for line in file.read_text("utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in rows if json.loads(line)["step"] <= step]
            temporary = file.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept), "utf-8")
            os.replace(temporary, file)

    def ask_to_stop(self) -> None:
        """Ask the stage, wherever it runs, to save its state and end; called by the driver."""
        write_bytes(self.path / STOP, self.attempt.encode())
        if self.store:
            mirror.at(self.store, self.root).put([self.path / STOP])

    def asked_to_stop(self) -> bool:
        """Whether the driver of this attempt asks the stage to end."""
        if self.store:
            mirror.at(self.store, self.root).get([self.path / STOP], optional=True)
        try:
            return (self.path / STOP).read_bytes() == self.attempt.encode()
        except FileNotFoundError:
            return False

    def progress(self, done: int, total: int, **shown: float | str) -> None:
        """Say how far the stage is; the driver's table shows it. Lossy and cheap."""
        temporary = self.path / "progress.tmp"
        temporary.write_text(json.dumps({"done": done, "total": total, **shown}), "utf-8")
        os.replace(temporary, self.path / "progress.json")
