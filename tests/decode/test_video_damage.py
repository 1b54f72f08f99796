"""Damaged and lying videos: every one ends as a named DataError, quickly and in bounded memory."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import av
import pytest

from mmdata.decode import container, video
from mmdata.errors import DataError
from tests.decode.clips import clip, sound_only
from tests.decode.pictures import photo as picture
from tests.decode.pictures import save

ENDS = ("mp4", "matroska", "webm", "avi", "flv", "mpegts")


def whole(format: str) -> bytes:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(format, "libx264")
    return clip(format=format, codec=codec, height=192, width=256, frames=30)


def use(data: bytes) -> str:
    """All that is done with a video; answers how it ended."""
    try:
        facts = video.read_facts(data, verify="full")
        assert facts.frames is not None
        frames = video.decode_frames(data, [0, facts.frames - 1], packets=facts.packets)
    except DataError as error:
        return error.reason if error.detail else f"{error.reason} without a detail"
    assert len(frames.pixels) == 2
    return "ok"


@pytest.mark.parametrize("format", ENDS)
def test_cut_at_every_kilobyte(format: str) -> None:
    data = whole(format)
    assert use(data) == "ok"
    ends = {use(data[:size]) for size in range(1024, len(data), 1024)}
    assert ends <= {"truncated_video", "corrupt_video", "bad_header", "no_frames"}
    assert "truncated_video" in ends
    if format in ("mp4", "matroska", "webm", "avi"):
        assert {use(data[:-1]), use(data[: len(data) // 2])} == {"truncated_video"}


@pytest.mark.parametrize("format", ENDS)
def test_flipped_bits(format: str) -> None:
    data = whole(format)
    picks = random.Random(format)
    ends = []
    for number in range(60):
        damaged = bytearray(data)
        region = (len(data), 2000)[number % 2]
        for _ in range(picks.choice([1, 3, 30])):
            place = picks.randrange(region)
            damaged[place if number % 4 < 2 else -1 - place] ^= 1 << picks.randrange(8)
        ends.append(use(bytes(damaged)))
    assert sum(end != "ok" for end in ends) >= 8  # VP8 has no syntax to break.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0", "not_a_video"),
        (b"<!doctype html><html>no such video</html>", "html_not_video"),
        (b'{"error": 404}', "not_a_video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not_a_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_a_video"),
        (b"ID3" + bytes(200), "not_a_video"),
        (bytes(4) + b"ftypisom" + bytes(100), "truncated_video"),
        (b"\x00\x00\x00\x14ftypisom" + bytes(8), "truncated_video"),
        (b"\x1aE\xdf\xa3\x84" + bytes(4), "truncated_video"),
        (b"\x1aE\xdf\xa3" + b"\xff" * 40, "corrupt_video"),
        (b"FLV\x01\x05\0\0\0\x09", "truncated_video"),
        (b"G" + bytes(187), "corrupt_video"),
        (b"\0\0\1\xba" + bytes(300), "corrupt_video"),
        (b"\0\0\1\xb3" + bytes(300), "bad_header"),
    ],
)
def test_what_is_no_video(data: bytes, reason: str) -> None:
    assert use(data) == reason


def test_pictures_are_not_videos() -> None:
    for format in ("JPEG", "AVIF", "GIF"):
        assert use(save(picture(), format)) == "not_a_video"


def test_random_bytes_behind_every_magic() -> None:
    picks = random.Random(0)
    for format in ENDS:
        for kept in (16, 64, 300, 1000):
            assert use(whole(format)[:kept] + picks.randbytes(5000)) != "ok"


def box(data: bytes, *path: bytes) -> int:
    """Where the payload of a box begins."""
    at = 0
    for kind in path:
        at = data.index(kind, at) + 4
    return at


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


HUGE = struct.pack(">I", 0x7FFFFFFF)


def test_counts_that_lie() -> None:
    data = clip()
    sizes = box(data, b"moov", b"stsz")
    for lie, reason in (
        (patched(data, sizes + 8, HUGE), "corrupt_video"),
        (patched(data, sizes + 4, struct.pack(">II", 1, 0x7FFFFFFF)), "corrupt_video"),
        (patched(data, box(data, b"moov", b"stts") + 4, HUGE), "corrupt_video"),
        (patched(data, box(data, b"moov", b"ctts") + 4, HUGE), "corrupt_video"),
        (patched(data, box(data, b"moov", b"stco") + 8, HUGE), "truncated_video"),
        (patched(data, box(data, b"moov") - 8, HUGE), "truncated_video"),
        (patched(data, box(data, b"moov") - 8, bytes(3) + b"\4"), "corrupt_video"),
    ):
        assert use(lie) == reason


def test_sizes_that_lie_cost_no_memory() -> None:
    """A header that claims 16,384 x 16,384, in a process that reports its peak."""
    code = """
        import resource, sys
        from mmdata.decode import video_facts
        from mmdata.errors import DataError
        from tests.decode.clips import clip
        data = clip(height=96, width=128)
        at = data.index(b"avc1") + 4 + 24
        lie = data[:at] + (16384).to_bytes(2, "big") * 2 + data[at + 4:]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for size in (lie, data[:40] + lie[40:]):
            try:
                print(video_facts.read_facts(size, verify="full").height)
            except DataError as error:
                print(error.reason)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    *answers, grown = done.stdout.split()
    assert set(answers) <= {"decompression_bomb", "corrupt_video", "bad_header", "96"}
    assert int(grown) < 200


