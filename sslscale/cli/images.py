"""Images and shards: `data pack`, `data index`, `data check`, `predict`, `embed`, `export`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from sslscale.cli.busy import busy
from sslscale.errors import ConfigError, DataError
from sslscale.settings.model import FILES
from sslscale.storage import mirror
from sslscale.storage.jsonio import write_bytes

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
        captions=options.captions,
        video=None
        if options.frames is None
        else {"frames": options.frames, "fps": options.fps, "sound": options.sound},
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
    from sslscale.settings.data import PackConfig, VideoConfig
    from sslscale.settings.pixels import RGB, PixelConfig

    try:
        if settings.get("video") is not None:
            settings["video"] = VideoConfig(**settings["video"])
        reach = None if options.range is None else (options.range[0], options.range[1])
        pixels = PixelConfig(channels=options.channels, bits=options.bits, range=reach)
        config = PackConfig(
            **settings,
            labels_per_class=options.labels_per_class,
            keep_hidden_labels=options.keep_hidden_labels,
            val=_share(options.val),
            test=_share(options.test),
            on_bad_sample=options.on_bad_sample,
            seed=options.seed,
            pixels=None if pixels == RGB else pixels,
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


def label(options: argparse.Namespace) -> int:
    from sslscale.data.answers import add_answers, read_answers
    from sslscale.data.sources import local_path

    if options.out.exists():
        raise ConfigError(f"{options.out}: is there already; choose another folder or remove it")
    if mirror.is_url(options.shards):
        raise ConfigError(f"{options.shards}: label shards on this machine")
    answers = read_answers(options.answers)
    if not answers:
        raise DataError(f"{options.answers}: its column `label` is empty")
    beside = options.out.with_name(f"{options.out.name}.tmp-{os.getpid()}")
    try:
        indexes = add_answers(local_path(options.shards), beside, answers)
        beside.rename(options.out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for name, found in indexes.items():
        print(f"{name:10} {found.num_samples:>10,} images")
    print(f"{len(answers):,} new labels; wrote {options.out}, which refers to the shards of {options.shards}")
    return 0


def check(options: argparse.Namespace) -> int:
    with busy("checking every image"):
        from sslscale.data import sources
        from sslscale.data.check import check

        found = check(sources.local_path(options.shards), threads=os.cpu_count() or 1, say=print)
    if options.json:
        print(json.dumps(found))
    return 3 if found["problems"] else 0


def predict(options: argparse.Namespace) -> int:
    """Print or write the classes of images; the exit code is 3 if one could not be read."""
    from sslscale.evaluate.model import Model, files

    if options.out is not None and options.out.suffix != ".csv":
        raise ConfigError(f"--out {options.out}: name a .csv file")
    model = Model(checkpoint_folder(options), threads=os.cpu_count() or 1)
    images = files(options.paths)
    if model.info.detector is not None:
        return _find_objects(options, model, images)
    top = min(options.top, max(len(model.classes), 1))
    table, failed = [["path", *(x for n in range(1, top + 1) for x in (f"class_{n}", f"probability_{n}"))]], 0
    for path, row in model.outputs(images, probabilities=True):
        if isinstance(row, str):
            failed += 1
            print(f"error: {path}: {row}", file=sys.stderr)
            continue
        found = model.named(row, top)
        if options.out is not None:
            table.append([str(path), *(x for name, share in found for x in (name, f"{share:.6f}"))])
        elif options.json:
            rows = [{"class": name, "probability": share} for name, share in found]
            print(json.dumps({"path": str(path), "predictions": rows}))
        else:
            print(f"{path}  " + "  ".join(f"{name} {share:.4f}" for name, share in found))
    if options.out is not None:
        _write_table(options.out, table)
        print(f"wrote {options.out}: {len(images) - failed:,} of {len(images):,} images")
    return 3 if failed else 0


def _find_objects(options: argparse.Namespace, model: Any, images: list[Path]) -> int:
    """Print or write the objects that a detector finds, with a score of .5 or more."""
    table: list[list[Any]] = [["path", "class", "score", "x0", "y0", "x1", "y1"]]
    failed = 0
    for path, found in model.found(images, 0.5):
        if isinstance(found, str):
            failed += 1
            print(f"error: {path}: {found}", file=sys.stderr)
        elif options.out is not None:
            table += [[str(path), one["class"], f"{one['score']:.4f}", *one["box"]] for one in found]
        elif options.json:
            print(json.dumps({"path": str(path), "objects": found}))
        else:
            words = (
                f"{one['class']} {one['score']:.2f} at {'{:.0f},{:.0f},{:.0f},{:.0f}'.format(*one['box'])}"
                for one in found
            )
            print(f"{path}  " + ("  ".join(words) or "nothing"))
    if options.out is not None:
        _write_table(options.out, table)
        print(f"wrote {options.out}: {len(images) - failed:,} of {len(images):,} images, {len(table) - 1:,} objects")
    return 3 if failed else 0


def _write_table(out: Path, table: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, text.getvalue().encode())


def embed(options: argparse.Namespace) -> int:
    """Write the features of images; the exit code is 3 if one could not be read."""
    import numpy as np

    if options.out.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"--out {options.out}: name a .npy or a .parquet file")
    paths, rows, failed = [], [], 0
    with busy("computing features"):
        from sslscale.evaluate.model import Model, files

        model = Model(checkpoint_folder(options), threads=os.cpu_count() or 1)
        for path, row in model.outputs(files(options.paths), probabilities=False):
            if isinstance(row, str):
                failed += 1
                print(f"error: {path}: {row}", file=sys.stderr)
            else:
                paths.append(str(path))
                rows.append(row)
    if not rows:
        raise DataError(f"none of {failed:,} images could be read")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    features = np.stack(rows)
    if options.out.suffix == ".npy":
        from sslscale.data.features import write_array

        write_array(options.out, features)
        listed = options.out.with_name(f"{options.out.name}.txt")
        write_bytes(listed, "".join(f"{path}\n" for path in paths).encode())
        print(f"wrote {options.out}: {len(rows):,} x {features.shape[1]} float32; their paths are in {listed}")
    else:
        import pyarrow as pa

        from sslscale.data import parquet

        column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        parquet.write(options.out, pa.table({"path": pa.array(paths), "features": column}))
        print(f"wrote {options.out}: {len(rows):,} rows of a path and {features.shape[1]} features")
    return 3 if failed else 0


def export(options: argparse.Namespace) -> int:
    from sslscale.train.export import export_model

    print(export_model(checkpoint_folder(options), options.out, options.to))
    return 0


def checkpoint_folder(options: argparse.Namespace) -> Path:
    """The folder of the checkpoint that a command names: a path, a URL, a key, a stage or `latest`."""
    from sslscale.graph.lookup import find_checkpoint

    if mirror.is_url(options.model) or Path(options.model).exists():
        return mirror.local(options.model, FILES)
    return find_checkpoint(options.root, options.model)
