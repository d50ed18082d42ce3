"""Videos: real encoded files, cut into clips by time, packed, read as clips, and learned from."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslscale.data.decode import decode
from sslscale.data.films import of_file
from sslscale.data.index import read_index
from sslscale.data.joined import open_clips
from sslscale.data.samples import open_images
from sslscale.data.stream import Stream
from sslscale.data.videos import frames_of, seconds
from sslscale.errors import ConfigError, DataError
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.methods.frames import draw_windows, squared_distances, take, windows
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig, VideoConfig
from sslscale.settings.model import ImageConfig
from sslscale.stages.pack import content, pack
from tests import runs
from tests.benchmarks.moving_digits import write_set

av = pytest.importorskip("av")
VIDEO = VideoConfig(frames=5, fps=5)


def write(path: Path, times: list[float], *, rate: int = 30, codec: str = "mpeg4", gray: float = 100) -> None:
    """A video whose frame at time t is of the gray `gray` * t, shown at these times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate)
        track.width = track.height = 32
        track.pix_fmt = "yuv420p"
        track.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), round(gray * time), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def grays(images: list[Any]) -> list[float]:
    return [float(np.asarray(image, float).mean()) for image in images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of videos of 2.5 seconds: two clips of 5 frames each, and half a second that is left."""
    steady = [number / 30 for number in range(75)]
    for name in ("a/one.mp4", "a/two.mp4", "b/three.avi", "b/four.mp4"):
        write(tmp_path / "videos" / name, steady)
    return tmp_path


def context(folder: Path, name: str) -> RunContext:
    (folder / name).mkdir()
    return RunContext(path=folder / name, root=folder, name=name, resources=Resources())


def test_frames_are_those_shown_at_their_times_whatever_the_rate(tmp_path: Path) -> None:
    steady = [number / 30 for number in range(75)]
    variable = [0.0, 0.05, 0.1, 0.62, 0.64, 0.66, 0.95, 1.2, 1.21, 1.9, 2.3]
    for name, times in (("steady.mp4", steady), ("variable.mp4", variable)):
        write(tmp_path / name, times)
        for clip in (0, 1):
            found = grays(frames_of(of_file(tmp_path / name), clip, VIDEO))
            asked = [clip + (k + 0.5) / 5 for k in range(5)]
            wanted = [100 * max(time for time in times if time <= at + 1e-6) for at in asked]
            np.testing.assert_allclose(found, wanted, atol=4)  # of lossy compression
    small = frames_of(of_file(tmp_path / "steady.mp4"), 0, VIDEO, resize=16)
    assert {image.size for image in small} == {(16, 16)}
    np.testing.assert_allclose(grays(small), grays(frames_of(of_file(tmp_path / "steady.mp4"), 0, VIDEO)), atol=2.5)
    assert seconds(of_file(tmp_path / "steady.mp4")) == pytest.approx(2.5, abs=0.05)


def test_clips_are_packed_whole_and_in_order_and_videos_are_not_divided(folder: Path) -> None:
    source = PackConfig(source=f"{folder}/videos", video=VIDEO, test=0.5, shard_size=13)
    data = pack(context(folder, "data"), source)
    assert dict(data.num_samples) == {"labeled": 20, "test": 20} and data.classes == ("a", "b")
    index = read_index(data.split("labeled"))
    assert index.frames == 5 and [info.samples for info in index.shards] == [10, 10]
    keys = {
        split: [s.key(n) for s in [open_images(data.dir, (split,))] for n in range(20)] for split in ("labeled", "test")
    }
    assert {key.rsplit("/", 2)[0] for key in keys["labeled"]}.isdisjoint(key.rsplit("/", 2)[0] for key in keys["test"])
    for start in range(0, 20, 5):
        clip = keys["labeled"][start : start + 5]
        assert len({key.rpartition("/")[0] for key in clip}) == 1
        assert [key.rpartition("/")[2] for key in clip] == [f"{n:03d}" for n in range(5)]
    samples = open_clips(data.dir, ("labeled",))
    assert len(samples) == 4 and samples.frames == 5 and [samples.key(n) for n in range(4)] == keys["labeled"][::5]
    shard, row = samples.places(np.array([1]))
    first = decode(samples.shards[int(shard[0])].encoded(int(row[0]))).float().mean()
    clip_number = int(samples.key(1).split("/")[-2])
    assert float(first) == pytest.approx(100 * (clip_number + 0.1), abs=5)
    images = pack(context(folder, "digits"), PackConfig(source="digits", test=0.5))
    with pytest.raises(DataError, match="holds images, not clips of videos"):
        open_clips(images.dir, ("labeled",))


def test_the_frames_of_a_clip_are_augmented_alike(folder: Path) -> None:
    source = PackConfig(source=f"{folder}/videos", video=VIDEO)
    data = pack(context(folder, "data"), source)
    samples = open_clips(data.dir, ("labeled",))
    options: dict[str, Any] = {"image": ImageConfig(size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), "fields": ()}
    options |= {"batch_size": 4, "seed": 0, "cache": None, "cache_bytes": 0, "threads": 1}
    jitter = AugmentConfig(crop="resized", scale=(0.2, 1.0), flip=True)
    stream = Stream("images", samples, views=[jitter], **options)
    numbers, epochs, every = stream.choose(0)
    batch = stream.finish(stream.load(numbers, epochs, every))
    assert batch.views[0].shape == (4, 5, 3, 16, 16) and len(batch.index) == 4
    means = 255 * batch.views[0].mean((2, 3, 4))
    for clip, number in enumerate(numbers.tolist()):
        begin = int(samples.key(number).split("/")[-2])
        wanted = torch.tensor([100 * (begin + (k + 0.5) / 5) for k in range(5)])
        torch.testing.assert_close(means[clip], wanted, atol=6, rtol=0)
    draws = stream.load(numbers, epochs, every).views.plans[0].boxes
    assert draws is not None
    same = draws.unflatten(0, (4, 5))
    assert (same == same[:, :1]).all() and not (same[0, 0] == same[1, 0]).all()


def test_what_is_no_usable_video_is_counted_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder / "videos/a/short.mp4", [0.0])
    (folder / "videos/b/broken.mp4").write_bytes(b"\0" * 3000)
    (folder / "videos/b/notes.txt").write_text("hello")
    with pytest.raises(DataError, match="videos are cut into clips with data"):
        pack(context(folder, "images"), PackConfig(source=f"{folder}/videos/b"))
    with av.open(str(folder / "videos/b/sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    source = PackConfig(source=f"{folder}/videos", video=VIDEO)
    with pytest.raises(DataError, match=r"broken.mp4: cannot be read as a video .*as are 1 more; on_bad_sample: skip"):
        pack(context(folder, "strict"), source)
    caplog.set_level("INFO")
    data = pack(context(folder, "data"), PackConfig(source=f"{folder}/videos", video=VIDEO, on_bad_sample="skip"))
    assert dict(data.num_samples) == {"labeled": 40}
    told = caplog.text
    for line in ("2 videos that cannot be read", "1 videos shorter than a clip of 1 s", "1 .txt files"):
        assert f"passed over: {line}" in told, told


@pytest.mark.parametrize("name", ["one.mp4", "three.avi", "four.webm"])
def test_a_video_that_is_cut_is_named_not_filled_up(folder: Path, name: str) -> None:
    for other in (folder / "videos").rglob("*.*"):
        other.unlink()
    file = folder / "videos/a" / name
    write(file, [number / 30 for number in range(75)], codec="libvpx" if name.endswith("webm") else "mpeg4")
    source = PackConfig(source=f"{folder}/videos/a", video=VIDEO)
    pack(context(folder, "whole"), source)
    before = content(source, None)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert content(source, None) != before
    with pytest.raises(DataError, match=name):
        pack(context(folder, "cut"), source)


def test_no_clip_behind_the_end_of_a_long_video_that_is_cut_is_filled_up(tmp_path: Path) -> None:
    file = tmp_path / "long.webm"
    write(file, [number / 30 for number in range(360)], codec="libvpx", gray=20)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    good, told = [], []
    for clip in range(12):
        try:
            found = grays(frames_of(of_file(file), clip, VIDEO))
        except DataError as error:
            told.append(str(error))
            continue
        np.testing.assert_allclose(found, [20 * (clip + (k + 0.5) / 5) for k in range(5)], atol=4)
        good.append(clip)
    assert good == list(range(len(good))) and 1 < len(good) < 11
    assert len(good) + len(told) == 12 and all("long.webm" in line for line in told)


def test_what_is_packed_is_not_asked_of_a_webdataset() -> None:
    with pytest.raises(ValueError, match="is for sources that are packed"):
        PackConfig(source="webdataset:/data/*.tar", captions="txt")


def test_windows_are_all_that_the_settings_allow() -> None:
    wanted = [
        [a, b, c, d, e]
        for a, b, c, d, e in itertools.combinations(range(9), 5)
        if d - b <= 5 and c - b >= 2 and d - c >= 2 and 2 <= b - a <= 4 and 2 <= e - d <= 4
    ]
    assert sorted(windows(9, spread=5, gap=2).tolist()) == wanted
    with pytest.raises(ConfigError, match="clips of 8 frames hold no five frames with gaps of 2: pack clips of 9"):
        windows(8, spread=5, gap=2)


def test_windows_are_drawn_by_their_motion_and_not_where_a_frame_looks_like_the_middle() -> None:
    torch.manual_seed(0)
    clips = torch.zeros(1, 12, 3, 4, 4)
    clips[0, 6:] = torch.arange(1, 7).view(6, 1, 1, 1).float()  # still, then moving evenly
    naive = [[float((x - y).square().mean()) for y in clips[0]] for x in clips[0]]
    torch.testing.assert_close(squared_distances(clips)[0], torch.tensor(naive), atol=1e-5, rtol=1e-5)
    every = windows(12, spread=3, gap=1)
    count = 4000
    chosen = draw_windows(clips.expand(count, -1, -1, -1, -1), every, 0.5, torch.rand(count))
    weights = []
    for a, b, c, d, e in every.tolist():
        moved = sum(math.sqrt(naive[t][t + 1]) for t in range(b, d)) / (d - b) + 1e-6
        least = 0.5 * sum(math.sqrt(naive[t][t + 1]) for t in range(11)) / 11
        alike = math.sqrt(naive[a][c]) < least or math.sqrt(naive[e][c]) < least
        weights.append(0.0 if alike else moved)
    wanted = np.array(weights) / sum(weights)
    numbers = {tuple(window): n for n, window in enumerate(every.tolist())}
    found = np.bincount([numbers[tuple(window)] for window in chosen.tolist()], minlength=len(every)) / count
    assert (found[wanted == 0] == 0).all()
    np.testing.assert_allclose(found, wanted, atol=0.03)
    assert take(clips, chosen[:1, :3]).shape == (1, 3, 3, 4, 4)


@pytest.mark.slow
def test_the_command_packs_videos_and_the_graph_learns_from_them(tmp_path: Path) -> None:
    write_set(tmp_path, train=3, test=2, seed=0)
    words = [f"data.source={tmp_path}/train", f"data.test={tmp_path}/test", "pretrain.num_steps=12"]
    words += ["pretrain.batch_size=8", "pretrain.log_every=4"]
    config = runs.ROOT / "configs/pretrain/shuffle_and_learn_digits.yaml"
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    line = json.loads(out.splitlines()[-1])
    assert {stage["state"] for stage in line["stages"]} == {"ran"}
    (trained,) = tmp_path.glob("r/artifacts/train/*")
    assert (trained / "pictures.png").exists() and (trained / "views.png").exists()
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["pretext_accuracy"] <= 1
    assert len(list((tmp_path / "poses/train").iterdir())) == 6
