"""Videos and their sound: AVC (arXiv:1705.08168) or AVTS (arXiv:1807.00230).

1. Cut the videos into clips, and make the spectrograms of their sound once.
2. Train an image and a sound tower on the clips, labels unread.
3. Retrieve frames by sounds and sounds by frames, and search for the shift between them, on the test clips.
4. Freeze the image tower; fit kNN and a linear classifier to its features, and to those of an untrained one.

Steps 3 and 4 need a test split, step 4 a labelled one; they are left out without it, and the plan says so.
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
from sslscale.settings.kinds import ImageSound
from sslscale.settings.probe import ProbeConfig
from sslscale.settings.sound import SoundConfig, SoundRetrievalConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.pack import content, has_test, is_labeled, pack
from sslscale.stages.probe import probe
from sslscale.stages.sound_retrieval import sound_retrieval
from sslscale.stages.spectrograms import spectrograms


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    extract: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `sound.splits` names the splits whose sound is read."""

    data: PackConfig
    sound: SoundConfig = SoundConfig()
    train: TrainConfig
    retrieval: SoundRetrievalConfig = SoundRetrievalConfig()
    extract: ExtractConfig = ExtractConfig(splits=("labeled", "test"))
    probe: ProbeConfig = ProbeConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        method = self.train.method
        require(isinstance(method, ImageSound), "train", "its method must be avc or avts")
        video = self.data.video
        if video is not None:
            require(video.sound is not None, "data", "video.sound is missing: samples a second, such as 16000")
            assert isinstance(method, ImageSound)
            least = method.window + getattr(method, "gap", 0)
            text = f"{method.name} needs clips of {least} frames or more, not of {video.frames}: see data.video.frames"
            require(video.frames >= least, "train", text)


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    if not has_test(config.data):
        return ["the data has no test split: retrieval and probes are left out; see data.test"]
    return [] if is_labeled(config.data) else [f"{config.data.source} has no labels: the probes are left out"]


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed, workers = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    settings = dataclasses.replace(config.train, seed=seed)
    data = stage(pack, source, name="data", resources=workers.data, content=partial(content, source))
    sound = stage(spectrograms, config.sound, name="spectrograms", resources=workers.data, data=data)
    towers = training(settings, name="train", resources=workers.train, data=data, sound=sound)
    if not has_test(config.data):
        return [towers]
    targets = []
    if config.retrieval.split in config.sound.splits:
        judged = dataclasses.replace(config.retrieval, seed=seed)
        targets.append(stage(sound_retrieval, judged, name="retrieval", model=towers, data=data, sound=sound))
    if is_labeled(config.data):
        random = stage(initialize, settings, name="random", data=data)
        for name, model in (("random", random), ("image_tower", towers)):
            features = stage(
                extract, config.extract, name=f"{name}/features", resources=workers.extract, model=model, data=data
            )
            own = dataclasses.replace(config.probe, seed=seed)
            targets.append(stage(probe, own, name=f"{name}/probe", features=features, data=data))
    return targets or [towers]
