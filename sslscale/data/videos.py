"""Videos as a source of images: each is cut into clips of equally many frames, by the time that frames are shown."""

from __future__ import annotations

import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from sslscale.data.items import VIDEO_SUFFIXES, Item, Listing
from sslscale.data.sources import class_folders, class_name, image_files, is_dir, unique, usable_key
from sslscale.data.wav import encode_wav
from sslscale.errors import ConfigError, DataError
from sslscale.settings.data import VideoConfig

SUFFIXES = VIDEO_SUFFIXES
SOUND_SUFFIXES = (".wav", ".flac")  # of a file beside the video
_QUALITY = 95  # of the JPEG that a frame becomes
_LOCKS = [threading.Lock() for _ in range(64)]


def list_videos(root: Path, video: VideoConfig, resize: int | None, *, skip: bool) -> Listing:
    """The frames of all clips of the videos below a folder; each sub-folder of it is a class, as for images.

    A video shorter than a clip is passed over, and what is left at the end of a longer one. One that cannot be read is
    an error, or with `skip` is passed over: both are counted. Raises DataError.
    """
    if not is_dir(root):
        raise DataError(f"{root}: there is no such folder")
    passed: Counter[str] = Counter()
    example: dict[str, str] = {}

    def skip_file(kind: str, path: Path) -> None:
        if video.sound is not None and path.suffix.lower() in SOUND_SUFFIXES:
            return
        passed[kind] += 1
        example.setdefault(kind, str(path))

    classes = class_folders(root, SUFFIXES)
    items: list[Item] = []
    unreadable: list[str] = []
    for path in image_files(root, skip_file, SUFFIXES):
        relative = path.relative_to(root)
        try:
            clips = int(seconds(path) * video.fps / video.frames + 1e-6)
        except DataError as error:
            unreadable.append(str(error))
            skip_file("videos that cannot be read", path)
            continue
        if not clips:
            skip_file(f"videos shorter than a clip of {video.frames / video.fps:g} s", path)
        group = usable_key(relative.with_suffix("").as_posix())
        label = class_name(relative.parts[0]) if classes else None
        for clip in range(clips):
            sound = None if video.sound is None else partial(sound_of, path, clip, video)
            for frame in range(video.frames):
                read = partial(_frame, str(path), clip, frame, video, resize)
                key = f"{group}/{clip:04d}/{frame:03d}"
                heard = None if frame else sound
                items.append(Item(key, f"{path} (clip {clip})", ".jpg", label, read, sound=heard, group=group))
    if unreadable and not skip:
        more = f", as are {len(unreadable) - 1} more" if unreadable[1:] else ""
        raise DataError(f"{unreadable[0]}{more}; on_bad_sample: skip leaves such videos out")
    listing = Listing(unique(items), tuple(sorted(map(class_name, classes))), passed, example)
    if not items:
        lines = "".join(f"; {line}" for line in listing.skipped_files())
        raise DataError(f"{root}: no videos there ({', '.join(SUFFIXES)}) that are long enough{lines}")
    return listing


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("videos are decoded by PyAV: pip install 'sslscale[video]'") from None
    return av


def _opened(path: Path) -> Any:
    av = _library()
    try:
        container = av.open(str(path))
        if not container.streams.video:
            raise DataError(f"{path}: has no video track")
        return container
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be read as a video ({error.strerror})") from None


def seconds(path: Path) -> float:
    """How long a video is shown, from its header if that says so, else from its frames."""
    with _opened(path) as container:
        track = container.streams.video[0]
        if track.duration is not None and track.time_base is not None:
            long = float(track.duration * track.time_base)
            if track.frames and track.average_rate and long < 0.9 * float(track.frames / track.average_rate):
                raise DataError(f"{path}: is {long:.1f} s long, its header says more: cut or damaged")
            return long
        times = [time for time, _ in _shown(container, path)]
        if not times:
            raise DataError(f"{path}: has no frames")
        last = times[-1] - times[-2] if len(times) > 1 else 0.0
        return times[-1] - times[0] + last


def _shown(container: Any, path: Path) -> Iterator[tuple[float, Any]]:
    """Time and frame, in the order of time."""
    av = _library()
    try:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None:
                yield frame.time, frame
    except av.FFmpegError as error:
        raise DataError(f"{path}: damaged ({error.strerror})") from None


def frames_of(path: Path, clip: int, video: VideoConfig) -> list[Any]:
    """The frames of a clip as PIL images: those that are shown at its times, whatever the video's own rate.

    Raises DataError for a video that ends before.
    """
    with _opened(path) as container:
        track = container.streams.video[0]
        begin = float((track.start_time or 0) * track.time_base)
        times = [begin + (clip * video.frames + k + 0.5) / video.fps for k in range(video.frames)]
        container.seek(int(times[0] / track.time_base), stream=track, backward=True)
        found: list[Any] = []
        shown, last, interval = None, begin, 0.0
        for time, frame in _shown(container, path):
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
            raise DataError(f"{path}: ends at {last:.1f} s, before its header says: cut or damaged")
        return [frame.to_image() for frame in found]


def sound_of(path: Path, clip: int, video: VideoConfig) -> bytes | None:
    """The sound of a clip as WAV of one channel, silent where the track has none; None if there is no track.

    Raises DataError for sound that is damaged.
    """
    assert video.sound is not None
    av = _library()
    beside = next((path.with_suffix(s) for s in SOUND_SUFFIXES if path.with_suffix(s).is_file()), path)
    long = video.frames / video.fps
    samples = np.zeros(round(long * video.sound), np.int16)
    try:
        with av.open(str(beside)) as container:
            if not container.streams.audio:
                return None
            track = container.streams.audio[0]
            begin = clip * long
            # a little before: lossy codecs need what came before to decode what comes
            container.seek(int(max(begin - 0.5, 0) / track.time_base), stream=track, backward=True)
            sampler = av.AudioResampler(format="s16", layout="mono", rate=video.sound)
            place = None
            for frame in itertools.chain(container.decode(track), [None]):
                for part in sampler.resample(frame):
                    if place is None:
                        shown = 0.0 if part.time is None else part.time
                        place = round((shown - begin) * video.sound)
                    values = part.to_ndarray().reshape(-1)
                    kept = values[max(-place, 0) : max(len(samples) - place, 0)]
                    first = max(place, 0)
                    samples[first : first + len(kept)] = kept
                    place += len(values)
                if place is not None and place >= len(samples):
                    break
    except av.FFmpegError as error:
        raise DataError(f"{beside}: damaged sound ({error.strerror})") from None
    return encode_wav(samples, video.sound)


@lru_cache(maxsize=32)
def _clip(path: str, clip: int, video: VideoConfig, resize: int | None) -> list[bytes]:
    from PIL import Image

    encoded = []
    for image in frames_of(Path(path), clip, video):
        short = min(image.size)
        if resize is not None and short > resize:
            size = (round(image.width * resize / short), round(image.height * resize / short))
            image = image.resize(size, Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def _frame(path: str, clip: int, frame: int, video: VideoConfig, resize: int | None) -> bytes:
    with _LOCKS[hash((path, clip)) % len(_LOCKS)]:  # the threads that ask for one clip's frames decode it once
        return _clip(path, clip, video, resize)[frame]
