"""Every method at a size at which a step takes a moment: what tests and benchmarks run over all of them.

A method that TUNED does not name is there too, with its defaults made small.

Needs torch and numpy alone, and open_clip for the methods that read captions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sslscale.data.batch import Batch
from sslscale.methods.avc import AVC
from sslscale.methods.avts import AVTS
from sslscale.methods.barlow_twins import BarlowTwins
from sslscale.methods.byol import BYOL
from sslscale.methods.clip import CLIP
from sslscale.methods.colorization import Colorization
from sslscale.methods.dash import Dash
from sslscale.methods.deepcluster_v2 import DeepClusterV2
from sslscale.methods.deit import DeiT
from sslscale.methods.densecl import DenseCL
from sslscale.methods.detection import Detection
from sslscale.methods.detection_classification import DetectionClassification
from sslscale.methods.detection_self_training import DetectionSelfTraining
from sslscale.methods.dino import DINO
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.emp_ssl import EMPSSL
from sslscale.methods.feature_distillation import FeatureDistillation
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.flexmatch import FlexMatch
from sslscale.methods.frame_interpolation import FrameInterpolation
from sslscale.methods.freematch import FreeMatch
from sslscale.methods.ijepa import IJEPA
from sslscale.methods.inpainting import Inpainting
from sslscale.methods.jigsaw import Jigsaw
from sslscale.methods.jigsaw_plus_plus import JigsawPlusPlus
from sslscale.methods.joint_training import JointTraining
from sslscale.methods.knowledge_distillation import KnowledgeDistillation
from sslscale.methods.lejepa import LeJEPA
from sslscale.methods.mae import MAE
from sslscale.methods.mean_teacher import MeanTeacher
from sslscale.methods.mixmatch import MixMatch
from sslscale.methods.moco_v2 import MoCoV2
from sslscale.methods.moco_v3 import MoCoV3
from sslscale.methods.msn import MSN
from sslscale.methods.multi_pretext import MultiPretext, PretextTask
from sslscale.methods.nnclr import NNCLR
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.methods.odd_one_out import OddOneOut
from sslscale.methods.pi_model import PiModel
from sslscale.methods.pirl import PIRL
from sslscale.methods.pseudo_label import PseudoLabel
from sslscale.methods.relative_position import RelativePosition
from sslscale.methods.remixmatch import ReMixMatch
from sslscale.methods.rotation import Rotation
from sslscale.methods.scl import SCL
from sslscale.methods.shuffle_and_learn import ShuffleAndLearn
from sslscale.methods.siglip import SigLIP
from sslscale.methods.simclr import SimCLR
from sslscale.methods.simsiam import SimSiam
from sslscale.methods.softmatch import SoftMatch
from sslscale.methods.supcon import SupCon
from sslscale.methods.supervised import Supervised
from sslscale.methods.swav import SwAV
from sslscale.methods.temporal_ensembling import TemporalEnsembling
from sslscale.methods.text_mean_teacher import TextMeanTeacher
from sslscale.methods.text_pi_model import TextPiModel
from sslscale.methods.text_pseudo_label import TextPseudoLabel
from sslscale.methods.text_supervised import TextSupervised
from sslscale.methods.text_uda import TextUDA
from sslscale.methods.tico import TiCo
from sslscale.methods.tracking import Tracking
from sslscale.methods.uda import UDA
from sslscale.methods.vat import VAT
from sslscale.methods.vicreg import VICReg
from sslscale.methods.w_mse import WMSE
from sslscale.settings.augment import AugmentConfig, JitterConfig, RandAugmentConfig
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.kinds import LabeledLines, Scenes
from sslscale.settings.method import MethodSettings, SemiSupervised, find, method_names
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.sound import SoundTowerConfig
from sslscale.settings.streams import Field
from sslscale.settings.text import TextConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train.recorder import Recorder

STEPS, FRAMES = 6, 5  # FRAMES of a clip
CONFIG = TrainConfig(
    method=NoisyStudent(unlabeled_ratio=2, ema=0.9),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    augment=AugmentConfig(crop="pad", padding=1, randaugment=RandAugmentConfig(magnitude=4)),
    optim=OptimConfig(lr=0.05),
    batch_size=16,
    num_steps=STEPS,
    sync_batch_norm=True,
    log_every=1,
)

VIEWS = AugmentConfig(crop="resized", scale=(0.3, 1.0))
SMALL = AugmentConfig(crop="resized", scale=(0.1, 0.4), size=6, count=2)
VIT = ModelConfig(name="vit_32x2_2", grid=4)
TEXT = TextConfig(context=6, width=32, depth=1, heads=1, embed_dim=16)
SOUND = SoundTowerConfig(widths=(8, 16), hidden=16, embed_dim=8)
FCN = DetectorConfig(name="fcn", width=8, dropout=0.0)
# where gradients are steep, rounding grows with the step
STEEP = {
    "moco_v3",
    "barlow_twins",
    "vicreg",
    "emp_ssl",
    "nnclr",
    "supcon",
    "swav",
    "dinov2",
    "pirl",
    "multi_pretext",
    "w_mse",
}


def of(recipe: MethodSettings, **more: Any) -> TrainConfig:
    rate = 1e-4 if recipe.name in STEEP else 0.01
    return dataclasses.replace(CONFIG, method=recipe, augment=VIEWS, optim=OptimConfig(lr=rate), **more)


def semi(recipe: SemiSupervised) -> TrainConfig:
    strong = any(view.required for stream in recipe.streams for view in stream.views)
    return dataclasses.replace(
        CONFIG,
        method=recipe,
        augment=AugmentConfig(crop="pad", padding=1),
        views={"strong": CONFIG.augment} if strong else {},
        optim=OptimConfig(lr=0.01),
        # few enough that images come a second time
        splits=("labeled",) if recipe.name == "temporal_ensembling" else ("labeled", "unlabeled"),
    )


def lines(recipe: LabeledLines) -> TrainConfig:
    named = {view.name for stream in recipe.streams for view in stream.views}
    return dataclasses.replace(
        CONFIG,
        method=recipe,
        model=ModelConfig(name="crnn_0.03"),
        image=ImageConfig(size=32, width=40),
        augment=AugmentConfig(jitter=JitterConfig(hue=0.0)),
        views={"strong": AugmentConfig(randaugment=RandAugmentConfig(magnitude=4))} if "strong" in named else {},
        optim=OptimConfig(lr=0.003),
    )


def scenes(recipe: Scenes, **views: AugmentConfig) -> TrainConfig:
    return dataclasses.replace(
        CONFIG,
        method=recipe,
        image=ImageConfig(size=32),
        augment=AugmentConfig(crop="scale", flip=True, randaugment=RandAugmentConfig(magnitude=4)),
        views=views,
        optim=OptimConfig(lr=0.001),
    )


def with_attention(config: TrainConfig) -> TrainConfig:
    """The same with an attention decoder."""
    return dataclasses.replace(config, model=ModelConfig(name="crnn_attention_0.03"))


def small(name: str) -> TrainConfig:
    """A method's defaults, with widths and queues of 32, on a network that it can train."""
    made: Any = find(name)()
    numbers = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init}
    made = dataclasses.replace(made, **{n: 32 for n, v in numbers.items() if isinstance(v, int) and v > 64})
    networks = (CONFIG.model, VIT, dataclasses.replace(VIT, distillation_token=True))
    model = next(network for network in networks if made.unsupported_model(network, CONFIG.image.size) is None)
    views = {view.name: view for stream in made.streams for view in stream.views}
    named = {
        n: SMALL if view.optional else CONFIG.augment for n, view in views.items() if view.optional or view.required
    }
    return of(made, model=model, views=named)


