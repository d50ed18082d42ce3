"""The numbers of a run with their intervals, and which differences are larger than chance."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sslscale.storage import jsonio

_PREDICTIONS = b"[('label', '<i4'), ('predicted', '<i4'), ('confidence', '<f4')]"


@dataclass(frozen=True)
class Measure:
    """One number of one network. `low` and `high` bound it with 95 % confidence; `count` is the number of images."""

    stage: str
    protocol: str
    value: float
    low: float
    high: float
    count: int
    folder: Path

    @property
    def name(self) -> str:
        """The network's name: the stage without its last part."""
        return self.stage.rpartition("/")[0] or self.stage


@dataclass(frozen=True)
class Difference:
    """How much better one network is than another on the same images, with the half-width of its 95 % interval."""

    value: float
    half: float
    paired: bool

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.value) > self.half

    def __str__(self) -> str:
        if math.isinf(self.half):
            return f"{100 * self.value:+.1f} points, of one seed"
        text = f"{100 * self.value:+.1f} ± {100 * self.half:.1f} points"
        return text if self.clear else f"{text}: no clear difference"


def measures(folders: Mapping[str, Path]) -> list[Measure]:
    """What the reports in these folders, by stage, say of accuracy, in order."""
    found = []
    for stage, folder in folders.items():
        try:
            report = jsonio.read_json(folder / "report.json")
        except (OSError, ValueError):
            continue
        parts = {"": report} | {name: part for name, part in report.items() if isinstance(part, dict)}
        for protocol, part in parts.items():
            name = next((name for name in _NUMBERS if name in part), "accuracy")
            value, interval = part.get(name), part.get(f"{name}_interval")
            if isinstance(value, float | int) and isinstance(interval, list):
                count = int(part.get("samples") or report.get("samples") or 0)
                shown = protocol or stage.rpartition("/")[2]
                shown += "" if name == "accuracy" else f" {_NUMBERS[name]}"
                found.append(Measure(stage, shown, float(value), float(interval[0]), float(interval[1]), count, folder))
    return found


_NUMBERS = {"accuracy": "accuracy", "ap": "AP", "miou": "mIoU"}


def difference(one: Measure, other: Measure) -> Difference:
    """`one` above `other`: by the images that one alone has right, if both kept their predictions."""
    mine, theirs = _correct(one.folder), _correct(other.folder)
    if one.protocol == other.protocol and mine is not None and theirs is not None and len(mine) == len(theirs):
        gains = [a - b for a, b in zip(mine, theirs, strict=True)]
        count, mean = len(gains), sum(gains) / max(len(gains), 1)
        if count < 2:
            return Difference(mean, math.inf, paired=True)
        std = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (count - 1))
        return Difference(mean, 1.96 * std / math.sqrt(count), paired=True)
    half = math.hypot((one.high - one.low) / 2, (other.high - other.low) / 2)
    return Difference(one.value - other.value, half, paired=False)


def baselines(found: Sequence[Measure]) -> list[tuple[Measure, Measure | None]]:
    """Each measure with the first one of its protocol, which is what it is compared with."""
    first: dict[str, Measure] = {}
    pairs = []
    for measure in found:
        pairs.append((measure, first.get(measure.protocol)))
        first.setdefault(measure.protocol, measure)
    return pairs


def _correct(folder: Path) -> list[bool] | None:
    """Which test images were right, if the stage kept its predictions (see stages/evaluate.py).

    Read without numpy, whose import would be most of the time of a run that has nothing to do.
    """
    try:
        data = (folder / "predictions.npy").read_bytes()
    except OSError:
        return None
    start = 10 + int.from_bytes(data[8:10], "little")
    if data[:8] != b"\x93NUMPY\x01\x00" or _PREDICTIONS not in data[:start]:
        return None
    return [label == predicted for label, predicted, _ in struct.iter_unpack("<iif", data[start:])]


@dataclass(frozen=True)
class Spread:
    """One number over several seeds."""

    measures: tuple[Measure, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The number of each seed."""
        return tuple(measure.value for measure in self.measures)

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """Their standard deviation over seeds (n - 1); 0 for one seed."""
        if len(self.values) < 2:
            return 0.0
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def __str__(self) -> str:
        if len(self.values) == 1:
            only = self.measures[0]
            return f"{100 * only.value:.2f} ({100 * only.low:.1f} to {100 * only.high:.1f})"
        return f"{100 * self.mean:.2f} ± {100 * self.std:.2f} ({len(self.values)} seeds)"


def spread_difference(one: Spread, other: Spread) -> Difference:
    """How much better one is over seeds, with Student's 95 % interval: seed by seed if both have as many, else Welch's.

    A single seed on a side leaves nothing to estimate a spread of: the interval is then infinite.
    """
    from scipy import stats

    if len(one.values) == len(other.values):
        gains = [a - b for a, b in zip(one.values, other.values, strict=True)]
        count, mean = len(gains), sum(gains) / len(gains)
        if count < 2:
            return Difference(mean, math.inf, paired=True)
        std = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (count - 1))
        return Difference(mean, float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count), paired=True)
    if min(len(one.values), len(other.values)) < 2:
        return Difference(one.mean - other.mean, math.inf, paired=False)
    parts = [(s.std**2 / len(s.values), len(s.values) - 1) for s in (one, other)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / max(sum(part**2 / n for part, n in parts), 1e-30) if variance else 1.0
    return Difference(one.mean - other.mean, float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance), paired=False)


def seeds_of(found: Sequence[Measure]) -> dict[tuple[str, str], Spread]:
    """Measures of stages that are named seed_N/..., put together over the seeds; empty if there are none."""
    groups: dict[tuple[str, str], list[Measure]] = {}
    for measure in found:
        seed, separator, name = measure.name.partition("/")
        if separator and seed.startswith("seed_"):
            groups.setdefault((name, measure.protocol), []).append(measure)
    return {key: Spread(tuple(values)) for key, values in groups.items()}
