"""WAV files of 16-bit PCM."""

from __future__ import annotations

import io
import wave

import numpy as np

from sslscale.errors import DataError


def decode_wav(raw: bytes, where: str) -> tuple[np.ndarray, int]:
    """Samples of 16-bit PCM, the mean of the channels, float32 from -1 to 1, and their rate; raises DataError."""
    try:
        with wave.open(io.BytesIO(raw)) as file:
            if file.getsampwidth() != 2:
                raise DataError(f"{where}: has {8 * file.getsampwidth()} bits a sample, not 16")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
            return samples.mean(1, dtype=np.float32) / 32768, file.getframerate()
    except (wave.Error, EOFError, ValueError) as error:
        raise DataError(f"{where}: unreadable sound ({error})") from None


def encode_wav(samples: np.ndarray, rate: int) -> bytes:
    """int16 samples of one channel as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()
