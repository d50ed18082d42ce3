"""Inputs that somebody has damaged, by the thousand: each ends with a result or with one clear line, and in time.

    python -m tests.faults.fuzz --cases 20000 --out OUT

Cases are drawn from a seed. A command must end with exit code 0, 2, 3 or 4, print no traceback and no guess at a
defect, take no longer than _LIMIT_S, and leave no output behind if it fails. Prints how many of each kind did what; a
case that breaks a promise is kept in a folder of its own, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tifffile
import yaml

from sslscale.cli.main import main as sslscale
from sslscale.errors import UserError
from tests import runs

_LIMIT_S = 30
_CODES = (0, 2, 3, 4)
_BLOCK = 512
_WORDS = (
    *("", "-1", "0", "1e309", "nan", ".inf", "null", "true", "[]", "{}", "[1, [2", "'", '"', "9" * 400, "\x00", "\t"),
    *("!!python/object/apply:os.system [id]", "&a [*a]", "*b", "<<: *b", "{{", "- - -", "? :", "%", "a: b: c", "~"),
    *("../../x", "s3://", "coco:", "torchvision:CIFAR10", "0.1%", "--", "--seed", "-x", "=", "a=b", "seed=", "x" * 300),
    *("digits", "wrn_10_0.5", "vit_32x8_2", "e\u0301\u202e", "0.5", "3", "1,2", "None", "/dev/null"),
)
_VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        7.5,
        1e-9,
        -0.5,
        1e300,
        float("inf"),
        float("nan"),
        10**30,
        [],
        {},
        [[]],
        "",
        "x",
    ),
    *([1, 2, 3], {"name": "x"}, {1: 2}, [None], "digits", "\x1b[31m", "1" * 400),
)


class Hung(BaseException):
    """A case took too long."""


class Result(NamedTuple):
    counts: Counter[tuple[str, str]]  # by kind and outcome
    broken: list[str]


def text(data: bytes, choice: random.Random) -> bytes:
    """Damage a text as an editor, a program or an enemy may."""
    lines = data.decode("utf-8", "replace").splitlines()
    for _ in range(choice.choice((1, 1, 2, 4))):
        place = choice.randrange(len(lines)) if lines else 0
        match choice.randrange(8):
            case 0 if lines:
                del lines[place]
            case 1 if lines:
                lines.insert(place, choice.choice(lines))
            case 2 | 3 | 4 if lines:
                words = re.split(r"([\s:,\[\]{}]+)", lines[place])
                words[choice.randrange(len(words))] = choice.choice(_WORDS)
                lines[place] = "".join(words)
            case 5 if lines:
                other = choice.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
            case 6:
                lines = lines[:place]
            case _:
                lines.insert(place, " " * choice.randrange(6) + choice.choice(_WORDS))
    changed = "\n".join(lines).encode("utf-8", "surrogatepass")
    return octets(changed, choice) if choice.random() < 0.15 else changed


def tree(data: bytes, choice: random.Random, load: Callable[[bytes], Any], dump: Callable[[Any], str]) -> bytes:
    """Change a document's values and keys, and keep its form."""
    document = load(data)
    for _ in range(choice.choice((1, 1, 1, 2, 3))):
        every = list(_places(document))
        if not every:
            break
        (parent, key), (other, name) = choice.choice(every), choice.choice(every)
        match choice.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[choice.choice((f"{key}x", name, "x", 3))] = parent.pop(key)
            case 2:
                parent[key] = copy.deepcopy(other[name])
            case 3 if isinstance(parent[key], int | float):
                parent[key] = choice.choice((-1, 2, 0.5, 1e6)) * parent[key]
            case _:
                parent[key] = copy.deepcopy(choice.choice(_VALUES))
    return dump(document).encode("utf-8", "surrogatepass")


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each value of a document, as what it lies in and its key there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def yaml_text(data: bytes, choice: random.Random) -> bytes:
    """A damaged YAML file: as a rule its values, else its text."""
    return tree(data, choice, yaml.safe_load, yaml.safe_dump) if choice.random() < 0.75 else text(data, choice)


def json_text(data: bytes, choice: random.Random) -> bytes:
    """A damaged JSON file: its values, its text, or its bytes."""
    if choice.random() < 0.5:
        return tree(data, choice, json.loads, json.dumps)
    return (text if choice.random() < 0.5 else octets)(data, choice)


