"""Images of any channels and of 16 bits, from file to batch: PNG, TIFF, arrays; hostile ones; packing and indexes."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from sslscale.data import build, channels, decode
from sslscale.data.check import check
from sslscale.data.image_views import ImageViews
from sslscale.data.images import Images
from sslscale.data.index import read_index
from sslscale.data.pack import pack
from sslscale.data.samples import open_samples
from sslscale.data.shard import scan
from sslscale.data.survey import survey
from sslscale.errors import ConfigError, DataError
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.pixels import RGB, PixelConfig
from tests import runs

DEEP = np.random.default_rng(0).integers(0, 65536, (4, 7, 9), np.uint16)  # channels, height, width


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack", **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def png16(array: np.ndarray) -> bytes:
    """A PNG of 16 bits and 1 to 4 channels, by the specification: each row is a filter byte and big-endian numbers."""
    channels, height, width = array.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array.transpose(1, 2, 0))
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FILES = {
    "npy": npy(DEEP),
    "npy, channels last": npy(np.ascontiguousarray(DEEP.transpose(1, 2, 0))),
    "npy in Fortran's order": npy(np.asfortranarray(DEEP)),
    "npy, big-endian": npy(DEEP.astype(">u2")),
    "tiff": tiff(DEEP.transpose(1, 2, 0), planarconfig="contig"),
    "tiff in planes, LZW": tiff(DEEP, planarconfig="separate", compression="lzw"),
    "tiff, a predictor": tiff(DEEP.transpose(1, 2, 0), planarconfig="contig", compression="zlib", predictor=True),
    "tiff, big-endian": tiff(DEEP.transpose(1, 2, 0), planarconfig="contig", byteorder=">"),
    "tiff in tiles": tiff(DEEP.transpose(1, 2, 0), planarconfig="contig", tile=(16, 16)),
    "tiff of four pages": tiff(DEEP),
    "png": png16(DEEP),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_four_channels_of_sixteen_bits_gives_its_numbers(name: str) -> None:
    wanted = PixelConfig(channels=4, bits=16)
    image = decode.decode(FILES[name], pixels=wanted)
    assert image.dtype == torch.uint16 and np.array_equal(image.numpy(), DEEP)
    assert decode.dimensions(FILES[name], pixels=wanted) == (7, 9)
    eight = decode.decode(FILES[name], pixels=PixelConfig(channels=4))
    assert eight.dtype == torch.uint8
    assert np.abs(eight.numpy() - DEEP / 257.0).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_sixteen_bits(channels: int) -> None:
    image = decode.decode(png16(DEEP[:channels]), pixels=PixelConfig(channels=channels, bits=16))
    assert np.array_equal(image.numpy(), DEEP[:channels])


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8", "f2"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_range_makes_numbers_of_any_type_0_to_1(kind: str, bits: int) -> None:
    array = np.random.default_rng(1).integers(0, 120, (2, 5, 6)).astype(kind)
    wanted = PixelConfig(channels=2, bits=16 if bits == 16 else 8, range=(10.0, 90.0))
    top = 255 if bits == 8 else 65535
    expected = np.clip((array.astype(np.float64) - 10) / 80, 0, 1) * top
    for data in (npy(array), *([tiff(array, planarconfig="separate")] if kind != "i4" else [])):
        found = decode.decode(data, pixels=wanted).numpy()
        assert np.abs(found - expected).max() <= 0.51


def test_channels_are_fitted_where_that_is_plain_and_else_refused() -> None:
    def channels(array: np.ndarray, wanted: int) -> np.ndarray:
        return decode.decode(npy(array), pixels=PixelConfig(channels=wanted, bits=16)).numpy()

    assert np.array_equal(channels(DEEP[0], 1)[0], DEEP[0])
    assert np.array_equal(channels(DEEP[:1], 3), DEEP[:1].repeat(3, 0))  # gray
    luma = 0.299 * DEEP[0].astype(float) + 0.587 * DEEP[1] + 0.114 * DEEP[2]
    assert np.abs(decode.decode(png16(DEEP[:3]), pixels=PixelConfig(channels=1, bits=16)).numpy() - luma).max() <= 0.51
    assert np.array_equal(decode.decode(png16(DEEP), pixels=PixelConfig(bits=16)).numpy(), DEEP[:3])  # without alpha
    five = np.concatenate([DEEP, DEEP[:1]])
    for wanted in (2, 3, 4, 6):
        with pytest.raises(DataError, match=f"it has 5 channels, not {wanted}: set image.channels to 5"):
            decode.decode(tiff(five, planarconfig="separate"), pixels=PixelConfig(channels=wanted, bits=16))


def test_arrays_of_eight_bit_colours_are_images_like_any_other() -> None:
    image = (DEEP[:3] >> 8).astype(np.uint8)
    for array in (image, np.ascontiguousarray(image.transpose(1, 2, 0))):
        assert np.array_equal(decode.decode(npy(array)).numpy(), image)
        assert decode.dimensions(npy(array)) == (7, 9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_its_tag_says(orientation: int) -> None:
    """As PIL turns the same picture, which knows no 16 bits."""
    eight = (DEEP[:3] >> 8).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(eight).save(buffer, "PNG", exif=exif)
    expected = decode.decode(buffer.getvalue()).numpy()
    data = tiff(DEEP.transpose(1, 2, 0), planarconfig="contig", extratags=[(274, 3, 1, orientation, True)])
    found = decode.decode(data, pixels=PixelConfig(channels=4, bits=16)).numpy()
    assert np.array_equal(found[:3] >> 8, expected)
    assert decode.dimensions(data, pixels=PixelConfig(channels=4, bits=16)) == found.shape[1:]


class Payload:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Payload, "ran", True)


def header(text: str) -> bytes:
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(line)) + line


HOSTILE = {
    "a pickle": (npy(np.array([[Payload()]], object), allow_pickle=True), "no numbers of an image"),
    "a header of a pickle": (b"\x93NUMPY\x01\0\x10\0" + pickle.dumps(1) * 4, "undecodable array"),
    "code in the header": (header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}"), "undecodable"),
    "a deep header": (header("(" * 110), "undecodable array"),
    "a bomb": (header("{'descr': '<u2', 'fortran_order': False, 'shape': (4, 900000, 900000)}"), "over the limit"),
    "many channels": (header("{'descr': '<u2', 'fortran_order': False, 'shape': (900000, 9, 9)}"), "bytes, where"),
    "a cut array": (npy(DEEP)[:-3], "bytes, where"),
    "a long array": (npy(DEEP) + b"x", "bytes, where"),
    "a shape of five": (npy(np.zeros((2, 2, 2, 2, 2), np.uint8)), "which is no image"),
    "no pixels": (npy(np.zeros((4, 0, 3), np.uint8)), "which is no image"),
    "complex numbers": (npy(np.zeros((4, 3, 3), np.complex64)), "no numbers of an image"),
    "text": (npy(np.zeros((4, 3, 3), "U3")), "no numbers of an image"),
    "floats without a range": (npy(np.ones((4, 3, 3), np.float32)), "image.range says which are black and white"),
    "a TIFF of three images": (tiff(np.zeros((3, 7, 9), np.uint16)), "it has 3 channels, not 4"),
    "a TIFF of nothing": (b"II*\0" + b"\0" * 40, "undecodable TIFF"),
    "a cut TIFF": (tiff(DEEP, planarconfig="separate")[:-60], "undecodable TIFF"),
    "a cut PNG": (png16(DEEP)[:-40], "undecodable image"),
    "nothing": (b"", "undecodable image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_such_image_is_one_error(name: str) -> None:
    data, text = HOSTILE[name]
    with pytest.raises(DataError, match=text) as caught:
        decode.decode(data, pixels=PixelConfig(channels=4, bits=16))
    assert "\n" not in str(caught.value) and not Payload.ran


def test_a_tiff_that_claims_much_is_refused_before_it_costs_memory() -> None:
    data = bytearray(tiff(np.zeros((8, 8), np.uint16)))
    for tag in (256, 257):  # width and height
        place = next(p for kind in (3, 4) if (p := data.find(struct.pack("<HH", tag, kind))) > 0)
        data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    with pytest.raises(DataError, match="60000 x 60000 pixels is over the limit"):
        decode.decode(bytes(data), pixels=PixelConfig(channels=1, bits=16))


def test_numbers_that_are_none_are_told() -> None:
    array = np.ones((1, 3, 3), np.float32)
    array[0, 1, 1] = np.nan
    with pytest.raises(DataError, match="no numbers"):
        decode.decode(npy(array), pixels=PixelConfig(channels=1, range=(0.0, 1.0)))
    array[0, 1, 1] = np.inf
    assert decode.decode(npy(array), pixels=PixelConfig(channels=1, range=(0.0, 2.0))).max() == 255


# --- settings ---------------------------------------------------------------------------------------------------


def four(**more: object) -> ImageConfig:
    given = {"size": 8, "channels": 4, "bits": 16, "mean": (0.5,) * 4, "std": (0.3,) * 4}
    return ImageConfig(**{**given, **more})  # type: ignore[arg-type]


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="size: must lie between 1 and 65,535 pixels"):
        ImageConfig(size=65_536)
    with pytest.raises(ValueError, match="mean: must be 4 numbers, one a channel"):
        four(mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="std: must be 1 number, one a channel"):
        ImageConfig(size=8, channels=1, mean=(0.5,))
    with pytest.raises(ValueError, match="range: must be two numbers, low then high"):
        four(range=(3.0, 3.0))
    with pytest.raises(ValueError, match="channels: must lie between 1 and 1,024"):
        PixelConfig(channels=0)


def test_packing_follows_the_trainings_images() -> None:
    plain = PackConfig(source="digits")
    assert plain.seen_by([ImageConfig(size=8)], seed=3) == dataclasses.replace(plain, seed=3)
    assert plain.seen_by([four(), four(size=16)], seed=0).decoded == PixelConfig(channels=4, bits=16)
    with pytest.raises(ConfigError, match="take the same images, not 3 channels of 8 bits and 4 channels of 16 bits"):
        plain.seen_by([four(), ImageConfig(size=8)], seed=0)
    own = dataclasses.replace(plain, pixels=PixelConfig(channels=1))
    assert own.seen_by([], seed=0).decoded.channels == 1
    with pytest.raises(ConfigError, match="1 channel of 8 bits and 3 channels of 8 bits"):
        own.seen_by([ImageConfig(size=8)], seed=0)


# --- shards -----------------------------------------------------------------------------------------------------


def scene(number: int, side: int = 16) -> np.ndarray:
    """Four channels of 12 bits whose class shows in one of them."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 1000, (4, side, side), np.uint16)
    image[number % 4] += 2500
    return image


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in four class folders, as TIFFs and arrays."""
    root = tmp_path_factory.mktemp("scenes")
    for number in range(60):
        folder = root / f"band{number % 4}"
        folder.mkdir(exist_ok=True)
        if number % 3:
            (folder / f"{number:03d}.tif").write_bytes(tiff(scene(number).transpose(1, 2, 0), planarconfig="contig"))
        else:
            (folder / f"{number:03d}.tiff").write_bytes(tiff(scene(number), compression="lzw"))
    return root


PIXELS = PixelConfig(channels=4, bits=16, range=(0.0, 4095.0))


@pytest.fixture(scope="module")
def packed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(PackConfig(source=str(scenes), test=0.2, shard_size=20, pixels=PIXELS), folder, threads=2)
    return folder


def test_packed_files_stay_as_they_are_and_the_index_knows_their_pixels(scenes: Path, packed: Path) -> None:
    index = read_index(packed / "labeled")
    assert index.pixels == PIXELS and read_index(packed / "test").pixels == PIXELS
    samples = open_samples(packed / "labeled")
    kinds = {samples.shards[n].extension(r) for n in range(len(samples.shards)) for r in range(len(samples.shards[n]))}
    assert kinds == {"tif", "tiff"}
    key = samples.shards[0].key(0)
    file = next(f for f in scenes.rglob("*") if f.is_file() and f.stem in key)
    assert bytes(samples.shards[0].encoded(0)) == file.read_bytes()
    found = check(packed, threads=2, say=lambda line: None)
    assert not found["problems"]


def test_images_are_the_same_from_the_cache_and_decoded_each_time(packed: Path, tmp_path: Path) -> None:
    samples = open_samples(packed / "labeled")
    shard, row = samples.places(np.arange(len(samples)))
    choices: list[dict[str, Any]] = [{}, {"whole": True}, {"evaluation_crop": 0.8}]
    for options in choices:
        found = []
        for cache in (tmp_path / str(len(options)), None):
            images = Images(samples.shards, 12, cache=cache, cache_bytes=1 << 30, threads=2, pixels=PIXELS, **options)
            images.make()
            assert (images.cached > 0) == (cache is not None)
            found.append(images.fetch(shard, row))
            if options.get("whole"):
                boxes = torch.tensor([[2.0, 3.0, 10.0, 9.0]]).repeat(len(row), 1)
                found[-1] = torch.cat([found[-1].flatten(), images.crops(shard, row, [boxes], [6])[0].flatten()])
        assert found[0].dtype == torch.uint16 and found[0].equal(found[1])
    whole = Images(samples.shards, 16, cache=None, cache_bytes=0, threads=2, pixels=PIXELS).fetch(shard[:1], row[:1])[0]
    number = int(samples.key(0).rpartition("/")[2].split("_")[0])
    expected = np.clip(scene(number) / 4095, 0, 1) * 65535
    assert np.abs(whole.numpy() - expected).max() <= 0.51


def test_views_of_a_whole_batch_are_those_of_one_image_after_another(packed: Path) -> None:
    """As a GPU makes them, and as a CPU makes them of large images; and twice the same."""
    samples = open_samples(packed / "labeled")
    image = four(size=10, range=(0.0, 4095.0))
    views = (AugmentConfig(crop="resized", scale=(0.4, 1.0), flip=True),)
    numbers = torch.arange(20)
    made = []
    for whole in (True, False, True):
        reader = ImageViews(
            samples.shards,
            views,
            image,
            seed=1,
            cache=None,
            cache_bytes=0,
            threads=2,
            device=torch.device("cpu"),
            whole_batches=whole,
        )
        raw = reader.load(*samples.places(numbers.numpy()), numbers, torch.zeros(20, dtype=torch.int64))
        made.append(reader.finish(raw)[0])
    assert made[0].shape == (20, 4, 10, 10) and made[0].equal(made[2])
    assert (made[0] - made[1]).abs().mean() < 0.02


def test_others_shards_of_arrays_and_tiffs_are_read_where_they_lie(tmp_path: Path) -> None:
    file = tmp_path / "theirs.tar"
    with tarfile.open(file, "w") as tar:

        def member(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number in range(12):
            member(
                f"{number:03d}.{'npy' if number % 2 else 'tif'}",
                npy(scene(number)) if number % 2 else tiff(scene(number).transpose(1, 2, 0), planarconfig="contig"),
            )
            member(f"{number:03d}.cls", str(number % 4).encode())
            member(f"{number:03d}.embedding.npy", npy(np.zeros(8, np.float32)))
    config = PackConfig(source=f"webdataset:{file}", test=0.25, pixels=PIXELS)
    said: list[str] = []
    from sslscale.data.indexing import examine_here
    from sslscale.storage.scratch import Local

    indexes = build.build(
        config,
        tmp_path / "out",
        tmp_path / "parts",
        threads=1,
        say=said.append,
        run=None,
        examine=examine_here(config, Local(tmp_path / "scratch"), 1),
    )
    assert sum(index.num_samples for index in indexes.values()) == 12
    assert read_index(tmp_path / "out" / "labeled").pixels == PIXELS
    assert any("12 .embedding.npy" in line for line in said)


def test_an_array_beside_a_picture_is_not_the_image(tmp_path: Path) -> None:
    buffer, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("a.npy", npy(DEEP)), ("a.png", picture.getvalue()), ("b.npy", npy(DEEP))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shard = scan(tmp_path / "x.tar", memoryview(buffer.getvalue()), lenient=True)
    assert [shard.extension(row) for row in range(len(shard))] == ["png", "npy"]
    assert shard.ignored == {"npy": 1}
    folder = tmp_path / "folder"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(picture.getvalue())
        (folder / name / "1.npy").write_bytes(npy(DEEP))
    (folder / "labels.npy").write_bytes(npy(np.arange(3)))  # a class folder stays one
    said: list[str] = []
    indexes = pack(PackConfig(source=str(folder)), tmp_path / "packed", say=said.append)
    assert indexes["labeled"].classes == ("a", "b") and indexes["labeled"].num_samples == 2
    assert any("3 .npy files" in line for line in said)


def test_images_of_the_wrong_channels_are_named(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 of 60 images cannot be used") as caught:
        pack(PackConfig(source=str(scenes)), tmp_path / "rgb")
    assert "image.channels" in str(caught.value)
    with pytest.raises(DataError, match=r"it has 4 channels, not 5: set image\.channels to 4"):
        pack(PackConfig(source=str(scenes), pixels=PixelConfig(channels=5)), tmp_path / "five")


def test_init_finds_what_the_images_are(scenes: Path, tmp_path: Path) -> None:
    found = survey(str(scenes), None)
    assert found.pixels.channels == 4 and found.pixels.bits == 16
    low, high = found.pixels.range or (0, 0)
    assert low == 0 and 3400 < high < 3500
    every = np.stack([scene(number) for number in range(60)]) / high
    assert np.allclose(found.mean, every.mean((0, 2, 3)), atol=0.01)
    assert np.allclose(found.std, every.std((0, 2, 3)), atol=0.02)
    colours = tmp_path / "colours"
    colours.mkdir()
    for number in range(3):
        Image.fromarray((DEEP[:3] >> 8).astype(np.uint8).transpose(1, 2, 0)).save(colours / f"{number}.png")
    assert survey(str(colours), None).pixels == RGB


def test_the_command_from_init_to_predict(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TIFFs of four bands: a configuration, a training that learns, a prediction of a file."""
    monkeypatch.chdir(tmp_path)
    config, root = tmp_path / "bands.yaml", tmp_path / "root"
    runs.in_process(capsys, "init", scenes, "--out", config)
    assert "channels: 4, bits: 16, range: [0, 3" in config.read_text()
    runs.in_process(capsys, "show", config, "--views")
    small = ("train.num_steps=120", "train.model.name=wrn_10_0.5", "train.batch_size=16")
    out, _ = runs.in_process(capsys, "run", config, *small, "--root", root, "--json")
    found = runs.result(out)
    folder = runs.folder_of(root, found, "train")
    assert runs.stages(found)["train/evaluate"]["metrics"]["test_accuracy"] > 0.7  # chance: 0.25
    file = next(f for f in (scenes / "band2").iterdir())
    out, _ = runs.in_process(capsys, "predict", folder, file)
    assert "band2" in out
    out, _ = runs.in_process(capsys, "predict", folder, tmp_path / "bands.yaml", code=3)


