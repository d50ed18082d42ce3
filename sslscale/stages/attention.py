"""Where a vision transformer's class token looks."""

from __future__ import annotations

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.features import AttentionConfig


def attention(ctx: RunContext, config: AttentionConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Draw attention.png: some images, and beside each what every head of the last block attends to."""
    import numpy as np
    import torch

    from sslscale.data.augment import normalize
    from sslscale.data.channels import as_rgb
    from sslscale.data.reading import open_split
    from sslscale.nn.vit import VisionTransformer
    from sslscale.report.figures import attention_figure
    from sslscale.storage.jsonio import write_json
    from sslscale.train.checkpoint import load_backbone

    if config.split not in data.num_samples:
        raise DataError(f"{ctx.name}: there is no split {config.split!r}; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    backbone, info = load_backbone(model.dir)
    if not isinstance(backbone, VisionTransformer):
        raise DataError(f"{ctx.name}: {info.model.name} has no attention to draw: it is not a vit_SIZE_PATCH")
    samples, images = open_split(ctx, data.split(config.split), info.image)
    numbers = np.linspace(0, len(samples) - 1, min(config.images, len(samples))).round().astype(np.int64)
    pixels = images.fetch(*samples.places(numbers))
    weights = backbone.attention(normalize(pixels, info.image.mean, info.image.std))
    top = 255 if info.image.bits == 8 else 65535
    seen = (255 / top * as_rgb(pixels.float())).to(torch.uint8)
    attention_figure(ctx.path, seen.permute(0, 2, 3, 1).numpy(), weights.numpy())
    share = weights.flatten(2)
    even = torch.special.entr(share / share.sum(2, keepdim=True)).sum(2) / np.log(max(share.shape[2], 2))
    metrics = {"attention_entropy": float(even.mean())}  # 1: every patch alike
    write_json(ctx.path / "report.json", {"split": config.split, "images": len(numbers), **metrics})
    return Report(path=str(ctx.path), metrics=metrics)
