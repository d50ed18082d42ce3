"""Which unlabelled images of packed shards to label next, by a checkpoint: what `sslscale suggest` runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.suggest import SuggestConfig
from sslscale.stages import open_checkpoint
from sslscale.stages.pack import content, pack
from sslscale.stages.suggest import suggest


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    suggest: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checkpoint, the images, and how to choose."""

    model: str
    data: PackConfig
    suggest: SuggestConfig = SuggestConfig()
    resources: Workers = Workers()
    seed: int = 0


def build(config: Config) -> list[Stage]:
    """The graph. The only target is the list of images."""
    origin = open_checkpoint.CheckpointConfig(path=config.model)
    model = stage(
        open_checkpoint.open_checkpoint, origin, name="checkpoint", content=partial(open_checkpoint.content, origin)
    )
    source = config.data.seen_by(open_checkpoint.images_of(config.model), seed=config.data.seed)
    data = stage(pack, source, name="data", content=partial(content, source))
    own = dataclasses.replace(config.suggest, seed=config.seed)
    return [stage(suggest, own, name="suggest", resources=config.resources.suggest, model=model, data=data)]
