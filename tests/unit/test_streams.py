"""What a method declares of its data is what it gets: fields, views, and an error of the plan for what is missing."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sslscale import preflight
from sslscale.data.batch import Batch
from sslscale.data.opening import open_stream
from sslscale.data.stream import Stream
from sslscale.errors import ConfigError
from sslscale.graph import dag
from sslscale.graph.artifacts import Dataset
from sslscale.methods.dino import DINO
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.train import TrainConfig
from sslscale.stages.pack import content, pack
from sslscale.stages.train import train
from tests.configurations import CONFIG, CONFIGS

SMALL = AugmentConfig(crop="resized", size=6, count=3)


def test_a_batch_has_the_declared_fields_and_refuses_others(digits: Path) -> None:
    config = dataclasses.replace(CONFIG, method=Supervised())
    (spec,) = config.method.streams
    data = Dataset(path=str(digits), num_samples={}, classes=tuple("0123456789"))
    samples = open_stream(spec, {"data": data}, config)
    stream = Stream.of(spec, samples, config, cache=None, cache_bytes=0, threads=1)
    batch = stream.finish(stream.load(*stream.choose(0)))
    assert batch.label.tolist() == samples.labels[batch.index].tolist()
    with pytest.raises(ConfigError, match="has no field 'soft_label': declare it in `fields`"):
        _ = batch.soft_label
    with pytest.raises(ConfigError, match="has no field 'label'"):
        _ = Batch((torch.zeros(1, 3, 4, 4),), torch.zeros(1, dtype=torch.int64)).label


def test_views_are_made_by_their_name_or_by_augment() -> None:
    config = dataclasses.replace(CONFIG, method=DINO(), views={"local": SMALL})
    (spec,) = config.method.streams
    assert config.views_of(spec) == (config.augment, config.augment, SMALL)
    other = AugmentConfig(flip=True)
    named = dataclasses.replace(config, views={"second": other})
    assert named.views_of(spec) == (config.augment, other)
    with pytest.raises(ValueError, match=r"views\.locals: dino has no such view; did you mean 'local'"):
        dataclasses.replace(config, views={"locals": SMALL})
    with pytest.raises(ValueError, match=r"views: fixmatch needs views\.strong"):
        dataclasses.replace(config, method=FixMatch(), views={})


def test_batch_sizes_follow_the_ratios() -> None:
    config = dataclasses.replace(CONFIG, method=FixMatch(unlabeled_ratio=7), views={"strong": SMALL}, batch_size=8)
    assert config.batch_sizes == {"labeled": 8, "unlabeled": 56}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("noisy_student", {"data"}, "noisy_student reads pseudo-labelled images"),
        ("simclr", {"data", "pseudo"}, "simclr does not read pseudo-labelled images"),
        ("simclr", {"data", "clusters"}, "simclr reads no labels"),
        ("simclr", {"data", "features"}, "simclr does not read features"),
        ("feature_distillation", {"data"}, "reads the features of another network"),
        ("deit", {"data"}, "deit needs a teacher, or its logits"),
        ("fixmatch", {"data", "teacher"}, "fixmatch needs no teacher"),
        ("noisy_student", {"data", "selection", "init"}, None),
        ("deit", {"data", "features"}, None),
        ("deit", {"data", "teacher"}, None),
        ("joint_training", {"data", "pseudo"}, None),
    ],
)
def test_inputs_must_be_what_the_method_reads(name: str, given: set[str], message: str | None) -> None:
    found = CONFIGS[name].check_inputs(given)
    assert found is None if message is None else message in str(found)


def test_the_plan_refuses_a_stage_that_lacks_what_its_method_reads(tmp_path: Path) -> None:
    source = PackConfig(source="digits", labels_per_class=10, test=0.25)
    data = dag.stage(pack, source, name="data", content=partial(content, source))
    config: Any = dataclasses.replace(CONFIG, method=NoisyStudent(unlabeled_ratio=1))
    assert isinstance(config, TrainConfig)
    student = dag.stage(train, config, name="student", data=data)
    with pytest.raises(ConfigError, match="student: noisy_student reads pseudo-labelled images"):
        preflight.require(dag.plan([student], tmp_path))
