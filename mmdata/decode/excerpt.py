"""Taking a clip out of a video or of audio, and a page out of a document, as a medium of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from mmdata.decode import audio, demux, packets, video, video_pyav
from mmdata.errors import DataError, RunError
from mmdata.types import Clip, Media, Page

Wave = npt.NDArray[np.float32]
MAX_PIXELS = 178_956_970
TICKS = 90_000
"""Of a clip's clock, in a second."""
FRAME = 1024
"""Samples that AAC takes at a time."""
QUALITY = "18"
"""x264's constant rate factor: hardly to be told from the original."""
OVERSHOOT = 0.5
"""Seconds that a clip may reach beyond the end, and no more than half of it: manifests round their times. It is what
Kaldi's extract-segments allows."""
LATE = 0.125
"""Seconds by which sound may come after its picture before people notice (ITU-R BT.1359)."""
ROUNDING = 0.1
"""Seconds by which a list may be wrong about the length of a sound: figures are rounded, and encoders add silence."""


def taken(media: Media) -> Media:
    """The medium that an excerpt means, or the medium itself where there is none.

    Audio becomes FLAC of 16 bits at its own rate and channels, or one of these, sample for sample. Video is decoded and
    written again as H.264 (constant rate factor 18) with AAC sound, in MP4: its first frame is the first that is shown
    at or after `start`, its time 0; it is upright, an odd last row or column is cut off. Times are those of the file's
    own clock, for pictures and sound alike; where the sound begins later there is silence before it. A page becomes
    PNG.

    A clip that reaches beyond the end is shorter, if it is by no more than half of it and `OVERSHOOT` seconds. Raises
    DataError: `clip_beyond_end`, `bad_clip`, `encode`, `no_page`, `corrupt_pdf`, `encrypted_pdf`,
    `decompression_bomb`, and what reading audio and video raises.
    """
    excerpt = media.excerpt
    if excerpt is None:
        return media
    assert media.data is not None, media
    if isinstance(excerpt, Page):
        data = _page(media.data, excerpt)
    else:
        if excerpt.start < 0 or (excerpt.stop is not None and excerpt.stop <= excerpt.start):
            raise DataError("bad_clip", f"from {excerpt.start:g} s to {excerpt.stop} s")
        if excerpt.claimed and not _goes_on(media.data, excerpt):
            return replace(media, excerpt=None)
        data = _film(media.data, excerpt) if media.kind == "video" else _sound(media.data, excerpt)
    return replace(media, data=data, excerpt=None)


def _goes_on(data: bytes, clip: Clip) -> bool:
    """Whether there is more sound behind a clip; of what is none, the first step says so."""
    assert clip.stop is not None, clip
    try:
        with ExitStack() as stack:
            source = audio._open(data, stack)
            end = round((clip.stop + ROUNDING) * source.sample_rate)
            if source.samples is not None:
                return source.samples > end
            return any(block.shape[-1] for block in source.blocks(mono=True, first=end, last=end + 1))
    except DataError:
        return False


