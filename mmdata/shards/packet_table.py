"""A video's packet table as the index holds it: compact bytes, the same for the same table.

Version byte 1, then a zlib stream (level 9) of little-endian values: time base (int32 numerator, int32 denominator),
number of packets P (uint32), bytes W of a time (uint8: 1, 2, 4 or 8), the first time (int64), P flags (uint8), and
P - 1 differences between the times of neighbouring packets in the order of decoding, W bytes each, signed, as W planes
of P - 1 bytes (all lowest bytes first): regular frame rates repeat a few differences, and planes compress well.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from mmdata.errors import DataError
from mmdata.types import Packets

VERSION = 1
_HEAD = struct.Struct("<iiIBq")
_MOST = 1 << 27
"""Bytes that a table may unpack to: twelve million packets."""


def to_bytes(packets: Packets) -> bytes:
    """Pack a table of at least one packet.

    >>> table = Packets(time_base=(1, 30), pts=np.arange(18_000), flags=np.zeros(18_000, np.uint8))
    >>> len(to_bytes(table)) < 200
    True
    """
    pts = np.ascontiguousarray(packets.pts, np.int64)
    steps = np.diff(pts)
    width = next(
        (width for width in (1, 2, 4) if not len(steps) or abs(steps).max() < 1 << 8 * width - 1),
        8,
    )
    planes = steps.astype(f"<i{width}").view(np.uint8).reshape(-1, width).T
    head = _HEAD.pack(*packets.time_base, len(pts), width, int(pts[0]))
    body = head + packets.flags.astype(np.uint8).tobytes() + planes.tobytes()
    return bytes([VERSION]) + zlib.compress(body, 9)


def from_bytes(data: bytes) -> Packets:
    """Unpack a table. Raises DataError `packet_table` for anything that `to_bytes` does not write.

    >>> table = Packets(time_base=(1, 10), pts=np.array([0, 2, 1]), flags=np.array([1, 0, 2], np.uint8))
    >>> back = from_bytes(to_bytes(table))
    >>> back.time_base, back.pts.tolist(), back.flags.tolist()
    ((1, 10), [0, 2, 1], [1, 0, 2])
    """
    if not data or data[0] != VERSION:
        raise DataError("packet_table", f"version {data[0] if data else 'none'}, not {VERSION}; build the index again")
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data[1:], _MOST)
        numerator, denominator, count, width, first = _HEAD.unpack_from(body)
    except (zlib.error, struct.error) as error:
        raise DataError("packet_table", str(error)) from error
    if not stream.eof or stream.unused_data or count < 1 or width not in (1, 2, 4, 8) or denominator < 1:
        raise DataError("packet_table", f"{len(body):,} bytes that are no table")
    if len(body) != _HEAD.size + count + width * (count - 1):
        raise DataError("packet_table", f"{len(body):,} bytes are not a table of {count:,} packets")
    flags = np.frombuffer(body, np.uint8, count, _HEAD.size)
    planes = np.frombuffer(body, np.uint8, offset=_HEAD.size + count).reshape(width, count - 1)
    steps = np.ascontiguousarray(planes.T).reshape(-1).view(f"<i{width}")
    pts = np.concatenate([[first], steps]).astype(np.int64).cumsum()
    return Packets(time_base=(numerator, denominator), pts=pts, flags=flags)
