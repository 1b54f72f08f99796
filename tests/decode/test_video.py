from __future__ import annotations

import gc
import io
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tvf

from mmdata.decode import demux, packets, video, video_pyav
from mmdata.errors import DataError, SpecError
from mmdata.types import Media, Packets
from tests.decode.clips import KINDS, VFR, clip, truth

GUESSED = ("h264 in avi", "mpeg4 in avi")
"""AVI has no times of presentation: FFmpeg guesses, we count."""


def hwc(frames: video.Frames) -> np.ndarray[Any, Any]:
    return frames.pixels.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_in_any_order_are_those_of_decoding_everything(kind: str) -> None:
    data = clip(**KINDS[kind])
    times, keys, pixels = truth(data)
    table = video.read_packets(data)
    assert len(packets.shown(table)) == len(pixels)
    assert video.keyframes(table).tolist() == np.flatnonzero(keys).tolist()
    picks = random.Random(kind)
    for wanted in (
        [0],
        [len(pixels) - 1],
        [7, 3, 7, 39, 0],
        picks.choices(range(len(pixels)), k=9),
        range(len(pixels)),
    ):
        for known in (None, table):
            frames = video.decode_frames(data, wanted, packets=known)
            assert frames.pixels.dtype == torch.uint8
            assert frames.seconds.dtype == np.float64
            np.testing.assert_array_equal(hwc(frames), pixels[list(wanted)])
            expected = [index / 30 for index in wanted] if kind in GUESSED else [times[index] for index in wanted]
            np.testing.assert_allclose(frames.seconds, np.array(expected, float), atol=1e-9)


def test_frames_are_the_same_from_bytes_path_and_media(tmp_path: Path) -> None:
    data = clip()
    path = tmp_path / "a b.mp4"
    path.write_bytes(data)
    table = video.read_packets(path)
    expected = video.decode_frames(data, [5, 30]).pixels
    sources = (path, str(path), Media(kind="video", data=data, packets=table), Media(kind="video", uri=path.as_uri()))
    for source in sources:
        assert torch.equal(video.decode_frames(source, [5, 30]).pixels, expected)
    assert torch.equal(video.decode_frames(data, [5, 30], threads=2).pixels, expected)
    for source, reason in ((tmp_path / "none.mp4", "media_unreadable"), (Media(kind="video"), "no_bytes")):
        with pytest.raises(DataError, match=reason):
            video.decode_frames(source, [0])


def test_layout_and_no_frames() -> None:
    frames = video.decode_frames(clip(), [])
    assert frames.pixels.shape == (0, 3, 96, 128)
    assert len(frames.seconds) == 0
    assert video.decode_frames(clip(), [1, 2]).pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("index", [-1, 40, 10**9])
def test_a_frame_that_is_not_there(index: int) -> None:
    with pytest.raises(DataError, match=f"frame_out_of_range: frame {index} of a video of 40 frames"):
        video.decode_frames(clip(), [0, index])


@pytest.mark.parametrize("rotate", [90, 180, -90])
def test_rotated_video_comes_upright(rotate: int) -> None:
    data = clip(rotate=rotate)
    _, _, stored = truth(data)
    upright = np.rot90(stored, k=rotate // 90, axes=(1, 2))  # FFmpeg's angle is counterclockwise, as numpy's.
    np.testing.assert_array_equal(hwc(video.decode_frames(data, range(40))), upright)
    np.testing.assert_array_equal(hwc(video.decode_frames(data, [7])), upright[7:8])
    np.testing.assert_array_equal(hwc(next(video.iter_frames(data, chunk=1))[1]), upright[:1])
    facts = video.read_facts(data)
    assert (facts.height, facts.width) == upright.shape[1:3]


@pytest.mark.parametrize("rotate", [90, 180, -90])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1)])
def test_rotated_video_of_one_row_or_column(size: tuple[int, int], rotate: int) -> None:
    data = clip(frames=2, height=size[0], width=size[1], codec="libvpx-vp9", format="matroska", rotate=rotate)
    upright = np.rot90(truth(data)[2], k=rotate // 90, axes=(1, 2))
    for wanted in ([0], [1, 0]):
        np.testing.assert_array_equal(hwc(video.decode_frames(data, wanted)), upright[wanted])
        found = video.decode_frames(data, wanted, size=upright.shape[1:3])
        np.testing.assert_array_equal(hwc(found), upright[wanted])
        assert video.decode_frames(data, wanted, size=(5, 7)).pixels.shape[2:] == (5, 7)
    np.testing.assert_array_equal(hwc(next(video.iter_frames(data, chunk=1))[1]), upright[:1])


@pytest.mark.parametrize("signs", itertools.product([-1, 1], [-1, 1], [False, True]))
def test_display_matrices(signs: tuple[int, int, bool]) -> None:
    """Every quarter turn and mirroring, against the definition: pixel (x, y) goes to (ax + cy, bx + dy)."""
    first, second, swap = signs
    a, b, c, d = (0, first, second, 0) if swap else (first, 0, 0, second)
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    placed = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(2) for x in range(3)}
    left, top = (min(place[axis] for place in placed) for axis in (0, 1))
    turned = video_pyav._upright(pixels, (a, b, c, d))
    for (x, y), value in placed.items():
        np.testing.assert_array_equal(turned[y - top, x - left], value)