TUNED = {
    "noisy_student": CONFIG,
    "simclr": dataclasses.replace(
        CONFIG,
        method=SimCLR(temperature=0.5),
        augment=dataclasses.replace(VIEWS, jitter=JitterConfig(hue=0.0)),
        optim=OptimConfig(name="lars", lr=0.02, trust=0.5),
    ),
    "feature_distillation": dataclasses.replace(CONFIG, method=FeatureDistillation()),
    **{
        config.method.name: config
        for config in (
            of(BarlowTwins(projection=24)),
            of(VICReg(projection=24)),
            of(SimSiam(projection=24, hidden=8)),
            of(BYOL(momentum=0.9, projection=16, hidden=24)),
            of(NNCLR(queue=40, hidden=24, projection=16, predictor=24)),
            of(SCL(projection=24)),
            of(SupCon()),
            of(MoCoV2(queue=40, momentum=0.9)),
            of(MoCoV3(momentum=0.9, hidden=24, projection=16)),
            of(
                SwAV(prototypes=12, hidden=24, projection=16, queue=36, queue_epoch=0.01, freeze_prototypes=0.01),
                views={"local": SMALL},
            ),
            of(
                DeepClusterV2(heads=2, prototypes=12, hidden=24, projection=16),
                views={"local": SMALL},
                splits=("labeled",),  # few enough that an epoch ends
            ),
            of(DINO(prototypes=24, hidden=24, bottleneck=8, momentum=0.9, freeze_last=0.01), views={"local": SMALL}),
            of(
                DINOv2(prototypes=24, hidden=24, bottleneck=8, momentum=0.9, freeze_last=0.01),
                views={"local": SMALL},
                model=VIT,
            ),
            of(PIRL(pretext=("jigsaw", "rotation"), negatives=30), image=ImageConfig(size=16)),
            of(Jigsaw(permutations=10, tile=16, hidden=24, dropout=0.0, channel_jitter=1), image=ImageConfig(size=24)),
            of(
                JigsawPlusPlus(permutations=10, tile=16, hidden=0, dropout=0.0, channel_jitter=1),
                image=ImageConfig(size=24),
            ),
            of(RelativePosition(tile=16, hidden=24), image=ImageConfig(size=24)),
            of(Colorization(hidden=16)),
            of(
                MultiPretext(
                    tasks=(
                        PretextTask(method=RelativePosition(tile=16, hidden=24)),
                        PretextTask(method=Rotation()),
                    )
                ),
                image=ImageConfig(size=24),
            ),
            of(EMPSSL(patches=3, hidden=24, projection=16)),
            of(MAE(width=32, depth=1), model=VIT),
            of(DenseCL(queue=24, projection=8, momentum=0.9)),
            of(LeJEPA(directions=16, hidden=24, projection=8), views={"local": SMALL}),
            of(IJEPA(width=32, depth=1, momentum=0.9), model=VIT),
            of(MSN(prototypes=16, hidden=24, projection=8, momentum=0.9), views={"local": SMALL}, model=VIT),
            of(TiCo(hidden=24, projection=8, momentum=0.9)),
            of(WMSE(whitened=8, hidden=24, projection=4)),
            of(CLIP(text=TEXT)),
            of(ShuffleAndLearn(spread=2, gap=1, hidden=16)),
            of(FrameInterpolation(spread=2, gap=1, outside=0.3, foreign=0.3)),
            of(OddOneOut(questions=2, encoding="frames", hidden=16)),
            of(Tracking(patch=5, search=1, moving=(0.0, 1.0), hardest=3, hidden=24, projection=16)),
            of(AVC(window=3, sound=SOUND)),
            of(AVTS(window=3, gap=1, sound=dataclasses.replace(SOUND, times=2))),
            of(SigLIP(text=dataclasses.replace(TEXT, causal=False))),
        )
    },
    "odd_one_out_differences": of(OddOneOut(questions=2, fusion="concatenation", hidden=16)),
    "avc_concatenation": of(AVC(window=3, sound=SOUND, fusion="concatenation")),
    **{
        config.method.name: config
        for config in (lines(TextSupervised(ema=0.9)), lines(TextMeanTeacher(ema=0.9, unlabeled_ratio=2)))
    },
    **{
        config.method.name: config for config in (lines(TextPiModel()), lines(TextPseudoLabel(ema=0.9, threshold=0.05)))
    },
    "detection": scenes(Detection(detector=FCN, ema=0.9)),
    "detection_linear": scenes(Detection(detector=dataclasses.replace(FCN, name="linear", frozen=True))),
    "detection_self_training": scenes(DetectionSelfTraining(detector=FCN, unlabeled_ratio=2)),
    "detection_classification": scenes(
        DetectionClassification(detector=FCN, classes=10, ratio=2), classified=dataclasses.replace(VIEWS, size=8)
    ),
    "text_uda": lines(TextUDA(threshold=0.05)),
    "text_uda_attention": with_attention(lines(TextUDA(threshold=0.02))),
    "text_uda_columns": lines(TextUDA(threshold=0.05, consistency="columns")),
    "clip_cached": of(CLIP(text=TEXT, gradient_cache=2, equal_captions="positive"), model=VIT),
    "noisy_student_alone": dataclasses.replace(CONFIG, method=NoisyStudent(labels=False)),
    "ibot_gram": of(
        DINOv2(
            prototypes=24,
            hidden=24,
            bottleneck=8,
            momentum=0.9,
            freeze_last=0.01,
            koleo=0.0,
            centering="mean",
            shared_head=True,
            gram=1.0,
            gram_from=0.4,
        ),
        views={"local": SMALL},
        model=VIT,
    ),
    "inpainting": of(Inpainting(width=16, adversarial=0.1), image=ImageConfig(size=16)),
    "inpainting_random": of(Inpainting(width=16, region="random")),
    "multi_pretext_alternate": of(
        MultiPretext(
            tasks=(PretextTask(method=Colorization(hidden=16)), PretextTask(method=Rotation(), weight=0.5)),
            mode="alternate",
        )
    ),
    "joint_training": dataclasses.replace(CONFIG, method=JointTraining(unlabeled_ratio=2, ema=0.9)),
    "mixed_and_adversarial": of(Supervised(mixup=0.4, cutmix=1.0, adversarial=0.5, epsilon=0.1)),
    "label_noise": of(Supervised(label_noise=0.4)),
    "knowledge_distillation": of(KnowledgeDistillation(ema=0.9)),
    "deit": of(DeiT(mode="soft"), model=dataclasses.replace(VIT, distillation_token=True)),
    **{
        name: semi(recipe)
        for name, recipe in {
            # with a ratio of 1 one image is as near to two classes as two processors' roundings
            "pseudo_label": PseudoLabel(unlabeled_ratio=2, threshold=0.15, ramp=(0.0, 0.5)),
            "pi_model": PiModel(),
            "temporal_ensembling": TemporalEnsembling(unlabeled_ratio=4),
            "mean_teacher": MeanTeacher(ema=0.9),
            "vat": VAT(epsilon=1.0, ema=0.9, xi=1.0),  # a small difference divides rounding by itself
            "mixmatch": MixMatch(),
            "remixmatch": ReMixMatch(strong=2, batches=4),
            "remixmatch_ctaugment": ReMixMatch(strong=1, batches=4, ctaugment=True),
            "uda": UDA(unlabeled_ratio=3, threshold=0.1, tsa="exp"),
            "fixmatch": FixMatch(unlabeled_ratio=2, threshold=0.1),
            "fixmatch_ctaugment": FixMatch(unlabeled_ratio=2, threshold=0.1, ctaugment=True),
            "dash": Dash(unlabeled_ratio=2, warmup=0.3, every=0.2),
            "flexmatch": FlexMatch(unlabeled_ratio=2, threshold=0.12),
            "freematch": FreeMatch(unlabeled_ratio=2, momentum=0.5, fairness_weight=0.1),
            "softmatch": SoftMatch(unlabeled_ratio=2, momentum=0.5),
        }.items()
    },
}