def octets(data: bytes, choice: random.Random) -> bytes:
    """Damage a file as a disk or a network may."""
    damaged = bytearray(data)
    place = choice.randrange(len(damaged)) if damaged else 0
    match choice.randrange(7):
        case 0:
            return bytes(damaged[:place])
        case 1:
            damaged[place:place] = choice.randbytes(choice.choice((1, 16, _BLOCK)))
        case 2:
            damaged[place : place + _BLOCK] = bytes(len(damaged[place : place + _BLOCK]))
        case 3:
            damaged[place:place] = damaged[place : place + choice.choice((1, 64, 4 * _BLOCK))]
        case 4:
            del damaged[place : place + choice.choice((1, 16, _BLOCK))]
        case _:
            for _ in range(choice.choice((1, 3, 20))):
                if damaged:
                    damaged[choice.randrange(len(damaged))] ^= 1 << choice.randrange(8)
    return bytes(damaged)


def command(*words: str | Path, out: Path | None = None) -> str:
    """Run a command in this process; returns its exit code as text, or what was wrong with how it ended."""
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            code = sslscale([*map(str, words)])
        except SystemExit as stop:  # --help and --version
            code = stop.code
    err = told.getvalue()
    if code not in _CODES:
        return f"exit code {code} of {words}: {err.strip()[-500:]}"
    if "Traceback" in err or "may be a defect" in err:
        return f"not a clear line: {err.strip()[-500:]}"
    if code and not (err + printed.getvalue()).strip():
        return f"exit code {code} without a word"
    if code and out is not None and (out.is_symlink() or out.exists()):
        return f"exit code {code}, and {out.name} is left behind"
    return f"exit {code}"


