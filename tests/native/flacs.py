"""FLAC files that no encoder at hand writes (RFC 9639): each subframe of a kind that is drawn, with parameters that are
drawn, of any sample size, in blocks of one size or of many."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mmdata.decode.flac import _crc8

_BLOCK_CODES = {192: 1, 576: 2, 1152: 3, 2304: 4, 4608: 5, **{256 << code: 8 + code for code in range(8)}}
_BITS_CODES = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}
_FIXED = ([], [1], [2, -1], [3, -3, 1], [4, -6, 4, -1])


class _Bits:
    def __init__(self) -> None:
        self._all: list[str] = []

    def put(self, value: int, width: int) -> None:
        if width:
            self._all.append(format(value & (1 << width) - 1, f"0{width}b"))

    def unary(self, zeros: int) -> None:
        self._all.append("0" * zeros + "1")

    def bytes(self) -> bytes:
        text = "".join(self._all)
        text += "0" * (-len(text) % 8)
        return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]


def crc16(data: bytes) -> int:
    """Polynomial x^16 + x^15 + x^2 + 1, from 0."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def _number(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    more = 1
    while value >> (6 * more + 6 - more):
        more += 1
    lead = (0xFF00 >> (more + 1)) & 0xFF
    return bytes([lead | value >> (6 * more), *(0x80 | value >> (6 * at) & 0x3F for at in reversed(range(more)))])


def _residuals(bits: _Bits, residuals: Sequence[int], block: int, order: int, draw: random.Random) -> None:
    wide = draw.random() < 0.5
    fitting = [parts for parts in range(5) if block % (1 << parts) == 0 and block >> parts > order]
    parts = draw.choice(fitting)
    bits.put(int(wide), 2)
    bits.put(parts, 4)
    at = 0
    for part in range(1 << parts):
        end = (part + 1) * (block >> parts) - order
        some = residuals[at:end]
        at = end
        width = max((max(value, ~value).bit_length() + 1 for value in some), default=0)
        if draw.random() < 0.2 and width <= 30:
            bits.put(31 if wide else 15, 4 + wide)
            bits.put(0 if not any(some) else width, 5)
            for value in some if any(some) else ():
                bits.put(value, width)
            continue
        mean = sum(map(abs, some)) // max(1, len(some))
        parameter = min(30 if wide else 14, max(0, mean.bit_length() + draw.choice((-2, 0, 0, 1, 5))))
        bits.put(parameter, 4 + wide)
        for value in some:
            folded = 2 * value if value >= 0 else -2 * value - 1
            bits.unary(folded >> parameter)
            bits.put(folded, parameter)


def _subframe(bits: _Bits, samples: list[int], width: int, draw: random.Random) -> None:
    wasted = 0
    while any(samples) and all(value >> wasted & 1 == 0 for value in samples):
        wasted += 1
    wasted = min(wasted, width - 1)
    samples, width = [value >> wasted for value in samples], width - wasted

    def begin(kind: int) -> None:
        bits.put(kind << 1 | bool(wasted), 8)
        if wasted:
            bits.unary(wasted - 1)

    kinds = ["verbatim", "fixed", *["lpc"] * (2 * (len(samples) > 1))] + ["constant"] * (8 * (len(set(samples)) == 1))
    kind = draw.choice(kinds)
    if kind == "constant":
        begin(0)
        bits.put(samples[0], width)
        return
    if kind == "verbatim":
        begin(1)
        for value in samples:
            bits.put(value, width)
        return
    shift = precision = 0
    if kind == "fixed":
        weights = _FIXED[draw.randint(0, min(4, len(samples) - 1))]
        order = len(weights)
        begin(8 + order)
    else:
        order = draw.randint(1, min(32, len(samples) - 1))
        precision, shift = draw.randint(2, 15), draw.randint(0, 15)
        largest = min((1 << precision - 1) - 1, max(1, (2 << shift) // order))  # or residuals would be of 30 bits
        weights = [draw.randint(-largest, largest) for _ in range(order)]
        begin(31 + order)
    for value in samples[:order]:
        bits.put(value, width)
    if kind == "lpc":
        bits.put(precision - 1, 4)
        bits.put(shift, 5)
        for weight in weights:
            bits.put(weight, precision)
    residuals = [
        samples[at] - (sum(weight * samples[at - 1 - tap] for tap, weight in enumerate(weights)) >> shift)
        for at in range(order, len(samples))
    ]
    _residuals(bits, residuals, len(samples), order, draw)


def _frame(
    channels: list[list[int]],
    rate: int,
    of_rate: int,
    width: int,
    of_bits: int,
    number: int,
    by_samples: bool,
    draw: random.Random,
) -> bytes:
    block = len(channels[0])
    pair = draw.choice((None, 8, 9, 10)) if len(channels) == 2 else None
    code = _BLOCK_CODES.get(block, 6 if block <= 256 and draw.random() < 0.5 else 7)
    header = _Bits()
    header.put(0x7FFC << 1 | by_samples, 16)
    header.put(code << 4 | of_rate, 8)
    header.put((len(channels) - 1 if pair is None else pair) << 4 | of_bits << 1, 8)
    told = header.bytes() + _number(number)
    if code in (6, 7):
        told += (block - 1).to_bytes(code - 5, "big")
    if of_rate:
        told += (rate // {12: 1000, 13: 1, 14: 10}[of_rate]).to_bytes(1 if of_rate == 12 else 2, "big")
    bits = _Bits()
    if pair is not None:
        left, right = channels
        side = [one - other for one, other in zip(left, right, strict=True)]
        mid = [one + other >> 1 for one, other in zip(left, right, strict=True)]
        channels = {8: [left, side], 9: [side, right], 10: [mid, side]}[pair]
    for at, samples in enumerate(channels):
        _subframe(bits, samples, width + (pair is not None and at == (pair != 9)), draw)
    frame = told + bytes([_crc8(told)]) + bits.bytes()
    return frame + crc16(frame).to_bytes(2, "big")


def written(channels: list[list[int]], rate: int, width: int, draw: random.Random, size: int | None = None) -> bytes:
    """A file of these samples, which lie within `width` bits, in blocks of `size`."""
    samples = len(channels[0])
    by_samples = size is None and draw.random() < 0.5
    size = size or draw.choice((16, 33, 192, 256))
    rates = [0] + [12] * (rate % 1000 == 0 and rate < 256_000) + [13] * (rate < 65_536) + [14] * (rate % 10 == 0)
    of_rate, of_bits = draw.choice(rates), draw.choice((0, _BITS_CODES[width]))
    frames, sizes, at = [], [], 0
    while at < samples:
        block = min(samples - at, draw.randint(16, 300) if by_samples else size)
        number = at if by_samples else at // size
        part = [channel[at : at + block] for channel in channels]
        frames.append(_frame(part, rate, of_rate, width, of_bits, number, by_samples, draw))
        sizes.append(block)
        at += block
    least, most = (16, max([16, *sizes])) if by_samples else (size, size)
    packed = rate << 44 | len(channels) - 1 << 41 | width - 1 << 36 | samples
    info = least.to_bytes(2, "big") + most.to_bytes(2, "big") + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\x00\x00\x22" + info + b"".join(frames)
