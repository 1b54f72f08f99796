"""Clips and pages taken out of their files, held against decoding the whole."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from mmdata.decode import audio, video
from mmdata.decode.excerpt import taken
from mmdata.errors import DataError
from mmdata.types import Clip, Media, Page
from tests.decode import clips


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
