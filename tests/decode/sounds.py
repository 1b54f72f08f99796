"""Sounds for tests: chirps with noise, encoded by libsndfile and FFmpeg in every format that is read."""

from __future__ import annotations

import io
from functools import lru_cache

import av
import numpy as np
import soundfile

RATE = 22_050


def chirp(seconds: float, rate: int = RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    """float32 [samples, channels], different in every channel, within -0.7..0.7."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tones = [0.5 * np.sin(2 * np.pi * (200 + 90 * at) * (1 + time) * time) for at in range(channels)]
    noise = 0.05 * random.standard_normal((len(time), channels)).clip(-4, 4)
    return (np.stack(tones, axis=1) + noise).astype(np.float32)


def by_soundfile(wave: np.ndarray, rate: int, format: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(wave: np.ndarray, rate: int, codec: str, container: str, *, picture: bool = False) -> bytes:
    """With `picture` a video track lies beside the sound."""
    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[wave.shape[1]]
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = layout
        if picture:
            video = out.add_stream("mpeg4", rate=10)
            video.width = video.height = 64
            for _ in range(int(10 * len(wave) / rate)):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


@lru_cache(maxsize=1)
def corpus() -> dict[str, bytes]:
    """A second and a half of stereo in every format, by name."""
    wave = chirp(1.5)
    at_48 = chirp(1.5, 48_000)
    return {
        "wav8": by_soundfile(wave, RATE, "WAV", "PCM_U8"),
        "wav16": by_soundfile(wave, RATE, "WAV", "PCM_16"),
        "wav24": by_soundfile(wave, RATE, "WAV", "PCM_24"),
        "wav32": by_soundfile(wave, RATE, "WAV", "PCM_32"),
        "wavfloat": by_soundfile(wave, RATE, "WAV", "FLOAT"),
        "wavdouble": by_soundfile(wave, RATE, "WAV", "DOUBLE"),
        "wavalaw": by_soundfile(wave, RATE, "WAV", "ALAW"),
        "wavulaw": by_soundfile(wave, RATE, "WAV", "ULAW"),
        "wavadpcm": by_soundfile(wave, RATE, "WAV", "MS_ADPCM"),
        "rf64": by_soundfile(wave, RATE, "RF64", "PCM_16"),
        "wavex": by_soundfile(wave, RATE, "WAVEX", "PCM_24"),
        "flac16": by_soundfile(wave, RATE, "FLAC", "PCM_16"),
        "flac24": by_soundfile(wave, RATE, "FLAC", "PCM_24"),
        "mp3": by_soundfile(wave, RATE, "MP3", "MPEG_LAYER_III"),
        "vorbis": by_soundfile(wave, RATE, "OGG", "VORBIS"),
        "opus": by_soundfile(at_48, 48_000, "OGG", "OPUS"),
        "aiff": by_soundfile(wave, RATE, "AIFF", "PCM_16"),
        "au": by_soundfile(wave, RATE, "AU", "PCM_16"),
        "caf": by_soundfile(wave, RATE, "CAF", "PCM_16"),
        "w64": by_soundfile(wave, RATE, "W64", "PCM_16"),
        "nist": by_soundfile(wave, RATE, "NIST", "PCM_16"),
        "wma": by_ffmpeg(wave, RATE, "adpcm_ms", "asf"),
        "wmv": by_ffmpeg(wave, RATE, "pcm_s16le", "asf", picture=True),
        "m4a": by_ffmpeg(wave, RATE, "aac", "ipod"),
        "aac": by_ffmpeg(wave, RATE, "aac", "adts"),
        "mkv": by_ffmpeg(wave, RATE, "aac", "matroska", picture=True),
        "mp4": by_ffmpeg(wave, RATE, "aac", "mp4", picture=True),
        "webm": by_ffmpeg(at_48, 48_000, "libopus", "webm"),
        "ts": by_ffmpeg(wave, RATE, "aac", "mpegts"),
        "avi": by_ffmpeg(wave, RATE, "pcm_s16le", "avi", picture=True),
        "flv": by_ffmpeg(wave, RATE, "aac", "flv"),
    }
