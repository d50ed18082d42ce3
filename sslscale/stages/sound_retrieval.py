"""Retrieval between frames and sounds, both ways, and the search for the shift between them."""

from __future__ import annotations

from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report, Spectrograms
from sslscale.graph.context import RunContext
from sslscale.settings.sound import SoundRetrievalConfig
from sslscale.storage.jsonio import write_json

_NEAREST = 5  # frames shown beside a sound


def sound_retrieval(
    ctx: RunContext, config: SoundRetrievalConfig, *, model: Checkpoint, data: Dataset, sound: Spectrograms
) -> Report:
    """Write report.json (recall at 1, 5 and 10, both ways, with chance; shifts found) and sounds.png (sounds with the
    frames that are nearest to them)."""
    import numpy as np
    import torch

    from sslscale.data.joined import open_heard
    from sslscale.data.reading import open_for_evaluation
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.evaluate.sound import FrameTower, embed_windows, find_shifts
    from sslscale.evaluate.zero_shot import recalls
    from sslscale.settings.model import read_info
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device

    if config.split not in sound.num_clips:
        raise DataError(f"{ctx.name}: there is no sound of the split {config.split!r}: see sound.splits")
    torch.set_num_threads(ctx.threads)
    info, towers = read_info(model.dir), checkpoint.load_sound_towers(model.dir)
    own, device = towers.config, best_device(ctx.resources)
    samples = open_heard(data.dir, sound.dir, (config.split,), sound.mels, local=ctx.local)
    images = open_for_evaluation(ctx, samples.shards, info.image)
    begin = (samples.frames - own.window) // 2  # of the sound, and of the frames that belong to it
    seen = begin + (own.window - own.frames) // 2
    numbers = np.arange(len(samples))
    shard, row = samples.places(numbers)
    rows = (row[:, None] + seen + np.arange(own.frames)).ravel()
    embedded = network_outputs(
        FrameTower(towers),
        info.image,
        images,
        shard.repeat(own.frames),
        rows,
        batch_size=config.batch_size * own.frames,
        device=device,
        on_progress=lambda done: ctx.progress(done // own.frames, len(samples)),
    ).to(device)
    spectra = torch.from_numpy(samples.field("sound", numbers))
    windows = embed_windows(towers.to(device), spectra, samples.frames, config.batch_size, device)
    heard = windows[:, begin]
    shifts = find_shifts(embedded, windows, begin, config.tolerance)
    result: dict[str, Any] = {
        "split": config.split,
        "clips": len(samples),
        "sound_to_image": recalls(heard, embedded, numbers, numbers),
        "image_to_sound": recalls(embedded, heard, numbers, numbers),
        "chance": {f"recall_at_{rank}": min(rank / len(samples), 1.0) for rank in (1, 5, 10)},
        "shifts": {**shifts._asdict(), "tolerance": config.tolerance, "starts": windows.shape[1]},
    }
    write_json(ctx.path / "report.json", result)
    _draw(ctx, config, samples, embedded, heard, spectra, begin, seen)
    metrics = {f"{way}_{n}": v for way in ("sound_to_image", "image_to_sound") for n, v in result[way].items()}
    return Report(path=str(ctx.path), metrics={**metrics, "shift_found": shifts.within})


def _draw(
    ctx: RunContext,
    config: SoundRetrievalConfig,
    samples: Any,
    embedded: Any,
    heard: Any,
    spectra: Any,
    begin: int,
    seen: int,
) -> None:
    """Some sounds, as spectrograms, with the frames that are nearest to them."""
    import numpy as np

    from sslscale.data.decode import decode
    from sslscale.evaluate.knn import nearest
    from sslscale.report.sound import nearest_frames

    def picture(number: int) -> Any:
        shard, row = (int(x[0]) for x in samples.places(np.array([number])))
        return decode(samples.shards[shard].encoded(row + seen)).permute(1, 2, 0).numpy()

    rng = np.random.default_rng([config.seed, 0x50BD])
    asked = rng.choice(len(samples), min(config.shown, len(samples)), replace=False)
    _, place = nearest(embedded, heard[asked], min(_NEAREST, len(samples)))
    found = place.cpu().numpy()
    columns = spectra.shape[2] // samples.frames
    nearest_frames(
        ctx.path,
        [spectra[n, :, begin * columns :].numpy() for n in asked],
        [picture(int(n)) for n in asked],
        [[picture(int(n)) for n in row] for row in found],
        found == asked[:, None],
    )
