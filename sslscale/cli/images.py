"""Images and shards: `data pack`, `data check`, `predict`, `export`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from sslscale.errors import ConfigError, ResourceError
from sslscale.settings.model import FILES
from sslscale.storage import mirror


def _share(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def pack(options: argparse.Namespace) -> int:
    from sslscale.settings.data import PackConfig

    try:
        config = PackConfig(
            source=options.source,
            labels=options.labels,
            labels_per_class=options.labels_per_class,
            keep_hidden_labels=options.keep_hidden_labels,
            val=_share(options.val),
            test=_share(options.test),
            shard_size=options.shard_size,
            resize=options.resize,
            on_bad_sample=options.on_bad_sample,
            seed=options.seed,
        )
    except ValueError as error:
        raise ConfigError("--" + str(error).replace("_", "-")) from None
    out = mirror.local(options.out, ["labeled/index.json"])
    if mirror.is_url(options.out):
        if (out / "labeled" / "index.json").exists():
            raise ConfigError(f"{options.out}: is there already; choose another address or remove it")
        shutil.rmtree(out)
        out = mirror.local(options.out, [])
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; choose another folder or remove it")
    from sslscale.data.pack import pack

    # a folder appears whole or not at all: it is written beside its place, and renamed when all of it is there
    place = out if mirror.is_url(options.out) else _temporary_folder(out)
    try:
        indexes = pack(config, place, threads=os.cpu_count() or 1, say=print)
        if place != out:
            os.rename(place, out)
    except OSError as error:
        raise ResourceError(f"{error.filename or out}: {error.strerror or error}; is {options.out} writable?") from None
    finally:
        if place != out:
            shutil.rmtree(place, ignore_errors=True)
    if (store := mirror.of(out.absolute())) is not None and mirror.is_url(options.out):
        store.push(out)
    for name, index in indexes.items():
        print(f"{name:10} {index.num_samples:>10,} images in {len(index.shards):,} shards")
    classes = next(iter(indexes.values())).classes
    shown = (
        f" ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})" if classes else ": no image has a label"
    )
    print(f"{len(classes)} classes{shown}; wrote {options.out}")
    return 0


def _temporary_folder(out: Path) -> Path:
    """A folder of this process beside `out`; those that processes left which were killed are removed."""
    for left in out.absolute().parent.glob(f".{out.name}.packing-*"):
        owner = left.name.rpartition("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    place = out.absolute().with_name(f".{out.name}.packing-{os.getpid()}")
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror}") from None
    return place


def check(options: argparse.Namespace) -> int:
    from sslscale.data import sources
    from sslscale.data.check import check

    found = check(sources.local_path(options.shards), threads=os.cpu_count() or 1, say=print)
    if options.json:
        print(json.dumps(found))
    return 3 if found["problems"] else 0


def predict(options: argparse.Namespace) -> int:
    from sslscale.evaluate.predict import predict

    failed = 0
    for path, result in predict(
        mirror.local(options.model, FILES), options.paths, top=options.top, threads=os.cpu_count() or 1
    ):
        if isinstance(result, str):
            failed += 1
            print(f"error: {path}: {result}", file=sys.stderr)
        elif options.json:
            print(json.dumps({"path": str(path), "predictions": [{"class": c, "probability": p} for c, p in result]}))
        else:
            print(f"{path}  " + "  ".join(f"{name} {share:.4f}" for name, share in result))
    return 3 if failed else 0


def export(options: argparse.Namespace) -> int:
    from sslscale.train.export import export_backbone

    print(export_backbone(mirror.local(options.model, FILES), options.out))
    return 0
