"""`sslscale doctor`: whether this machine has what a run needs."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sslscale.cli.units import show_size
from sslscale.errors import ResourceError

OK, NOTE, BAD = "ok", "note", "bad"
_MARKS = {OK: "[green]ok  [/]", NOTE: "[yellow]note[/]", BAD: "[red]bad [/]"}
_LEAST_FREE = 2 << 30


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    state: str
    text: str


def doctor(options: argparse.Namespace) -> int:
    """Look at each thing in turn; the exit code is 4 if a run would fail."""
    from rich.console import Console

    console, found = Console(), []
    for finding in look(options.root, options.port):
        found.append(finding)
        if options.json:
            print(json.dumps(finding._asdict()), flush=True)
        else:
            console.print(f"{_MARKS[finding.state]} {finding.name:12} ", end="", highlight=False)
            console.print(finding.text, highlight=False, markup=False, soft_wrap=True)
    bad = [finding.name for finding in found if finding.state == BAD]
    if bad:
        raise ResourceError(f"{', '.join(bad)}: must be mended before a run can start (see above)")
    return 0


def look(root: Path, port: int) -> Iterator[Finding]:
    """Everything that is looked at, in order."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("Python", OK if good else BAD, version if good else f"{version}; sslscale needs 3.11 to 3.13")
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("torch", _torch),
        ("Ray", _ray),
        ("DeepSpeed", lambda: _library("DeepSpeed", "deepspeed", "strategies zero0 to zero3")),
        ("timm", lambda: _library("timm", "timm", "models timm:NAME")),
        ("MLflow", lambda: _mlflow(root)),
        ("disk", lambda: _disk(root)),
        ("ports", lambda: _ports(port)),
        ("system", _system),
    )
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken installation raises anything
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield Finding(name, BAD, f"{type(error).__name__}: {text}")


def _torch() -> Iterator[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("torch", OK, f"{torch.__version__}, {os.cpu_count()} CPUs ({capability})")
    if capability == "AVX2" or capability == "DEFAULT":
        yield Finding("precision", NOTE, "this CPU emulates bf16 slowly: keep precision: fp32 on it")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        shown = ", ".join(f"{p.name} ({show_size(p.total_memory)})" for p in names)
        library = importlib.import_module("torch.cuda.nccl")
        nccl = ".".join(map(str, library.version())) if torch.distributed.is_nccl_available() else "none"
        yield Finding("CUDA", OK if nccl != "none" else BAD, f"{torch.version.cuda}, NCCL {nccl}: {shown}")
    elif torch.version.cuda is None:
        yield Finding("CUDA", NOTE, "torch was built without CUDA: everything runs on the CPUs")
    else:
        text = f"torch was built for CUDA {torch.version.cuda} and finds no GPU: everything runs on the CPUs"
        driver = Path("/proc/driver/nvidia/version").exists()
        more = "; a driver is there: do its version and CUDA_VISIBLE_DEVICES fit?"
        yield Finding("CUDA", NOTE, text + (more if driver else ""))
    if shutil.which("c++") is None and shutil.which("g++") is None:
        yield Finding("compiler", NOTE, "no C++ compiler: compile: true does not work on CPUs")


def _library(name: str, module: str, what: str) -> Iterator[Finding]:
    if importlib.util.find_spec(module) is None:
        yield Finding(name, NOTE, f"is not installed; it is needed for {what}")
        return
    version = importlib.import_module("importlib.metadata").version(module)
    yield Finding(name, OK, version)


def _ray() -> Iterator[Finding]:
    from sslscale.cluster.connection import connect, disconnect

    address, started = os.environ.get("RAY_ADDRESS"), time.monotonic()
    ray = connect()
    try:
        found = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
    finally:
        disconnect()
    where = f"cluster {address}" if address else "starts on this machine"
    counts = f"{nodes} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"
    yield Finding("Ray", OK, f"{ray.__version__}, {where} in {time.monotonic() - started:.0f} s: {counts}")


def _mlflow(root: Path) -> Iterator[Finding]:
    from sslscale.tracking.store import address

    version = importlib.import_module("importlib.metadata").version("mlflow")
    uri = address(root)
    if uri.startswith(("http://", "https://")):
        host, _, port = uri.split("/")[2].rpartition("@")[2].partition(":")
        try:
            number = int(port) if port else 443 if uri.startswith("https") else 80
            socket.create_connection((host, number), timeout=5).close()
        except OSError as error:
            yield Finding("MLflow", BAD, f"{version}; no server answers at {uri} ({error})")
            return
    yield Finding("MLflow", OK, f"{version}; runs are tracked in {uri}")


def _disk(root: Path) -> Iterator[Finding]:
    from sslscale.storage.scratch import scratch

    for name, folder in (("root", root), ("scratch", scratch())):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            yield Finding(name, BAD, f"{there} cannot be written")
            continue
        kind = _file_system(there)
        state = BAD if free < _LEAST_FREE // 8 else NOTE if free < _LEAST_FREE or kind == "tmpfs" else OK
        more = "; it lies in memory: set SSLSCALE_SCRATCH to a disk" if kind == "tmpfs" and name == "scratch" else ""
        yield Finding(name, state, f"{folder}: {show_size(free)} free ({kind}){more}")


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on."""
    best = ("", "unknown")
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        _, place, kind, *_ = line.split()
        if f"{folder}/".startswith(f"{place.rstrip('/')}/") and len(place) >= len(best[0]):
            best = place, kind
    return best[1]


def _ports(port: int) -> Iterator[Finding]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            yield Finding("port", NOTE, f"{port} is taken ({error.strerror}): sslscale ui --port {port + 1}")
            return
    yield Finding("port", OK, f"{port} is free for sslscale ui")


def _system() -> Iterator[Finding]:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        yield Finding("files", NOTE, f"{hard} open files at most: raise the hard limit (ulimit -Hn) for many shards")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0  # noqa: S108
    if shared < 300 << 20:
        yield Finding(
            "memory", NOTE, f"{show_size(shared)} of shared memory are free: Ray uses the disk instead, slowly"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", OK if memory > 4 << 30 else NOTE, f"{show_size(memory)}")
