"""Videos as a source of images: each is cut into clips of equally many frames, by the time that frames are shown."""

from __future__ import annotations

import io
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sslscale.data import films, webdatasets
from sslscale.data.films import SOUND_SUFFIXES, SUFFIXES, Film
from sslscale.data.items import Item, Listing
from sslscale.data.sources import unique
from sslscale.errors import ConfigError, DataError
from sslscale.settings.data import PackConfig, VideoConfig

__all__ = ["SOUND_SUFFIXES", "SUFFIXES", "frames_of", "list_videos", "seconds", "sound_of"]
_QUALITY = 95  # of the JPEG that a frame becomes
_LOCKS = [threading.Lock() for _ in range(64)]


def list_videos(source: str, config: PackConfig) -> Listing:
    """The frames of all clips of the videos below a folder or in a WebDataset's shards.

    A video shorter than a clip is passed over, and what is left at the end of a longer one. One that cannot be read is
    an error, or with `on_bad_sample: skip` is passed over: both are counted. Raises DataError.
    """
    video = config.video
    assert video is not None
    passed: Counter[str] = Counter()
    example: dict[str, str] = {}

    def skip_file(kind: str, where: str) -> None:
        passed[kind] += 1
        example.setdefault(kind, where)

    if source.startswith(webdatasets.PREFIX):
        found, classes = films.in_shards(source, config.label, skip_file)
    else:
        found, classes = films.in_folder(Path(source), skip_file)
    items: list[Item] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as opener:
        for film, clips in zip(found, opener.map(partial(_count_clips, video=video), found), strict=True):
            if isinstance(clips, str):
                unreadable.append(clips)
                skip_file("videos that cannot be read", film.where)
                continue
            if not clips:
                skip_file(f"videos shorter than a clip of {video.frames / video.fps:g} s", film.where)
            for clip in range(clips):
                sound = None if video.sound is None else partial(sound_of, film, clip, video)
                for frame in range(video.frames):
                    read = partial(_frame, film, clip, frame, video, config.resize)
                    key = f"{film.key}/{clip:04d}/{frame:03d}"
                    heard = None if frame else sound
                    where = f"{film.where} (clip {clip})"
                    items.append(Item(key, where, ".jpg", film.label, read, sound=heard, group=film.key))
    if unreadable and config.on_bad_sample != "skip":
        more = f", as are {len(unreadable) - 1} more" if unreadable[1:] else ""
        raise DataError(f"{unreadable[0]}{more}; on_bad_sample: skip leaves such videos out")
    listing = Listing(unique(items), classes, passed, example)
    if not items:
        lines = "".join(f"; {line}" for line in listing.skipped_files())
        raise DataError(f"{source}: no videos there ({', '.join(SUFFIXES)}) that are long enough{lines}")
    return listing


def _count_clips(film: Film, video: VideoConfig) -> int | str:
    """How many clips a video has, or why it cannot be read."""
    if film.frames:
        return len(film.frames) // video.frames
    try:
        return int(seconds(film) * video.fps / video.frames + 1e-6)
    except DataError as error:
        return str(error)


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("videos are decoded by PyAV: pip install 'sslscale[video]'") from None
    return av


def _opened(film: Film) -> Any:
    av = _library()
    assert film.video is not None
    try:
        container = av.open(film.video.open())
        if not container.streams.video:
            raise DataError(f"{film.where}: has no video track")
        container.streams.video[0].codec_context.thread_count = 1  # clips are decoded side by side
        return container
    except av.FFmpegError as error:
        raise DataError(f"{film.where}: cannot be read as a video ({error.strerror})") from None


def seconds(film: Film) -> float:
    """How long a video is shown, from its header if that says so, else from its frames."""
    with _opened(film) as container:
        track = container.streams.video[0]
        if track.duration is not None and track.time_base is not None:
            long = float(track.duration * track.time_base)
            if track.frames and track.average_rate and long < 0.9 * float(track.frames / track.average_rate):
                raise DataError(f"{film.where}: is {long:.1f} s long, its header says more: cut or damaged")
            return long
        times = [time for time, _ in _shown(container, film)]
        if not times:
            raise DataError(f"{film.where}: has no frames")
        last = times[-1] - times[-2] if len(times) > 1 else 0.0
        return times[-1] - times[0] + last


def _shown(container: Any, film: Film) -> Iterator[tuple[float, Any]]:
    """Time and frame, in the order of time."""
    av = _library()
    try:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None:
                yield frame.time, frame
    except av.FFmpegError as error:
        raise DataError(f"{film.where}: damaged ({error.strerror})") from None


