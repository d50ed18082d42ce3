"""Sound: tracks and files beside videos, shards of encoded videos and of frames, spectrograms, retrieval."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslscale.data.films import of_file
from sslscale.data.index import read_index
from sslscale.data.joined import open_heard
from sslscale.data.samples import open_images
from sslscale.data.shards import open_shard
from sslscale.data.sound import read_sounds
from sslscale.data.videos import sound_of
from sslscale.data.wav import decode_wav, encode_wav
from sslscale.errors import DataError
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig, VideoConfig
from sslscale.settings.sound import SoundConfig
from sslscale.stages.pack import pack
from sslscale.stages.spectrograms import spectrograms
from tests import runs
from tests.benchmarks.moving_digits import write_set

av = pytest.importorskip("av")
VIDEO = VideoConfig(frames=5, fps=5, sound=8000)


def tone(begin: float, end: float, rate: int = 8000) -> np.ndarray:
    """A tone of 500 Hz until 1 s, then of 1,500 Hz; int16."""
    time = np.arange(round(begin * rate), round(end * rate)) / rate
    return (8000 * np.sin(2 * np.pi * np.where(time < 1, 500, 1500) * time)).astype(np.int16)


def write(path: Path, seconds: float, sound: np.ndarray | None, *, start: float = 0.0) -> None:
    """A gray video at 10 frames a second with this sound at 8,000 Hz, if any, as PCM or AAC; both begin at `start`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 32
        track.pix_fmt = "yuv420p"
        codec = "pcm_s16le" if path.suffix in (".avi", ".mkv") else "aac"
        voice = None if sound is None else container.add_stream(codec, rate=8000, layout="mono")
        for number in range(round(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * number % 256, np.uint8), format="rgb24")
            frame.pts = number + round(10 * start)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        if voice is not None and sound is not None:
            heard = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts = 8000, round(8000 * start)
            sampler = av.AudioResampler(format=voice.codec_context.format, layout="mono", rate=8000)
            for part in sampler.resample(heard):
                container.mux(voice.encode(part))
            container.mux(voice.encode(None))


def context(folder: Path, name: str) -> RunContext:
    (folder / name).mkdir(parents=True)
    return RunContext(path=folder / name, root=folder, name=name, resources=Resources())


