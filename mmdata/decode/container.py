"""What a video file is by its bytes, and whether its container is whole and sane, before a demuxer allocates for it.

Demuxers go on happily where a file was cut, and some trust a count in a header with gigabytes; so boxes, elements and
chunks are walked here first. Nothing is decoded. Layouts: ISO/IEC 14496-12 (boxes), RFC 8794 and 9559 (Matroska),
the AVI RIFF reference, and the FLV specification, version 10.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdata.decode.sniff import sniff
from mmdata.errors import DataError

Bytes = Any  # bytes, mmap or memoryview: whatever can be sliced

DEMUXERS = {
    "mp4": "mov",
    "mov": "mov",
    "webm": "matroska",
    "mkv": "matroska",
    "avi": "avi",
    "flv": "flv",
    "ts": "mpegts",
    "mpg": "mpeg",
    "m1v": "mpegvideo",
    "wmv": "asf",
    "ogv": "ogg",
}
"""FFmpeg's demuxer for each format. It is named when a file is opened: FFmpeg's own guess would also take playlists,
which name other files and addresses to read."""
_MOV_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_UNKNOWN_SIZE = -1


def video_format(data: Bytes) -> str:
    """The video format of `data` by its leading bytes: a key of `DEMUXERS`.

    Raises DataError: `empty`, `html_not_video`, `not_a_video` (the detail names what the bytes are).

    >>> video_format(bytes(4) + b"ftypisom")
    'mp4'
    >>> video_format(b"<!doctype html><html>")
    Traceback (most recent call last):
    ...
    mmdata.errors.DataError: html_not_video: html: b'<!doctype html><html>'
    """
    head = bytes(data[:2048])
    if not head:
        raise DataError("empty", "no bytes")
    if head[4:8] == b"ftyp":
        return "mov" if head[8:12] == b"qt  " else _not_a_picture(head)
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:16] == _ASF:
        return "wmv"
    if any(head[at : at + 1] == b"\x47" and head[at + step : at + step + 1] in (b"\x47", b"") for at, step in _TS):
        return "ts"
    found = sniff(head)
    if found == "webm":
        return "webm" if b"webm" in head[:64] else "mkv"
    if found == "mpeg":
        return "m1v" if head[3] == 0xB3 else "mpg"
    if found == "ogg":
        return "ogv"
    if found in DEMUXERS:
        return str(found)
    if found in ("html", "xml"):
        raise DataError("html_not_video", f"{found}: {head[:60]!r}")
    raise DataError("not_a_video", found or f"unknown bytes: {head[:8].hex(' ')}")


_TS = ((0, 188), (4, 192))
"""Where a transport stream's sync byte comes first and how far on again: plain, and with a time code before each."""


def _not_a_picture(head: bytes) -> str:
    found = sniff(head)
    if found != "mp4":
        raise DataError("not_a_video", str(found))
    return found