def test_public_weights_of_colours_are_adapted_to_four_bands(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from sslscale.nn.classifier import build_backbone
    from sslscale.train.public_weights import read_backbone

    theirs, _ = build_backbone(ModelConfig(name="resnet_18_0.25"))
    save_file(dict(theirs.state_dict()), tmp_path / "w.safetensors")
    ours = read_backbone(tmp_path / "w.safetensors", ModelConfig(name="resnet_18_0.25").fitted(four()))
    expected, found = theirs.state_dict(), ours.state_dict()
    assert found["conv1.weight"].shape[1] == 4
    torch.testing.assert_close(found["conv1.weight"][:, 3], expected["conv1.weight"][:, 0] * 0.75)
    assert all(found[name].equal(expected[name]) for name in expected if name != "conv1.weight")


def test_images_that_are_packed_smaller_keep_their_numbers(tmp_path: Path) -> None:
    """A training takes its range of them: it must not have been taken before."""
    source = tmp_path / "large"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.npy").write_bytes(npy(scene(number, side=32)))
    pack(PackConfig(source=str(source), resize=8, pixels=PIXELS), tmp_path / "packed")
    samples = open_samples(tmp_path / "packed" / "unlabeled", labels=False)
    small = np.load(io.BytesIO(bytes(samples.shards[0].encoded(0))))
    assert small.dtype == np.uint16 and small.shape == (4, 8, 8)
    number = int(samples.key(0)[-1])
    assert np.abs(small.mean((1, 2)) - scene(number, side=32).mean((1, 2))).max() < 30


def test_exports_take_the_channels_of_the_images(tmp_path: Path) -> None:
    import timm

    from sslscale.nn.classifier import build_classifier
    from sslscale.tracking.models import write_model
    from sslscale.train.checkpoint import describe_model, save_model
    from sslscale.train.export import export_model

    model = ModelConfig(name="timm:resnet18").fitted(four())
    network = build_classifier(model, 3).eval()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_model(checkpoint, network, describe_model(network, model, four(), ("a", "b", "c")))
    images = torch.rand(2, 4, 8, 8)
    expected = network.backbone((images - 0.5) / 0.3)
    export_model(checkpoint, tmp_path / "m.pt")
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "m.pt"))(images)[0], expected, rtol=1e-4, atol=1e-4)
    assert "(batch, 4, 8, 8), 4 channels, 0 to 65535 scaled from 0 to 1" in (tmp_path / "m.pt.json").read_text()
    assert "in_chans=4" in export_model(checkpoint, tmp_path / "m.safetensors")
    theirs = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "m.safetensors"), in_chans=4)
    torch.testing.assert_close(theirs.eval()((images - 0.5) / 0.3), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="takes 4 channels of 16 bits"):
        export_model(checkpoint, tmp_path / "folder", "hf")
    write_model(checkpoint, tmp_path / "mlflow")
    import mlflow.pyfunc
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    answer = loaded.predict(pd.DataFrame({"image": [npy(DEEP)]}))
    assert answer["class"][0] in ("a", "b", "c")