class Material:
    """Whole inputs, made once; each case damages a copy of one of them."""

    def __init__(self, folder: Path):
        from PIL import Image

        self.folder = folder
        folder.mkdir(parents=True)
        self.configs = sorted((runs.ROOT / "configs").glob("*/*.yaml"))
        for number in range(8):
            (folder / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.effect_noise((12, 12), 50).convert("RGB").save(folder / f"photos/{'ab'[number % 2]}/{number}.png")
        self.photos = sorted((folder / "photos").glob("*/*.png"))
        for number, name in enumerate(("lzw", "contig", "separate", "pages")):
            (folder / "bands" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            array = np.random.default_rng(number).integers(0, 65536, (4, 12, 12), np.uint16)
            kind: dict[str, Any] = {"planarconfig": "separate"} if name in ("lzw", "separate") else {}
            kind |= {"compression": "lzw"} if name == "lzw" else {}
            array = array.transpose(1, 2, 0) if name == "contig" else array
            place = folder / "bands" / "ab"[number % 2] / f"{number}.tif"
            tifffile.imwrite(place, array, photometric="minisblack", **kind)
        table = "path,label\n" + "".join(f"photos/{p.parent.name}/{p.name},{p.parent.name}\n" for p in self.photos)
        (folder / "photos.csv").write_text(table)
        assert (
            command("data", "pack", "digits", folder / "shards", "--labels-per-class", "2", "--test", "0.05")
            == "exit 0"
        )
        self._train()
        self.model = next(self.root.glob("artifacts/train/*"))
        self.states = folder / "states"
        self._save_states()
        unlabeled = next(iter(sorted((folder / "shards" / "unlabeled").glob("*.tar"))))
        keys = sorted({name.partition(".")[0] for name in _members(unlabeled)})[:20]
        self.answers = ("key,label\n" + "".join(f"{key},{number % 10}\n" for number, key in enumerate(keys))).encode()

    def _train(self) -> None:
        """A root with a finished run."""
        self.root = self.folder / "root"
        config = runs.write(self.folder, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 2"), "short.yaml")
        runs.sslscale("run", config, "--root", self.root)

    def _save_states(self) -> None:
        import torch

        from sslscale.train import checkpoint

        layer = torch.nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        for step in (1, 2):
            state = {"method": layer.state_dict(), "optimizer": optimizer.state_dict(), "loader": {"place": step}}
            checkpoint.save_state(self.states, step, state)


def _members(shard: Path) -> list[str]:
    import tarfile

    with tarfile.open(shard) as tar:
        return tar.getnames()


def _damage(file: Path, how: Callable[[bytes, random.Random], bytes], choice: random.Random) -> None:
    data = how(file.read_bytes(), choice)
    file.unlink()  # it may be a link to the whole one
    file.write_bytes(data)


def _linked(source: Path, target: Path) -> Path:
    """A copy of a folder that shares its files until they are damaged."""
    return Path(shutil.copytree(source, target, symlinks=True, copy_function=os.link))


def configs(given: Material, folder: Path, choice: random.Random) -> str:
    """A configuration, planned."""
    file = folder / "config.yaml"
    whole = yaml.safe_load(choice.choice(given.configs).read_bytes())
    if choice.random() < 0.7:  # with images that are there
        whole["data"] = {"source": "digits", "labels_per_class": 10, "test": 0.25}
    file.write_bytes(yaml_text(yaml.safe_dump(whole, sort_keys=False).encode(), choice))
    return command("plan", file, "--root", folder / "root")


def shards(given: Material, folder: Path, choice: random.Random) -> str:
    """A shard, or what is told about shards, checked."""
    place = _linked(given.folder / "shards", folder / "shards")
    file = choice.choice(sorted(f for f in place.rglob("*") if f.is_file()))
    _damage(file, json_text if file.suffix == ".json" else octets, choice)
    return command("data", "check", place)


def checkpoints(given: Material, folder: Path, choice: random.Random) -> str:
    """A model, of a finished run or on its own, that images are given to."""
    place = _linked(given.model, folder / "model")
    for name in ("record.json", "sums.json") if choice.random() < 0.5 else ():  # a model that somebody passed on
        (place / name).unlink()
    file = place / choice.choice(("model.json", "model.safetensors"))
    _damage(file, json_text if file.suffix == ".json" else octets, choice)
    return command("predict", place, given.photos[0], "--root", folder / "root")


def states(given: Material, folder: Path, choice: random.Random) -> str:
    """A state to go on from, which must be one of those that were saved, or none."""
    import logging

    import torch

    from sslscale.train import checkpoint

    place = _linked(given.states, folder / "state")
    file = choice.choice(sorted(f for f in place.rglob("*") if f.is_file()))
    _damage(file, json_text if file.suffix == ".json" else octets, choice)
    logging.disable()
    try:
        found = checkpoint.load_state(place, torch.device("cpu"))
    except UserError as error:
        return f"exit {error.exit_code}"
    finally:
        logging.disable(logging.NOTSET)
    if found is None or found[1]["loader"] != {"place": found[0]}:
        return f"no state, or another one: {found}"
    return "exit 0"


def records(given: Material, folder: Path, choice: random.Random) -> str:
    """A root whose records, sums, descriptions or notes are damaged, listed, verified, planned, shown or cleaned."""
    root = _linked(given.root, folder / "root")
    file = choice.choice(sorted(f for f in root.rglob("*.json") if f.is_file()))
    _damage(file, text if choice.random() < 0.6 else octets, choice)
    words = choice.choice(
        (["ls"], ["verify"], ["gc", "--dry-run"], ["plan", str(given.folder / "short.yaml")], ["show", "latest"])
    )
    found = command(*words, "--root", root, *(["--out", str(folder / "page.html")] if words[0] == "show" else []))
    found = "exit 0" if words[0] == "verify" and found.startswith("exit code 1:") and "changed" in found else found
    return found


def tables(given: Material, folder: Path, choice: random.Random) -> str:
    """A CSV of images, of labels, or of answers."""
    out = folder / "out"
    match choice.randrange(3):
        case 0:
            file = given.folder / f"{folder.name}.csv"  # its paths begin where it lies
            file.write_bytes(text((given.folder / "photos.csv").read_bytes(), choice))
            found = command("data", "pack", file, out, out=out)
            file.unlink()
            return found
        case 1:
            labels = folder / "labels.csv"
            labels.write_bytes(text((given.folder / "photos.csv").read_bytes().replace(b"photos/", b""), choice))
            return command("data", "pack", given.folder / "photos", out, "--labels", labels, out=out)
        case _:
            answers = folder / "answers.csv"
            answers.write_bytes(text(given.answers, choice))
            return command("data", "label", given.folder / "shards", answers, out, out=out)


def words(given: Material, folder: Path, choice: random.Random) -> str:
    """A command line."""
    short, root = str(given.folder / "short.yaml"), str(given.root)
    line = list(
        choice.choice(
            (
                ("plan", short, "--root", root, "seed=1", "train.num_steps=5", "--json"),
                ("plan", short, "--root", root, "--seeds", "0,1", "--estimate"),
                ("ls", "--root", root, "--sort", "loss", "--json"),
                ("show", "latest", "--root", root, "--out", str(folder / "page.html")),
                ("compare", short, short, "--root", root),
                ("verify", "--root", root),
                ("gc", "--root", root, "--dry-run"),
                ("methods", "--kind", "semi-supervised", "--json"),
                ("models", "wrn_28_2"),
                ("configs", "digits"),
                ("data", "check", str(given.folder / "shards"), "--json"),
                (
                    "data",
                    "pack",
                    str(given.folder / "photos"),
                    str(folder / "out"),
                    "--test",
                    "0.25",
                    "--shard-size",
                    "2",
                ),
                ("predict", "model", str(given.photos[0]), "--root", root, "--top", "2"),
                ("export", "model", str(folder / "out.safetensors"), "--root", root),
                ("embed", "model", str(given.photos[0]), "--root", root, "--out", str(folder / "out.npy")),
                ("init", str(given.folder / "photos"), "--out", str(folder / "out.yaml")),
            )
        )
    )
    for _ in range(choice.choice((1, 1, 2, 3))):
        place = choice.randrange(len(line))
        match choice.randrange(10):
            case 0 if place:
                del line[place]
            case 1:
                line.insert(place + 1, choice.choice(line))
            case 2:
                line.insert(place + 1, choice.choice(_WORDS))
            case 3 | 4 if place:
                line[place] = text(line[place].encode(), choice).decode("utf-8", "replace")
            case _ if place:
                line[place] = choice.choice(_WORDS)
    if "gc" in line and "--dry-run" not in line:
        line.append("--dry-run")
    return command(*line)


def bands(given: Material, folder: Path, choice: random.Random) -> str:
    """Images of four channels of 16 bits, one of them damaged, packed."""
    place = _linked(given.folder / "bands", folder / "bands")
    _damage(choice.choice(sorted(f for f in place.rglob("*") if f.is_file())), octets, choice)
    out = folder / "out"
    return command("data", "pack", place, out, "--channels", "4", "--bits", "16", out=out)


KINDS: dict[str, tuple[Callable[[Material, Path, random.Random], str], float]] = {  # with their share of the cases
    "configurations": (configs, 0.25),
    "shards and indexes": (shards, 0.1),
    "checkpoints": (checkpoints, 0.15),
    "states": (states, 0.1),
    "records and notes": (records, 0.1),
    "CSVs": (tables, 0.1),
    "command lines": (words, 0.15),
    "images of other channels": (bands, 0.05),
}


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise Hung

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(out: Path, cases: int, seed: int, only: str | None = None) -> Result:
    """Try so many cases; what broke a promise is described, and its inputs are kept under `out`."""
    given = Material(out / "whole")
    counts: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []
    here = os.getcwd()
    for kind, (case, share) in KINDS.items():
        if only not in (None, kind):
            continue
        for number in range(round(cases * share)):
            folder = out / f"{kind.split()[0]}-{number}"
            folder.mkdir()
            os.chdir(folder)  # where a damaged command line may write
            try:
                with _in_time():
                    found = case(given, folder, random.Random(f"{seed} {kind} {number}"))
            except Hung:
                found = f"not over after {_LIMIT_S} s"
            except Exception:
                found = traceback.format_exc()
            finally:
                os.chdir(here)
            whole = re.fullmatch(r"exit \d", found) is not None
            counts[kind, found if whole else "broken"] += 1
            if whole:
                shutil.rmtree(folder)
            else:
                broken.append(f"{folder}: {found}")
    return Result(counts, broken)


def main() -> int:
    """The command at the top."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kind", choices=KINDS)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    started = time.monotonic()
    found = fuzz(given.out.absolute(), given.cases, given.seed, given.kind)
    for text in found.broken:
        print(text)
    for (kind, outcome), number in sorted(found.counts.items()):
        print(f"{kind:20} {outcome:8} {number:7,}")
    print(f"{found.counts.total():,} cases in {time.monotonic() - started:.0f} s, {len(found.broken)} broken")
    return int(bool(found.broken))


if __name__ == "__main__":
    sys.exit(main())
