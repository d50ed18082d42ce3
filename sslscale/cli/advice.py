"""`sslscale methods --for CONFIG`: which methods suit its images, labels, network and machine, and why."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sslscale.errors import ConfigError

if TYPE_CHECKING:
    from sslscale.settings.train import TrainConfig

_FEW_PER_CLASS = 40  # labels: below, what mixes images and guesses is ahead of pseudo-labels in our figures
_MANY = 100_000  # images: from here on, what needs long trainings is worth them
_FIGURES = "figures: tests/benchmarks/README.md; CIFAR-10 at 24 pixels on CPUs unless they say otherwise"


class Advice(NamedTuple):
    """One method, the reason it suits, and the figure that the reason rests on."""

    method: str
    reason: str
    figure: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a configuration. `patches`: its network is a vision transformer; `pretrains`: its first training
    reads no labels."""

    labeled: int
    unlabeled: int
    classes: int
    size: int
    patches: bool
    gpus: int
    method: str
    pretrains: bool

    @property
    def told(self) -> str:
        """In one line."""
        labels = f"{self.labeled:,} labelled of {self.classes:,} classes" if self.labeled else "none labelled"
        network = "a vision transformer" if self.patches else "a convolutional network"
        machine = f"{self.gpus} GPUs" if self.gpus else "CPUs alone"
        count = self.labeled + self.unlabeled
        return f"{count:,} images, {labels}; {self.size} pixels; {network}; {machine}; it has {self.method}"


def list_advice(options: argparse.Namespace) -> int:
    """Print what suits a configuration, the best first."""
    facts = _look_at(options.suits)
    found = advise(facts)
    if options.json:
        for one in found:
            print(json.dumps(one._asdict()))
        return 0
    print(f"{options.suits}: {facts.told}")
    for number, one in enumerate(found, 1):
        print(f"\n{number}. {one.method}: {one.reason}\n   {one.figure}")
    print(f"\n{_FIGURES}\n`sslscale configs NAME` lists configurations of a method")
    return 0


def _look_at(source: str) -> Facts:
    from sslscale import experiment
    from sslscale.data.split import annotated, contents
    from sslscale.settings.data import PackConfig
    from sslscale.settings.method import SelfSupervised

    config = experiment.load(source).config
    data, training = getattr(config, "data", None), _first_training(config)
    if not isinstance(data, PackConfig) or training is None:
        raise ConfigError(f"{source}: needs `data` and a training, to say what suits them")
    if data.video or annotated(data.source) or data.captions:
        raise ConfigError(
            f"{source}: advice is on images with at most one class each; `sslscale methods --kind video`, detection, "
            "image-text or image-sound lists what there is for others"
        )
    found = contents(data)
    if found is None:
        raise ConfigError(f"{source}: {data.source} takes long to list; pack it first: sslscale data pack")
    return Facts(
        labeled=found.num_samples.get("labeled", 0),
        unlabeled=found.num_samples.get("unlabeled", 0),
        classes=len(found.classes),
        size=training.image.size,
        patches=training.model.patch is not None,
        gpus=_gpus(),
        method=training.method.name,
        pretrains=isinstance(training.method, SelfSupervised),
    )


def _first_training(config: Any) -> TrainConfig | None:
    from sslscale.settings.train import TrainConfig

    return next((value for value in vars(config).values() if isinstance(value, TrainConfig)), None)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def advise(facts: Facts) -> list[Advice]:
    """The methods that suit, the best first."""
    few = facts.unlabeled >= facts.labeled
    with_labels = [] if not facts.labeled else _few_labels(facts) if few else _all_labels(facts)
    without = _no_labels(facts)
    if facts.pretrains or not with_labels:
        return [*without, *with_labels[:1]]
    return [*with_labels, *without[:1]]


def _few_labels(facts: Facts) -> list[Advice]:
    per_class = facts.labeled / max(facts.classes, 1)
    if per_class <= _FEW_PER_CLASS:
        why = f"{per_class:.0f} labels a class are too few for confident pseudo-labels alone"
        return [
            Advice("remixmatch", why, "54.3 % with 25 labels a class, the labels alone 37.9"),
            Advice("mixmatch", f"{why}; one strong view less to compute", "51.0 % with 25 labels a class"),
            Advice("freematch", "its thresholds follow the network; no threshold to choose", "44.4 %, FixMatch 41.1"),
        ]
    return [
        Advice(
            "noisy_student",
            f"{per_class:.0f} labels a class teach a network whose pseudo-labels are mostly right; rounds can follow",
            "77.9 % after one round with 400 labels a class, the labels alone 72.4; two rounds gain 5.8 points",
        ),
        Advice("mixmatch", "as good in one training", "76.9 % with 400 labels a class"),
        Advice("fixmatch", "the usual baseline", "75.8 % with 400 labels a class"),
    ]


def _all_labels(facts: Facts) -> list[Advice]:
    first = Advice("supervised", "every image has a label", "linear probe 70.2 %; SimCLR, without labels, 51.0")
    if facts.labeled / max(facts.classes, 1) < 200:
        few = "few images a class: begin with public weights (`init: {timm: NAME, weights: FILE}`)"
        first = first._replace(reason=f"{first.reason}; {few}")
    return [first, Advice("supcon", "features for other classes too", "linear probe 63.7 %, kNN 61.5")]


def _no_labels(facts: Facts) -> list[Advice]:
    count = facts.labeled + facts.unlabeled
    if facts.patches:
        dense = Advice(
            "dinov2",
            "features for kNN and of patches; it learns from crops of several sizes",
            "kNN 42.3 % (untrained 30.6); its authors: 82 on ImageNet with a ViT-L",
        )
        mae = Advice(
            "mae", "its encoder sees a quarter of the patches; fine-tune it afterwards", "linear 42.1 %, kNN 38.8"
        )
        return [dense, mae] if count >= _MANY or facts.gpus else [mae, dense]
    one_pass = Advice("emp_ssl", "few passes over the images: 20 patches of each at once", "kNN 51.4 % in one pass")
    simclr = Advice("simclr", "batches of hundreds of images; no state", "kNN 49.3 %, linear 51.0 (untrained 34.3)")
    moco = Advice("moco_v2", "small batches: negatives come from a queue", "kNN 47.6 %, linear 49.4")
    w_mse = Advice("w_mse", "short trainings; no momentum encoder", "kNN 50.1 %, linear 52.3")
    lejepa = Advice("lejepa", "small batches, and nothing to tune but one weight", "kNN 48.5 %, linear 50.6")
    if facts.gpus > 4 and count >= _MANY:
        return [simclr, lejepa, moco]
    return [one_pass, w_mse, moco] if not facts.gpus else [lejepa, moco, one_pass]
