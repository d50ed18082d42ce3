"""A training step of each method beside lightly's: forward, loss, backward, update; same network, views and optimiser.

    pip install -c infra/constraints.txt -e '.[bench]'
    python tests/benchmarks/ssl_steps.py [--methods simclr,byol] [--model wrn_10_1] [--batch-size 128] [--json]

Views are random numbers that are there already, so that no data path counts. lightly's side is its PyTorch example of
the method: its heads, its loss, its momentum update, one view after the other. The two take turns, `--rounds` times;
the fastest counts: other work on the machine only slows. MAE and DINOv2 have a vision transformer of four blocks, 64
wide, on both sides (timm's on lightly's), MAE a decoder of one, DINOv2 a head each for class tokens and patches.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.data.batch import Batch
from sslscale.methods.barlow_twins import BarlowTwins
from sslscale.methods.byol import BYOL
from sslscale.methods.dino import DINO
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.emp_ssl import EMPSSL
from sslscale.methods.mae import MAE
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.moco_v2 import MoCoV2
from sslscale.methods.nnclr import NNCLR
from sslscale.methods.simclr import SimCLR
from sslscale.methods.simsiam import SimSiam
from sslscale.methods.swav import SwAV
from sslscale.methods.vicreg import VICReg
from sslscale.nn.classifier import build_backbone
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train.engine import Engine

SIZE, SMALL, CROPS, PATCHES, HIDDEN, OUT, QUEUE = 32, 16, 4, 6, 256, 128, 4096
PATCH, VITS = 4, ("mae", "dinov2")  # pixels of a patch, methods of vision transformers
OPTIM = OptimConfig(lr=0.01, nesterov=False, weight_decay=0.0)
Step = Callable[[list[Tensor]], Tensor]


def recipes(width: int) -> dict[str, MethodSettings]:
    """Ours, with lightly's sizes of heads."""
    return {
        "simclr": SimCLR(projection=OUT),
        "nnclr": NNCLR(queue=QUEUE, hidden=HIDDEN, projection=OUT, predictor=HIDDEN),
        "simsiam": SimSiam(projection=HIDDEN, hidden=64),
        "byol": BYOL(projection=OUT, hidden=HIDDEN),
        "moco_v2": MoCoV2(queue=QUEUE, projection=OUT),
        "barlow_twins": BarlowTwins(projection=HIDDEN),
        "vicreg": VICReg(projection=HIDDEN),
        "swav": SwAV(prototypes=512, hidden=HIDDEN, projection=OUT),
        "dino": DINO(prototypes=2048, hidden=HIDDEN, bottleneck=64, norm=True),
        "emp_ssl": EMPSSL(patches=PATCHES, hidden=HIDDEN, projection=OUT),
        "mae": MAE(width=width, depth=1),
        "dinov2": DINOv2(prototypes=2048, hidden=HIDDEN, bottleneck=64),
    }