def check_whole(data: Bytes, format: str, *, max_frames: int) -> None:
    """Raise DataError `truncated_video` where the container says that more should follow, `corrupt_video` where it
    contradicts itself, `too_many_frames` where it announces more than `max_frames` of a track.

    Program streams, ASF and Ogg say nothing of their length and pass; of transport streams, a cut between two of
    their packets is not seen.
    """
    if format in ("mp4", "mov"):
        _iso(data, max_frames)
    elif format in ("webm", "mkv"):
        _matroska(data)
    elif format == "avi":
        _avi(data)
    elif format == "flv":
        _flv(data)
    elif format == "ts":
        step = 188 if data[0] == 0x47 else 192
        if len(data) % step:
            raise _truncated("MPEG-TS", len(data), -(-len(data) // step) * step)


def _truncated(what: str, have: int, want: int | None = None) -> DataError:
    of = "" if want is None else f" of {want:,}"
    return DataError("truncated_video", f"{what} ends after {have:,}{of} bytes")


# ISO base media: MP4, QuickTime, 3GP.


def _boxes(data: Bytes, start: int, stop: int, *, top: bool) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the payload of each box between two offsets. What follows the last box of a file that has
    its index and its media, and is no box, is passed over."""
    at = start
    seen: set[bytes] = set()
    while at < stop:
        if stop - at < 8:
            if top and any(data[at:stop]) and (not seen >= _WHOLE or b"moof" in seen):
                raise _truncated("MP4", stop)
            return  # QuickTime ends some lists with four zero bytes.
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        kind = bytes(data[at + 4 : at + 8])
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = stop - at
        if top and seen >= _WHOLE and kind not in _TOP and (size < head or at + size > stop):
            return
        if size < head:
            raise DataError("corrupt_video", f"box {kind!r} at byte {at:,}: a size of {size}")
        if at + size > stop:
            if top:
                raise _truncated("MP4", stop, at + size)
            raise DataError("corrupt_video", f"box {kind!r} at byte {at:,} is longer than the box around it")
        yield kind, at + head, at + size
        seen.add(kind)
        at += size


_WHOLE = {b"moov", b"mdat"}
_TOP = _MOV_BOXES | set(b"ftyp styp moof mfra sidx ssix prft emsg pdin meta udta uuid imda bloc otyp PICT".split())
"""Boxes of the top level. Where one of these ends behind the file, the file was cut."""
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}


def _iso(data: Bytes, max_frames: int) -> None:
    seen = set()
    samples = 0
    for kind, start, stop in _boxes(data, 0, len(data), top=True):
        seen.add(kind)
        if kind in (b"moov", b"moof"):
            for inner, payload in _leaves(data, start, stop, 0):
                samples += _check_table(data, inner, payload, max_frames)
                if samples > 64 * max_frames:
                    raise DataError("too_many_frames", f"more than {64 * max_frames:,} samples in all tracks")
    if b"moov" not in seen:
        raise _truncated("MP4, whose index (moov) does not come,", len(data))


def _leaves(data: Bytes, start: int, stop: int, depth: int) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    for kind, first, last in _boxes(data, start, stop, top=False):
        if kind in _CONTAINERS and depth < 8:
            yield from _leaves(data, first, last, depth + 1)
        elif kind in _TABLES:
            yield kind, view[first:last]


_TABLES = {b"stsz", b"stz2", b"stco", b"co64", b"stts", b"ctts", b"stss", b"stsc", b"trun", b"elst"}
_ENTRY = {b"stco": 4, b"co64": 8, b"stts": 8, b"ctts": 8, b"stss": 4, b"stsc": 12, b"elst": 12}


def _check_table(data: Bytes, kind: bytes, table: memoryview, max_frames: int) -> int:
    """Hold one table against its own length; returns the samples that it announces."""
    count = int.from_bytes(table[4:8], "big")
    room = len(table) - 8
    samples = 0
    if kind == b"stsz":
        each, count = count, int.from_bytes(table[8:12], "big")
        room -= 4
        if each == 0:
            need = 4 * count
        elif each * count > len(data):
            raise DataError("corrupt_video", f"stsz: {count:,} samples of {each:,} bytes in {len(data):,} bytes")
        else:
            need = 0
        samples = count
    elif kind == b"stz2":
        need = 4 + count * 2
        count = samples = int.from_bytes(table[8:12], "big")
        need = 4 + -(-samples * max(table[7], 4) // 8)
    elif kind == b"trun":
        flags = int.from_bytes(table[1:4], "big")
        need = 4 * (bool(flags & 1) + bool(flags & 4) + count * bin(flags & 0xF00).count("1"))
        samples = count
        if count > len(data):  # Each has at least a byte.
            raise DataError("corrupt_video", f"trun: {count:,} samples in {len(data):,} bytes")
    else:
        need = _ENTRY[kind] * count
    if need > room:
        raise DataError("corrupt_video", f"{kind.decode()}: {count:,} entries do not fit in {room:,} bytes")
    if kind in (b"stco", b"co64") and count:
        width = _ENTRY[kind]
        import numpy as np

        last = int(np.frombuffer(table[8 : 8 + width * count], f">u{width}").max())
        if last >= len(data):
            raise _truncated("MP4", len(data), last + 1)
    return samples


# Matroska and WebM.

_SEGMENT, _CLUSTER, _EBML = 0x18538067, 0x1F43B675, 0x1A45DFA3
_INSIDE_CLUSTER = {0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xEC, 0xBF}


def _element(data: Bytes, at: int) -> tuple[int, int, int] | None:
    """(id, payload start, payload size or _UNKNOWN_SIZE) of the element at an offset, None where its head is cut."""
    if at >= len(data):
        return None
    first = data[at]
    length = 9 - first.bit_length()
    if length > 4:
        raise DataError("corrupt_video", f"byte {at:,}: not a Matroska element")
    identity = int.from_bytes(data[at : at + length], "big")
    at += length
    if at >= len(data):
        return None
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8:
        raise DataError("corrupt_video", f"byte {at:,}: not the size of a Matroska element")
    if at + length > len(data):
        return None
    size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return identity, at + length, _UNKNOWN_SIZE if size == (1 << 7 * length) - 1 else size


def _matroska(data: Bytes) -> None:
    at, end, segments = 0, len(data), 0
    while at < end:
        element = _element(data, at)
        if element is None:
            raise _truncated("Matroska", end)
        identity, at, size = element
        segments += identity == _SEGMENT
        if size == _UNKNOWN_SIZE:
            if identity not in (_SEGMENT, _CLUSTER):
                raise DataError("corrupt_video", f"byte {at:,}: a Matroska element without a size")
            continue  # A live recording: its children follow, to the end of the file.
        if at + size > end:
            raise _truncated("Matroska", end, at + size)
        at += size
        if identity == _SEGMENT and any(data[at : at + 64]) and _element(data, at) is None:
            raise _truncated("Matroska", end)
    if not segments:
        raise _truncated("Matroska, whose segment does not come,", end)


# AVI and FLV.


def _avi(data: Bytes) -> None:
    at, end = 0, len(data)
    while at + 12 <= end and bytes(data[at : at + 4]) == b"RIFF":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if size in (0, 0xFFFFFFFF):
            return  # Written to a pipe: the size was never filled in.
        if at + 8 + size > end:
            raise _truncated("AVI", end, at + 8 + size)
        at += 8 + size + (size & 1)
    if end < 12:
        raise _truncated("AVI", end)


def _flv(data: Bytes) -> None:
    end = len(data)
    at = int.from_bytes(data[5:9], "big") + 4
    if end < 13 or at < 13:
        raise _truncated("FLV", end)
    while at < end:
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if at + 11 + size + 4 > end:
            raise _truncated("FLV", end, at + 15 + size)
        at += 15 + size
