"""AVC and AVTS: spectrograms, windows and losses against literal transcriptions in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from sslscale.data.batch import Batch
from sslscale.data.sound import mel_filters, spectrogram
from sslscale.data.wav import decode_wav, encode_wav
from sslscale.errors import ConfigError, DataError
from sslscale.evaluate.sound import find_shifts
from sslscale.methods.avc import AVC
from sslscale.methods.avts import AVTS
from sslscale.methods.method import StepInfo, build_method
from sslscale.nn.sound_towers import cut, distances
from sslscale.settings.sound import SoundConfig, SoundTowerConfig
from tests.configurations import CONFIGS, batch_of


def test_spectrograms_are_powers_of_windows_summed_by_triangles_in_mel() -> None:
    rate, times, config = 8000, 6, SoundConfig(mels=10, window=0.02, low=100.0)
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 4800).astype(np.float32)
    found = spectrogram(samples, rate, times, config)
    size, bins = 160, 257

    def mel(f: float) -> float:
        return 2595 * math.log10(1 + f / 700)

    edges = [mel(100.0) + (mel(4000.0) - mel(100.0)) * k / 11 for k in range(12)]
    hertz = [700 * (10 ** (m / 2595) - 1) for m in edges]
    for t in range(times):
        middle = int((t + 0.5) * 4800 / times)
        window = [float(samples[middle - 80 + n]) * (0.5 - 0.5 * math.cos(2 * math.pi * n / size)) for n in range(size)]
        power = [
            abs(sum(w * np.exp(-2j * math.pi * k * n / 512) for n, w in enumerate(window))) ** 2 for k in range(bins)
        ]
        for m in range(10):
            total = 0.0
            for k, value in enumerate(power):
                f = k * rate / 512
                up, down = (
                    (f - hertz[m]) / (hertz[m + 1] - hertz[m]),
                    (hertz[m + 2] - f) / (hertz[m + 2] - hertz[m + 1]),
                )
                total += max(min(up, down), 0.0) * value
            assert float(found[m, t]) == pytest.approx(math.log(max(total, 1e-10)), abs=1e-3)
    silent = spectrogram(np.zeros(4800, np.float32), rate, times, config)
    assert (silent == math.log(1e-10)).all()
    assert (mel_filters(10, 257, 8000, 100.0).sum(1) > 0).all()


def test_wav_files_keep_their_samples_and_damaged_ones_are_named() -> None:
    samples = np.array([0, 1000, -32768, 32767], np.int16)
    raw = encode_wav(samples, 8000)
    found, rate = decode_wav(raw, "a.wav")
    assert rate == 8000
    np.testing.assert_array_equal(found, samples.astype(np.float32) / 32768)
    for damaged in (raw[:20], b"", b"RIFF" + bytes(40), raw[:45]):
        with pytest.raises(DataError, match=r"a\.wav: unreadable sound"):
            decode_wav(damaged, "a.wav")


def test_windows_of_sound_are_those_of_their_frames() -> None:
    sound = torch.arange(2 * 3 * 20.0).view(2, 3, 20)  # 5 frames of 4 columns
    found = cut(sound, torch.tensor([0, 2]), 3, 5)
    torch.testing.assert_close(found[0], sound[0, :, :12])
    torch.testing.assert_close(found[1], sound[1, :, 8:])


def method_and_batch(name: str, **more: Any) -> tuple[Any, Batch]:
    torch.manual_seed(0)
    config = CONFIGS[name]
    settings: Any = config.method
    method = build_method(dataclasses.replace(settings, **more), config.model, 10)
    method.prepare({"images": 200}, config)
    return method.double(), double(batch_of(config, "images", 8, 0))


def double(batch: Batch) -> Batch:
    fields: Any = {name: x.double() if x.is_floating_point() else x for name, x in batch.fields.items()}
    return dataclasses.replace(batch, views=tuple(v.double() for v in batch.views), fields=fields)


@pytest.mark.parametrize("fusion", ["distance", "concatenation"])
def test_avc_is_cross_entropy_of_true_and_of_foreign_pairs(fusion: str) -> None:
    method, batch = method_and_batch("avc", fusion=fusion, gain=0.2)
    drawn = method.draw({"images": batch})
    draws, settings = drawn["draws"], method.settings
    for part in method.head.modules():
        if isinstance(part, torch.nn.Linear):
            part.float()  # embeddings are float32
    losses = method.step({"images": batch}, {"draws": draws})
    frames, sounds = [], []
    for n in range(8):
        start = math.floor(float(draws[n, 0]) * (5 - settings.window + 1))
        frame = start + math.floor(float(draws[n, 1]) * settings.window)
        assert 0 <= start <= 2 and start <= frame < start + 3
        frames.append(batch.views[0][n, frame])
        gain = 1 + 0.2 * (2 * float(draws[n, 2]) - 1)
        sounds.append(batch.sound[n, :, 4 * start : 4 * (start + 3)] + math.log(gain**2))
    towers = method.towers
    image = torch.nn.functional.normalize(towers.image_head(towers.backbone(torch.stack(frames))), dim=1).float()
    sound = torch.nn.functional.normalize(towers.sound_head(towers.sound(torch.stack(sounds))), dim=1).float()
    true, false = [], []
    for n in range(8):
        for other, found in ((n, true), ((n + 1) % 8, false)):
            if other != n and batch["video"][n] == batch["video"][other]:
                continue
            if fusion == "distance":
                given = (image[n] - sound[other]).square().sum().sqrt()[None]
            else:
                given = torch.cat([image[n], sound[other]])
            logits = method.head(given)
            found.append(float(torch.logsumexp(logits, 0) - logits[int(other == n)]))
    assert 0 < len(false) < 8  # some neighbours are of one video
    wanted = (sum(true) / len(true) + sum(false) / len(false)) / 2
    # distances and losses are computed in float32 at the least
    assert float(losses.total) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("progress", [0.3, 0.9])
def test_avts_is_the_contrastive_loss_with_hard_negatives_late(progress: float) -> None:
    method, batch = method_and_batch("avts", hard_share=0.5, hard_from=0.6, gain=0.0)
    method.before_step(StepInfo(3, progress, 0.0))
    drawn = method.draw({"images": batch})
    losses = method.step({"images": batch}, drawn)
    draws, settings, towers = drawn["draws"], method.settings, method.towers
    start, other = method.place(draws, 5)
    assert ((start - other).abs() >= settings.gap).all() and len({*start.tolist()}) > 1
    both = []
    for place in (start, other):
        both += [batch.sound[n, :, 4 * int(place[n]) : 4 * int(place[n]) + 12] for n in range(8)]
    frames = torch.stack([batch.views[0][n, int(start[n]) : int(start[n]) + 3] for n in range(8)])
    features = towers.backbone(frames.flatten(0, 1)).view(8, -1)
    image = torch.nn.functional.normalize(towers.image_head(features), dim=1)
    sound = torch.nn.functional.normalize(towers.sound_head(towers.sound(torch.stack(both))), dim=1)
    near, far, hard = [], [], 0
    for n in range(8):
        near.append(float((image[n] - sound[n]).square().sum()))
        is_hard = progress > 0.6 and float(draws[n, 3]) < 0.5
        hard += is_hard
        if is_hard or batch["video"][n] != batch["video"][(n + 1) % 8]:
            negative = sound[8 + n] if is_hard else sound[(n + 1) % 8]
            far.append(max(0.99 - math.sqrt(float((image[n] - negative).square().sum())), 0) ** 2)
    assert (hard > 0) == (progress > 0.6)
    assert float(losses.total) == pytest.approx((sum(near) / 8 + sum(far) / len(far)) / 2, rel=1e-4)
    assert float(losses.parts["hard"]) == pytest.approx(hard / 8)


def test_every_start_that_has_a_far_one_is_drawn_and_short_clips_are_refused() -> None:
    method, _ = method_and_batch("avts", window=2, gap=3)
    draws = torch.rand(4000, 5)
    start, other = method.place(draws, 6)  # starts 0 to 4; the one in the middle has none 3 away
    pairs = {(a, b) for a, b in zip(start.tolist(), other.tolist(), strict=True)}
    assert pairs == {(0, 3), (0, 4), (1, 4), (3, 0), (4, 0), (4, 1)}
    assert torch.bincount(start, minlength=5).div(4000).tolist() == pytest.approx([0.25, 0.25, 0, 0.25, 0.25], abs=0.03)
    with pytest.raises(ConfigError, match="hold no two windows of 2 that are 3 apart"):
        method.check(4)
    with pytest.raises(ConfigError, match="window: is 2 frames, but clips have 1"):
        method.check(1)


def test_shifts_are_found_by_the_nearest_window() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    away, here = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0])
    sounds = torch.stack([torch.stack([away] * 5)] * 3)
    sounds[0, 2] = here  # right
    sounds[1, 3] = torch.tensor([0.0, 1.0])  # one off
    sounds[2, 0] = here  # two off
    found = find_shifts(image, sounds, 2, 1)
    assert found.exact == pytest.approx(1 / 3) and found.within == pytest.approx(2 / 3)
    assert (found.chance_exact, found.chance_within) == (0.2, 0.6)


def test_equal_embeddings_have_a_finite_gradient() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    distances(x, torch.ones(2, 3)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_settings_are_checked() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (AVC, {"window": 0}, "must be 1 frame or more"),
        (AVC, {"gain": 1.0}, r"must lie in \[0, 1\)"),
        (AVTS, {"hard_share": 2.0}, r"must lie in \[0, 1\]"),
        (SoundTowerConfig, {"widths": ()}, "must name 1 to 5 blocks"),
    ]
    for kind, values, text in wrong:
        with pytest.raises(ValueError, match=text):
            kind(**values)
