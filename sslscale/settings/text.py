"""Settings of captions, of the network that reads them, and of classification by class names."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sslscale.config import require
from sslscale.errors import ConfigError
from sslscale.storage import jsonio

PREFIX = "open_clip:"
TEMPLATE_SETS = ("imagenet", "simple")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text transformer (open_clip's), and `embed_dim`, the width of the space that it shares with the image tower.

    The defaults are those of CLIP's ViT-B/32 (Radford et al. 2021, arXiv:2103.00020, table 19). A `causal` transformer
    gives its output at the end token; one that is not sees the whole caption and gives it at the last place (SigLIP).
    `context` is the longest caption in tokens, its start and end among them. With `model.name: open_clip:NAME` both
    towers are that model's, and these values are read from it.
    """

    context: int = 77
    width: int = 512
    depth: int = 12
    heads: int = 8
    embed_dim: int = 512
    causal: bool = True

    def __post_init__(self) -> None:
        require(self.context >= 3, "context", "must be 3 or more: a start, a token and an end")
        for name in ("width", "depth", "heads", "embed_dim"):
            require(getattr(self, name) > 0, name, "must be positive")
        require(self.width % self.heads == 0, "heads", f"must divide the width {self.width}")


def text_config(model: str, text: TextConfig) -> TextConfig:
    """The text tower beside this image tower: `text`, or that of an open_clip model; raises ConfigError."""
    if not model.startswith(PREFIX):
        return text
    found = open_clip_config(model.removeprefix(PREFIX))
    tower = found["text_cfg"]
    if "hf_model_name" in tower or "hf_tokenizer_name" in tower:
        raise ConfigError(
            f"model.name: {model}: its text tower or its tokenizer comes from the Hugging Face hub; take a model with "
            "CLIP's own tokenizer, such as open_clip:ViT-B-32"
        )
    return TextConfig(
        context=tower.get("context_length", 77),
        width=tower["width"],
        depth=tower["layers"],
        heads=tower["heads"],
        embed_dim=found["embed_dim"],
        causal=not tower.get("no_causal_mask", False),
    )


def open_clip_config(name: str) -> dict[str, Any]:
    """What open_clip says of a model, read from its file without importing torch; raises ConfigError."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ConfigError(f"{PREFIX}{name} needs open_clip: pip install 'sslscale[clip]'")
    folder = Path(spec.origin).parent / "model_configs"
    if not (folder / f"{name}.json").is_file():
        names = [file.stem for file in folder.glob("*.json")]
        near = difflib.get_close_matches(name, names, 3, 0.4)
        raise ConfigError(f"open_clip has no model {name!r}; it has, among others, {', '.join(near or names[:5])}")
    return jsonio.read_json(folder / f"{name}.json")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Where the caption of an image is, and what becomes of those that cannot be used.

    `member` is the file beside the image in its shard: txt (KEY.txt), or json:FIELD for a field of KEY.json (a.b for
    one inside another). A caption that is missing, empty or not UTF-8 is unusable: `on_unusable` raises an error or
    skips its image. One of more than the text tower's `context` tokens is cut, as CLIP does, or treated likewise.
    All are counted.
    """

    member: str = "txt"
    on_unusable: Literal["error", "skip"] = "error"
    on_long: Literal["cut", "skip", "error"] = "cut"
    context: int = field(default=77, metadata={"hidden": True})
    splits: tuple[str, ...] = ("labeled", "unlabeled")
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        named = self.member == "txt" or (self.member.startswith("json:") and len(self.member) > len("json:"))
        require(named, "member", f"txt or json:FIELD, not {self.member!r}")
        require(len(self.splits) > 0, "splits", "must name at least one split")


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """How class names become a classifier (Radford et al. 2021, arXiv:2103.00020, section 3.1).

    `templates` are sentences with {} for the class; `imagenet` stands for the 80 that CLIP published, `simple` for the
    7 that its notebook found to be better, and FILE.txt for the lines of a file. A class is the mean of its sentences'
    embeddings. `classes` lists the classes to tell apart, by default those of the data. `names` gives words for
    classes whose names are codes: a CSV of (class, name), or `imagenet` for open_clip's 1,000 names in the order of
    their WordNet identifiers.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)
    classes: tuple[str, ...] = ()
    names: str | tuple[tuple[str, str], ...] | None = None
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.templates) > 0, "templates", "must name at least one")
        for one in self.templates:
            known = one in TEMPLATE_SETS or "{}" in one or one.endswith(".txt")
            require(known, "templates", f"{one!r} has no {{}} for the class, and is none of {', '.join(TEMPLATE_SETS)}")
        require(len(set(self.classes)) == len(self.classes), "classes", "names a class twice")


def resolved(config: ZeroShotConfig) -> ZeroShotConfig:
    """The same with the content of its files, which is part of the identity of what is made; raises ConfigError."""
    import csv
    import dataclasses

    templates: list[str] = []
    for one in config.templates:
        templates += _lines(one) if one.endswith(".txt") and "{}" not in one else [one]
    for line in templates:
        if line not in TEMPLATE_SETS and "{}" not in line:
            raise ConfigError(f"templates: {line!r} has no {{}} for the class")
    names = config.names
    if isinstance(names, str) and names != "imagenet":
        rows = list(csv.reader(_lines(names)))
        wrong = [row for row in rows if len(row) != 2]
        if wrong:
            raise ConfigError(f"{names}: every line is a class and its name, not {wrong[0]}")
        names = tuple((row[0].strip(), row[1].strip()) for row in rows)
    return dataclasses.replace(config, templates=tuple(templates), names=names)


def _lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"{file}: is empty")
    return found


@dataclass(frozen=True, kw_only=True)
class CaptionRetrievalConfig:
    """Retrieval both ways between the images of a split and their captions. Images with equal captions are all right
    answers to it. `shown` captions are drawn with the images that are nearest to them."""

    split: str = "test"
    batch_size: int = field(default=500, metadata={"identity": False})
    shown: int = 6
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", "must be positive")
        require(self.shown > 0, "shown", "must be positive")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """An image and a text tower: {checkpoint: DIR}, or {checkpoint: FILE, model: open_clip:NAME}.

    DIR is what clip or siglip trained, or the key of one in the same root. FILE has public weights as open_clip names
    them (.safetensors, or a pickle of which tensors alone are read); its images are prepared as CLIP's are.
    """

    checkpoint: str = field(metadata={"identity": False})
    model: str | None = None

    def __post_init__(self) -> None:
        known = self.model is None or self.model.startswith(PREFIX)
        require(known, "model", f"must be {PREFIX}NAME, or be left out for a checkpoint of sslscale's")
