"""What a JPEG 2000 code stream asks of its decoder before a pixel is decoded: OpenJPEG allocates for every tile and
precinct that the header announces, tens of kilobytes of file can ask for gigabytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mmdata.errors import DataError

_START = b"\xff\x4f\xff\x51"
_COD, _COC, _SOT, _SOD = 0x52, 0x53, 0x90, 0x93
# OpenJPEG 2.5, measured with tiles of one pixel, precincts of 2 x 2 and many layers: bytes per tile, component and
# resolution; per precinct and component; and per layer, component and precinct of the finest resolutions.
_TILE, _PRECINCT, _LAYER = 700, 1600, 2
ROOM, ROOM_PER_PIXEL = 64 << 20, 64
"""Bytes that a decoder may spend on the division of a picture, of any size and for each of its pixels."""


def check(data: bytes) -> None:
    """Raises DataError `corrupt_image` for a picture cut into so many pieces that it can only be an attack.

    (ISO/IEC 15444-1, annex A: SIZ, COD, COC and SOT.) What cannot be followed is left to the decoder.
    """
    at = data.find(_START)
    if at < 0 or at + 42 > len(data):
        return
    width, height, left, top, tile_w, tile_h, tiles_left, tiles_top = struct.unpack_from(">8I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    if not tile_w or not tile_h or width <= left or height <= top or tiles_left > left or tiles_top > top:
        return
    tiles = -(-(width - tiles_left) // tile_w) * -(-(height - tiles_top) // tile_h)
    tile_w, tile_h = min(tile_w, width), min(tile_h, height)
    room = ROOM + ROOM_PER_PIXEL * (width - left) * (height - top)
    for layers, levels, sizes in _styles(data, at, components):
        precincts = [
            -(-tile_w >> (levels - level) + (size & 15)) * (-(-tile_h >> (levels - level) + (size >> 4)))
            for level, size in enumerate(sizes)
        ]
        asked = tiles * components * ((levels + 1) * _TILE + sum(precincts) * _PRECINCT)
        asked += (layers + 1) * components * (levels + 1) * max(precincts) * _LAYER
        if asked > room:
            raise DataError(
                "corrupt_image",
                f"JPEG 2000 of {tiles:,} tiles, {sum(precincts):,} precincts each and {layers:,} layers",
            )


def _styles(data: bytes, at: int, components: int) -> Iterator[tuple[int, int, list[int]]]:
    """(layers, decomposition levels, precinct exponents of each resolution) of every coding style in the headers of
    picture and tiles."""
    layers, tile = 1, at
    at += 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOD:
            part = int.from_bytes(data[tile + 6 : tile + 10], "big")
            if part < 14:  # 0 says that this part reaches to the end.
                return
            at = tile + part
            continue
        if marker == _SOT:
            tile = at
        segment = data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
        if marker == _COD and len(segment) >= 10:
            layers = int.from_bytes(segment[2:4], "big")
            yield layers, *_levels(segment[0], segment[5:])
        elif marker == _COC:
            wide = 1 if components < 257 else 2
            if len(segment) >= wide + 6:
                yield layers, *_levels(segment[wide], segment[wide + 1 :])


def _levels(style: int, parameters: bytes) -> tuple[int, list[int]]:
    """Decomposition levels, and per resolution the exponents of a precinct, height << 4 | width."""
    levels = min(parameters[0], 32)
    sizes = list(parameters[5 : 6 + levels]) if style & 1 else []
    return levels, sizes + [0xFF] * (levels + 1 - len(sizes))