def test_an_avi_that_declares_frames_and_holds_none() -> None:
    data = clip(format="avi", codec="mpeg4")
    movi = data.index(b"movi")
    header = patched(data[: movi + 4], data.index(b"avih") + 8 + 16, struct.pack("<I", 50_000))
    empty = patched(patched(header, movi - 4, struct.pack("<I", 4)), 4, struct.pack("<I", len(header) - 8))
    assert use(empty) in ("no_frames", "no_video")


def test_a_video_of_which_only_the_sound_decodes() -> None:
    data = bytearray(clip(sound=True, format="matroska"))
    with av.open(io.BytesIO(bytes(data))) as file:
        payloads = [bytes(packet) for packet in file.demux(file.streams.video[0]) if packet.size]
    for payload in payloads:
        at = data.find(payload)
        data[at : at + len(payload)] = bytes(len(payload))
    assert use(bytes(data)) in ("no_frames", "corrupt_video", "missing_frames")
    assert len(video.read_audio_track(bytes(data))) > 10_000


def test_only_sound_is_no_video() -> None:
    assert use(sound_only()) == "no_video"


def test_formats_are_told_from_bytes() -> None:
    found = {format: container.video_format(whole(format)) for format in ENDS}
    assert found == {"mp4": "mp4", "matroska": "mkv", "webm": "webm", "avi": "avi", "flv": "flv", "mpegts": "ts"}
    assert container.video_format(clip(format="mov")) == "mov"
    assert container.video_format(clip(format="mpeg", codec="mpeg2video")) == "mpg"
    assert container.video_format(bytes(4) + b"moov") == "mov"


@pytest.mark.parametrize("tail", [b"junk" * 100, b"\xff" * 50, b"<html></html>", b"\r\n", b"\0\0\0\1name" + bytes(20)])
def test_bytes_behind_a_whole_mp4_are_passed_over(tail: bytes) -> None:
    """FFmpeg reads such files, as readers of pictures do theirs; a box that is known and cut is told all the same."""
    data = whole("mp4")
    assert use(data + tail) == "ok"
    for kind in (b"mdat", b"moof", b"free", b"uuid"):
        assert use(data + struct.pack(">I", 100) + kind + bytes(20)) == "truncated_video"
    assert use(data[: data.index(b"moov") - 4] + tail) in ("truncated_video", "corrupt_video")
