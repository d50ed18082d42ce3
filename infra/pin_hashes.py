"""Write image-requirements.txt: all that the image installs, at the versions of constraints.txt, with its SHA-256 sums.

    PIP_INDEX_URL=URL python infra/pin_hashes.py     # in an environment with sslscale[cluster] installed

URL is that of a package index with the JSON form of the simple API, as PyPI has it. pip refuses a file whose sum is
not listed, whichever index it came from. The sums are those of wheels for Python 3.11 on Linux (x86_64), and of source
archives where there is no such wheel.
"""

from __future__ import annotations

import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

HERE = Path(__file__).parent
BUILD = "hatchling"  # builds the package itself
_TARGET = {"python_version": "3.11", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
_TAGS = frozenset([*cpython_tags((3, 11), platforms=_PLATFORMS), *compatible_tags((3, 11), "cp311", _PLATFORMS)])


def needed(name: str, extras: frozenset[str]) -> set[str]:
    """The packages that a package with these extras needs, theirs among them."""
    found: set[str] = set()
    waiting, seen = [(name, extras)], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for text in metadata.requires(one[0]) or []:
            wanted = Requirement(text)
            chosen = [{**_TARGET, "extra": extra} for extra in one[1] or {""}]
            if wanted.marker is None or any(wanted.marker.evaluate(environment) for environment in chosen):
                found.add(canonicalize_name(wanted.name))
                waiting.append((canonicalize_name(wanted.name), frozenset(wanted.extras)))
    return found


def sums(index: str, name: str, version: str) -> list[str]:
    """The sums of a release's files; raises LookupError if it has none for the image."""
    if not index.startswith("https://"):
        raise ValueError(f"PIP_INDEX_URL {index!r}: name an index by https://")
    asked = urllib.request.Request(  # noqa: S310 (https, see above)
        f"{index.rstrip('/')}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        files = json.load(answer)["files"]
    for wheels in (True, False):
        usable = [file for file in files if _usable(file["filename"], Version(version), wheels=wheels)]
        if usable:
            return sorted({file["hashes"]["sha256"] for file in usable})
    raise LookupError(f"{name} {version}: the index has no file for Python 3.11 on Linux")


def _usable(file: str, version: Version, *, wheels: bool) -> bool:
    try:
        if wheels:
            _, of, _, tags = parse_wheel_filename(file)
            return of == version and not tags.isdisjoint(_TAGS)
        return parse_sdist_filename(file)[1] == version
    except (InvalidSdistFilename, InvalidWheelFilename):
        return False


def main() -> None:
    """The command at the top."""
    lines = (HERE / "constraints.txt").read_text("utf-8").splitlines()
    pins = {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines if "==" in line)}
    packages = sorted(needed("sslscale", frozenset({"cluster"})) | needed(BUILD, frozenset()) | {BUILD})
    index = os.environ.get("PIP_INDEX_URL", "")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: sums(index, name, pins[name]), packages))
    text = "# Written by pin_hashes.py from constraints.txt and pyproject.toml; installed with --require-hashes.\n"
    for name, every in zip(packages, found, strict=True):
        text += f"{name}=={pins[name]}" + "".join(f" \\\n    --hash=sha256:{one}" for one in every) + "\n"
    (HERE / "image-requirements.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
