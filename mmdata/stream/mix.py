"""Mixtures: blocks of samples drawn from several datasets so that every prefix has the wanted shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError
from mmdata.stream.draws import Draws
from mmdata.stream.fair import PARTS, handed_over, turns
from mmdata.stream.mixture import WeighBy
from mmdata.stream.order import Order, Place

Measure = Callable[[Draws], npt.NDArray[np.int64]]
"""Tokens, or cost, of each draw: int64 [N], 0 for samples that are left out."""
Weights = Callable[[int], tuple[int, ...]]
"""Parts (of `fair.PARTS`) of each dataset in a block, by the number of the block."""
Coming = Callable[[int], Sequence[bool]]
"""Of each dataset whether it weighs anything in a block or in a later one."""
FIRST = 64
"""Samples of a dataset that are measured at first where nothing is known of their lengths."""
SPARE = 8
"""Samples that are measured beyond what is expected to be drawn, which asks again less often."""


class DatasetCursor(NamedTuple):
    """How far one dataset of a mixture is when a block begins."""

    epoch: int = 0
    block: int = 0
    offset: int = 0
    """The next sample: its epoch, its block in the order of the dataset, its place in that block."""
    samples: int = 0
    """Drawn so far, those that are left out among them."""
    amount: int = 0
    """Tokens, samples or cost given so far."""
    lag: int = 0
    """What it is behind its share, in billionths; negative where it is ahead."""


Cursors = tuple[DatasetCursor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One dataset of a mixture: its order, and after how many epochs it is spent (None: never)."""

    name: str
    order: Order
    epochs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Formed:
    """A block that was formed. `chosen` int64 [N] are the numbers of its draws among all that `measure` was asked for,
    one call after the other, so that nothing is measured twice."""

    draws: Draws
    chosen: npt.NDArray[np.int64]
    after: Cursors


class Mixer:
    """Forms blocks of a mixture; a pure function of parts, weights and cursors, whoever asks.

    Of tokens (or samples, or cost) that were given up to any draw, in this block or over all, each dataset's differ
    from its share by at most the largest sample of any. A dataset that is spent hands its weight to the others in
    proportion to theirs; the bound then holds from there on.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        weights: Weights,
        *,
        block_samples: int = 10_000,
        weigh_by: WeighBy = "tokens",
        coming: Coming | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.weights = weights
        self.coming = coming
        self.block_samples = block_samples
        self.weigh_by = weigh_by

    def first(self) -> Cursors:
        """The cursors of the first block."""
        return tuple(DatasetCursor() for _ in self.parts)

    def spent(self, cursors: Cursors, number: int = 0) -> bool:
        """Whether no dataset has a sample left that block `number` or a later one could draw: what weighs nothing from
        there on is never drawn, and would be waited for without end."""
        wanted = [True] * len(self.parts) if self.coming is None else self.coming(number)
        return not any(self.left(d, DatasetCursor(*cursors[d]).samples) for d in range(len(self.parts)) if wanted[d])

    def block(self, cursors: Cursors, number: int, measure: Measure) -> tuple[Draws, Cursors]:
        """Block `number`, which begins at `cursors`, and the cursors of the next one. It has `block_samples` draws;
        fewer, or none, where the datasets are spent. Raises DataError for a dataset of which no sample can be used."""
        formed = self.form(cursors, number, measure)
        return formed.draws, formed.after

    def form(self, cursors: Cursors, number: int, measure: Measure) -> Formed:
        """`block`, with what was measured on the way."""
        forming = _Forming(self, [DatasetCursor(*cursor) for cursor in cursors], self.weights(number), measure)
        return forming.run()

    def left(self, dataset: int, samples: int) -> int | float:
        """Samples that a dataset has left after `samples` draws from it; infinity where it is never spent."""
        part = self.parts[dataset]
        if not part.order.n:
            return 0
        return math.inf if part.epochs is None else part.epochs * part.order.n - samples


@dataclass(slots=True)
class _Queue:
    """Samples of one dataset that were measured for a block: those that it has drawn, and those ahead."""

    place: Place
    """After them."""
    samples: int
    """Taken over the whole run, these included."""
    amount: int
    """What all those came to."""
    amounts: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of each: where it stands among all that were measured."""
    drawn: int = 0


