"""Random numbers that belong to a sample, not to a worker or a moment.

A draw is a hash of (seed, epoch, sample, slot), so a sample is augmented alike on any number of workers, in any
batch and after any restart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.shapes import Float, Int


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical: torch's >> keeps the sign


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014), in wrapping int64 arithmetic."""
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def uniforms(
    seed: int, epoch: Int[Tensor, " batch"], sample: Int[Tensor, " batch"], count: int
) -> Float[Tensor, "batch count"]:
    """`count` float32 numbers in [0, 1) for each sample of a batch."""
    state = _mix(torch.full_like(sample, seed) * _GOLDEN + epoch)
    state = _mix(state ^ (sample * _GOLDEN))
    slots = torch.arange(1, count + 1, device=sample.device, dtype=torch.int64) * _GOLDEN
    bits = _mix(state[:, None] + slots)
    return (_shift(bits, 40)).to(torch.float32) * (1.0 / (1 << 24))


def stream_seed(seed: int, name: str) -> int:
    """A seed of its own for each named stream of one run."""
    value = seed & 0xFFFFFFFF
    for character in name.encode():
        value = (value * 1_000_003 + character) & 0x7FFFFFFF
    return value


def global_normal(seed: int, like: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Normal numbers for this worker's rows of a global batch: the same for an image on any number of workers."""
    generator = torch.Generator(like.device).manual_seed(seed)
    count = len(like)
    every = torch.randn(
        distributed.total(count), *like.shape[1:], generator=generator, device=like.device, dtype=torch.float32
    )
    return every[distributed.rows(count)].to(like.dtype)
