"""Ten million images in ten thousand shards: what a plan, a start, a training and a selection cost.

    python tests/benchmarks/ten_million.py [--shards 10000] [--parts plan,first_batch,selection,index] [--json]

Shards of 1,000 images of 8 x 8 pixels are generated (1 MB each, 10 GB in all; no two alike), with the index that
`sslscale data index` writes of them. Each part is a process of its own:

- plan: `sslscale plan` of a SimCLR pre-training on them, wall clock, from start to end.
- first_batch: from the start of the process to the first batch of 256 images with two views; resident memory (VmRSS,
  file pages too) grown since the libraries were loaded, after `--steps` batches, per image of the set.
- selection: opening the pseudo-labels of all of them, 1,000 classes, the 10 most probable ones of each; seconds, and
  the peak of resident memory.
- index: `sslscale data index` of `--indexed` of the shards, as others would have written them, in images a second.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PER_SHARD, CLASSES, TOP = 1000, 1000, 10


def generate(folder: Path, count: int) -> None:
    """FOLDER/shards/*.tar, which differ in a last member that is no image, and FOLDER/set/unlabeled/index.json."""
    import tarfile

    from sslscale.data.index import ShardInfo, write_index

    (folder / "shards").mkdir(parents=True)
    (folder / "set" / "unlabeled").mkdir(parents=True)
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(PER_SHARD):
            buffer = io.BytesIO()
            noise = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(noise).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{number:06d}.png")
            info.size = buffer.tell()
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
        end = tar.offset
    images = body.getvalue()[:end]
    known = hashlib.sha256(images)
    infos = []
    for number in range(count):
        last = io.BytesIO()
        with tarfile.open(fileobj=last, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            info = tarfile.TarInfo("shard.note")
            info.size = 8
            tar.addfile(info, io.BytesIO(f"{number:08d}".encode()))
        file = folder / "shards" / f"{number:06d}.tar"
        file.write_bytes(images + last.getvalue())
        checksum = known.copy()
        checksum.update(last.getvalue())
        size = len(images) + len(last.getvalue())
        infos.append(ShardInfo(file.name, PER_SHARD, size, checksum.hexdigest(), (8, 8), str(file)))
    blank = np.full(count * PER_SHARD, -1)
    write_index(folder / "set" / "unlabeled", infos, [f"c{n}" for n in range(CLASSES)], blank, prefixed=True)


def resident() -> int:
    """Bytes of this process in memory, file pages too."""
    return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x).split()[1]) << 10


def started() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def first_batch(folder: Path, steps: int) -> dict[str, float]:
    import torch

    from sslscale.data.loader import Loader
    from sslscale.data.samples import open_images
    from sslscale.data.stream import Stream
    from sslscale.settings.augment import AugmentConfig, JitterConfig
    from sslscale.settings.model import ImageConfig
    from sslscale.storage.scratch import Local

    torch.set_num_threads(1)
    loaded, before = started(), resident()
    local = Local(folder / "local")
    samples = open_images(folder / "set", ("unlabeled",), local=local)
    opened = started()
    stream = Stream(
        "images",
        samples,
        batch_size=256,
        seed=0,
        image=ImageConfig(size=8),
        views=[AugmentConfig(crop="resized", jitter=JitterConfig(), count=2)],
        cache=local.folder,
        cache_bytes=8 << 30,
        threads=2,
    )
    first, count = 0.0, 0
    for _ in Loader({"images": stream}, steps, threads=2):
        count += 1
        first = first or started()
    grown = resident() - before
    return {
        "libraries_s": loaded,
        "opened_s": opened,
        "first_batch_s": first,
        "all_batches_s": started(),
        "batches": count,
        "images": len(samples),
        "bytes_per_image": grown / len(samples),
    }


def write_selection(folder: Path, count: int) -> None:
    """What `select` leaves of scores of the 10 most probable classes; one image in ten is used twice."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from sslscale.data.selection import SOURCE, source_of

    place = folder / "selection"
    place.mkdir()
    rng = np.random.default_rng(0)
    probs = np.sort(rng.dirichlet(np.full(TOP, 0.5), PER_SHARD).astype(np.float16), 1)[:, ::-1]
    classes = rng.integers(0, CLASSES, (PER_SHARD, TOP)).astype(np.int32)
    copies = (1 + (np.arange(PER_SHARD) % 10 == 0)).astype(np.int32)
    table = pa.table(
        {
            "key": pa.array([f"{n:06d}" for n in range(PER_SHARD)]),
            "label": pa.array(classes[:, 0]),
            "confidence": pa.array(probs[:, 0].astype(np.float32)),
            "classes": pa.FixedSizeListArray.from_arrays(pa.array(classes.ravel()), TOP),
            "probs": pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(probs).ravel()), TOP),
            "row": pa.array(np.arange(PER_SHARD, dtype=np.int32)),
            "copies": pa.array(copies),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    for number in range(count):
        (place / f"selection-{number:06d}.parquet").write_bytes(buffer.getvalue())
    stats = {"accounting": {"used": count * PER_SHARD}, "after": [count * int(copies.sum())]}
    (place / "stats.json").write_text(json.dumps({**stats, SOURCE: source_of(folder / "set" / "unlabeled")}))


def selection(folder: Path) -> dict[str, float]:
    from sslscale.data.selection import open_selected

    begun, before = time.perf_counter(), resident()
    samples = open_selected(folder / "selection", folder / "set" / "unlabeled", seed=0, shard_size=PER_SHARD)
    seconds, grown = time.perf_counter() - begun, resident() - before
    numbers = np.random.default_rng(0).integers(0, len(samples), 4096)
    begun = time.perf_counter()
    dense = samples.field("soft_label", numbers)
    assert dense.shape == (4096, CLASSES)
    return {
        "samples": len(samples),
        "open_s": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "bytes_per_sample": grown / len(samples),
        "batch_of_4096_ms": (time.perf_counter() - begun) * 1000,
    }


def plan(folder: Path) -> dict[str, float]:
    config = folder / "plan.yaml"
    config.write_text(
        f"pipeline: pretrain\ndata: {{source: {folder / 'set'}}}\n"
        "pretrain:\n  method: {name: simclr}\n  model: {name: resnet_18}\n  image: {size: 8}\n  batch_size: 256\n"
        "  num_steps: 100\n  optim: {lr: 0.1}\n  augment: {crop: resized, flip: true}\n"
    )
    words = ["plan", str(config), "--root", str(folder / "root")]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"plan_s": seconds, "stages": sum("run" in line for line in done.stdout.splitlines())}


RUN = "import sys; from sslscale.cli.main import main; sys.exit(main(sys.argv[1:]))"


def index(folder: Path, count: int) -> dict[str, float]:
    shards = f"{folder}/shards/{{000000..{count - 1:06d}}}.tar"
    out = folder / "indexed"
    words = ["data", "index", shards, str(out), "--prefix-keys"]
    begun = time.perf_counter()
    environment = {**os.environ, "SSLSCALE_SCRATCH": str(folder / "scratch")}
    subprocess.run([sys.executable, "-c", RUN, *words], check=True, capture_output=True, env=environment)
    seconds = time.perf_counter() - begun
    return {"indexed": count * PER_SHARD, "index_s": seconds, "indexed_per_s": count * PER_SHARD / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--indexed", type=int, default=200)
    parser.add_argument("--parts", default="plan,first_batch,selection,index")
    parser.add_argument("--work", type=Path, help="where to generate; a temporary folder if not given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:  # a part, in this process
        call = {"first_batch": lambda f: first_batch(f, options.steps), "selection": selection}[options.one]
        print(json.dumps(call(options.work)))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder, found = Path(name) / "set", {}
        begun = time.perf_counter()
        generate(folder, options.shards)
        print(f"generated in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        for part in options.parts.split(","):
            if part == "plan":
                found |= plan(folder)
            elif part == "index":
                found |= index(folder, min(options.indexed, options.shards))
            else:
                if part == "selection":
                    write_selection(folder, options.shards)
                words = [sys.executable, __file__, "--one", part, "--work", str(folder), "--steps", str(options.steps)]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                found |= json.loads(done.stdout.splitlines()[-1])
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:20} {value:,.4g}")


if __name__ == "__main__":
    main()
