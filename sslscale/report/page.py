"""One self-contained HTML file that shows the results of a run. Text is escaped by jinja2."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

_TABLE = """<table><thead><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>"""
_PICTURE = """<figure{% if not wide %} class="small"{% endif %}><img alt="{{ caption }}"
 src="data:image/png;base64,{{ data }}"><figcaption>{{ caption }}</figcaption></figure>"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table."""
    return _render(_TABLE, header=header, rows=rows)


def picture(file: Path, caption: str, *, wide: bool = False) -> str:
    """A PNG inside the page, over half its width or all of it; nothing if the file is not there."""
    if not file.exists():
        return ""
    return _render(_PICTURE, data=base64.b64encode(file.read_bytes()).decode(), caption=caption, wide=wide)


def page(title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """A whole page of titled sections, whose parts are HTML already: tables, pictures."""
    from markupsafe import Markup

    text = (Path(__file__).parent / "page.html").read_text("utf-8")
    # the parts come from the functions above, which have escaped what users named
    parts = {name: [Markup(part) for part in found] for name, found in sections.items()}  # noqa: S704
    return _render(text, title=title, sections=parts)


def _render(text: str, **values: Any) -> str:
    return _environment().from_string(text).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
