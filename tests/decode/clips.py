"""Small real videos that the tests encode themselves: a pan over a photograph, in any codec and container."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
NTSC = Fraction(30000, 1001)


@functools.cache
def photo() -> Pixels:
    from skimage import data

    pixels: Pixels = data.chelsea()
    return pixels


@functools.cache
def clip(
    *,
    frames: int = 40,
    height: int = 96,
    width: int = 128,
    codec: str = "libx264",
    format: str = "mp4",
    rate: Fraction = Fraction(30),
    times: Sequence[int] | None = None,
    base: Fraction | None = None,
    gop: int = 12,
    between: int = 2,
    rotate: int = 0,
    colour: tuple[int, int] | None = None,
    pixels: str = "yuv420p",
    options: str = "",
    sound: bool = False,
) -> bytes:
    """An encoded clip. `times` are presentation times in `base`; `between` is the most B-frames in a row; `options` go
    to x264; `colour` is FFmpeg's (colour space, range)."""
    out = io.BytesIO()
    with av.open(out, "w", format=format) as file:
        track: Any = file.add_stream(codec, rate=rate)
        track.width, track.height, track.pix_fmt = width, height, pixels
        context = track.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, between, 1
        if base is not None:
            context.time_base = base
        if colour is not None:
            context.colorspace, context.color_range = colour
        if codec == "libx264":
            track.options = {"x264-params": options, "preset": "fast"}
        if rotate:
            track.set_display_rotation(rotate)
        voice: Any = file.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(_view(number, height, width), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = base or 1 / rate
            file.mux(track.encode(frame))
        file.mux(track.encode())
        if voice is not None:
            file.mux([packet for frame in _hum(frames / float(rate)) for packet in voice.encode(frame)])
            file.mux(voice.encode())
    return out.getvalue()


def _view(number: int, height: int, width: int) -> Pixels:
    whole = photo()
    top = (2 * number) % (whole.shape[0] - height)
    left = (3 * number) % (whole.shape[1] - width)
    return np.ascontiguousarray(whole[top : top + height, left : left + width])


def noise(height: int, width: int) -> bytes:
    """24 frames at 20 a second that move over noise, some of one colour: what an encoder finds most to decide in."""
    shown = np.random.default_rng(0).integers(0, 256, (height + 30, width + 30, 3), np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("libx264", rate=20)
        track.height, track.width, track.pix_fmt = height, width, "yuv420p"
        for at in range(24):
            frame = shown[at : height + at, at : width + at] if at % 7 else np.full((height, width, 3), at, np.uint8)
            out.mux(track.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(track.encode())
    return file.getvalue()


def sound_only() -> bytes:
    """An MP4 without pictures."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        track: Any = file.add_stream("aac", rate=16_000, layout="mono")
        file.mux([packet for frame in _hum(1.0) for packet in track.encode(frame)])
        file.mux(track.encode())
    return out.getvalue()


def _hum(seconds: float) -> list[av.AudioFrame]:
    wave = (0.3 * np.sin(np.arange(int(16_000 * seconds)) / 9)).astype(np.float32)
    frames = []
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, start
        frames.append(frame)
    return frames


@functools.cache
def beeping(
    format: str, codec: str = "aac", *, pictures: float = 0.0, sound: float = 0.0, lasting: float = 4.0
) -> bytes:
    """Four seconds at 10 frames a second whose first is shown at `pictures` seconds by the file's clock, and a tone
    from the second second after that to the third, in a sound track that begins at `sound` seconds and ends
    `lasting` seconds after the pictures begin."""
    out, packets, rate = io.BytesIO(), [], 48_000
    with av.open(out, "w", format=format) as file:
        track: Any = file.add_stream("libx264", rate=10)
        track.height, track.width, track.pix_fmt = 48, 64, "yuv420p"
        track.codec_context.max_b_frames = 0
        voice: Any = file.add_stream(codec, rate=rate, layout="mono")
        for at in range(40):
            frame = av.VideoFrame.from_ndarray(_view(at, 48, 64), format="rgb24")
            frame.pts, frame.time_base = round(pictures * 10) + at, Fraction(1, 10)
            packets += track.encode(frame)
        times = np.arange(round(sound * rate), round((pictures + lasting) * rate)) / rate - pictures
        wave = np.where((times >= 2) & (times < 3), 0.5 * np.sin(times * 3000), 0)[None]
        stored = np.round(wave * 32767).astype(np.int16) if codec.startswith("pcm") else wave.astype(np.float32)
        for at in range(0, len(times), 1024):
            piece = np.ascontiguousarray(stored[:, at : at + 1024])
            heard = av.AudioFrame.from_ndarray(
                piece, format="s16" if codec.startswith("pcm") else "fltp", layout="mono"
            )
            heard.sample_rate, heard.pts, heard.time_base = rate, round(sound * rate) + at, Fraction(1, rate)
            packets += voice.encode(heard)
        for packet in sorted([*packets, *track.encode(), *voice.encode()], key=lambda one: one.dts * one.time_base):
            file.mux(packet)
    return out.getvalue()


BEEPING = (
    ("matroska", "aac", 0, 0),
    ("matroska", "pcm_s16le", 0, 1.5),
    ("matroska", "aac", 5, 5),
    ("matroska", "aac", 1, 0),
    ("mp4", "aac", 0, 0),
    ("mp4", "aac", 0, 1),
    ("mp4", "aac", 0, 2.5),
    ("mpegts", "aac", 5, 5),
    ("mpegts", "aac", 5, 6),
)
"""What `beeping` is asked for: sound that begins with, before and after the pictures."""
VFR = tuple(number * 40 + 9 * (number % 5) for number in range(40))
KINDS: dict[str, dict[str, Any]] = {
    "cfr": {},
    "ntsc": {"rate": NTSC},
    "vfr": {"times": VFR, "base": Fraction(1, 1000)},
    "late start": {"times": tuple(range(50, 90)), "base": Fraction(1, 30), "format": "matroska"},
    "no b-frames": {"between": 0},
    "open gop": {"between": 3, "options": "open-gop=1:b-pyramid=normal"},
    "pyramid": {"between": 5, "options": "b-pyramid=strict:b-adapt=0"},
    "gradual refresh": {"between": 0, "options": "intra-refresh=1"},
    "intra": {"gop": 1, "between": 0},
    "one gop": {"gop": 400},
    "bt709": {"colour": (1, 1)},
    "bt601 full range": {"colour": (5, 2)},
    "mkv": {"format": "matroska"},
    "ts": {"format": "mpegts"},
    "flv": {"format": "flv"},
    "h264 in avi": {"format": "avi"},
    "mpeg4 in avi": {"codec": "mpeg4", "format": "avi"},
    "mpeg2 in mpg": {"codec": "mpeg2video", "format": "mpeg"},
    "hevc": {"codec": "libx265"},
    "vp8": {"codec": "libvpx", "format": "webm"},
    "vp9": {"codec": "libvpx-vp9", "format": "webm"},
    "odd size": {"height": 98, "width": 130},
    "4:4:4": {"pixels": "yuv444p"},
    "10 bit": {"pixels": "yuv420p10le"},
    "sound": {"sound": True},
}


@functools.cache
def truth(data: bytes) -> tuple[list[float | None], list[bool], Pixels]:
    """What decoding everything with PyAV gives: times, key flags, stored (not upright) RGB [T, H, W, 3]."""
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(file.streams.video[0]))
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        return [frame.time for frame in frames], [bool(frame.key_frame) for frame in frames], pixels
