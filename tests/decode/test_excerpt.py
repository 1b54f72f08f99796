"""Clips and pages taken out of their files, held against decoding the whole."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from mmdata.decode import audio, video
from mmdata.decode.excerpt import taken
from mmdata.errors import DataError
from mmdata.steps import _films
from mmdata.types import Clip, Media, Page
from tests.decode import clips

DOUBLE: dict[str, Any] = {"format": "matroska", "between": 0}
"""What can hold frames of one time."""


def wav(seconds: float = 1.0, channels: int = 1) -> bytes:
    count = int(16_000 * seconds)
    wave = np.stack([np.round(8000 * np.sin(np.arange(count) / (7 + n))).astype(np.int16) for n in range(channels)], 1)
    out = io.BytesIO()
    soundfile.write(out, wave, 16_000, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_segment_is_its_samples(channels: int) -> None:
    data = wav(channels=channels)
    made = taken(Media(kind="audio", data=data, excerpt=Clip(start=0.25, stop=0.5)))
    assert made.excerpt is None
    whole, _ = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    found, rate = soundfile.read(io.BytesIO(made.data or b""), dtype="int16", always_2d=True)
    assert rate == 16_000
    assert np.array_equal(found, whole[4000:8000])
    last = taken(Media(kind="audio", data=data, excerpt=Clip(start=0.25, stop=0.5, channel=channels - 1)))
    assert np.array_equal(soundfile.read(io.BytesIO(last.data or b""), dtype="int16")[0], whole[4000:8000, -1])
    with pytest.raises(DataError, match=f"channel {channels} of {channels}"):
        taken(Media(kind="audio", data=data, excerpt=Clip(start=0.25, stop=0.5, channel=channels)))
    rest = taken(Media(kind="audio", data=data, excerpt=Clip(start=0.9)))
    assert audio.read_facts(rest.data or b"").samples == 1600
    assert taken(Media(kind="audio", data=data)).data is data


@pytest.mark.parametrize("size", [(144, 176), (240, 320)])
def test_a_clip_has_the_same_bytes_whatever_lay_in_memory(size: tuple[int, int]) -> None:
    film = clips.noise(*size)
    made = set()
    for at in range(6):
        _ = [np.random.default_rng(at).bytes(10_000 * (at + size)) for size in range(20)]
        made.add(taken(Media(kind="video", data=film, excerpt=Clip(start=0.1, stop=1.0))).data)
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["cfr", "vfr", "late start", "open gop", "odd size", "sound"])
def test_a_clip_is_its_frames(kind: str) -> None:
    data = clips.clip(**clips.KINDS[kind])
    whole = video.decode_frames(data, list(range(40)))
    times = whole.seconds.tolist() if hasattr(whole.seconds, "tolist") else list(whole.seconds)
    made = taken(Media(kind="video", data=data, excerpt=Clip(start=times[10] - 1e-4, stop=times[25] - 1e-4)))
    found = video.decode_frames(made.data or b"", list(range(15)))
    with pytest.raises(DataError, match="frame_out_of_range"):
        video.decode_frames(made.data or b"", [15])
    shown = np.asarray(found.seconds) - (np.asarray(times[10:25]) - times[10])
    assert np.abs(shown).max() < 1e-4
    height, width = found.pixels.shape[-2:]
    theirs = np.asarray(whole.pixels)[10:25, :, :height, :width].astype(float)
    error = ((np.asarray(found.pixels).astype(float) - theirs) ** 2).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / error.max()) > 30
    again = taken(Media(kind="video", data=data, excerpt=Clip(start=times[10] - 1e-4, stop=times[25] - 1e-4)))
    assert again.data == made.data, "the same clip has the same bytes"
    if kind == "sound":
        heard = audio.read_facts(made.data or b"")
        assert abs((heard.seconds or 0) - (times[25] - times[10])) < 0.1


def loud(data: bytes, start: float, stop: float) -> float:
    """Share of the samples from `start` to `stop` seconds that are heard."""
    wave, rate = audio.first_samples(data, 60)
    return float((np.abs(wave[round(start * rate) : round(stop * rate)]) > 0.05).mean())


@pytest.mark.parametrize(("format", "codec", "pictures", "sound"), clips.BEEPING)
def test_sound_is_that_of_the_pictures_by_the_files_clock(
    format: str, codec: str, pictures: float, sound: float
) -> None:
    film = Media(kind="video", data=clips.beeping(format, codec, pictures=pictures, sound=sound))
    begin = max(2.0, sound - pictures)  # of the tone
    made = taken(replace(film, excerpt=Clip(start=pictures + 2, stop=pictures + 3))).data or b""
    assert loud(made, begin - 1.95, 0.95) > 0.9
    assert loud(made, 0, begin - 2.05) < 0.05 or begin == 2
    before = taken(replace(film, excerpt=Clip(start=pictures, stop=pictures + 1))).data or b""
    assert loud(before, 0, 0.9) == 0
    assert audio.read_facts(before).seconds == pytest.approx(1, abs=0.1), "silence where the sound has not begun"
    whole = taken(replace(film, excerpt=Clip(start=0, stop=pictures + 4))).data or b""
    assert loud(whole, begin + 0.05, 2.95) > 0.9, "sound that precedes the pictures is no part of a clip"
    assert loud(whole, 0, begin - 0.05) < 0.05
    assert loud(whole, 3.05, 4) < 0.05


def test_frames_of_one_time_stay_one_by_one() -> None:
    film = clips.clip(frames=12, times=tuple(at // 2 * 100 for at in range(12)), base=Fraction(1, 1000), **DOUBLE)
    made = taken(Media(kind="video", data=film, excerpt=Clip(start=0.1, stop=0.5))).data or b""
    found, whole = video.decode_frames(made, list(range(8))), video.decode_frames(film, list(range(2, 10)))
    assert found.seconds == pytest.approx(whole.seconds - 0.1, abs=1e-4)
    error = (found.pixels.float() - whole.pixels.float()).square().mean(dim=(1, 2, 3))
    assert 10 * np.log10(255**2 / float(error.max())) > 30


@pytest.mark.parametrize(
    ("start", "stop", "kept"),
    [(0.0, 1.4, True), (0.0, 1.6, False), (0.9, 1.05, True), (0.9, 1.2, False), (0.5, 9.0, False), (0.5, None, True)],
)
def test_a_clip_may_reach_a_little_beyond_the_end(start: float, stop: float | None, kept: bool) -> None:
    """Both last one second."""
    media = (Media(kind="audio", data=wav()), Media(kind="video", data=clips.clip(frames=30)))
    for one in media:
        excerpt = Clip(start=start, stop=stop)
        if not kept:
            with pytest.raises(DataError, match=r"clip_beyond_end: the (sound|film) ends at 1 s, and the clip"):
                taken(replace(one, excerpt=excerpt))
            continue
        made = taken(replace(one, excerpt=excerpt)).data or b""
        found = (audio if one.kind == "audio" else video).read_facts(made)
        assert found.seconds == pytest.approx(1 - start, abs=0.05)


def test_a_film_lasts_as_long_as_its_sound() -> None:
    film = Media(kind="video", data=clips.beeping("matroska", lasting=6.0))
    made = taken(replace(film, excerpt=Clip(start=2, stop=6))).data or b""
    assert audio.read_facts(made).seconds == pytest.approx(4, abs=0.05)
    with pytest.raises(DataError, match=r"clip_beyond_end: the film ends at 6\.0"):
        taken(replace(film, excerpt=Clip(start=2, stop=7)))
    late = Media(kind="video", data=clips.beeping("mpegts", pictures=5, sound=5), excerpt=Clip(start=2, stop=3))
    with pytest.raises(DataError, match=r"the first is at 5 s, the last at 8\.9 s"):
        taken(late)


def test_what_h264_cannot_hold_is_told() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        track: Any = file.add_stream("ffv1", rate=10)
        track.width, track.height, track.pix_fmt = 17_000, 16, "yuv420p"
        for _ in range(2):
            file.mux(track.encode(av.VideoFrame.from_ndarray(np.zeros((16, 17_000, 3), np.uint8), format="rgb24")))
        file.mux(track.encode())
    wide = Media(kind="video", data=out.getvalue())
    for make in (lambda: taken(replace(wide, excerpt=Clip(start=0))), lambda: _films.clip(wide, 0, 2)):
        with pytest.raises(DataError) as caught:
            make()
        assert caught.value.reason == "encode"


def test_what_is_not_there_is_told() -> None:
    film = clips.clip(frames=10, rate=Fraction(30))
    for kind, data, excerpt, reason in (
        ("audio", wav(), Clip(start=2.0), "clip_beyond_end"),
        ("audio", wav(), Clip(start=0.5, stop=0.25), "bad_clip"),
        ("audio", b"no sound at all", Clip(start=0.0), None),
        ("video", film, Clip(start=9.0, stop=10.0), "clip_beyond_end"),
        ("video", film, Clip(start=-1.0), "bad_clip"),
        ("image", b"%PDF-1.4 cut", Page(number=0, dpi=72), "corrupt_pdf"),
    ):
        with pytest.raises(DataError) as caught:
            taken(Media(kind=kind, data=data, excerpt=excerpt))  # type: ignore[arg-type]
        assert reason in (None, caught.value.reason)
