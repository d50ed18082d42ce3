"""Configuration: strict, whole, and every error at once with its line."""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from sslscale import experiment
from sslscale.config import require
from sslscale.config.build import build
from sslscale.config.document import parse, read
from sslscale.errors import ConfigError, UserError
from sslscale.graph import dag

ROOT = Path(__file__).parent.parent.parent
DIGITS = "configs/noisy_student/digits.yaml"


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        require(self.rate > 0, "rate", "must be positive")
        require(len(self.sizes) < 4, "sizes", "too many")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    more: tuple[Inner, ...] = ()
    maybe: int | None = None
    flag: bool = False


def make(text: str) -> Outer:
    return build(Outer, parse(text, "f.yaml"))


def test_values_of_every_type() -> None:
    made = make("name: x\ninner: {rate: 1e-3, kind: b, sizes: [3]}\nmore: [{rate: 2}, {}]\nmaybe: 4\nflag: true\n")
    assert made == Outer(
        name="x", inner=Inner(rate=1e-3, kind="b", sizes=(3,)), more=(Inner(rate=2.0), Inner()), maybe=4, flag=True
    )
    assert isinstance(made.more[0].rate, float)


def test_all_errors_at_once_with_line_and_nearest_name() -> None:
    text = "nam: x\ninner:\n  rate: -1\n  kind: c\n  sizes: [1, two, 3, 4]\n  rat: 3\nflag: 1\nmaybe: 1.5\n"
    with pytest.raises(ConfigError) as caught:
        make(text)
    message = str(caught.value)
    for expected in (
        "f.yaml:1: nam: there is no such key; did you mean 'name'?",
        "name: is required",
        "f.yaml:3: inner.rate: must be positive",
        "f.yaml:4: inner.kind: 'c' is not one of 'a', 'b'",
        "f.yaml:5: inner.sizes.1: expected a whole number, not 'two'",
        "f.yaml:6: inner.rat: there is no such key; did you mean 'rate'?",
        "f.yaml:7: flag: expected true or false, not 1",
        "f.yaml:8: maybe: expected a whole number, not 1.5",
    ):
        assert expected in message, message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nname: y\n", "f.yaml:2: name: the key stands here a second time"),
        ("name: [", "f.yaml:1: this is not valid YAML"),
        ("- 1\n", "must be a mapping"),
        ("name: !!python/object:os.system x\n", "not allowed"),
        ("name: 2020-01-01\n", "values of type timestamp are not allowed"),
        ("name: x\ninner: {rate: .nan}\n", "not a finite number"),
        (f"name: x\ninner: {{rate: {'9' * 400}}}\n", "the number is too large"),
        ("name: x\ninner: 3\n", "expected the keys of Inner"),
        ("name: x\nmore: &a {kind: *a}\n", "levels: does an alias hold itself"),
    ],
)
def test_hostile_or_broken_yaml(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("[", r"\[")):
        make(text)


def test_nested_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="aliases"):
        parse("\n".join(lines), "f.yaml")