def test_resizing_is_torchvisions() -> None:
    whole = video.decode_frames(clip(), [3, 9]).pixels
    small = video.decode_frames(clip(), [3, 9], size=(50, 77)).pixels
    expected = tvf.resize(whole, [50, 77], interpolation=tvf.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(small, expected)
    assert torch.equal(video.decode_frames(clip(), [3, 9], size=(96, 128)).pixels, whole)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(("size", "rotate"), [((96, 128), 0), ((96, 128), 180), ((128, 96), 90), ((48, 64), 0)])
def test_frames_of_any_size_are_kept_while_others_come(size: tuple[int, int], rotate: int, chunk: int) -> None:
    """Also those that have the size that is asked for, and are not resized."""
    data = clip(frames=6, rotate=rotate)
    pieces = [frames.pixels for _, frames in video.iter_frames(data, chunk=chunk, size=size)]
    assert torch.equal(torch.cat(pieces), video.decode_frames(data, range(6), size=size).pixels)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_decode_all_that_is_needed_and_no_whole_gop_too_many(data: st.DataObject) -> None:
    """Against the rule spelt out: start at the last key that is shown no later, feed all that is not disposable."""
    count = data.draw(st.integers(1, 30))
    pts = np.array(data.draw(st.permutations(range(count))))
    flags = np.array(data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=count, max_size=count)), np.uint8)
    table = Packets(time_base=(1, 1), pts=pts, flags=flags)
    wanted = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    needed = set()
    for packet in wanted:
        start = max([at for at in range(packet + 1) if flags[at] & 1 and pts[at] <= pts[packet]], default=0)
        needed |= {at for at in range(start, packet + 1) if not flags[at] & 2 or at in wanted}
    found = packets.windows(table, sorted(wanted))
    fed = [at for window in found for at in (window.start + np.flatnonzero(window.feed)).tolist()]
    assert fed == sorted(set(fed))
    assert needed <= set(fed)
    assert all(earlier.stop < later.start for earlier, later in itertools.pairwise(found))
    extra = set(fed) - needed  # Only where one start lies inside what another needs anyway.
    assert all(any(window.start <= at < window.stop for window in found) for at in extra)


def test_little_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    decode = demux.decode
    monkeypatch.setattr(
        demux, "decode", lambda stream, packet: fed.append(packet is not None) or decode(stream, packet)
    )
    data = clip(frames=40, gop=10)
    table = video.read_packets(data)
    video.decode_frames(data, [20, 21], packets=table)
    assert sum(fed) <= 5
    fed.clear()
    video.decode_frames(data, [9, 39], packets=table)
    disposable = int(np.count_nonzero(table.flags & Packets.DISPOSABLE))
    assert disposable >= 10
    assert sum(fed) <= 20 - disposable // 2 + 2


def test_a_long_video_in_pieces() -> None:
    data = clip(frames=40)
    whole = video.decode_frames(data, range(40))
    pieces = list(video.iter_frames(data, chunk=16, overlap=4))
    assert [numbers for numbers, _ in pieces] == [list(range(16)), list(range(12, 28)), list(range(24, 40))]
    for numbers, frames in pieces:
        assert torch.equal(frames.pixels, whole.pixels[numbers])
        np.testing.assert_array_equal(frames.seconds, whole.seconds[numbers])
    ends = {numbers[-1] for numbers, _ in video.iter_frames(data, range(0, 40, 3), chunk=5)}
    assert ends == {12, 27, 39}
    assert [numbers for numbers, _ in video.iter_frames(data, [4, 9], chunk=2)] == [[4, 9]]
    with pytest.raises(SpecError, match="ascend"):
        next(video.iter_frames(data, [3, 3]))
    with pytest.raises(SpecError, match="overlap"):
        next(video.iter_frames(data, chunk=4, overlap=4))


def test_facts() -> None:
    facts = video.read_facts(clip(sound=True), verify="full")
    assert (facts.kind, facts.format, facts.height, facts.width, facts.frames) == ("video", "mp4", 96, 128, 40)
    assert facts.fps == pytest.approx(30)
    assert facts.seconds == pytest.approx(4 / 3)
    assert (facts.sample_rate, facts.channels, facts.verified) == (16_000, 1, "full")
    assert facts.samples is not None
    assert facts.samples >= 21_000
    wave = video.read_audio_track(clip(sound=True))
    assert abs(wave.shape[-1] - 21_333) < 2_100
    silent = video.read_facts(clip(times=VFR, base=KINDS["vfr"]["base"]))
    assert (silent.channels, silent.samples, silent.verified) == (None, None, "header")
    assert silent.seconds == pytest.approx((VFR[-1] - VFR[0]) / 1000, abs=0.2)
    assert video.read_facts(clip(rate=KINDS["ntsc"]["rate"])).fps == pytest.approx(30000 / 1001)
    with pytest.raises(DataError, match="no_audio"):
        video.read_audio_track(clip())


