"""Bad shards, images, labels and classes stop a stage with one line that says what, where and what to do."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sslscale import experiment
from sslscale.cli.main import main
from sslscale.data import ready_sets
from sslscale.data.write import Sample, write_shards
from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Scores
from sslscale.graph.context import RunContext
from sslscale.methods.supervised import Supervised
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.pseudo import ScoreConfig, SelectConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.stages.score import score, write_scores
from sslscale.stages.select import select
from sslscale.stages.train import train
from sslscale.storage.jsonio import read_json
from tests import runs
from tests.faults.fuzz import KINDS, fuzz
from tests.finished import Finished

Make = Callable[..., RunContext]
DIGITS = tuple("0123456789")


def teacher(folder: Path) -> Checkpoint:
    from sslscale.nn.classifier import build_classifier
    from sslscale.train import checkpoint

    folder.mkdir()
    config = ModelConfig(name="wrn_10_0.5")
    network = build_classifier(config, 10)
    info = checkpoint.describe_model(network, config, ImageConfig(size=8), DIGITS)
    checkpoint.save_model(folder, network, info)
    return Checkpoint(path=str(folder), num_parameters=info.num_parameters, step=0)


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(digits, tmp_path / "data")
    return Dataset(path=str(tmp_path / "data"), num_samples={"labeled": 100}, classes=DIGITS)


def cut_at_a_member(data: bytes) -> bytes:
    from sslscale.data import tar

    return data[: list(tar.members(data, ""))[3].offset - tar.BLOCK]


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "cut at a member boundary": cut_at_a_member,
    "cut inside a header": lambda data: cut_at_a_member(data) + data[:100],
    "a flipped byte in a header": lambda data: data[:3] + bytes([data[3] ^ 1]) + data[4:],
    "changed after packing": lambda data: data[:700] + b"x" + data[701:],
    "a member more": lambda data: data[:-1024] + data[:1536] + data[-1024:],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_shard_stops_scoring_and_training(fault: str, copied: Dataset, context: Make, tmp_path: Path) -> None:
    for split, number in (("unlabeled", 2), ("labeled", 0)):
        file = copied.split(split) / f"{split}-{number:06d}.tar"
        file.write_bytes(FAULTS[fault](file.read_bytes()))
    with pytest.raises(DataError, match=r"unlabeled-000002\.tar"):
        score(context("score"), ScoreConfig(), teacher=teacher(tmp_path / "teacher"), data=copied)
    done = sorted(p.name for p in (tmp_path / "artifacts" / "score").glob("scores-*.parquet"))
    assert done == ["scores-000000.parquet", "scores-000001.parquet"]
    with pytest.raises(DataError, match=r"labeled-000000\.tar"):
        train(context("train"), CONFIG, data=copied)


def test_webdataset_reads_damaged_shards_without_an_error(digits: Path, tmp_path: Path) -> None:
    """Why the index is checked: the plain reader ends early, and without an error."""
    import webdataset.compat

    whole = (digits / "labeled" / "labeled-000000.tar").read_bytes()
    for name in ("cut at a member boundary", "cut inside a header"):
        file = tmp_path / "x.tar"
        file.write_bytes(FAULTS[name](whole))
        assert 0 < len(list(webdataset.compat.WebDataset(str(file), shardshuffle=False))) < 100


CONFIG = TrainConfig(
    method=Supervised(),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    optim=OptimConfig(lr=0.1),
    batch_size=50,
    num_steps=4,
)


def bad_images(folder: Path, bad: int) -> None:
    items = ready_sets.digits().items[:200]
    found = [
        Sample(f"k{i}", b"no image" if i < bad else item.read(), "png", int(item.label or 0))
        for i, item in enumerate(items)
    ]
    shutil.rmtree(folder)
    write_shards(folder, folder.name, found, DIGITS, 100)


def test_an_undecodable_image_is_named_by_every_stage(copied: Dataset, context: Make, tmp_path: Path) -> None:
    """Packing and indexing find them; one that comes later is damage, and never passed over."""
    bad_images(copied.split("unlabeled"), 2)
    bad_images(copied.split("labeled"), 2)
    with pytest.raises(DataError, match=r"unlabeled-000000\.tar: k0: undecodable image .*on_bad_sample: skip"):
        score(context("one"), ScoreConfig(), teacher=teacher(tmp_path / "teacher"), data=copied)
    with pytest.raises(DataError, match=r"labeled-000000\.tar: k[01]: undecodable"):
        train(context("two"), CONFIG, data=copied)


def test_a_class_without_pseudo_labels_is_named(copied: Dataset, context: Make) -> None:
    import numpy as np

    ctx = context("scores")
    probs = np.full((40, 10), 0.05, np.float32)
    probs[np.arange(40), np.arange(40) % 8] = 0.55
    write_scores(ctx.path / "scores-000000.parquet", [f"k{i}" for i in range(40)], probs, 10)
    scores = Scores(path=str(ctx.path), num_samples=40)
    with pytest.raises(DataError, match=r"no pseudo-label of class '8', '9' reaches the threshold of 0\.3; lower"):
        select(context("select"), SelectConfig(), scores=scores, data=copied)
    with pytest.raises(DataError, match="reaches the threshold"):
        select(context("none"), SelectConfig(threshold=0.9, on_empty_class="warn"), scores=scores, data=copied)
    chosen = select(context("warn"), SelectConfig(on_empty_class="warn"), scores=scores, data=copied)
    assert chosen.accounting["used"] + chosen.accounting["below_threshold"] + chosen.accounting["balanced_out"] == 40


def test_a_collapse_of_the_pseudo_labels_is_told_or_ends_the_run(
    copied: Dataset, context: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """One class takes over; a teacher contradicts the last one; neither."""
    import numpy as np

    def scored(name: str, labels: np.ndarray) -> Scores:
        ctx = context(name)
        probs = np.full((200, 10), 0.04, np.float32)
        probs[np.arange(200), labels] = 0.64
        write_scores(ctx.path / "scores-000000.parquet", [f"k{i}" for i in range(200)], probs, 10)
        return Scores(path=str(ctx.path), num_samples=200)

    fair = np.arange(200) % 10
    even, taken = scored("even", fair), scored("taken", np.where(np.arange(200) < 170, 7, fair))
    other = scored("other", (fair + 1) % 10)
    error = SelectConfig(on_collapse="error", on_empty_class="warn")
    whole = select(context("whole"), error, scores=even, data=copied, earlier=even)
    assert whole.metrics["relative_entropy"] == pytest.approx(1.0, abs=0.01) and whole.metrics["agreement"] == 1.0
    with pytest.raises(DataError, match=r"class '7' has 8[5-9] % of the pseudo-labels and 10 % of the labels"):
        select(context("one"), error, scores=taken, data=copied)
    with pytest.raises(DataError, match=r"only 0 % of the images have the class that the last teacher gave them"):
        select(context("two"), error, scores=other, data=copied, earlier=even)
    warned = select(context("three"), SelectConfig(), scores=taken, data=copied)
    assert warned.metrics["relative_entropy"] < 0.5 and "may be collapsing: class '7'" in caplog.text
    caplog.clear()
    select(context("four"), SelectConfig(on_collapse="ignore"), scores=taken, data=copied)
    assert "collapsing" not in caplog.text


def test_a_smaller_student_a_wrong_start_and_a_batch_too_large_are_refused(copied: Dataset, context: Make) -> None:
    large = Checkpoint(path="", num_parameters=10**9, step=0)
    with pytest.raises(ConfigError, match="has 20,794 weights, its teacher 1,000,000,000"):
        train(context("a"), CONFIG, data=copied, at_least=large)
    with pytest.raises(ConfigError, match="global batch of 500 labeled images is larger than the 100 there are"):
        train(context("b"), dataclasses.replace(CONFIG, batch_size=500), data=copied)
    first = train(context("c"), CONFIG, data=copied)
    other = dataclasses.replace(CONFIG, model=ModelConfig(name="wrn_16_0.5"))
    with pytest.raises(DataError, match=r"the weights do not fit the network: .* missing"):
        train(context("d"), other, data=copied, init=first)
    warm = train(context("e"), CONFIG, data=copied, init=first)
    assert warm.metrics["loss"] < first.metrics["loss"]


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(copied: Dataset, context: Make) -> None:
    wild = dataclasses.replace(
        CONFIG, optim=OptimConfig(lr=1e9, weight_decay=1.0), num_steps=40, log_every=1, save_every=1
    )
    with pytest.raises(
        DataError, match=r"not finite at step \d+ \(its batch: labeled .*last good checkpoint is .*step-0000"
    ):
        train(context("wild"), wild, data=copied)
    saved = sorted((context("wild").path / "state").glob("step-*"))
    bad = read_json(context("wild").path / "bad_batch.json")
    assert saved and len(bad["keys"]["labeled"]) == 50 and bad["step"] == int(saved[-1].name.removeprefix("step-"))
    for folder in saved:
        assert all(
            t.isfinite().all() for t in load_file(folder / "method.safetensors").values() if t.dtype.is_floating_point
        )


def test_a_source_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    from sslscale.graph import dag

    loaded = experiment.load("configs/noisy_student/digits.yaml", [f"data.source={tmp_path / 'none'}"])
    with pytest.raises(DataError, match="there is no such file or folder"):
        dag.plan(loaded.targets, tmp_path)


FULL_DISK = """
import resource, shutil, signal, sys
from pathlib import Path
from sslscale.graph import dag, execution
from sslscale import experiment
from sslscale.errors import ResourceError

