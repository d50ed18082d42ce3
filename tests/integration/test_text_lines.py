"""Lines of text on real files: packed with their transcripts, counted, learned from, read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sslscale.data import tar
from sslscale.data.index import read_index
from sslscale.data.joined import open_transcribed
from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.lines import TranscriptConfig
from sslscale.stages.pack import pack
from sslscale.stages.transcripts import transcripts
from tests import runs
from tests.benchmarks.text_lines import FONTS, HELD_OUT, write_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lines")
    for name, count, fonts in (("train", 40, FONTS), ("test", 12, FONTS), ("held_out", 8, HELD_OUT)):
        write_lines(out / name, count, fonts, np.random.default_rng(0))
    return out


def context(folder: Path, name: str) -> RunContext:
    (folder / name).mkdir(parents=True)
    return RunContext(path=folder / name, root=folder, name=name, resources=Resources())


def packed(folder: Path, place: Path, name: str, **more: object) -> Dataset:
    source = {"source": str(folder), "captions": "txt", "lines": True, **more}
    return pack(context(place, name), PackConfig(**source))  # pyright: ignore[reportArgumentType]


def members(data: Dataset, split: str) -> list[str]:
    index = read_index(data.split(split))
    return [m.name for info in index.shards for m in tar.members((data.split(split) / info.file).read_bytes(), "")]


def test_transcripts_are_labels_and_hidden_ones_are_not_packed(folder: Path, tmp_path: Path) -> None:
    data = packed(folder / "train", tmp_path, "data", labels_per_class=10, test=0.25)
    assert dict(data.num_samples) == {"labeled": 10, "test": 10, "unlabeled": 20} and data.classes == ("line",)
    assert sum(name.endswith(".txt") for name in members(data, "labeled")) == 10
    assert sum(name.endswith(".txt") for name in members(data, "test")) == 10
    assert not any(name.endswith(".txt") for name in members(data, "unlabeled"))
    found = transcripts(context(tmp_path, "texts"), TranscriptConfig(), data=data)
    samples = open_transcribed(data.dir, found.dir, found.alphabet)
    assert len(samples) == 10 and samples.index.classes == found.alphabet
    for number in range(10):
        tokens = samples.field("transcript", np.array([number]))[0]
        key = samples.key(number)
        assert "".join(found.alphabet[t - 1] for t in tokens if t) == (folder / f"train/{key}.txt").read_text().strip()


def test_unusable_transcripts_are_named_counted_and_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = tmp_path / "lines"
    lines.mkdir()
    for number in range(6):
        (lines / f"{number}.png").write_bytes((folder / "train" / f"{number:05}.png").read_bytes())
    for number, text in enumerate(["một", "mộ", "  \n", "một" * 20, "tô"]):
        (lines / f"{number}.txt").write_text(text, "utf-8")
    (tmp_path / "chars.txt").write_text("mộttô".replace("tt", "t"), "utf-8")
    data = packed(lines, tmp_path, "data")
    assert dict(data.num_samples) == {"labeled": 4, "unlabeled": 2}  # without a transcript, or an empty one
    with pytest.raises(DataError, match=r"of 4 labelled lines 1 too long \(such as 3: 'mộtmột.*: mend them, or leave"):
        transcripts(context(tmp_path, "strict"), TranscriptConfig(), data=data)
    (tmp_path / "chars.txt").write_text("mộtx", "utf-8")
    config = TranscriptConfig(alphabet=f"{tmp_path}/chars.txt", on_unusable="skip")
    found = transcripts(context(tmp_path, "texts"), config, data=data)
    assert dict(found.accounting) == {"used": 2, "too long": 1, "with other characters": 1}
    assert len(open_transcribed(data.dir, found.dir, found.alphabet)) == 2 and found.alphabet == ("m", "ộ", "t", "x")
    assert "1 too long" in caplog.text and "1 with other characters (such as 4: 'tô')" in caplog.text
    images = pack(context(tmp_path, "digits"), PackConfig(source="digits"))
    with pytest.raises(DataError, match=r"labelled lines 1,797 empty .*: mend them"):
        transcripts(context(tmp_path, "none"), TranscriptConfig(alphabet=f"{tmp_path}/chars.txt"), data=images)


def test_what_lines_need_is_asked_for_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="names the transcripts of the lines"):
        PackConfig(source="x", lines=True)
    config = runs.ROOT / "configs/text_lines/uda_lines.yaml"
    for words, text in (
        (["train.image={size: 32}"], "gives the lines of text their width"),
        (["train.image.size=24"], "takes lines of 32 pixels height"),
        (["train.model.name=wrn_10_1"], "reads lines of text: take crnn_1"),
        (["train.method={name: fixmatch}"], "is for methods that read lines of text"),
        (["data.lines=false"], "lines: true is missing"),
    ):
        _, err = runs.in_process(capsys, "plan", config, *words, "--root", "/tmp/none", code=2)
        assert any(part in err for part in text.split("|")), err


def test_the_graph_learns_reads_and_reports(folder: Path, tmp_path: Path) -> None:
    words = [f"data.source={folder}/train", f"data.test={folder}/test", f"held_out={folder}/held_out"]
    words += ["data.labels_per_class=10", "train.num_steps=6", "train.batch_size=8", "train.log_every=2"]
    words += ["train.model.name=crnn_0.05", "--root", str(tmp_path / "r"), "--json"]
    out, _ = runs.sslscale("run", runs.ROOT / "configs/text_lines/uda_lines.yaml", *words)
    line = json.loads(out.splitlines()[-1])
    states = {stage["name"]: stage["state"] for stage in line["stages"]}
    assert set(states.values()) == {"ran"} and {"held_out/train/read", "labels_alone/read"} <= states.keys()
    reports = [json.loads(file.read_text()) for file in tmp_path.glob("r/artifacts/read_lines/*/report.json")]
    assert sorted(found["lines"] for found in reports) == [8, 8, 12, 12]
    for found in reports:
        assert found["cer_interval"][0] <= found["cer"] <= found["cer_interval"][1]
    for file in tmp_path.glob("r/artifacts/read_lines/*/readings.csv"):
        with open(file, encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert len(rows) in (8, 12) and (file.parent / "worst.png").exists()
        place = folder / ("test" if len(rows) == 12 else "held_out")
        for row in rows:
            assert row["transcript"] == (place / f"{row['key']}.txt").read_text("utf-8").strip()
    (page,) = tmp_path.glob("r/reports/*.html")
    assert "the lines with the most errors" in page.read_text("utf-8")
