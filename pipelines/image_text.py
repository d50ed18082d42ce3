"""Images and captions: CLIP (Radford et al. 2021, arXiv:2103.00020) or SigLIP (Zhai et al. 2023, arXiv:2303.15343).

1. Read the captions of the images once, and count those that cannot be used.
2. Train an image and a text tower on the pairs, labels unread.
3. Make a classifier of the class names alone, and measure it: by one template, and by all.
4. Retrieve images by captions and captions by images, if the test images have captions.
5. Freeze the image tower; fit kNN and a linear classifier to its features, and to those of an untrained one.

Steps 3 and 5 need a labelled test split; they are left out without one, and the plan says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.kinds import ImageText
from sslscale.settings.probe import ProbeConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.text import CaptionConfig, CaptionRetrievalConfig, ZeroShotConfig, resolved, text_config
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.caption_retrieval import caption_retrieval
from sslscale.stages.captions import captions
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.pack import content, has_test, is_labeled, pack
from sslscale.stages.probe import probe
from sslscale.stages.zero_shot import zero_shot


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    extract: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `captions.splits` names the splits whose captions are read, the test split among them if its images
    are to be retrieved."""

    data: PackConfig
    captions: CaptionConfig = CaptionConfig()
    train: TrainConfig
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    retrieval: CaptionRetrievalConfig = CaptionRetrievalConfig()
    extract: ExtractConfig = ExtractConfig(splits=("labeled", "test"))
    probe: ProbeConfig = ProbeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.train.method, ImageText), "train", "its method must be clip or siglip")


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    found = []
    if not has_test(config.data):
        found.append("the data has no test split: zero-shot classification and probes are left out; see data.test")
    elif not is_labeled(config.data):
        found.append(f"{config.data.source} has no labels: the probes are left out")
    return found


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed, workers = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    settings = dataclasses.replace(config.train, seed=seed)
    assert isinstance(settings.method, ImageText)
    data = stage(pack, source, name="data", resources=workers.data, content=partial(content, source))
    context = text_config(settings.model.name, settings.method.text).context
    read = dataclasses.replace(config.captions, context=context)
    texts = stage(captions, read, name="captions", resources=workers.data, data=data)
    towers = training(settings, name="train", resources=workers.train, data=data, captions=texts)
    targets = []
    if config.retrieval.split in config.captions.splits:
        judged = dataclasses.replace(config.retrieval, seed=seed)
        targets.append(stage(caption_retrieval, judged, name="retrieval", model=towers, data=data, captions=texts))
    if not has_test(config.data):
        return targets or [towers]
    every = resolved(config.zero_shot)
    kinds = {"zero_shot": every}
    if every.templates[1:] or "{}" not in every.templates[0]:
        first = every.templates[0] if "{}" in every.templates[0] else "a photo of a {}."
        kinds["one_template"] = dataclasses.replace(every, templates=(first,))
    for name, own in kinds.items():
        classifier = stage(zero_shot, own, name=name, model=towers, data=data)
        targets.append(stage(evaluate, config.evaluate, name=f"{name}/evaluate", model=classifier, data=data))
    if is_labeled(config.data):
        random = stage(initialize, settings, name="random", data=data)
        for name, model in (("random", random), ("image_tower", towers)):
            features = stage(
                extract, config.extract, name=f"{name}/features", resources=workers.extract, model=model, data=data
            )
            own = dataclasses.replace(config.probe, seed=seed)
            targets.append(stage(probe, own, name=f"{name}/probe", features=features, data=data))
    return targets
