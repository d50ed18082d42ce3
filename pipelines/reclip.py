"""ReCLIP: adapt CLIP to unlabelled images of new classes (Hu et al. 2024, arXiv:2308.03793).

1. Make a classifier of the class names alone, and measure it on held-out images.
2. Spread labels from the names to the images, in a space without the direction that all names share.
3. Train two copies on the images on which both agree, by their norms' weights alone; back to 2.
4. Measure the mean of both, and what is lost without each part, if the file asks for it.

The epoch is the last one: the authors' code reports the best by the test labels. Their images are those that are
tested; here they may be others (`data.test`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.reclip import ReclipConfig
from sslscale.settings.text import ClipConfig, ZeroShotConfig, resolved
from sslscale.stages.evaluate import evaluate
from sslscale.stages.open_clip_weights import TowersConfig, open_towers
from sslscale.stages.open_clip_weights import content as towers_content
from sslscale.stages.pack import content, pack
from sslscale.stages.reclip import Adaptation, reclip
from sslscale.stages.zero_shot import zero_shot

WITHOUT: dict[str, dict[str, Any]] = {
    "projection": {"project": False},
    "agreement": {"agreement": False},
    "text": {"branches": ("vision",)},
    "vision": {"branches": ("text",)},
    "training": {"epochs": 0},
}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `without` repeats the adaptation without some of its parts. The text branch learns with the first
    of `zero_shot.templates`."""

    data: PackConfig
    clip: ClipConfig
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    reclip: ReclipConfig = ReclipConfig()
    without: tuple[Literal["projection", "agreement", "text", "vision", "training"], ...] = ()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Workers = Workers()
    seed: int = 0


def build(config: Config) -> list[Stage]:
    """The graph. The first target is zero-shot classification, which the others are compared with."""
    seed = config.seed
    source = dataclasses.replace(config.data, seed=seed)
    data = stage(pack, source, name="data", resources=config.resources.data, content=partial(content, source))
    origin = TowersConfig(source=config.clip)
    model = stage(open_towers, origin, name="clip", content=partial(towers_content, origin))
    names = resolved(config.zero_shot)

    def test(name: str, network: Stage) -> Stage:
        return stage(evaluate, config.evaluate, name=f"{name}/evaluate", model=network, data=data)

    targets = [test("zero_shot", stage(zero_shot, names, name="zero_shot", model=model, data=data))]
    variants = {"reclip": config.reclip} | {
        f"without_{part}": dataclasses.replace(config.reclip, **WITHOUT[part]) for part in config.without
    }
    for name, own in variants.items():
        settings = Adaptation(reclip=dataclasses.replace(own, seed=seed), zero_shot=names)
        adapted = stage(reclip, settings, name=name, resources=config.resources.train, model=model, data=data)
        targets.append(test(name, adapted))
    return targets
