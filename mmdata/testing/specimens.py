"""Small whole pictures, sounds and films in every usual format, made from a seed: what is to be damaged, or kept whole.

Nothing is downloaded and no package of examples is needed: smooth random fields, chirps with noise, and pans over a
field, encoded by Pillow, libsndfile and FFmpeg. The same seed gives the same bytes under the same versions of those.
"""

from __future__ import annotations

import functools
import io
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mmdata.rng import generator
from mmdata.types import MediaKind

Format = Literal["jpeg", "png", "webp", "gif", "tiff", "bmp", "wav", "flac", "mp3", "ogg", "mp4", "mkv", "webm", "avi"]
FORMATS: tuple[Format, ...] = get_args(Format)
IMAGES: tuple[Format, ...] = FORMATS[:6]
SOUNDS: tuple[Format, ...] = FORMATS[6:10]
FILMS: tuple[Format, ...] = FORMATS[10:]
RATE = 16_000
HEIGHT, WIDTH = 72, 96
_SOUND = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
_FILM = {
    "mp4": ("mp4", "libx264"),
    "mkv": ("matroska", "libx264"),
    "webm": ("webm", "libvpx"),
    "avi": ("avi", "mpeg4"),
}


def medium_of(format: Format) -> MediaKind:
    """`image`, `audio` or `video`."""
    return "image" if format in IMAGES else "audio" if format in SOUNDS else "video"


@functools.lru_cache(maxsize=1024)
def specimen(format: Format, seed: int = 0) -> bytes:
    """A whole file of the format: a picture of 96 x 72 pixels, 0.4 s of sound at 16 kHz, or 12 frames of 64 x 48.

    >>> specimen("png")[:4], specimen("wav")[:4], specimen("png", 1) == specimen("png", 2)
    (b'\\x89PNG', b'RIFF', False)
    """
    if format in IMAGES:
        return _picture(format, seed)
    return _sound(format, seed) if format in SOUNDS else _film(format, seed)


def field(seed: int, height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """A smooth field of colours with some grain, uint8 [height, width, 3]: unlike that of every other seed."""
    from PIL import Image

    random = generator(seed, "specimen")
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = random.integers(-12, 13, (height, width, 3), dtype=np.int16)
    return (smooth + grain).clip(0, 255).astype(np.uint8)


def _picture(format: Format, seed: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray(field(seed))
    out = io.BytesIO()
    if format == "gif":
        picture.quantize(64).save(out, "GIF")
    elif format == "tiff":
        picture.save(out, "TIFF", compression="tiff_lzw")
    else:
        picture.save(out, format.upper(), **({"quality": 85} if format in ("jpeg", "webp") else {}))
    return out.getvalue()


def _sound(format: Format, seed: int) -> bytes:
    import soundfile

    random = generator(seed, "specimen")
    time = np.arange(int(0.4 * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * float(random.uniform(150, 900)) * (1 + time) * time)
    wave += 0.05 * random.uniform(-1, 1, len(time))
    out = io.BytesIO()
    kind, subtype = _SOUND[format]
    soundfile.write(out, wave.astype(np.float32), RATE, format=kind, subtype=subtype)
    return out.getvalue()


def _film(format: Format, seed: int) -> bytes:
    import av

    whole = field(seed, 80, 112)
    out = io.BytesIO()
    kind, codec = _FILM[format]
    with av.open(out, "w", format=kind) as file:
        track: Any = file.add_stream(codec, rate=12)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.thread_count = 1
        track.codec_context.gop_size = 6
        if codec == "libx264":
            track.options = {"preset": "ultrafast"}
        for number in range(12):
            view = np.ascontiguousarray(whole[2 * number : 2 * number + 48, 3 * number : 3 * number + 64])
            file.mux(track.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        file.mux(track.encode())
    return out.getvalue()
