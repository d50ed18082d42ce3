"""Which image is in which cluster, as a table for people."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslscale.graph.artifacts import Clusters, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only


@dataclass(frozen=True, kw_only=True)
class ClusterListConfig:
    """Nothing to choose."""

    version: int = field(default=1, init=False)


@cpu_only
def list_clusters(ctx: RunContext, config: ClusterListConfig, *, data: Dataset, clusters: Clusters) -> Report:
    """Write clusters.csv: split, key, cluster, and the image's class where it is known."""
    import csv

    from sslscale.data.joined import open_clustered
    from sslscale.data.samples import open_images

    with open(ctx.path / "clusters.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["split", "key", "cluster", "class"])
        for split in clusters.splits:
            samples = open_clustered(data.dir, clusters.dir, (split,), local=ctx.local)
            known = open_images(data.dir, (split,), labels=True, local=ctx.local)
            keys = [key for shard in samples.shards for key in shard.keys]
            labels = ["" if n < 0 else known.index.classes[n] for n in known.labels.tolist()]
            out.writerows(zip([split] * len(keys), keys, samples.labels.tolist(), labels, strict=True))
    return Report(path=str(ctx.path), metrics={"clusters": clusters.k})