def test_a_matroska_without_frame_count_is_counted() -> None:
    data = clip(format="matroska")
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames == 0
    assert video.read_facts(data).frames == 40


def test_packets_that_give_no_frame_become_hidden() -> None:
    data = clip()
    table = video.read_packets(data)
    assert video.prove(data, table) is table
    cut = clip(format="mpegts")
    # A capture that begins in the middle of a group of pictures: nothing is shown before the next key.
    with av.open(io.BytesIO(cut)) as file:
        places = [packet.pos for packet in file.demux(file.streams.video[0]) if packet.size]
    begun = cut[: 188 * 3] + cut[places[3] :]
    table = video.read_packets(begun)
    proved = video.prove(begun, table)
    _, _, pixels = truth(begun)
    assert len(packets.shown(table)) > len(packets.shown(proved)) == len(pixels)
    np.testing.assert_array_equal(hwc(video.decode_frames(begun, [0, 1], packets=proved)), pixels[:2])


@pytest.mark.parametrize("limit", [{"max_pixels": 96 * 128 - 1}, {"max_frames": 39}, {"max_seconds": 1.3}])
def test_limits(limit: dict[str, Any]) -> None:
    reason = {"max_pixels": "decompression_bomb", "max_frames": "too_many_frames", "max_seconds": "video_too_long"}
    with pytest.raises(DataError, match=reason[next(iter(limit))]):
        video.read_facts(clip(), limits=demux.Limits(**limit))
    limit[next(iter(limit))] += 1
    assert video.read_facts(clip(), limits=demux.Limits(**limit)).frames == 40


def test_backends_are_named() -> None:
    assert video.pick_backend("auto") == "pyav"
    with pytest.raises(SpecError, match="there are auto, pyav, torchcodec, decord"):
        video.decode_frames(clip(), [0], backend="opencv")  # type: ignore[arg-type]


PEER = """
import sys, pickle
from mmdata.decode import video
from mmdata.errors import DataError
from tests.decode.clips import KINDS, clip
for kind in {kinds!r}:
    data = clip(**KINDS[kind])
    mine = video.decode_frames(data, [7, 3, 7, 39, 0])
    try:
        theirs = video.decode_frames(data, [7, 3, 7, 39, 0], backend={backend!r})
        print(kind, (mine.pixels == theirs.pixels).all().item() and (mine.seconds == theirs.seconds).all(), sep=": ")
    except DataError as error:
        print(kind, error.reason, sep=": ")
"""
SAME = ("cfr", "ntsc", "vfr", "mkv", "pyramid", "bt709", "bt601 full range", "odd size", "4:4:4", "vp9")


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
def test_backends_give_the_same_bytes_or_an_error(backend: str, tmp_path: Path) -> None:
    """In a process of their own: each brings another FFmpeg."""
    pytest.importorskip(backend)
    kinds = tuple(KINDS)
    environment = dict(os.environ)
    if backend == "torchcodec":
        environment["LD_LIBRARY_PATH"] = _ffmpeg_libraries(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PEER.format(kinds=kinds, backend=backend)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    found = dict(line.split(": ") for line in done.stdout.splitlines() if line.split(": ")[0] in kinds)
    assert done.returncode == 0, done.stderr[-2000:]
    refused = ("backend_unsupported", "backend_differs", "corrupt_video")
    assert {kind: end for kind, end in found.items() if end not in ("True", *refused)} == {}
    assert {kind: found[kind] for kind in SAME} == dict.fromkeys(SAME, "True")
    assert found["10 bit"] == "backend_unsupported"
    assert found["open gop"] == ("True" if backend == "torchcodec" else "backend_unsupported")


def _ffmpeg_libraries(folder: Path) -> str:
    """torchcodec needs FFmpeg's shared libraries by their plain names; those in PyAV's wheel have longer ones."""
    bundled = Path(av.__file__).parents[1] / "av.libs"
    for library in bundled.glob("*.so*"):
        name, _, version = library.name.partition(".so")
        plain = folder / f"{name.rsplit('-', 1)[0]}.so.{version.strip('.').split('.')[0]}"
        if not plain.exists():
            plain.symlink_to(library)
    return os.pathsep.join([str(folder), str(bundled), os.environ.get("LD_LIBRARY_PATH", "")])


def test_nothing_waits_for_the_garbage_collector() -> None:
    """A frame in a reference cycle would keep its decoder's pool of frames."""
    data = clip(sound=True)
    table = video.read_packets(data)
    gc.collect()
    gc.disable()
    try:
        video.decode_frames(data, [3, 30], packets=table)
        list(video.iter_frames(data, chunk=8))
        # By `type`, as `isinstance` asks what proxies of others point to, which may be gone.
        left = [kept for kept in gc.get_objects() if type(kept) is av.VideoFrame]
    finally:
        gc.enable()
    assert all(frame.width == 16 for frame in left)