config, root, name, limit = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
planned = dag.plan(experiment.load(config).targets, root)
entry = next(entry for entry in planned if entry.stage.name == name)
shutil.rmtree(entry.path)
job = execution._job(entry, {one.key: str(one.path.absolute()) for one in planned}, root, "", "")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
try:
    execution.execute(job)
except ResourceError as error:
    print(error)
assert not (entry.path / "record.json").exists()
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(execution.execute(job)["kind"])
"""


@pytest.mark.parametrize(
    ("stage", "limit", "file"),
    [
        ("student_1/score", 2500, "scores-000000.parquet"),
        ("student_1/select", 2500, "selection-000000.parquet"),
        ("student_1/shard", 9000, "pseudo-000000.tar"),
        ("teacher/evaluate", 20_000, "/evaluate/"),
        ("report", 20_000, "/summary/"),
    ],
)
def test_a_full_disk_is_one_resource_error_in_every_stage(
    stage: str, limit: int, file: str, finished: Finished, tmp_path: Path
) -> None:
    """No file can be larger than so many bytes: the stage says which one, and finishes when there is room."""
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    out = runs.python(FULL_DISK, str(finished.config), str(tmp_path / "runs"), stage, str(limit))
    told, kind = out.strip().splitlines()
    assert file in told and "annot " in told and "File too large" in told, out
    assert kind in ("Scores", "Selection", "ShardSet", "Report")


def test_a_pack_appears_whole_or_not_at_all(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder, tmp_path / "photos")
    victim = sorted((tmp_path / "photos" / "3").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:50])
    words = ["data", "pack", str(tmp_path / "photos"), str(tmp_path / "out"), "--shard-size", "20"]
    assert main(words) == 3
    assert "1 of 200 images cannot be used; mend or remove them" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    victim.write_bytes(whole)
    assert main(words) == 0 and main(["data", "check", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    assert main(words) == 2  # what is there is not written over


@pytest.mark.slow
def test_damaged_inputs_by_the_hundred_end_with_one_clear_line(tmp_path: Path) -> None:
    found = fuzz(tmp_path / "fuzz", cases=1000, seed=2)
    assert found.counts.total() == 1000 and not found.broken, found.broken[:3]
    assert {kind for kind, outcome in found.counts if outcome == "exit 0"} == set(KINDS)  # some are harmless
    refused = {kind for kind, outcome in found.counts if outcome in ("exit 2", "exit 3")}
    assert refused == set(KINDS) - {"states"}  # of which the one before is taken