_named = {config.method.name for config in TUNED.values()}
CONFIGS = {**{name: small(name) for name in method_names() if name not in _named}, **TUNED}


class Rows(Recorder):
    """Keeps what a training logs, and when."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.steps: list[int] = []
        self.times: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.times.append(time.perf_counter())
        self.rows.append(dict(metrics))


def texts(count: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens of captions of TEXT's length, of which some are equal: a start, one of 9 words, an end, zeros."""
    tokens = torch.zeros(count, TEXT.context, dtype=torch.int64)
    tokens[:, 0], tokens[:, 2] = 49406, 49407
    tokens[:, 1] = torch.randint(1, 10, (count,), generator=generator)
    return tokens


def transcripts(numbers: torch.Tensor) -> torch.Tensor:
    """Two to four of ten characters for each line, int64 (lines, 6)."""
    tokens = torch.stack([1 + (numbers * (3 + place)) % 10 for place in range(6)], 1)
    return tokens * (torch.arange(6) < 2 + numbers[:, None] % 3)


def semantic_maps(numbers: torch.Tensor, side: int) -> torch.Tensor:
    """The class of each pixel, 0 to 10, and some that are ignored: int64 (images, side, side)."""
    place = torch.arange(side * side).view(side, side)
    found = (numbers[:, None, None] * 7 + place // 9) % 12
    return torch.where(found == 11, 255, found)


def batch_of(config: TrainConfig, stream: str, size: int, step: int, device: torch.device | None = None) -> Batch:
    """Batch `step` of a stream of 200 samples, of random numbers, with the fields that the method declares."""
    generator = torch.Generator().manual_seed(step)
    spec = next(spec for spec in config.method.streams if spec.name == stream)
    views = []
    for view in config.views_of(spec):
        side = view.size or config.image.size
        for _ in range(view.count):
            count = size * (FRAMES if spec.clips else 1)
            image = torch.randn(count, config.image.channels, side, config.image.width or side, generator=generator)
            image = image.contiguous(memory_format=torch.channels_last).to(device)
            views.append(image.unflatten(0, (size, FRAMES)) if spec.clips else image)
    numbers = (torch.arange(size) * 7 + step * size) % 200
    given = {
        "label": numbers % 10,
        "soft_label": torch.rand(size, 10, generator=generator).softmax(1),
        "features": torch.randn(size, 10, generator=generator),
        "text": texts(size, generator),
        "sound": torch.randn(size, 16, 4 * FRAMES, generator=generator),
        "video": numbers // 10,
        "transcript": transcripts(numbers),
        "semantic": semantic_maps(numbers, config.image.size),
    }
    given["teacher_logits"] = given["features"]
    fields: dict[Field, torch.Tensor] = {name: given[name].to(device) for name in spec.fields}
    return Batch(tuple(views), numbers.to(device), fields, numbers)
