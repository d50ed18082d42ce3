"""`sslscale init`: a configuration that fits a folder of images and this machine."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from sslscale.cli.busy import busy
from sslscale.cli.units import show_age
from sslscale.errors import ConfigError
from sslscale.settings.pixels import RGB, PixelConfig

if TYPE_CHECKING:
    from sslscale.data.survey import Survey

_FIRST_S = 60.0  # what each training of a first run is to take


def init(options: argparse.Namespace) -> int:
    """Look at the images, and write a commented configuration."""

    out = options.out or Path(f"{Path(options.source).stem or 'images'}.yaml")
    if out.exists():
        raise ConfigError(f"{out}: is there already; name another file by --out, or remove it")
    with busy(f"looking at {options.source}"):
        from sslscale.data.survey import survey

        found = survey(options.source, options.labels)
    _tell(options.source, found)
    goal = options.goal or ("classify" if found.num_labeled else "pretrain")
    if goal == "classify" and not found.num_labeled:
        raise ConfigError(
            f"{options.source}: no image has a label, so there are no classes to learn: name a CSV (path,label) by "
            "--labels, put the images into class folders, or choose --goal pretrain or cluster"
        )
    text = write_config(options.source, options.labels, goal, found, str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, "utf-8")
    print(f"wrote {out}: goal {goal}\nnext: sslscale plan {out}, then sslscale run {out}")
    return 0


def _tell(source: str, found: Survey) -> None:
    low, middle, high = found.short_sides
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(found.suffixes.items()))
    print(f"{source}: {found.count:,} images ({kinds})")
    print(f"  short side {low} to {high} pixels, median {middle} ({found.looked_at:,} images looked at)")
    colour = "gray" if found.gray > 0.95 else "colour" if found.gray < 0.05 else f"{found.gray:.0%} of them gray"
    colour = colour if found.pixels == RGB else str(found.pixels)
    print(f"  {colour}; mean {list(found.mean)}, std {list(found.std)}")
    if found.num_labeled:
        smallest = min(found.labeled, key=lambda name: found.labeled[name])
        print(
            f"  {found.num_labeled:,} labelled, {found.num_unlabeled:,} not; {len(found.labeled)} classes, of which "
            f"{smallest!r} has the fewest: {found.labeled[smallest]:,}"
        )
    else:
        print("  none is labelled")
    for line in found.notes:
        print(f"  {line}")
    for line in found.bad[:5]:
        print(f"  unreadable: {line}")
    if len(found.bad) > 5:
        print(f"  ... and {len(found.bad) - 5:,} more")


@dataclass(frozen=True)
class Machine:
    """What this machine is, and how many images a second it trains the chosen network on."""

    name: str
    gpu: bool
    rate: float


def write_config(source: str, labels: str | None, goal: str, found: Survey, out: str) -> str:
    """The text of a configuration for these images; measures this machine for a few seconds."""
    import torch

    gpu = torch.cuda.is_available()
    size = _size(found, gpu)
    model = "wrn_16_1" if not gpu else "resnet_18" if found.count < 50_000 else "resnet_50"
    small = gpu and size <= 40
    network = f"{{name: {model}{', small_images: true' if small else ''}}}"
    machine = _measure(model, size, small, gpu, found.pixels.channels)
    kind = _kind(goal, found)
    views = {"noisy_student": 4, "supervised": 1}.get(kind, 2)  # images that go through the network for one of a batch
    base = found.num_labeled if kind in ("noisy_student", "supervised") else found.count
    held = 0.2 if found.num_labeled and min(found.labeled.values()) >= 5 else None
    batch = _batch(round(base * (1 - (held or 0))), gpu)
    steps = max(min(round(_FIRST_S * machine.rate / (batch * views)), 20_000), 200)
    real = max(round((60_000 if kind != "supervised" else 20_000) * 64 / batch), 10 * steps)
    values = {
        "out": out,
        "pipeline": kind,
        "what": _WHAT[kind],
        "found": f"{found.count:,} images, {found.num_labeled:,} of them labelled",
        "machine": machine.name,
        "rate": f"{machine.rate:,.0f}",
        "minutes": show_age(steps * batch * views / machine.rate),
        "source": _quoted(source),
        "labels": f"\n  labels: {_quoted(labels)}" if labels else "",
        "test": _test(found, held),
        "network": network,
        "size": size,
        "larger": "`sslscale models` lists others"
        if gpu
        else "small enough for these CPUs; on a GPU, resnet_18 or resnet_50 with image.size 224",
        "mean": list(found.mean),
        "std": f"{list(found.std)}{_pixels(found.pixels)}",
        "flip": "true",
        "batch": batch,
        "steps": steps,
        "real": real,
        "warmup": max(min(steps // 20, 500), 1),
        "ratio": 3,
        "precision": "bf16" if gpu else "fp32",
        "lr_ssl": _short(0.06 * batch / 128),
        "lr_sup": _short(0.1 * batch / 128),
        "k": max(min(round((found.count / 2) ** 0.5), 1000), 2),
        "jitter": _jitter(found),
        "on_bad": "\n  on_bad_sample: skip # those that cannot be read are listed in skipped.txt" if found.bad else "",
    }
    return Template(_HEAD + _DATA + _BODY[kind]).substitute(values)


def _pixels(pixels: PixelConfig) -> str:
    """The settings of images that are not 8-bit RGB."""
    if pixels == RGB:
        return ""
    reach = "" if pixels.range is None else f", range: [{pixels.range[0]:g}, {pixels.range[1]:g}]"
    return f", channels: {pixels.channels}, bits: {pixels.bits}{reach}"


def _jitter(found: Survey) -> str:
    if found.pixels.channels != 3:
        return "\n    jitter: {brightness: 0.4, contrast: 0.4, saturation: 0, hue: 0} # a hue is of three channels"
    if found.gray > 0.95:
        return ""
    return "\n    jitter: {brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}\n    grayscale: 0.2"


def _kind(goal: str, found: Survey) -> str:
    if goal != "classify":
        return goal
    return "noisy_student" if found.num_unlabeled > found.num_labeled else "supervised"


def _size(found: Survey, gpu: bool) -> int:
    """The images' own side, but no more than this machine computes in reasonable time."""
    most = 224 if gpu else 32
    return max(min(-(-found.short_sides[1] // 8) * 8, most), 16)


def _batch(images: int, gpu: bool) -> int:
    """A power of two that the images fill several times."""
    batch = 256 if gpu else 64
    while batch > 8 and batch * 4 > images:
        batch //= 2
    return min(batch, max(images, 1))


def _test(found: Survey, held: float | None) -> str:
    if held is not None:
        return f"\n  test: {held} # of the labelled images, held out to measure on; or a folder of class folders"
    if found.num_labeled:
        return "\n  # test: FOLDER # too few labels to hold some out: a folder of class folders to measure on"
    return ""


def _measure(model: str, size: int, small: bool, gpu: bool, channels: int) -> Machine:
    """Time a few training steps of the network on noise."""
    import torch

    from sslscale.nn.classifier import build_classifier
    from sslscale.settings.model import ModelConfig

    device = torch.device("cuda" if gpu else "cpu")
    network = build_classifier(ModelConfig(name=model, small_images=small, channels=channels), 10)
    network = network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    count = 128 if gpu else 64
    images = torch.randn(count, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        network(images).square().mean().backward()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    name = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores"
    return Machine(name, gpu, count / min(times[1:]))


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _short(value: float) -> str:
    return f"{value:.3g}"


_WHAT = {
    "noisy_student": "Noisy Student: a teacher learns from the labels, students from its pseudo-labels too.",
    "supervised": "Supervised training: every image has a label.",
    "pretrain": "SimCLR pre-training on every image, labels unread.",
    "cluster": "Groups of similar images: SimCLR pre-training, then k-means on its features.",
}
_HEAD = """# sslscale run $out
# $what
# Written by `sslscale init` for $found.
# $machine train this network on about $rate images a second; a training of this first run takes about $minutes.
"""
_DATA = """pipeline: $pipeline
data:
  source: $source$labels$test$on_bad
"""
_IMAGE = "image: {size: $size, mean: $mean, std: $std} # measured on your images"
_STEPS = "num_steps: $steps # for a first look; a real run: about $real"
_START = "# init: {timm: NAME, weights: FILE} # public weights, with model: {name: timm:NAME}: better if images are few"
_NETWORK = "model: $network # $larger"
_SUPERVISED = f"""  method: {{name: supervised}}
  {_NETWORK}
  {_IMAGE}
  augment: {{crop: resized, scale: [0.5, 1.0], flip: $flip}} # flip: false where left and right differ, as in text
  batch_size: $batch
  {_STEPS}
  precision: $precision
  optim: {{lr: $lr_sup, schedule: {{warmup_steps: $warmup}}}}
  {_START}
"""
_BODY = {
    "noisy_student": f"""teacher:
{_SUPERVISED}student: # equal to the teacher or larger, and trained with noise
  method: {{name: noisy_student, unlabeled_ratio: $ratio}}
  model: $network
  image: {{size: $size, mean: $mean, std: $std}}
  augment: {{crop: resized, scale: [0.5, 1.0], flip: $flip, randaugment: {{num_ops: 1, magnitude: 5}}}}
  batch_size: $batch
  {_STEPS}
  precision: $precision
  optim: {{lr: $lr_sup, schedule: {{warmup_steps: $warmup}}}}
rounds: [{{}}, {{warm_start: true}}] # one entry for each student
select: {{threshold: 0.3, on_empty_class: warn}} # pseudo-labels below this confidence are left out
""",
    "supervised": f"train:\n{_SUPERVISED}",
    "pretrain": f"""pretrain:
  method: {{name: simclr, temperature: 0.2}} # `sslscale methods` lists others
  {_NETWORK}
  {_IMAGE}
  augment: # how the two views of an image are made: what they share is what is learned
    crop: resized
    scale: [0.2, 1.0]
    flip: $flip # false where left and right differ, as in text$jitter
  batch_size: $batch
  {_STEPS}
  precision: $precision
  optim: {{lr: $lr_ssl, weight_decay: 1.0e-4, schedule: {{warmup_steps: $warmup}}}}
  {_START}
""",
}
_BODY["cluster"] = _BODY["pretrain"] + "kmeans: {k: $k, init: k-means++} # how many groups\n"