def _sound(data: bytes, clip: Clip) -> bytes:
    import soundfile

    with ExitStack() as stack:
        source = audio._open(data, stack)
        rate = source.sample_rate
        first, last = round(clip.start * rate), None if clip.stop is None else round(clip.stop * rate)
        if clip.channel is not None and clip.channel >= source.channels:
            raise DataError("bad_clip", f"channel {clip.channel} of {source.channels}, counted from 0")
        wave = _joined(source, first, last, mono=False)
    if clip.channel is not None:
        wave = wave[clip.channel : clip.channel + 1]
    if wave.shape[1] == 0:
        raise DataError("clip_beyond_end", f"the sound ends before {clip.start:g} s")
    _check_end(clip, (first + wave.shape[1]) / rate, "sound")
    out = io.BytesIO()
    integers = np.rint(wave.T.astype(np.float64).clip(-1, 32767 / 32768) * 32768).astype(np.int16)
    soundfile.write(out, integers, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _check_end(clip: Clip, end: float, what: str) -> None:
    """Raise `clip_beyond_end` for a clip of which more is missing than rounded times explain: what is said or seen
    there is part of its text."""
    beyond = 0.0 if clip.stop is None else clip.stop - end
    if clip.stop is not None and beyond > max(1e-3, min(OVERSHOOT, (clip.stop - clip.start) / 2)):
        raise DataError("clip_beyond_end", f"the {what} ends at {end:g} s, and the clip {beyond:g} s later")


def _film(data: bytes, clip: Clip) -> bytes:
    with closing(video_pyav.Reader(data, None, threads=1, limits=demux.LIMITS)) as reader:
        order, seconds = packets.shown(reader.table), packets.seconds(reader.table)
        within = (seconds >= clip.start) & (seconds < (np.inf if clip.stop is None else clip.stop))
        wanted = np.flatnonzero(within)
        if not len(wanted):
            detail = f"no frame is shown from {clip.start:g} s to {clip.stop} s"
            raise DataError(
                "clip_beyond_end", f"{detail}; the first is at {seconds[0]:g} s, the last at {seconds[-1]:g} s"
            )
        first = float(seconds[wanted[0]])
        # Frames of one time follow each other by a tick: encoders want times that rise.
        steps = np.arange(len(wanted))
        times = np.rint((seconds[wanted] - first) * TICKS).astype(np.int64)
        times = np.maximum.accumulate(times - steps) + steps
        sound, end = None, reader.end()
        if reader.sound() is not None:
            # What is heard goes with the first frame, unless nobody would notice.
            start = clip.start if first - clip.start <= LATE else first
            sound, quiet = _heard(data, start, clip.stop)
            end = max(end, quiet)
        _check_end(clip, end, "film")
        with demux.guarded("encode"):
            return _written(video._in_order(reader, order[wanted].tolist(), None), times, sound)


def _written(
    shown: Iterator[npt.NDArray[np.uint8]], times: npt.NDArray[np.int64], sound: tuple[Wave, int] | None
) -> bytes:
    """Pictures at `times`, in ticks, and their sound as MP4."""
    out = io.BytesIO()
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    rate = Fraction(TICKS, round(spacing)).limit_denominator(1001) if spacing >= 1 else Fraction(25)
    # No time of writing and no version of the encoder in the file: the same clip has the same bytes.
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as made:
        track = _video_track(made, rate)
        voice = None if sound is None else _sound_track(made, *sound)
        for at, (pixels, time) in enumerate(zip(shown, times.tolist(), strict=True)):
            height, width = (side // 2 * 2 for side in pixels.shape[:2])
            if min(height, width) == 0:
                raise DataError("bad_clip", f"frames of {pixels.shape[1]}x{pixels.shape[0]} pixels")
            if at == 0:
                track.height, track.width = height, width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, TICKS)
            made.mux(track.encode(frame))
        made.mux(track.encode(None))
        if voice is not None and sound is not None:
            for piece in _pieces(*sound):
                made.mux(voice.encode(piece))
            made.mux(voice.encode(None))
    return out.getvalue()


def _video_track(made: Any, rate: Fraction) -> Any:
    track = made.add_stream("libx264", rate=rate)
    track.pix_fmt = "yuv420p"
    context = track.codec_context
    context.time_base, context.thread_count = Fraction(1, TICKS), 1
    context.flags |= av.codec.context.Flags.bitexact.value
    # The same bytes on every processor, and from every call: x264's AVX-512 code makes others with each.
    exact = "threads=1:cpu-independent=1:log-level=error"
    track.options = {"crf": QUALITY, "preset": "veryfast", "x264-params": exact}
    return track


def _sound_track(made: Any, wave: Wave, rate: int) -> Any:
    track = made.add_stream("aac", rate=rate, layout="mono" if len(wave) == 1 else "stereo")
    track.codec_context.flags |= av.codec.context.Flags.bitexact.value
    return track


def _heard(data: bytes, start: float, stop: float | None) -> tuple[tuple[Wave, int] | None, float]:
    """What is heard from `start` to `stop` seconds of a film: float32 [1 or 2, samples] (more channels become one) and
    its rate, None where nothing is; and when the last of it is."""
    with ExitStack() as stack:
        source = audio._open(data, stack)
        rate, begun = source.sample_rate, audio.begun(source)
        first, last = round((start - begun) * rate), None if stop is None else round((stop - begun) * rate)
        wave = _joined(source, max(first, 0), None if last is None else max(last, 0), mono=source.channels > 2)
    silent = (0 if last is None else min(last, 0)) - min(first, 0)  # samples before the sound begins
    if silent * wave.shape[0] > audio.MAX_VALUES:
        raise DataError("audio_too_long", f"the sound begins {-first / rate:,.0f} s after the clip")
    if silent:
        wave = np.pad(wave, ((0, 0), (silent, 0)))
    return ((wave, rate) if wave.shape[1] else None), begun + (first + wave.shape[1]) / rate


def _joined(source: audio._Source, first: int, last: int | None, *, mono: bool) -> Wave:
    """Samples first <= i < last: float32 [1 or channels, samples]."""
    found = source.blocks(mono=mono, first=first, last=last)
    blocks = [np.atleast_2d(audio.checked(source, block)) for block in found]
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((1 if mono else source.channels, 0), np.float32)


def _pieces(wave: Wave, rate: int) -> Iterator[Any]:
    for at in range(0, wave.shape[1], FRAME):
        piece = np.ascontiguousarray(wave[:, at : at + FRAME])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono" if len(wave) == 1 else "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        yield frame


def _page(data: bytes, page: Page) -> bytes:
    try:
        import pypdfium2 as pdfium
    except ImportError as error:  # the source has looked; this is another environment
        raise RunError(f"PDF pages are rendered by pypdfium2: pip install 'mmdata[pdf]' ({error})") from error
    try:
        document = pdfium.PdfDocument(data)
        try:
            if not 0 <= page.number < len(document):
                raise DataError("no_page", f"page {page.number} of {len(document)}")
            sheet = document[page.number]
            width, height = (side * page.dpi / 72 for side in sheet.get_size())
            if width * height > MAX_PIXELS:
                raise DataError("decompression_bomb", f"{width:,.0f}x{height:,.0f} pixels at {page.dpi} dpi")
            picture = sheet.render(scale=page.dpi / 72).to_pil().convert("RGB")
        finally:
            document.close()
    except pdfium.PdfiumError as error:
        encrypted = "password" in str(error).lower() or "security" in str(error).lower()
        raise DataError("encrypted_pdf" if encrypted else "corrupt_pdf", " ".join(str(error).split())) from error
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()
