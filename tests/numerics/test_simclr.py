"""NT-Xent against the paper's double loop in float64, and against independent code."""

from __future__ import annotations

import math

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from sslscale.methods.simclr.method import nt_xent


def literal(first: torch.Tensor, second: torch.Tensor, t: float) -> float:
    """Algorithm 1 of the paper, one pair at a time: z_{2k-1} and z_2k are the two views of image k."""
    z = [x for pair in zip(first.double().tolist(), second.double().tolist(), strict=True) for x in pair]
    norm = [math.sqrt(sum(a * a for a in x)) for x in z]

    def s(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(z[i], z[j], strict=True)) / (norm[i] * norm[j])

    def loss(i: int, j: int) -> float:
        return -math.log(math.exp(s(i, j) / t) / sum(math.exp(s(i, k) / t) for k in range(len(z)) if k != i))

    n = len(first)
    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_its_literal_transcription(temperature: float) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(7, 5) * 3, torch.randn(7, 5)
    assert float(nt_xent(first, second, temperature)) == pytest.approx(literal(first, second, temperature), rel=1e-5)


def test_closed_forms() -> None:
    # all vectors the same: every similarity is 1, so the loss is log(2n - 1)
    same = torch.ones(6, 4)
    assert float(nt_xent(same, same, 0.3)) == pytest.approx(math.log(11), rel=1e-5)
    # identical views of orthogonal images: 1 positive at similarity 1, 2n - 2 negatives at 0
    eye = torch.eye(6)
    assert float(nt_xent(eye, eye, 0.5)) == pytest.approx(math.log(1 + 10 * math.exp(-2)), rel=1e-5)


def _worker(rank: int, folder: str, first: torch.Tensor, second: torch.Tensor) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = slice(rank * 4, rank * 4 + 4)
    a, b = first[half].clone().requires_grad_(), second[half].clone().requires_grad_()
    loss = nt_xent(a, b, 0.2)
    (loss / 2).backward()  # DDP takes the mean over the workers
    torch.save((loss.detach(), a.grad, b.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_have_the_loss_and_the_gradients_of_one(tmp_path) -> None:
    torch.manual_seed(1)
    first, second = torch.randn(8, 6), torch.randn(8, 6)
    spawn(_worker, (str(tmp_path), first, second), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    whole = nt_xent(a, b, 0.2)
    whole.backward()
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, whole.detach())
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), a.grad)
    torch.testing.assert_close(torch.cat([p[2] for p in parts]), b.grad)