def test_a_range_that_most_numbers_lie_outside_of_is_told(scenes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    wrong = dataclasses.replace(PIXELS, range=(0.0, 1.0))  # as if the numbers were shares
    pack(PackConfig(source=str(scenes), pixels=wrong), tmp_path / "wrong", say=said.append)
    assert any(
        line.startswith("60 of 60 images lie outside image.range by more than half; the first: ") for line in said
    )
    said.clear()
    pack(PackConfig(source=str(scenes), pixels=PIXELS), tmp_path / "right", say=said.append)
    assert not said


def test_the_numbers_of_a_tiff_are_limited_whatever_is_asked_for() -> None:
    five = tiff(np.zeros((5, 7, 9), np.uint16), planarconfig="separate")
    with pytest.raises(DataError, match="a TIFF of 5 channels of 9 x 7 pixels is over the limit"):
        channels.decode(five, PixelConfig(channels=1), max_pixels=63)
    assert channels.decode(five, PixelConfig(channels=5), max_pixels=63).shape == (5, 7, 9)


def test_images_of_other_pixels_have_files_of_their_own_in_the_cache(packed: Path, tmp_path: Path) -> None:
    samples = open_samples(packed / "labeled")
    place = samples.places(np.arange(4))
    for bits in (16, 8, 16):
        pixels = PixelConfig(channels=4, bits=16 if bits == 16 else 8, range=(0.0, 4095.0))
        images = Images(samples.shards, 12, cache=tmp_path, cache_bytes=1 << 30, threads=2, pixels=pixels)
        images.make()
        alone = Images(samples.shards, 12, cache=None, cache_bytes=0, threads=2, pixels=pixels)
        assert images.cached and images.fetch(*place).equal(alone.fetch(*place))


def test_a_tiff_of_a_jpeg_of_very_many_scans_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    long = whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * 500 + whole[-2:]
    pixels = PixelConfig(channels=1)
    for data, refused in ((whole, False), (long, True)):
        out = io.BytesIO()
        tifffile.imwrite(out, iter([data]), shape=(64, 64), dtype=np.uint8, compression="jpeg", rowsperstrip=64)
        if refused:
            with pytest.raises(DataError, match=r"a JPEG of 50[0-9] scans"):
                decode.decode(out.getvalue(), pixels=pixels)
        else:
            assert decode.decode(out.getvalue(), pixels=pixels).shape == (1, 64, 64)
