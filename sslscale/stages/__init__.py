"""The kinds of node a graph is made of: each a function (ctx, config, *, inputs) -> Artifact.

They import torch and its kind inside the function: a plan imports every stage and must take a second. Here is how a
pipeline declares a training.
"""

from __future__ import annotations

from functools import partial

from sslscale.errors import ConfigError
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.train import TrainConfig
from sslscale.stages.open_weights import WeightsConfig, content
from sslscale.stages.open_weights import open_weights as open_stage
from sslscale.stages.train import train as train_stage


def training(settings: TrainConfig, *, name: str, resources: Resources, **inputs: Stage) -> Stage:
    """A stage that trains by these settings, from the weights that they name (`init`), if they name any.

    Raises ConfigError if another stage is to give the first weights.
    """
    if settings.init is not None:
        if "init" in inputs:
            raise ConfigError(f"{name}: init: its first weights are those of {inputs['init'].name}")
        weights = WeightsConfig(source=settings.init, model=settings.model, image=settings.image)
        inputs["init"] = stage(open_stage, weights, name=f"{name}/init", content=partial(content, weights))
    return stage(train_stage, settings, name=name, resources=resources, content=None, **inputs)
