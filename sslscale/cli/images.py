"""Images and shards: `data pack`, `data index`, `data check`, `predict`, `export`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from typing import Any

from sslscale.errors import ConfigError
from sslscale.settings.model import FILES
from sslscale.storage import mirror

PREFIX = "webdataset:"
SPLITS = ("labeled", "unlabeled", "val", "test")


def _share(text: str | None) -> float | str | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def pack(options: argparse.Namespace) -> int:
    return _build(
        options,
        source=options.source,
        labels=options.labels,
        shard_size=options.shard_size,
        resize=options.resize,
    )


def index(options: argparse.Namespace) -> int:
    shards = [shard.removeprefix(PREFIX) for shard in options.shards]
    source = shards[0] if len(shards) == 1 else "{" + ",".join(shards) + "}"
    val, test = (share and _webdataset(share) for share in (options.val, options.test))
    options.val, options.test = val, test
    return _build(options, source=PREFIX + source, label=options.label, prefix_keys=options.prefix_keys)


def _webdataset(share: str) -> str:
    return share if isinstance(_share(share), float) else PREFIX + share.removeprefix(PREFIX)


def _build(options: argparse.Namespace, **settings: Any) -> int:
    """Pack or index a source into a folder, or a prefix of a store, that appears whole or not at all."""
    from sslscale.settings.data import PackConfig

    try:
        config = PackConfig(
            **settings,
            labels_per_class=options.labels_per_class,
            keep_hidden_labels=options.keep_hidden_labels,
            val=_share(options.val),
            test=_share(options.test),
            on_bad_sample=options.on_bad_sample,
            seed=options.seed,
        )
    except ValueError as error:
        raise ConfigError("--" + str(error).replace("_", "-")) from None
    out = mirror.local(options.out, [f"{split}/index.json" for split in SPLITS])
    if mirror.is_url(options.out):
        if any((out / split / "index.json").exists() for split in SPLITS):
            raise ConfigError(f"{options.out}: is there already; choose another address or remove it")
        shutil.rmtree(out)
        out = mirror.local(options.out, [])
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; choose another folder or remove it")
    from sslscale.cli.building import build_beside

    if mirror.is_url(options.out):
        local = out.with_name(f"{out.name}-made")
        indexes = build_beside(config, local, options.workers)
        for made in local.iterdir():
            shutil.move(made, out / made.name)
        local.rmdir()
        mirror.at(options.out, out).push(out)
    else:
        indexes = build_beside(config, out, options.workers)
    for name, found in indexes.items():
        print(f"{name:10} {found.num_samples:>10,} images in {len(found.shards):,} shards")
    classes = next(iter(indexes.values())).classes
    shown = (
        f" ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})" if classes else ": no image has a label"
    )
    print(f"{len(classes)} classes{shown}; wrote {options.out}")
    return 0


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