def test_overrides(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nmore: [{}, {}]\n")
    document = read(file, ["inner.rate=3e-2", "more.1.kind=b", "maybe=null", "inner.sizes=[5]"])
    made = build(Outer, document)
    assert made.inner == Inner(rate=0.03, sizes=(5,)) and made.more[1].kind == "b"
    for bad in ("more.7.kind=b", "inner", "name.x=1"):
        with pytest.raises(ConfigError):
            read(file, [bad])


def field_paths(value: object, prefix: str = "") -> list[str]:
    found = []
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            if f.init and not f.metadata.get("hidden"):
                found.append(prefix + f.name)
                found += field_paths(getattr(value, f.name), f"{prefix}{f.name}.")
    return found


def test_every_misspelt_key_of_a_real_config_is_found_and_nearly_every_one_corrected() -> None:
    loaded = experiment.load(str(ROOT / DIGITS))
    paths = [path for path in field_paths(loaded.config) if len(path.rpartition(".")[2]) > 3]
    assert len(paths) > 60
    suggested = 0
    for path in paths:
        parent, _, name = path.rpartition(".")
        wrong = f"{parent}.{name[:1]}{name[2:]}" if parent else name[:1] + name[2:]
        with pytest.raises(ConfigError) as caught:
            experiment.load(str(ROOT / DIGITS), [f"{wrong}=1"])
        assert wrong in str(caught.value)
        suggested += f"did you mean {name!r}" in str(caught.value)
    assert suggested >= 0.95 * len(paths)


def test_seed_sets_every_seed_and_cannot_be_set_below() -> None:
    loaded = experiment.load(str(ROOT / DIGITS), ["seed=3"])
    stages = {s.name: s for s in dag.topological(loaded.targets)}
    assert stages["data"].config.seed == stages["teacher"].config.seed == 3
    assert stages["student_2"].config.seed == 3002
    with pytest.raises(ConfigError, match=r"teacher\.seed: there is no such key"):
        experiment.load(str(ROOT / DIGITS), ["teacher.seed=1"])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os\n\ndef twice():\n    raise ValueError('no')\n\ntwice()\n", "my.py:4: ValueError: no"),
        ("x = 1\ndef (\n", "my.py:2: SyntaxError: invalid syntax"),
        ("x = 1\n", "my.py: a pipeline needs Config"),
    ],
)
def test_a_pipeline_of_the_users_own_that_fails_is_told_by_its_line(tmp_path: Path, code: str, expected: str) -> None:
    (tmp_path / "my.py").write_text(code)
    (tmp_path / "c.yaml").write_text("pipeline: my.py\n")
    with pytest.raises(ConfigError, match=re.escape(expected)):
        experiment.load(str(tmp_path / "c.yaml"))


def test_seeds_out_of_range_are_refused() -> None:
    for seed in ("-1", "1e30"):
        with pytest.raises(ConfigError, match=r"seed: must lie between 0 and 2\^40"):
            experiment.load(str(ROOT / DIGITS), [f"seed={seed}"])


def test_unknown_pipeline_and_method_are_named_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pipeline: noisy_studen\n")
    with pytest.raises(ConfigError, match="did you mean 'noisy_student'"):
        experiment.load(str(file))
    with pytest.raises(ConfigError, match="did you mean 'supervised'"):
        experiment.load(str(ROOT / DIGITS), ["teacher.method.name=supervized"])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_random_slips_in_configurations_are_reported() -> None:
    """No slip in a real config is anything but one of our errors: 800 of some 14,000, drawn by chance."""
    configs = {str(f): yaml.safe_load(f.read_text()) for f in sorted((ROOT / "configs").glob("*/*.yaml"))}
    wrong = ["missing", None, -1, 0, 0.5, 10**9, "x", "", [], {}, [1, 2], True, {"a": 1}]
    cases = [(file, place, value) for file, data in configs.items() for place in places(data) for value in wrong]
    told = 0
    for file, place, value in random.Random(0).sample(cases, 800):
        data = copy.deepcopy(configs[file])
        parent = functools.reduce(lambda inner, key: inner[key], place[:-1], data)
        if value == "missing":
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        try:
            experiment.of_values(file, data, [])
        except UserError as error:
            told += str(error).startswith(file)
    assert told > 400


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["student.image.std=[null, 1, 1]"], r"student\.image\.std\.0: expected a number, not None"),
        (["student.augment.scale=null"], r"student\.augment\.scale: expected a list, not None"),
        (["teacher.num_steps=null", "teacher.lr=0"], r"teacher\.num_steps: give either num_steps or epochs"),
        (["student.model={name: vit_64x2_5}"], r"student\.image\.size: is 16, but must be a multiple of 5"),
    ],
)
def test_errors_name_the_nested_key(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        experiment.load(str(ROOT / DIGITS), overrides)


def test_missing_required_views_are_reported() -> None:
    values = yaml.safe_load((ROOT / "configs/semi_supervised/fixmatch_digits.yaml").read_text())
    del values["train"]["views"]
    with pytest.raises(ConfigError, match=r"train\.views: fixmatch needs views\.strong: how its strong views are made"):
        experiment.of_values("fixmatch.yaml", values, [])


def test_masked_patches_and_positions_fit_the_image() -> None:
    mae = str(ROOT / "configs/pretrain/mae_cifar10_cpu.yaml")
    with pytest.raises(ConfigError, match=r"grid: is 5, but images of 24 pixels have 4 patches"):
        experiment.load(mae, ["pretrain.model.grid=5"])
    with pytest.raises(ConfigError, match=r"pretrain\.augment\.size: is 20, but must be a multiple of 6"):
        experiment.load(mae, ["pretrain.augment.size=20"])
