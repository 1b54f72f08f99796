"""Resampling by windowed sinc: the numbers of torchaudio's `resample` with its defaults, for a fraction of the work.

The filter of each output sample has a few dozen taps that are not zero; torchaudio multiplies by all of one period
(475 for 44.1 to 16 kHz) and computes the filters anew for every call. Here neighbouring outputs share one small dense
matrix over the inputs that any of them needs, and filters of usual rates are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

ZEROS = 6
"""Zero crossings of the sinc on either side (torchaudio: `lowpass_filter_width`)."""
ROLLOFF = 0.99
"""Cut-off as a part of the lower Nyquist frequency."""
_GROUP = 32
"""Outputs that share a matrix."""
_HELD = 1 << 20
"""Samples that are gathered before they are resampled: products of a few rows would be all overhead."""
_KEPT = 1 << 12
"""Outputs in a period beyond which filters are made on the fly: rates without a common factor have long periods."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Outputs first..first + M of every period are inputs offset..offset + taps, times `weights` [taps, M].
    Inputs count from `width` before the period."""

    first: int
    offset: int
    weights: torch.Tensor


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Samples after resampling: `samples * new_rate / rate`, rounded up, on integers.

    torchaudio rounds the product to float32 first, and so errs by a few samples for results longer than 2**24.

    >>> resampled_length(44_101, 44_100, 16_000), resampled_length(7, 16_000, 16_000)
    (16001, 7)
    """
    return -(-samples * new_rate // rate)


def margin(rate: int, new_rate: int) -> int:
    """Input samples on either side of an output's place that it depends on."""
    rate, new_rate = _reduced(rate, new_rate)
    return math.ceil(ZEROS * rate / (min(rate, new_rate) * ROLLOFF)) if rate != new_rate else 0


def before(first: int, rate: int, new_rate: int) -> int:
    """The input sample from which to resample in order to have output `first` and what follows exactly: far enough
    before it, and where a period of the filters begins."""
    rate, new_rate = _reduced(rate, new_rate)
    return max(0, first // new_rate - -(-margin(rate, new_rate) // rate)) * rate


def until(last: int, rate: int, new_rate: int) -> int:
    """The number of input samples that the outputs before `last` depend on."""
    return (last - 1) * rate // new_rate + margin(rate, new_rate) + 1 if last > 0 else 0


def resample(wave: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """float32 [..., samples] at `rate` to float32 [..., resampled_length(samples, rate, new_rate)] at `new_rate`.

    Within 1e-6 of `torchaudio.functional.resample` (sinc of 6 zero crossings, Hann window, roll-off 0.99; the filters
    are computed in float32, as there). A wave that has the rate already comes back as it is.
    """
    import torch

    if rate == new_rate:
        return wave
    rows = wave.reshape(math.prod(wave.shape[:-1]), wave.shape[-1])
    pieces = list(resample_blocks([rows], rate, new_rate))
    return torch.cat(pieces, dim=1).reshape(*wave.shape[:-1], -1)


def resample_blocks(blocks: Iterable[torch.Tensor], rate: int, new_rate: int) -> Iterator[torch.Tensor]:
    """A wave that comes in pieces float32 [rows, n], resampled as it comes: pieces that together are `resample` of
    the whole. About a million samples are held, or all of them where the filters are made on the fly."""
    import torch

    if rate == new_rate:
        yield from blocks
        return
    inputs, outputs = _period(rate, new_rate)
    width = margin(rate, new_rate)
    beside = 2 * width + 1
    if not _keeps(rate, new_rate):
        blocks = [torch.cat(list(blocks), dim=1)]  # to make the filters once
    held: list[torch.Tensor] = []
    samples = done = waiting = 0
    for block in blocks:
        if not held:
            held.append(block.new_zeros(len(block), width))
        held.append(block)
        samples += block.shape[1]
        waiting += block.shape[1]
        if waiting >= _HELD:
            wave = torch.cat(held, dim=1)
            periods = max(0, wave.shape[1] - beside) // inputs
            yield _filtered(wave, periods, rate, new_rate, periods * outputs)
            held, waiting, done = [wave[:, periods * inputs :]], 0, done + periods * outputs
    if held:
        left = resampled_length(samples, rate, new_rate) - done
        periods = -(-left // outputs)
        there = sum(piece.shape[1] for piece in held)
        held.append(held[0].new_zeros(len(held[0]), max(0, periods * inputs + beside - there)))
        yield _filtered(torch.cat(held, dim=1), periods, rate, new_rate, left)


def _filtered(wave: torch.Tensor, periods: int, rate: int, new_rate: int, length: int) -> torch.Tensor:
    """The first `length` outputs of `periods` periods of `wave` [rows, `width` before them and after]."""
    import torch

    inputs, outputs = _period(rate, new_rate)
    out = torch.empty(len(wave), periods, outputs)
    for group in _filters(rate, new_rate):
        if group.first >= length:
            break  # a clip of less than a period
        taps, count = group.weights.shape
        for row, target in zip(wave, out, strict=True):
            seen = row[group.offset :].as_strided((periods, taps), (inputs, 1))
            torch.mm(seen, group.weights, out=target[:, group.first : group.first + count])
    return out.reshape(len(wave), -1)[:, :length]


def _reduced(rate: int, new_rate: int) -> tuple[int, int]:
    common = math.gcd(rate, new_rate)
    return rate // common, new_rate // common


def _period(rate: int, new_rate: int) -> tuple[int, int]:
    """Inputs and outputs after which the filters repeat; a multiple of it where that is less than a group."""
    rate, new_rate = _reduced(rate, new_rate)
    times = -(-_GROUP // new_rate)
    return rate * times, new_rate * times


def _keeps(rate: int, new_rate: int) -> bool:
    return _period(rate, new_rate)[1] <= _KEPT


def _filters(rate: int, new_rate: int) -> Iterator[_Group]:
    if _keeps(rate, new_rate):
        return iter(_kept(*_reduced(rate, new_rate)))
    return _make(*_reduced(rate, new_rate))


@lru_cache(maxsize=32)
def _kept(rate: int, new_rate: int) -> tuple[_Group, ...]:
    return tuple(_make(rate, new_rate))


def _make(rate: int, new_rate: int) -> Iterator[_Group]:
    """The filters of reduced rates. Every step is taken in float32 as torchaudio takes it: for rates with a long
    period, float64 would differ from it by 1e-4."""
    import torch

    outputs = _period(rate, new_rate)[1]
    width = margin(rate, new_rate)
    cutoff = min(rate, new_rate) * ROLLOFF
    single = np.float32
    for first in range(0, outputs, _GROUP):
        last = min(first + _GROUP, outputs)
        low = first * rate // new_rate - width
        high = (last - 1) * rate // new_rate + width + 1
        output = np.arange(first, last)
        begun = output // new_rate * rate  # where the output's own period begins among the inputs
        inside = np.arange(low, high)[:, None] - begun
        time = -(output % new_rate).astype(single) / single(new_rate) + inside.astype(single) / single(rate)
        time = np.clip(time * single(cutoff), -ZEROS, ZEROS)
        window = np.cos(time * single(math.pi) / single(ZEROS) / single(2)) ** 2
        time *= single(math.pi)
        with np.errstate(invalid="ignore"):
            sinc = np.where(time == 0, single(1), np.sin(time) / time)
        yield _Group(first, low + width, torch.from_numpy(sinc * (window * single(cutoff / rate))))
