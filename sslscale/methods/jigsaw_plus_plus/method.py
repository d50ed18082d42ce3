"""Jigsaw++: a jigsaw puzzle with tiles of another image among it (arXiv:1805.00385)."""

from __future__ import annotations

from sslscale.methods.pretext import PretextMethod
from sslscale.methods.puzzle import JigsawTask


class JigsawPlusPlusMethod(PretextMethod):
    """As the jigsaw puzzle: its settings replace tiles."""

    kind = JigsawTask
