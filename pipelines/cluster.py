"""Groups of similar images, found without labels.

1. Pre-train a network on every image, labels unread; or begin with public weights (`pretrain.init`).
2. Compute the features of every image.
3. Group them by k-means. clusters.csv of the result names the group of each image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig, KMeansConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.cluster_list import ClusterListConfig, list_clusters
from sslscale.stages.extract import extract
from sslscale.stages.kmeans import kmeans
from sslscale.stages.pack import content, pack


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    data: PackConfig
    pretrain: TrainConfig
    extract: ExtractConfig = ExtractConfig(splits=("labeled", "unlabeled"))
    kmeans: KMeansConfig
    resources: Resources = Resources()
    seed: int = 0


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed = config.seed
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=config.resources, content=partial(content, source))
    settings = dataclasses.replace(config.pretrain, seed=seed)
    model = training(settings, name="pretrain", resources=config.resources, data=data)
    features = stage(extract, config.extract, name="features", resources=config.resources, model=model, data=data)
    groups = dataclasses.replace(config.kmeans, seed=seed)
    clusters = stage(kmeans, groups, name="clusters", resources=config.resources, features=features)
    return [stage(list_clusters, ClusterListConfig(), name="list", data=data, clusters=clusters)]
