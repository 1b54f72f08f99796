"""What steps do with videos: look at a few frames a second, and write clips of them as MP4."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError
from mmdata.native import pillow
from mmdata.steps._sounds import Wave, rate_of, waveform
from mmdata.types import Media, Packets, Sample

Pixels = npt.NDArray[np.uint8]
CHUNK = 8  # Frames decoded ahead.
BASE = 90_000  # Ticks of a second in what is written.
AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


def videos(sample: Sample) -> Iterator[Media]:
    return (media for media in sample.media if media.kind == "video")


def with_facts(media: Media) -> Media:
    """The video with its packet table, size and length."""
    if media.packets is not None and media.height is not None:
        return media
    from mmdata.decode import video_facts

    assert media.data is not None, media
    found = video_facts.read_facts(media.data)
    return replace(found, data=media.data, uri=media.uri, role=media.role, marks=media.marks, sha256=media.sha256)


def table(media: Media) -> Packets:
    """Its packet table."""
    packets = with_facts(media).packets
    assert packets is not None, media
    return packets


def times(media: Media) -> npt.NDArray[np.float64]:
    """When each frame is shown, in seconds from the first: f64[frames]."""
    from mmdata.decode import packets

    found = packets.seconds(table(media))
    made: npt.NDArray[np.float64] = found - found[0] if len(found) else found
    return made


def heard(media: Media, *, sample_rate: int, mono: bool = True) -> Wave:
    """The sound of a video from when its first frame is shown, silence where it begins later: float32 [samples], or
    [channels, samples] without `mono`. Raises DataError as `decode.audio.decode` does."""
    from mmdata.decode import audio, packets

    assert media.data is not None, media
    wave = waveform(media, sample_rate=sample_rate, mono=mono)
    shown = packets.seconds(table(media))
    late = audio.begins(media.data) - (float(shown[0]) if len(shown) else 0.0)
    if late > audio.MAX_SECONDS:
        raise DataError("audio_too_long", f"the sound begins {late:,.0f} s after the pictures")
    ahead = round(late * sample_rate)
    if ahead <= 0:
        return wave[..., -ahead:]
    return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(ahead, 0)])


def every(media: Media, rate: float) -> list[int]:
    """The frames that are shown at 0, 1/rate, 2/rate, ... seconds, each once."""
    shown = times(media)
    wanted = np.arange(0.0, float(shown[-1]) + 1e-9, 1 / rate) if len(shown) else np.zeros(0)
    places = np.searchsorted(shown, wanted + 1e-6, side="right") - 1
    return [int(place) for place in np.unique(places)]


def pictures(media: Media, frames: list[int] | None = None) -> Iterator[Pixels]:
    """These frames (ascending), or all: uint8 [H, W, 3], in the memory of a few. Raises DataError as
    `decode.video.iter_frames` does."""
    from mmdata.decode.video import iter_frames

    for _, piece in iter_frames(media, frames, chunk=CHUNK, packets=table(media)):
        yield from piece.pixels.permute(0, 2, 3, 1).numpy()


def clip(
    media: Media, start: int, stop: int, *, frames: list[int] | None = None, longest: int | None = None, crf: int = 18
) -> Media:
    """Frames start <= i < stop of a video, with the sound that goes with them, as MP4 (H.264 4:2:0, AAC): upright, its
    first frame shown at 0. `frames` are those of them that are kept (default: all), `longest` the longer side to which
    larger ones are reduced. An odd last row or column is cut off. Raises DataError `encode`, and what reading
    raises."""
    import av

    from mmdata.decode import demux

    shown = times(media)
    kept = [at for at in (range(start, stop) if frames is None else frames) if start <= at < stop]
    length = (with_facts(media).seconds or 0.0) if stop >= len(shown) else float(shown[stop])
    # Frames of one time follow each other by a tick: encoders want times that rise.
    steps = np.arange(len(kept))
    ticks = [round((float(shown[at]) - float(shown[start])) * BASE) for at in kept]
    ticks = (np.maximum.accumulate(np.array(ticks, np.int64) - steps) + steps).tolist()
    lasting = round(float(np.median(np.diff([*shown[kept], length]))) * BASE) if kept else 0
    out = io.BytesIO()
    with demux.guarded("encode"), av.open(out, "w", format="mp4") as file:
        file.flags |= 0x400  # AVFMT_FLAG_BITEXACT: no version or date in the file
        track: Any = None
        voice, wave = _voice(file, media, float(shown[start]), length)
        for tick, pixels in zip(ticks, pictures(media, kept), strict=True):
            pixels = _sized(pixels, longest)
            if track is None:
                track = _track(file, pixels, crf)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, BASE)
            _mux(file, track.encode(frame), lasting)
        if track is not None:
            _mux(file, track.encode(), lasting)
        if voice is not None:
            for packet in _coded(voice, wave):
                file.mux(packet)
    made = Media(kind="video", data=out.getvalue(), uri=media.uri, role=media.role, sha256=media.sha256)
    return replace(with_facts(made), verified="none")


def _mux(file: Any, packets: Any, lasting: int) -> None:
    for packet in packets:
        packet.duration = lasting  # Of the last one, which no other tells.
        file.mux(packet)


def _sized(pixels: Pixels, longest: int | None) -> Pixels:
    height, width = pixels.shape[:2]
    if longest is not None and max(height, width) > longest:
        scale = longest / max(height, width)
        tall, wide = (max(2, round(side * scale / 2) * 2) for side in (height, width))
        return pillow.resize(pixels, tall, wide, "bicubic", 2.0)
    return pixels[: height // 2 * 2, : width // 2 * 2]


def _track(file: Any, pixels: Pixels, crf: int) -> Any:
    track = file.add_stream("libx264", rate=30)
    track.height, track.width, track.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
    track.time_base = track.codec_context.time_base = Fraction(1, BASE)
    track.codec_context.thread_count = 1  # With more threads the bytes would depend on the machine.
    # x264's AVX-512 code makes other bytes than its AVX2 code, and other ones from one call to the next.
    track.options = {"crf": str(crf), "preset": "fast", "x264-params": "threads=1:cpu-independent=1"}
    return track


def _voice(file: Any, media: Media, start: float, stop: float) -> tuple[Any, Wave]:
    if not with_facts(media).channels:
        return None, np.zeros((1, 0), np.float32)
    rate = rate_of(with_facts(media))
    rate = rate if rate in AAC_RATES else 48_000
    wave = heard(media, sample_rate=rate, mono=False)
    if wave.shape[0] > 2:
        wave = wave.mean(axis=0, keepdims=True)
    voice = file.add_stream("aac", rate=rate, layout="mono" if wave.shape[0] == 1 else "stereo")
    return voice, wave[:, round(start * rate) : round(stop * rate)]


def _coded(voice: Any, wave: Wave) -> Iterator[Any]:
    import av

    size = voice.codec_context.frame_size or 1024
    for at in range(0, wave.shape[1], size):
        piece = np.ascontiguousarray(wave[:, at : at + size])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=voice.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = voice.rate, at, Fraction(1, voice.rate)
        yield voice.encode(frame)
    yield voice.encode(None)
