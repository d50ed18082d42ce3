"""The comment beside each field of a dataclass, read from its source: what the reference and editors show of a key."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize


def comments(cls: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, or on the lines above it; those of its bases too."""
    return {name: note for base in reversed(cls.__mro__) if base is not object for name, note in _own(base).items()}


def _own(cls: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    found = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    notes = {}
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            above = item.lineno - 1
            before: list[str] = []
            while above in found and lines[above - 1].lstrip().startswith("#"):
                before.insert(0, found[above])
                above -= 1
            inside = [found[line] for line in range(item.lineno, (item.end_lineno or item.lineno) + 1) if line in found]
            notes[item.target.id] = " ".join(text for text in [*before, *inside] if not text.startswith("pyright"))
    return notes
