"""The same packets in another container, and videos encoded smaller and slower."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mmdata.decode.video import decode_frames
from mmdata.types import Media
from tests.decode.clips import clip
from tests.steps.footage import film
from tests.steps.given import build, record


def packets(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


def test_a_build(tmp_path: Path) -> None:
    mkv, mp4 = film(("cat", 20, 1), format="matroska", sound=True), film(("cat", 20, 1))
    steps = [{"kind": "video_encode"}]
    built = build(tmp_path, [record(mkv), record(mp4), record(Media(kind="video", data=b"no film"))], steps)
    assert built.reasons[:2] == ["", ""]
    assert built.ledger[2].state == "failed_permanent"
    moved, same = (sample.media[0] for sample in built.samples)
    assert same.data == mp4.data
    assert (moved.format, moved.frames, moved.channels) == ("mp4", 20, 1)
    assert np.array_equal(decode_frames(moved, range(20)).pixels, decode_frames(mkv, range(20)).pixels)
    steps = [{"kind": "video_encode", "mode": "encode", "longest": 64, "max_fps": 10}]
    smaller = build(tmp_path, [record(mkv)], steps, name="smaller").samples[0].media[0]
    assert (smaller.height, smaller.width, smaller.frames, smaller.channels) == (48, 64, 10, 1)
    assert smaller.fps == pytest.approx(10, abs=0.6)


def test_frames_of_one_time_are_moved(tmp_path: Path) -> None:
    times = tuple(at // 2 * 100 for at in range(12))
    double = clip(frames=12, times=times, base=Fraction(1, 1000), format="matroska", between=0)
    film = Media(kind="video", data=double)
    built = build(tmp_path, [record(film)], [{"kind": "video_encode"}])
    assert built.reasons == [""]
    moved = built.samples[0].media[0]
    assert packets(moved.data or b"") == packets(double)
    found, before = decode_frames(moved, range(12)), decode_frames(film, range(12))
    assert np.array_equal(found.pixels, before.pixels)
    assert found.seconds == pytest.approx(before.seconds, abs=2e-3)
