"""Semi-supervised text recognition: lines of text, few of them with a transcript.

1. Pack the lines; those with a transcript are labelled, all but `data.labels_per_class` of them are hidden.
2. Read the transcripts of the labelled lines once, and count those that cannot be used.
3. Train a recogniser on the labelled lines alone, and one by the method of `train` on the unlabelled ones too.
4. Read the test lines, and those of `held_out`: CER, WER and exact lines, with intervals; the worst lines as pictures.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.text_supervised import TextSupervised
from sslscale.settings.data import PackConfig
from sslscale.settings.kinds import LabeledLines, UnlabeledLines
from sslscale.settings.lines import ReadConfig, TranscriptConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.pack import content, has_test, pack
from sslscale.stages.read_lines import read_lines
from sslscale.stages.transcripts import transcripts


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    read: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `held_out` are lines of another kind, such as another font, that are read as well: a folder with
    transcripts. With `baseline: false` no recogniser is trained on the labelled lines alone."""

    data: PackConfig
    held_out: str | None = None
    transcripts: TranscriptConfig = TranscriptConfig()
    train: TrainConfig
    baseline: bool = True
    read: ReadConfig = ReadConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            isinstance(self.train.method, LabeledLines),
            "train",
            "its method must read lines of text, as text_uda does",
        )
        require(self.data.lines, "data", "lines: true is missing, with captions: txt")


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    return [] if has_test(config.data) else ["the data has no test split: nothing is read; see data.test"]


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed, workers = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    settings = dataclasses.replace(config.train, seed=seed)
    data = stage(pack, source, name="data", resources=workers.data, content=partial(content, source))
    texts = stage(transcripts, config.transcripts, name="transcripts", resources=workers.data, data=data)
    trainings = {"train": settings}
    if config.baseline and isinstance(settings.method, UnlabeledLines):
        alone = TextSupervised(ema=settings.method.ema)
        named = {name: view for name, view in settings.views.items() if name == "weak"}
        trainings["labels_alone"] = dataclasses.replace(settings, method=alone, views=named)
    models = {
        name: training(own, name=name, resources=workers.train, data=data, transcripts=texts)
        for name, own in trainings.items()
    }
    judged = {"": data} if has_test(config.data) else {}
    if config.held_out is not None:
        other = dataclasses.replace(
            source, source=config.held_out, test=None, val=None, labels_per_class=None, keep_hidden_labels=False
        )
        judged["held_out/"] = stage(
            pack, other, name="held_out/data", resources=workers.data, content=partial(content, other)
        )
    reading = dataclasses.replace(config.read, member=config.transcripts.member, seed=seed)
    targets = []
    for name, model in models.items():
        for place, lines in judged.items():
            own = dataclasses.replace(reading, split="labeled") if place else reading
            targets.append(
                stage(read_lines, own, name=f"{place}{name}/read", resources=workers.read, model=model, data=lines)
            )
    return targets or list(models.values())
