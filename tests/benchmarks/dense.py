"""What the places of a backbone's last map are worth: patch kNN and linear segmentation of scenes, by method.

    python tests/benchmarks/dense.py OUT [--methods moco_v2,densecl,ibot,ibot_gram] [--seeds 0,1] [--steps 1500]

OUT/scenes are those of scenes.py: handwritten digits on cluttered ground, 96 pixels; 3,000 are pre-trained on without a
label, 300 annotated ones are what patch kNN and the linear layer learn from, 300 others test them. A pixel is to
be told digit (its box) or ground. MoCo v2 and DenseCL train wrn_16_1 with maps of 12 x 12,
iBOT a ViT with patches of 8, alone and with Gram anchoring from 60 % of the training on (by the teacher of then).
`ibot_short` ends there. A line for each, and one for the untrained network of the same seed: mIoU in %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEAN, STD = "[0.5, 0.5, 0.5]", "[0.22, 0.22, 0.22]"
GRAM_FROM = 0.6
CNN = """
  model: {name: wrn_16_1, stem_stride: 2}
  optim: {lr: 0.06, weight_decay: 1.0e-4, schedule: {warmup_steps: 50}}
"""
VIT = """
  model: {name: vit_96x6_8, grid: 8}
  views:
    local: {crop: resized, scale: [0.05, 0.3], size: 32, count: 4, jitter: {hue: 0.1}, grayscale: 0.2}
  optim: {name: adamw, lr: 0.001, weight_decay: 0.04, clip_norm: 3.0, schedule: {warmup_steps: 100}}
"""
IBOT = (
    "name: dinov2, koleo: 0, centering: mean, shared_head: true, norm: true, prototypes: 256, "
    "final_teacher_temperature: 0.04, hidden: 256, bottleneck: 64, momentum: 0.99, warmup_epochs: 1, freeze_last: 0.2"
)
METHODS = {
    "moco_v2": ("name: moco_v2, temperature: 0.2, queue: 4096, momentum: 0.99", CNN),
    "densecl": ("name: densecl, temperature: 0.2, queue: 4096, momentum: 0.99", CNN),
    "ibot": (IBOT, VIT),
    "ibot_gram": (f"{IBOT}, gram: 1.0, gram_from: {GRAM_FROM}, gram_every: 10000", VIT),
    "ibot_short": (IBOT, VIT),
}
CONFIG = """pipeline: pretrain
data: {{source: {images}}}
pretrain:
  method: {{{method}}}
  image: {{size: 64, mean: {mean}, std: {std}}}
  augment: {{crop: resized, scale: [0.3, 1.0], jitter: {{hue: 0.1}}, grayscale: 0.2}}
  batch_size: 64
  num_steps: {steps}
  log_every: 100{rest}"""
# what judges is trained shortly too
JUDGE = ("segmentation.size=96", "segmentation.num_steps=600", "segmentation.augment={crop: none}", "patches.size=96")


def sslscale(*words: object) -> dict[str, Any]:
    """Run a command that ends with a JSON line."""
    ran = subprocess.run(
        [sys.executable, "-m", "sslscale", *map(str, words), "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if ran.returncode:
        sys.exit(f"sslscale {' '.join(map(str, words))} ended with {ran.returncode}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def box(annotation: dict[str, Any]) -> list[float]:
    """An object's box as a polygon."""
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def prepare(out: Path) -> tuple[Path, Path]:
    """The scenes: a folder of images, and a folder of packed annotated ones."""
    scenes, packed = out / "scenes", out / "annotated"
    if not scenes.exists():
        words = ["--train", "300", "--unlabeled", "3000", "--test", "300", "--side", "96"]
        subprocess.run([sys.executable, ROOT / "tests/benchmarks/scenes.py", scenes, *words], check=True)
    if not packed.exists():
        for split in ("train", "test"):  # strokes are thinner than a place
            found = json.loads((scenes / f"{split}.json").read_text())
            found["categories"] = [{"id": 1, "name": "digit"}]
            found["annotations"] = [
                {**one, "category_id": 1, "segmentation": [box(one)]} for one in found["annotations"]
            ]
            (out / f"{split}.json").write_text(json.dumps(found))
        train, test = (f"coco:{out}/{split}.json:{scenes}/{split}" for split in ("train", "test"))
        words = ["data", "pack", train, packed, "--test", test]
        subprocess.run([sys.executable, "-m", "sslscale", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return scenes / "unlabeled", packed


def main() -> int:
    """The command at the top."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--methods", default="moco_v2,densecl,ibot,ibot_gram")
    options.add_argument("--seeds", default="0,1")
    options.add_argument("--steps", type=int, default=1500)
    given = options.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    images, packed = prepare(out)
    root = out / "runs"
    for name in given.methods.split(","):
        method, rest = METHODS[name]
        steps = round(GRAM_FROM * given.steps) if name == "ibot_short" else given.steps
        file = out / f"{name}.yaml"
        file.write_text(CONFIG.format(images=images, method=method, mean=MEAN, std=STD, steps=steps, rest=rest))
        for seed in given.seeds.split(","):
            found = sslscale("run", file, f"seed={seed}", "--root", root)
            place = next(s["key"] for s in found["stages"] if s["name"] == "pretrain")
            model = root / "artifacts" / "train" / place
            protocols = ("--protocol", "patches,segmentation", f"seed={seed}")
            judged = sslscale("eval", model, packed, *protocols, "--root", root, *JUDGE)
            key = next(s["key"] for s in judged["stages"] if s["name"] == "report")
            report = json.loads((root / "artifacts/checkpoint_report" / key / "summary.json").read_text())["protocols"]
            for start in ("random", "checkpoint"):
                line = {p: round(100 * report[f"{p}_{start}"]["miou"], 1) for p in ("patches", "segmentation")}
                print(json.dumps({"method": name, "seed": int(seed), "weights": start, **line}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
