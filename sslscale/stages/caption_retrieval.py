"""Retrieval between images and captions, both ways, with pictures of it."""

from __future__ import annotations

from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Captions, Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.text import CaptionRetrievalConfig
from sslscale.storage.jsonio import write_json

_NEAREST = 5  # images shown beside a caption
_MATRIX = 10  # pairs of the matrix of similarities


def caption_retrieval(
    ctx: RunContext, config: CaptionRetrievalConfig, *, model: Checkpoint, data: Dataset, captions: Captions
) -> Report:
    """Write report.json (recall at 1, 5 and 10, both ways), captions.png (captions with their nearest images) and
    similarities.png (some images against their captions)."""
    import numpy as np
    import torch

    from sslscale.data.joined import open_captioned
    from sslscale.data.reading import open_for_evaluation
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.evaluate.zero_shot import ImageTower, embed_tokens, recalls
    from sslscale.settings.model import read_info
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device

    if config.split not in captions.num_samples:
        raise DataError(f"{ctx.name}: there are no captions of the split {config.split!r}: see captions.splits")
    torch.set_num_threads(ctx.threads)
    info, towers = read_info(model.dir), checkpoint.load_towers(model.dir)
    device = best_device(ctx.resources)
    samples = open_captioned(data.dir, captions.dir, (config.split,), local=ctx.local)
    images = open_for_evaluation(ctx, samples.shards, info.image)
    embedded = network_outputs(
        ImageTower(towers),
        info.image,
        images,
        *samples.places(),
        batch_size=config.batch_size,
        device=device,
        on_progress=lambda done: ctx.progress(done, len(samples)),
    )
    tokens = samples.field("text", np.arange(len(samples)))
    distinct, ids = np.unique(tokens, axis=0, return_inverse=True)
    ids = ids.reshape(-1)
    texts = embed_tokens(towers.to(device), torch.from_numpy(distinct), device)
    embedded = embedded.to(device)
    result: dict[str, Any] = {
        "split": config.split,
        "images": len(samples),
        "captions": len(distinct),
        "text_to_image": recalls(texts, embedded, np.arange(len(distinct)), ids),
        "image_to_text": recalls(embedded, texts, ids, np.arange(len(distinct))),
    }
    write_json(ctx.path / "report.json", result)
    _draw(ctx, config, samples, embedded, texts, distinct, ids)
    ways = ("text_to_image", "image_to_text")
    return Report(path=str(ctx.path), metrics={f"{way}_{n}": value for way in ways for n, value in result[way].items()})


def _draw(
    ctx: RunContext, config: CaptionRetrievalConfig, samples: Any, embedded: Any, texts: Any, distinct: Any, ids: Any
) -> None:
    """Some captions with their nearest images, and the similarities of some pairs."""
    import numpy as np

    from sslscale.data.decode import decode
    from sslscale.evaluate.knn import nearest
    from sslscale.nn.open_clip_towers import text_of
    from sslscale.report.captions import nearest_images, similarity_matrix

    def picture(number: int) -> Any:
        shard, row = (int(x[0]) for x in samples.places(np.array([number])))
        return decode(samples.shards[shard].encoded(row)).permute(1, 2, 0).numpy()

    rng = np.random.default_rng([config.seed, 0xCA97])
    asked = rng.choice(len(distinct), min(config.shown, len(distinct)), replace=False)
    _, place = nearest(embedded, texts[asked], _NEAREST)
    found = place.cpu().numpy()
    nearest_images(
        ctx.path,
        [text_of(distinct[number]) for number in asked],
        [[picture(int(n)) for n in row] for row in found],
        ids[found] == asked[:, None],
    )
    pairs = np.array([np.flatnonzero(ids == number)[0] for number in rng.permutation(len(distinct))[:_MATRIX]])
    similarity_matrix(
        ctx.path,
        [picture(int(number)) for number in pairs],
        [text_of(distinct[ids[number]]) for number in pairs],
        (embedded[pairs] @ texts[ids[pairs]].T).cpu().numpy(),
    )