def theirs(method: str, backbone: nn.Module, width: int) -> tuple[nn.Module, Step]:
    """lightly's modules, and a function from views to the loss."""
    heads: Any = importlib.import_module("lightly.models.modules")
    losses: Any = importlib.import_module("lightly.loss")
    utils: Any = importlib.import_module("lightly.models.utils")
    if method == "simclr":
        model = nn.Sequential(backbone, heads.SimCLRProjectionHead(width, width, OUT))
        loss = losses.NTXentLoss(0.1)
        return model, lambda views: loss(model(views[0]), model(views[1]))
    if method in ("barlow_twins", "vicreg"):
        model = nn.Sequential(backbone, heads.BarlowTwinsProjectionHead(width, HIDDEN, HIDDEN))
        loss = losses.BarlowTwinsLoss() if method == "barlow_twins" else losses.VICRegLoss()
        return model, lambda views: loss(model(views[0]), model(views[1]))
    if method == "emp_ssl":
        model = nn.Sequential(backbone, heads.BarlowTwinsProjectionHead(width, HIDDEN, OUT))
        loss = losses.EMPSSLLoss()
        return model, lambda views: loss([nn.functional.normalize(model(view), dim=1) for view in views])
    if method == "simsiam":
        model = nn.Sequential(backbone, heads.SimSiamProjectionHead(width, HIDDEN, HIDDEN))
        predictor = heads.SimSiamPredictionHead(HIDDEN, 64, HIDDEN)
        loss = losses.NegativeCosineSimilarity()

        def simsiam(views: list[Tensor]) -> Tensor:
            z = [model(view) for view in views]
            return (loss(predictor(z[0]), z[1].detach()) + loss(predictor(z[1]), z[0].detach())) / 2

        return nn.ModuleList([model, predictor]), simsiam
    if method == "nnclr":
        model = nn.Sequential(backbone, heads.NNCLRProjectionHead(width, HIDDEN, OUT))
        predictor = heads.NNCLRPredictionHead(OUT, HIDDEN, OUT)
        bank, loss = heads.NNMemoryBankModule(size=(QUEUE, OUT)), losses.NTXentLoss(0.1)

        def nnclr(views: list[Tensor]) -> Tensor:
            z = [model(view) for view in views]
            p = [predictor(one) for one in z]
            z = [bank(z[0].detach(), update=False), bank(z[1].detach(), update=True)]
            return (loss(z[0], p[1]) + loss(z[1], p[0])) / 2

        return nn.ModuleList([model, predictor]), nnclr
    if method in ("byol", "moco_v2"):
        byol = method == "byol"
        head = heads.BYOLProjectionHead(width, HIDDEN, OUT) if byol else heads.MoCoProjectionHead(width, width, OUT)
        model = nn.Sequential(backbone, head)
        slow = copy.deepcopy(model)
        utils.deactivate_requires_grad(slow)
        predictor = heads.BYOLPredictionHead(OUT, HIDDEN, OUT) if byol else nn.Identity()
        loss = losses.NegativeCosineSimilarity() if byol else losses.NTXentLoss(0.1, memory_bank_size=(QUEUE, OUT))

        def momentum(views: list[Tensor]) -> Tensor:
            utils.update_momentum(model, slow, m=0.99)
            if not byol:
                with torch.no_grad():
                    key = slow(views[1])
                return loss(model(views[0]), key)
            p = [predictor(model(view)) for view in views]
            with torch.no_grad():
                z = [slow(view) for view in views]
            return (loss(p[0], z[1]) + loss(p[1], z[0])) / 2

        return nn.ModuleList([model, predictor]), momentum
    if method == "swav":
        model = nn.Sequential(backbone, heads.SwaVProjectionHead(width, HIDDEN, OUT))
        prototypes, loss = heads.SwaVPrototypes(OUT, n_prototypes=512), losses.SwaVLoss()

        def swav(views: list[Tensor]) -> Tensor:
            prototypes.normalize()
            scores = [prototypes(nn.functional.normalize(model(view), dim=1)) for view in views]
            return loss(scores[:2], scores[2:])

        return nn.ModuleList([model, prototypes]), swav
    assert method == "dino"
    model = nn.Sequential(backbone, heads.DINOProjectionHead(width, HIDDEN, 64, 2048, batch_norm=True))
    slow = nn.Sequential(copy.deepcopy(backbone), heads.DINOProjectionHead(width, HIDDEN, 64, 2048, batch_norm=True))
    utils.deactivate_requires_grad(slow)
    loss = losses.DINOLoss(output_dim=2048)

    def dino(views: list[Tensor]) -> Tensor:
        utils.update_momentum(model, slow, m=0.99)
        with torch.no_grad():
            targets = [slow(view) for view in views[:2]]
        return loss(targets, [model(view) for view in views], epoch=0)

    return model, dino


