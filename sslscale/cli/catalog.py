"""What there is to choose from: `methods`, `models`, `configs`, `schema`, completion."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError

KINDS = (
    "self-supervised",
    "video",
    "image-sound",
    "image-text",
    "text lines",
    "detection",
    "semi-supervised",
    "distillation",
    "supervised",
)
_MODELS = (
    ("wrn_DEPTH_WIDTH", "wrn_10_1, wrn_16_2, wrn_28_10", "wide residual networks for images of about 32 pixels"),
    ("resnet_DEPTH", "resnet_18, resnet_50, resnet_50_2", "ResNets; small_images: true for about 32 pixels"),
    ("resnext_DEPTH_CxW", "resnext_28_4x4, resnext_29_8x64", "ResNeXts for about 32 pixels, with Mish, as FixMatch's"),
    ("vit_SIZE_PATCH", "vit_tiny_16, vit_base_16, vit_192x6_4", "vision transformers; WIDTHxDEPTH names any size"),
    ("open_clip:NAME", "open_clip:ViT-B-32, open_clip:RN50", "image towers of open_clip's; clip trains both towers"),
    ("timm:NAME", "timm:convnext_tiny, timm:efficientnet_b0", "any model of timm: `sslscale models TEXT` searches"),
)


def list_methods(options: argparse.Namespace) -> int:
    """Every method with its kind, its paper, its idea, and when to use it."""
    if options.suits is not None:
        from sslscale.cli.advice import list_advice

        return list_advice(options)
    rows = [row for row in methods() if options.kind in (None, row["kind"])]
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    order = sorted(rows, key=lambda row: KINDS.index(row["kind"]))
    _table(("name", "kind", "idea", "use it when"), order)
    print("`sslscale configs NAME` lists configurations of a method; defaults are its paper's values")
    return 0


def methods() -> list[dict[str, str]]:
    """The rows of the methods' own page, which ships with the package."""
    from sslscale.settings.kinds import Clips, ImageSound, ImageText, LabeledLines, Scenes
    from sslscale.settings.method import SelfSupervised, SemiSupervised, find, method_names

    text = (Path(__file__).parent.parent / "methods" / "README.md").read_text("utf-8")
    known, rows = method_names(), {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != 5 or not line.startswith("|"):
            continue
        code = re.search(r"`(\w+)`$", cells[0])
        name = code[1] if code else cells[0].lower().replace(" ", "_")
        if name not in known:
            continue
        cls, paper = find(name), re.search(r"arxiv\.org/abs/([\d.]+)", cells[0])
        kind = "supervised"
        if issubclass(cls, SelfSupervised) or name == "supcon":
            kind = "self-supervised"
        elif issubclass(cls, SemiSupervised) or name in ("noisy_student", "joint_training"):
            kind = "semi-supervised"
        elif issubclass(cls, LabeledLines):
            kind = "text lines"
        elif issubclass(cls, Scenes):
            kind = "detection"
        elif issubclass(cls, ImageText):
            kind = "image-text"
        elif issubclass(cls, ImageSound):
            kind = "image-sound"
        elif issubclass(cls, Clips):
            kind = "video"
        elif name != "supervised":
            kind = "distillation"
        plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell).replace("`", "") for cell in cells]
        rows[name] = {
            "name": name,
            "kind": kind,
            "paper": f"https://arxiv.org/abs/{paper[1]}" if paper else "",
            "idea": plain[1],
            "use it when": plain[4],
        }
    return [rows[name] for name in known if name in rows]


def list_models(options: argparse.Namespace) -> int:
    """The families of networks, or timm's models whose names hold a text, or one network's size."""
    text = options.text
    if text is None:
        rows: list[dict[str, str]] = [{"name": n, "examples": e, "about": a} for n, e, a in _MODELS]
        if options.json:
            for row in rows:
                print(json.dumps(row))
            return 0
        _table(("name", "examples", "about"), rows)
        print("`sslscale models NAME` counts a network's weights, `sslscale models TEXT` lists timm's models with it")
        return 0
    from sslscale.preflight import timm_models

    known = timm_models()
    if re.fullmatch(r"(wrn|resnet|resnext|vit)_.*|(timm|open_clip):.*", text) or text in known:
        return _describe_model(f"timm:{text}" if text in known else text, options)
    found = sorted(name for name in known if text.lower() in name)
    if not found:
        raise ConfigError(f"{text!r} is part of no model's name in timm; families: {', '.join(m[0] for m in _MODELS)}")
    for name in found:
        print(json.dumps({"name": f"timm:{name}"}) if options.json else f"timm:{name}")
    return 0


def _describe_model(name: str, options: argparse.Namespace) -> int:
    from sslscale.settings.model import ModelConfig

    try:
        config = ModelConfig(name=name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    import torch

    from sslscale.nn.classifier import build_backbone, num_parameters

    with torch.device("meta"):
        network, features = build_backbone(config)
    row = {"name": name, "weights": num_parameters(network), "features": features}
    print(json.dumps(row) if options.json else f"{name}: {row['weights']:,} weights, {features:,} features")
    return 0


def list_configs(options: argparse.Namespace) -> int:
    """The configurations that come with sslscale, and what their first lines say."""
    from sslscale import experiment

    folder = experiment.share() / "configs"
    rows = []
    for file in sorted(folder.glob("*/*.yaml")):
        if file.parent.name == "tune":
            continue
        row = _config(file, str(file.relative_to(experiment.share())))
        if options.text is None or options.text.lower() in " ".join(row.values()).lower():
            rows.append(row)
    if not rows:
        raise ConfigError(f"{options.text!r} is in the name or the description of no configuration")
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    _table(("name", "about"), rows)
    print(f"`sslscale run NAME` runs one from anywhere; the files are in {folder}")
    return 0


def _config(file: Path, name: str) -> dict[str, str]:
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    text = " ".join(line for line in lines if not line.startswith("sslscale "))
    return {"name": name, "about": re.split(r"(?<=[.:;]) ", text)[0].rstrip(":;")}


def print_schema(options: argparse.Namespace) -> int:
    """The JSON schema of configurations."""
    print(json.dumps(configuration_schema(), indent=1))
    return 0


def configuration_schema() -> dict[str, Any]:
    """The JSON schema of every pipeline's configuration."""
    from sslscale import experiment
    from sslscale.config import modules
    from sslscale.config.schema import schema

    pipelines = {
        name: modules.load_file(experiment.share() / "pipelines" / f"{name}.py", "sslscale_pipeline").Config
        for name in experiment.pipelines()
    }
    return schema(pipelines, _choices)


def _choices(base: type) -> Iterator[tuple[str, type]]:
    from sslscale.settings.method import find, method_names

    for name in method_names():
        yield name, find(name)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes commands, options and files in a shell."""
    import shtab

    _complete_files(parser)
    return shtab.complete(parser, shell=shell)


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the shell complete paths where a command takes some."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete_files(child)
        elif action.dest in ("config", "model", "shards", "source", "out", "paths", "labels", "space", "root"):
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]


def _table(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "kind"))
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    Console(width=None if sys.stdout.isatty() else 120).print(table, markup=False)
