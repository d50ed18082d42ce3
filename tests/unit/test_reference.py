"""The reference of keys is that of the code, and every page's links lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from sslscale.cli.catalog import methods
from tests import reference

ROOT = Path(__file__).parent.parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]


def test_the_reference_is_up_to_date() -> None:
    assert reference.FILE.read_text() == reference.reference(), "run: python -m tests.reference"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page}: {target}"
        if anchor:
            text = place if place.is_file() else place / "README.md"
            assert anchor in anchors(text), f"{page}: {target}"


def test_the_readme_fits_and_counts_the_methods() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    kinds = Counter(row["kind"] for row in methods())
    found = re.search(r"(\d+) self-supervised and (\d+) semi-supervised methods", text)
    assert found and found.groups() == (str(kinds["self-supervised"]), str(kinds["semi-supervised"]))


def test_the_promises_name_tests_that_exist() -> None:
    folder = ROOT / "tests" / "faults"
    named = re.findall(r"`(?:([\w./]+\.py)::)?(test_\w+)`", (folder / "README.md").read_text())
    assert len(named) > 40
    file = ""
    for given, name in named:
        file = given or file  # a name alone is of the file before it
        assert f"def {name}(" in (folder / file).read_text(), f"{file}::{name}"
