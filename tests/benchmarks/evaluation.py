"""How long the protocols take on features that are there: 10,000 images judged by 50,000.

python tests/benchmarks/evaluation.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from sslscale.evaluate.knn import knn_classify
from sslscale.evaluate.linear import linear_probe
from sslscale.evaluate.linear_sgd import sgd_probe
from sslscale.evaluate.retrieval import retrieve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="64,512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, float]] = {}
    for dim in map(int, options.dims.split(",")):
        generator = torch.Generator().manual_seed(0)
        centres, labels = torch.randn(10, dim, generator=generator), torch.arange(60_000) % 10
        rows = 0.5 * centres[labels] + torch.randn(60_000, dim, generator=generator) * (dim / 64) ** 0.5
        bank, queries, known = rows[:50_000], rows[50_000:], labels[:50_000]
        seconds = found[str(dim)] = {}
        for name, work in {
            "knn": lambda b=bank, q=queries, y=known: knn_classify(b, y, q, 10),
            "l-bfgs": lambda b=bank, q=queries, y=known: linear_probe(b, y, q, 10),
            "sgd": lambda b=bank, q=queries, y=known: sgd_probe(b, y, q, 10),
            "retrieval": lambda b=bank, q=queries, y=labels[50_000:]: retrieve(q, y),
        }.items():
            started = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - started
            print(f"{dim:5} features  {name:10} {seconds[name]:6.1f} s")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
