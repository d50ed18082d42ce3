"""One HTML file that tells the story of a run: rounds, pseudo-labels, errors. It needs nothing but itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:.4rem .6rem .4rem 0;vertical-align:top}
img{max-width:100%;height:auto}figcaption{font-size:.85rem;color:#555}.small{max-width:29rem}
"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(file: Path, caption: str, *, wide: bool = False) -> str:
    """A PNG inside the page, over half its width or all of it; nothing if the file is not there."""
    if not file.exists():
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    text, size = html.escape(caption), "" if wide else ' class="small"'
    return (
        f'<figure{size}><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def page(title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """A whole page of titled sections, whose parts are HTML already."""
    body = "".join(f"<h2>{html.escape(name)}</h2>{''.join(parts)}" for name, parts in sections.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )
