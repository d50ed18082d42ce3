"""One self-contained HTML file that shows the results of a run. Text is escaped by jinja2."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_TABLE = """<div class="scroll"><table{% if facts %} class="facts"{% endif %}>
<thead><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>"""
_GALLERY = """<h3>{{ title }}</h3>
{% for name, tiles in rows %}<div class="row">{% if name %}<b>{{ name }}</b>{% endif %}{% for tile in tiles %}
<figure class="tile"><img src="{{ tile.uri }}" alt="{{ tile.text }}" title="{{ tile.more }}">{{ tile.text }}</figure>
{%- endfor %}</div>
{% endfor %}"""
_DETAILS = """<details><summary>{{ title }}</summary><pre>{{ text }}</pre></details>"""
_PICTURE = """<figure{% if not wide %} class="small"{% endif %}><img alt="{{ caption }}"
 src="data:image/png;base64,{{ data }}"><figcaption>{{ caption }}</figcaption></figure>"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, facts: bool = False) -> str:
    """An HTML table; of numbers, or of `facts`, whose words are wrapped."""
    return _render(_TABLE, header=header, rows=rows, facts=facts)


def picture(file: Path, caption: str, *, wide: bool = False) -> str:
    """A PNG inside the page, over half its width or all of it; nothing if the file is not there."""
    if not file.exists():
        return ""
    return _render(_PICTURE, data=base64.b64encode(file.read_bytes()).decode(), caption=caption, wide=wide)


class Tile(NamedTuple):
    """One picture of a gallery: a data URI, what stands below it, and what is shown on hover."""

    uri: str
    text: str
    more: str = ""


def gallery(title: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> str:
    """Rows of small pictures, each row with its name."""
    return _render(_GALLERY, title=title, rows=[row for row in rows if row[1]])


def details(title: str, text: str) -> str:
    """Text that is shown when it is asked for."""
    return _render(_DETAILS, title=title, text=text)


def text(words: str) -> str:
    """A paragraph."""
    return _render("<p>{{ words }}</p>", words=words)


def fragment(file: str, *, values: str, **others: Any) -> str:
    """A part of a page from a file beside this one. `values` is JSON without any `<`, which is not escaped again."""
    from markupsafe import Markup

    source = (Path(__file__).parent / file).read_text("utf-8")
    return _render(source, values=Markup(values), **others)  # noqa: S704


def page(title: str, sections: Mapping[str, Sequence[str]], script: str = "") -> str:
    """A whole page of titled sections, whose parts are HTML already: tables, pictures. `script` names a file here."""
    from markupsafe import Markup

    source = (Path(__file__).parent / "page.html").read_text("utf-8")
    # the parts come from the functions above, which have escaped what users named
    parts = {name: [Markup(part) for part in found] for name, found in sections.items()}  # noqa: S704
    code = Markup((Path(__file__).parent / script).read_text("utf-8")) if script else ""  # noqa: S704
    return _render(source, title=title, sections=parts, script=code)


def _render(source: str, **values: Any) -> str:
    return _environment().from_string(source).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
