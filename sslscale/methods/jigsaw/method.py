"""Jigsaw puzzles: which permutation the tiles of an image are in (arXiv:1603.09246)."""

from __future__ import annotations

from sslscale.methods.pretext import PretextMethod
from sslscale.methods.puzzle import JigsawTask


class JigsawMethod(PretextMethod):
    """A backbone for tiles, and a classifier of permutations."""

    kind = JigsawTask