def frames_of(film: Film, clip: int, video: VideoConfig, resize: int | None = None) -> list[Any]:
    """The frames of a clip as PIL images: those that are shown at its times, whatever the video's own rate.

    Of a video that is a row of images each is a frame. Larger ones are scaled to a short side of `resize` pixels.
    Raises DataError for a video that ends before.
    """
    if film.frames:
        places = film.frames[clip * video.frames : (clip + 1) * video.frames]
        return [_image(film, place, resize) for place in places]
    with _opened(film) as container:
        track = container.streams.video[0]
        begin = float((track.start_time or 0) * track.time_base)
        times = [begin + (clip * video.frames + k + 0.5) / video.fps for k in range(video.frames)]
        container.seek(int(times[0] / track.time_base), stream=track, backward=True)
        found: list[Any] = []
        shown, last, interval = None, begin, 0.0
        for time, frame in _shown(container, film):
            while shown is not None and len(found) < video.frames and times[len(found)] < time:
                found.append(shown)
            if len(found) == video.frames:
                break
            if shown is not None:  # the first frame after seeking may lie anywhere
                interval = max(interval, time - last)
            shown, last = frame, time
        else:  # the last frame stays as long as those before it
            end = last + interval + 0.5 / video.fps
            while shown is not None and len(found) < video.frames and times[len(found)] <= end:
                found.append(shown)
        if len(found) < video.frames:
            raise DataError(f"{film.where}: ends at {last:.1f} s, before its header says: cut or damaged")
        return _images(found, resize)


def _image(film: Film, place: films.Place, resize: int | None) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(place.read())).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{film.where}: a frame cannot be read ({error})") from None
    size = _scaled(*image.size, resize)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _scaled(width: int, height: int, resize: int | None) -> tuple[int, int]:
    share = 1 if resize is None else min(resize / min(width, height), 1)
    return round(share * width), round(share * height)


def _images(frames: list[Any], resize: int | None) -> list[Any]:
    """Frames as PIL images. One thread for all of them: by default each would start a pool of its own."""
    from av.video.reformatter import Interpolation, VideoReformatter
    from PIL import Image

    width, height = _scaled(frames[0].width, frames[0].height, resize)
    options: dict[str, Any] = {"format": "rgb24", "interpolation": Interpolation.BILINEAR, "threads": 1}
    convert = VideoReformatter()
    return [Image.fromarray(convert.reformat(x, width, height, **options).to_ndarray()) for x in frames]


def sound_of(film: Film, clip: int, video: VideoConfig) -> bytes | None:
    """The sound of a clip as WAV of one channel, silent where the track has none; None if there is no track.

    Raises DataError for sound that is damaged.
    """
    import numpy as np

    from sslscale.data.wav import encode_wav

    assert video.sound is not None
    av = _library()
    beside = film.sound or film.video
    if beside is None:
        return None
    long = video.frames / video.fps
    samples = np.zeros(round(long * video.sound), np.int16)
    try:
        with av.open(beside.open()) as container:
            if not container.streams.audio:
                return None
            track = container.streams.audio[0]
            begin = clip * long
            if container.streams.video:
                shown = container.streams.video[0]
                begin += float((shown.start_time or 0) * shown.time_base)
            # a little before: lossy codecs need what came before to decode what comes
            container.seek(int(max(begin - 0.5, 0) / track.time_base), stream=track, backward=True)
            sampler = av.AudioResampler(format="s16", layout="mono", rate=video.sound)
            place = None
            for frame in itertools.chain(container.decode(track), [None]):
                for part in sampler.resample(frame):
                    if place is None:
                        place = round(((part.time or 0.0) - begin) * video.sound)
                    values = part.to_ndarray().reshape(-1)
                    kept = values[max(-place, 0) : max(len(samples) - place, 0)]
                    first = max(place, 0)
                    samples[first : first + len(kept)] = kept
                    place += len(values)
                if place is not None and place >= len(samples):
                    break
    except av.FFmpegError as error:
        raise DataError(f"{film.where}: damaged sound ({error.strerror})") from None
    return encode_wav(samples, video.sound)


@lru_cache(maxsize=32)
def _clip(film: Film, clip: int, video: VideoConfig, resize: int | None) -> list[bytes]:
    encoded = []
    for image in frames_of(film, clip, video, resize):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def _frame(film: Film, clip: int, frame: int, video: VideoConfig, resize: int | None) -> bytes:
    with _LOCKS[hash((film.where, clip)) % len(_LOCKS)]:  # the threads that ask for one clip's frames decode it once
        return _clip(film, clip, video, resize)[frame]
