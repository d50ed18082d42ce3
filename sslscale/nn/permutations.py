"""Sets of permutations that are far from one another, for jigsaw puzzles."""

from __future__ import annotations

import functools
import hashlib
import itertools
from pathlib import Path
from typing import Literal

import numpy as np

from sslscale.errors import DataError
from sslscale.shapes import UInt8
from sslscale.storage import jsonio

TILES, SEED = 9, 0
STORED = Path(__file__).with_name("permutation_sets")  # of the usual sizes; others are made when they are needed
Choice = Literal["mean", "least"]


def choose(count: int, choice: Choice, seed: int = SEED) -> UInt8[np.ndarray, "count tiles"]:
    """`count` of the 9! permutations: the first at random, then again and again the one with the greatest mean, or
    greatest least, Hamming distance to those chosen; of equals the first in lexical order.

    As VISSL's generate_jigsaw_permutations.py does with max_avg and max_min. The order is that of the labels.
    """
    every = np.array(list(itertools.permutations(range(TILES))), np.uint8)
    columns = np.ascontiguousarray(every.T)
    picked = [int(np.random.default_rng(seed).integers(len(every)))]
    total = np.zeros(len(every), np.int32)  # sum, or least, of the distances to those chosen
    if choice == "least":
        total += TILES
    distance = np.empty(len(every), np.uint8)
    while len(picked) < count:
        last = every[picked[-1]]
        distance[:] = 0
        for place in range(TILES):
            distance += columns[place] != last[place]
        if choice == "mean":
            total += distance
            total[picked[-1]] = -1 << 30  # never again
        else:
            np.minimum(total, distance, out=total)
        picked.append(int(total.argmax()))
    return every[picked]


def distances(chosen: UInt8[np.ndarray, "count tiles"]) -> tuple[float, int]:
    """Mean and least Hamming distance between two of a set."""
    different = (chosen[:, None] != chosen[None]).sum(2)
    pairs = different[np.triu_indices(len(chosen), 1)]
    return float(pairs.mean()), int(pairs.min())


def checksum(chosen: UInt8[np.ndarray, "count tiles"]) -> str:
    """Of a set and its order."""
    return hashlib.sha256(np.ascontiguousarray(chosen).tobytes()).hexdigest()


def store(count: int, choice: Choice) -> None:
    """Write a set and what is known of it beside this file."""
    chosen = choose(count, choice)
    mean, least = distances(chosen)
    np.save(STORED / f"{choice}-{count}.npy", chosen)
    about = {"seed": SEED, "mean_distance": round(mean, 4), "least_distance": least, "sha256": checksum(chosen)}
    jsonio.write_json(STORED / f"{choice}-{count}.json", about)


@functools.cache
def permutations(count: int, choice: Choice) -> UInt8[np.ndarray, "count tiles"]:
    """The set of this size, stored or made; raises DataError if a stored one has changed."""
    file = STORED / f"{choice}-{count}.npy"
    if not file.exists():
        return choose(count, choice)
    chosen = np.load(file, allow_pickle=False)
    if checksum(chosen) != jsonio.read_json(file.with_suffix(".json"))["sha256"]:
        raise DataError(f"{file}: is not what its checksum says; install sslscale again")
    return chosen