def theirs_of_a_vit(method: str, width: int) -> tuple[nn.Module, Step]:
    """lightly's modules around timm's vision transformer, and a function from views to the loss."""
    heads: Any = importlib.import_module("lightly.models.modules")
    losses: Any = importlib.import_module("lightly.loss")
    utils: Any = importlib.import_module("lightly.models.utils")
    timm: Any = importlib.import_module("timm.models.vision_transformer")
    side = SIZE // PATCH

    def encoder() -> Any:
        vit = timm.VisionTransformer(
            SIZE, PATCH, embed_dim=width, depth=4, num_heads=width // 32, num_classes=0, dynamic_img_size=True
        )
        return heads.MaskedVisionTransformerTIMM(vit=vit)

    if method == "mae":
        vit = encoder()
        decoder = heads.MAEDecoderTIMM(
            side**2, PATCH, embed_dim=width, decoder_embed_dim=width, decoder_depth=1, decoder_num_heads=width // 32
        )

        def mae(views: list[Tensor]) -> Tensor:
            kept, masked = utils.random_token_mask(size=(len(views[0]), side**2 + 1), mask_ratio=0.75)
            seen = decoder.embed(vit.encode(images=views[0], idx_keep=kept))
            whole = utils.set_at_index(utils.repeat_token(decoder.mask_token, (len(seen), side**2 + 1)), kept, seen)
            predicted = decoder.predict(utils.get_at_index(decoder.decode(whole), masked))
            target = utils.get_at_index(utils.patchify(views[0], PATCH), masked - 1)
            return nn.functional.mse_loss(predicted, target)

        return nn.ModuleList([vit, decoder]), mae
    assert method == "dinov2"

    def network() -> Any:  # with a head for class tokens and one for patches
        own = [heads.DINOv2ProjectionHead(width, HIDDEN, 64, 2048) for _ in range(2)]
        return nn.ModuleList([encoder(), *own])

    student, teacher = network(), network()
    teacher.eval().requires_grad_(False)
    dino_loss, patch_loss, spread = losses.DINOLoss(2048), losses.IBOTPatchLoss(2048), losses.KoLeoLoss()

    def dinov2(views: list[Tensor]) -> Tensor:
        utils.update_momentum(student, teacher, m=0.99)
        both = torch.cat(views[:2])
        blocks = utils.random_block_mask(size=(len(both), side, side))
        mask = nn.functional.pad(blocks.flatten(1), (1, 0))
        with torch.no_grad():
            tokens = teacher[0].encode(both)
            targets, patch_targets = teacher[1](tokens[:, 0]), teacher[2](tokens[mask])
        tokens = student[0].encode(both, mask=mask)
        small = student[0].encode(torch.cat(views[2:]))
        outputs = torch.cat([student[1](tokens[:, 0]), student[1](small[:, 0])])
        return (
            dino_loss(targets.chunk(2), outputs.chunk(len(views)), teacher_temp=0.05)
            + patch_loss(patch_targets, student[2](tokens[mask]), mask=blocks, teacher_temp=0.05)
            + 0.1 * sum(spread(cls) for cls in tokens[:, 0].chunk(2))
        )

    return student, dinov2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(recipes(64)))
    parser.add_argument("--model", default="wrn_10_1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, float]] = {}
    for method in options.methods.split(","):
        small = CROPS if method in ("swav", "dino", "dinov2") else 0
        sizes = [SIZE] * {"emp_ssl": PATCHES, "mae": 1}.get(method, 2) + [SMALL] * small
        views = [
            torch.randn(options.batch_size, 3, s, s).to(memory_format=torch.channels_last)  # pyright: ignore
            for s in sizes
        ]
        model = ModelConfig(name=options.model)
        if method in VITS:
            model = ModelConfig(name=f"vit_64x4_{PATCH}", grid=SIZE // PATCH)
        backbone, width = build_backbone(model)
        recipe = recipes(width)[method]
        config = TrainConfig(
            method=recipe,
            model=model,
            image=ImageConfig(size=SIZE),
            augment=AugmentConfig(crop="resized"),
            views={"local": AugmentConfig(crop="resized", size=SMALL, count=CROPS)} if small else {},
            optim=OPTIM,
            batch_size=options.batch_size,
            num_steps=1000,
        )
        engine = Engine(build_method(recipe, model, 10), config, 1000, torch.device("cpu"))
        batch = {"images": Batch(tuple(views), torch.arange(options.batch_size))}
        engine.method.train()
        peer, loss = theirs_of_a_vit(method, width) if method in VITS else theirs(method, backbone, width)
        optimizer = torch.optim.SGD([p for p in peer.parameters() if p.requires_grad], lr=0.01, momentum=0.9)

        def ours(engine: Engine = engine, batch: dict[str, Batch] = batch) -> None:
            engine.train_step(batch, StepInfo(5, 0.1, 2.0))

        rows = [view.contiguous() for view in views]  # as torchvision's ToTensor makes them

        def lightlys(
            loss: Step = loss, optimizer: torch.optim.Optimizer = optimizer, rows: list[Tensor] = rows
        ) -> None:
            loss(rows).backward()
            optimizer.step()
            optimizer.zero_grad()

        times: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, step in (("ours", ours), ("lightly", lightlys)):
                step()
                started = time.perf_counter()
                for _ in range(options.steps):
                    step()
                took = (time.perf_counter() - started) / options.steps
                times[name] = min(times.get(name, took), took)
        rates = {name: options.batch_size / took for name, took in times.items()}
        found[method] = {**rates, "ratio": rates["ours"] / rates["lightly"]}
        shown = f"ours {rates['ours']:6.0f}  lightly {rates['lightly']:6.0f} img/s  {found[method]['ratio']:.2f} x"
        print(f"{method:14} {shown}", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
