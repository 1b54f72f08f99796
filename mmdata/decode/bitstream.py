"""What one packet says of itself in its first bytes: whether decoding can start there, whether others need it.

Containers carry such flags too, but few writers set them all and some set them wrongly. Only syntax that says it for
certain is read; of every other codec a packet counts as needed by others. Syntax: ITU-T H.264 7.3-7.4 and D.1.8,
ITU-T H.265 7.3.1.2 and 7.4.2.2, ISO/IEC 14496-2 6.2.5, ISO/IEC 13818-2 6.2.3, RFC 6386 9.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mmdata.types import Packets

KEY, DISPOSABLE, HIDDEN = Packets.KEY, Packets.DISPOSABLE, Packets.HIDDEN
Classify = Callable[[memoryview, bool], tuple[int, int]]
"""(bytes, does the container call it a key) -> (flags, temporal layer). A packet is disposable for certain only in the
highest layer that its stream has."""


def classifier(codec: str, extradata: bytes | None) -> Classify:
    """How to read packets of a codec (FFmpeg's name); `extradata` is what the container holds for its decoder."""
    if codec == "h264":
        length = _nal_length(extradata, at=4)
        return lambda data, key: _h264(data, key, length)
    if codec == "hevc":
        length = _nal_length(extradata, at=21)
        return lambda data, key: _hevc(data, key, length)
    known: dict[str, Classify] = {"mpeg4": _mpeg4, "mpeg1video": _mpeg2, "mpeg2video": _mpeg2, "vp8": _vp8}
    return known.get(codec, _by_container)


def _by_container(data: memoryview, key: bool) -> tuple[int, int]:
    return (KEY if key else 0), 0


def _nal_length(extradata: bytes | None, *, at: int) -> int:
    """Bytes of the length before each NAL unit, 0 where start codes stand between them (ISO/IEC 14496-15)."""
    if not extradata or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1


def _nals(data: memoryview, length: int) -> Iterator[memoryview]:
    """The NAL units of a packet. One that claims more bytes than there are is given as far as it goes."""
    end = len(data)
    if length:
        at = 0
        while at + length < end:
            size = int.from_bytes(data[at : at + length], "big")
            at += length
            if size:
                yield data[at : at + size]
            at += size
        return
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0:
        following = raw.find(b"\0\0\1", at + 3)
        yield data[at + 3 : following if following >= 0 else end]
        at = following


def _h264(data: memoryview, key: bool, length: int) -> tuple[int, int]:
    recovers = False
    for nal in _nals(data, length):
        kind = nal[0] & 31
        if kind == 6:
            recovers = recovers or _recovers_at_once(bytes(nal[1:64]))
        elif kind in (1, 2, 5):
            if kind == 5:
                return KEY, 0
            # All slices of a picture agree on being a reference or not (7.4.1), so the first one tells.
            disposable = DISPOSABLE if nal[0] >> 5 & 3 == 0 else 0
            return (KEY if key and recovers else 0) | disposable, 0
    return 0, 0


def _recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI NAL unit holds a recovery point that takes no further frames: then pictures from here on are
    exact. With gradual refresh they are so only later, and decoding has to start at an earlier key."""
    at = 0
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + sei[at] if at < len(sei) else -1, at + 1
        while at < len(sei) and sei[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + sei[at] if at < len(sei) else 0, at + 1
        if kind == 6 and at < len(sei):
            return bool(sei[at] & 0x80)  # recovery_frame_cnt, ue(v): a leading one bit is 0.
        at += size
    return False


def _hevc(data: memoryview, key: bool, length: int) -> tuple[int, int]:
    for nal in _nals(data, length):
        kind = nal[0] >> 1 & 63
        if kind < 32 and len(nal) > 1:
            layer = (nal[1] & 7) - 1
            if 16 <= kind <= 21:
                return KEY, layer
            return (DISPOSABLE if kind <= 14 and kind % 2 == 0 else 0), layer
    return 0, 0


def _mpeg4(data: memoryview, key: bool) -> tuple[int, int]:
    raw = bytes(data)
    at = raw.find(b"\0\0\1\xb6")
    if at < 0 or at + 4 >= len(raw):
        return HIDDEN, 0  # No picture: what DivX puts where a packed one had gone before.
    packed = raw.find(b"\0\0\1\xb6", at + 4) >= 0
    bidirectional = raw[at + 4] >> 6 == 2
    return (KEY if key else 0) | (DISPOSABLE if bidirectional and not packed else 0), 0


def _mpeg2(data: memoryview, key: bool) -> tuple[int, int]:
    raw = bytes(data)
    at = raw.find(b"\0\0\1\0")
    if at < 0 or at + 5 >= len(raw):
        return HIDDEN, 0
    return (KEY if key else 0) | (DISPOSABLE if raw[at + 5] >> 3 & 7 == 3 else 0), 0


def _vp8(data: memoryview, key: bool) -> tuple[int, int]:
    shown = len(data) > 0 and data[0] >> 4 & 1
    return (KEY if key else 0) | (0 if shown else HIDDEN), 0