class _Forming:
    """One block in the making."""

    def __init__(self, mixer: Mixer, cursors: list[DatasetCursor], weights: tuple[int, ...], measure: Measure) -> None:
        self.mixer = mixer
        self.cursors = cursors
        self.weights = list(weights)
        self.measure = measure
        self.queues = [_Queue(Place(c.epoch, c.block, c.offset), c.samples, c.amount) for c in cursors]
        self.measured: list[Draws] = []
        self.total = 0

    def run(self) -> Formed:
        for d, queue in enumerate(self.queues):
            if not self.mixer.left(d, queue.samples):
                self.weights[d] = 0
        lags = tuple(cursor.lag for cursor in self.cursors)
        if any(self.weights):
            lags = handed_over(lags, self.weights)
            self._more(self._guess(self.mixer.block_samples))
        chosen: list[int] = []
        while (count := self.mixer.block_samples - len(chosen)) and any(self.weights):
            ahead = [queue.amounts[queue.drawn :] for queue in self.queues]
            found = turns(_whole(self.weights), lags, ahead, count)
            lags = found.lags
            for d in found.order:
                queue = self.queues[d]
                chosen.append(queue.numbers[queue.drawn])
                queue.drawn += 1
            wanted = found.wanted
            if wanted is None:
                continue
            if self.mixer.left(wanted, self.queues[wanted].samples):
                self._more({wanted: self._guess(self.mixer.block_samples - len(chosen))[wanted]})
            else:
                self.weights[wanted] = 0
                if any(self.weights):
                    lags = handed_over(lags, self.weights)
        return self._formed(np.array(chosen, np.int64), lags)

    def _guess(self, count: int) -> dict[int, int]:
        """About how many samples of each dataset the next `count` draws take, by what samples came to so far."""
        shares = {d: float(weight) for d, weight in enumerate(self.weights) if weight}
        if self.mixer.weigh_by != "samples":
            if not all(self.queues[d].amount for d in shares):
                return dict.fromkeys(shares, FIRST)
            shares = {d: share * self.queues[d].samples / self.queues[d].amount for d, share in shares.items()}
        scale = count / sum(shares.values())
        return {d: math.ceil(share * scale) + SPARE for d, share in shares.items()}

    def _more(self, counts: dict[int, int]) -> None:
        """Measure so many more samples of each dataset, or as many as it has left."""
        found: list[Draws] = []
        for d, count in counts.items():
            queue = self.queues[d]
            count = int(min(count, self.mixer.left(d, queue.samples)))
            positions, epochs, queue.place = self.mixer.parts[d].order.take(queue.place, count)
            queue.samples += count
            found.append(Draws(dataset=np.full(count, d, np.int16), position=positions, epoch=epochs))
        draws = joined(found)
        amounts = np.asarray(self.measure(draws))
        if self.mixer.weigh_by == "samples":
            amounts = np.minimum(amounts, 1)
        at = 0
        for d, part in zip(counts, found, strict=True):
            queue, each = self.queues[d], amounts[at : at + len(part)].tolist()
            queue.amounts += each
            queue.amount += sum(each)
            queue.numbers += range(self.total + at, self.total + at + len(part))
            at += len(part)
            # It would have every turn for ever.
            if not queue.amount and queue.samples >= self.mixer.parts[d].order.n:
                name, n = self.mixer.parts[d].name, self.mixer.parts[d].order.n
                raise DataError("no_packs", f"{name}: none of its {n} samples can be used; take it out of the mixture")
        self.total += at
        self.measured.append(draws)

    def _formed(self, chosen: npt.NDArray[np.int64], lags: tuple[int, ...]) -> Formed:
        measured = joined(self.measured)
        draws = Draws(
            dataset=measured.dataset[chosen], position=measured.position[chosen], epoch=measured.epoch[chosen]
        )
        after = []
        for part, cursor, queue, lag in zip(self.mixer.parts, self.cursors, self.queues, lags, strict=True):
            place = Place(cursor.epoch, cursor.block, cursor.offset)
            if queue.drawn:
                place = part.order.skip(place, queue.drawn)
            samples, amount = cursor.samples + queue.drawn, cursor.amount + sum(queue.amounts[: queue.drawn])
            after.append(DatasetCursor(place.epoch, place.block, place.offset, samples, amount, lag))
        return Formed(draws=draws, chosen=chosen, after=tuple(after))


def _whole(weights: Sequence[int]) -> list[int]:
    """Parts of those that are left, made to add up to `PARTS` again, so that lags keep their unit."""
    total = sum(weights)
    if total == PARTS:
        return list(weights)
    result = [weight * PARTS // total for weight in weights]
    result[max(range(len(result)), key=lambda d: result[d])] += PARTS - sum(result)
    return result


def joined(parts: Sequence[Draws]) -> Draws:
    """Draws one after the other."""
    return Draws(
        dataset=np.concatenate([np.empty(0, np.int16), *(part.dataset for part in parts)]),
        position=np.concatenate([np.empty(0, np.int64), *(part.position for part in parts)]),
        epoch=np.concatenate([np.empty(0, np.int32), *(part.epoch for part in parts)]),
    )