def pitch(samples: np.ndarray) -> float:
    """The loudest frequency, at 8,000 samples a second."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * 8000 / len(samples))


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi"])
def test_the_sound_of_a_clip_is_that_of_its_time(tmp_path: Path, name: str) -> None:
    start = 0.5 if name == "b.mkv" else 0.0
    write(tmp_path / name, 2.5, tone(0, 2.5), start=start)
    film = of_file(tmp_path / name)
    for clip, hertz in ((0, 500), (1, 1500)):
        raw = sound_of(film, clip, VIDEO)
        assert raw is not None
        samples, rate = decode_wav(raw, "")
        assert rate == 8000 and len(samples) == 8000
        assert pitch(samples[:4000]) == pytest.approx(hertz, abs=5)
        assert pitch(samples[4000:]) == pytest.approx(hertz, abs=5)


def test_a_file_beside_the_video_is_its_sound_and_short_sound_ends_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 2.0, tone(0, 1))
    (tmp_path / "a.wav").write_bytes(encode_wav(tone(1, 2.5), 8000))
    raw = sound_of(of_file(tmp_path / "a.mp4"), 1, VIDEO)
    assert raw is not None
    samples, _ = decode_wav(raw, "")
    assert pitch(samples[:4000]) == pytest.approx(1500, abs=5) and np.abs(samples[:4000]).max() > 0.1
    assert not samples[4100:].any()
    write(tmp_path / "b.mp4", 1.0, None)
    assert sound_of(of_file(tmp_path / "b.mp4"), 0, VIDEO) is None
    (tmp_path / "b.wav").write_bytes(b"\0" * 2000)
    with pytest.raises(DataError, match=r"b\.mp4: damaged sound"):
        sound_of(of_file(tmp_path / "b.mp4"), 0, VIDEO)


def test_clips_without_sound_are_counted_and_left_out_or_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write(tmp_path / f"videos/v{number}.mp4", 2.0, tone(0, 2) if number else None)
    (tmp_path / "videos/v3.flac").write_bytes(b"")
    caplog.set_level("INFO")
    data = pack(context(tmp_path, "data"), PackConfig(source=f"{tmp_path}/videos", video=VIDEO))
    assert dict(data.num_samples) == {"unlabeled": 30}
    assert "passed over: 1 .flac files" in caplog.text  # of no video
    config = SoundConfig(mels=8, columns=2)
    with pytest.raises(DataError, match=r"of 6 clips 2 have no sound \(such as .*v0.*\): leave them out by on_missing"):
        spectrograms(context(tmp_path, "strict"), config, data=data)
    found = spectrograms(context(tmp_path, "sound"), SoundConfig(mels=8, columns=2, on_missing="skip"), data=data)
    assert dict(found.accounting) == {"used": 4, "missing": 2} and dict(found.num_clips) == {"unlabeled": 6}
    samples = open_heard(data.dir, found.dir, ("unlabeled",), found.mels)
    assert len(samples) == 4 and all("v0" not in samples.key(n) for n in range(4))
    spectra, videos = samples.field("sound", np.arange(4)), samples.field("video", np.arange(4))
    assert spectra.shape == (4, 8, 10) and spectra.dtype == np.float32
    for n in range(4):  # clip 1 has the higher tone
        loudest = int(spectra[n].mean(1).argmax())
        assert loudest == (4 if samples.key(n).split("/")[-2] == "0001" else 1), (n, loudest)
        assert (videos == videos[n]).sum() == 2
    silent = pack(
        context(tmp_path, "mute"), PackConfig(source=f"{tmp_path}/videos", video=VideoConfig(frames=5, fps=5))
    )
    with pytest.raises(DataError, match=r"of 6 clips 6 have no sound .*: pack the videos with data\.video\.sound"):
        spectrograms(context(tmp_path, "none"), config, data=silent)
    images = pack(context(tmp_path, "digits"), PackConfig(source="digits"))
    with pytest.raises(DataError, match="the data is no clips of videos"):
        spectrograms(context(tmp_path, "images"), config, data=images)


def test_a_clip_with_damaged_sound_is_left_out_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(101):
        write(tmp_path / f"videos/{number:03}.mkv", 1.0, tone(0, 1))
    (tmp_path / "videos/007.wav").write_bytes(b"\0" * 2000)
    source = {"source": f"{tmp_path}/videos", "video": VIDEO}
    with pytest.raises(DataError, match=r"007\.mkv: damaged sound"):
        pack(context(tmp_path, "strict"), PackConfig(**source))
    caplog.set_level("INFO")
    data = pack(context(tmp_path, "data"), PackConfig(**source, on_bad_sample="skip"))
    assert dict(data.num_samples) == {"unlabeled": 500} and "1 of 101 clips left out" in caplog.text


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_of_encoded_videos_and_of_frames_are_packed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "one.mp4", 2.0, tone(0, 2))
    with tarfile.open(tmp_path / "videos-0.tar", "w") as archive:
        for number in range(2):
            add(archive, f"{number}.mp4", (tmp_path / "one.mp4").read_bytes())
            add(archive, f"{number}.cls", b"cat" if number else b"dog")
        add(archive, "0.wav", encode_wav(tone(1, 2.5), 8000))
    with tarfile.open(tmp_path / "videos-1.tar", "w") as archive:
        for frame in reversed(range(11)):  # in no order
            add(archive, f"0.{frame:03d}.png", png(20 * frame))
        add(archive, "0.cls", b"cat")
        add(archive, "0.json", b"{}")
        add(archive, "0.flac", encode_wav(tone(0, 2), 8000))
    source = PackConfig(source=f"webdataset:{tmp_path}/videos-{{0..1}}.tar", video=VIDEO)
    caplog.set_level("INFO")
    data = pack(context(tmp_path, "data"), source)
    assert data.classes == ("cat", "dog") and dict(data.num_samples) == {"labeled": 30}
    assert "1 .json members" in caplog.text
    index = read_index(data.split("labeled"))
    samples = open_images(data.dir, ("labeled",), labels=True)
    keys = {samples.key(n): n for n in range(30)}
    assert {key.rsplit("/", 2)[0] for key in keys} == {"videos-0/0", "videos-0/1", "videos-1/0"}
    for frame in range(10):
        number = keys[f"videos-1/0/{frame // 5:04d}/{frame % 5:03d}"]
        shard, row = samples.places(np.array([number]))
        pixels = np.asarray(Image.open(io.BytesIO(bytes(samples.shards[int(shard[0])].encoded(int(row[0]))))))
        assert abs(float(pixels.mean()) - 20 * frame) < 2 and samples.labels[number] == 0
    assert samples.labels[keys["videos-0/0/0000/000"]] == 1
    heard = {}
    for number in range(len(index.shards)):
        shard = open_shard(index, number)
        for key, sound in zip(list(shard.keys)[::5], read_sounds(shard, 5), strict=True):
            assert sound is not None
            heard[key.rsplit("/", 1)[0]] = pitch(sound[0][:2000])
    assert heard["videos-0/0/0000"] == pytest.approx(1500, abs=5)  # the file beside it, not the track
    assert heard["videos-0/1/0000"] == heard["videos-1/0/0000"] == pytest.approx(500, abs=5)
    (tmp_path / "videos-0.tar").write_bytes((tmp_path / "videos-0.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"videos-0\.tar: cut at byte"):
        pack(context(tmp_path, "cut"), source)


def test_the_graph_learns_from_frames_and_sound_and_retrieves(tmp_path: Path) -> None:
    write_set(tmp_path, train=3, test=2, seed=0)
    words = [f"data.source={tmp_path}/train", f"data.test={tmp_path}/test", "train.num_steps=8"]
    words += ["train.batch_size=8", "train.log_every=4"]
    config = runs.ROOT / "configs/image_sound/avts_digits.yaml"
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    line = json.loads(out.splitlines()[-1])
    assert {stage["state"] for stage in line["stages"]} == {"ran"}
    (trained,) = tmp_path.glob("r/artifacts/train/*")
    (report,) = tmp_path.glob("r/artifacts/sound_retrieval/*")
    assert (trained / "pictures.png").exists() and (report / "sounds.png").exists()
    found = json.loads((report / "report.json").read_text())
    assert found["clips"] == 20 and found["sound_to_image"]["recall_at_10"] >= found["sound_to_image"]["recall_at_1"]
    assert found["shifts"]["starts"] == 13
    info: Any = json.loads((trained / "model.json").read_text())
    assert info["sound"]["frames"] == 4 and not info["head"]
    (page,) = tmp_path.glob("r/reports/*.html")
    assert "Sounds, their own frame" in page.read_text("utf-8")
