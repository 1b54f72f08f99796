"""Samples that were removed from the datasets of a stream: masked at once, and left out by plans made later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdata.shards.dataset import Dataset
from mmdata.types import Item

FORGOTTEN = "forgotten"
"""The reason of a sample that is masked or left out because it was removed."""
HEX = 12

Positions = npt.NDArray[np.int64]
NONE: Positions = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Forgotten:
    """What each dataset of a stream has lost. Processes that copy this know the same, whatever is removed later."""

    generations: tuple[int, ...]
    """How many removals of each dataset count."""
    positions: tuple[Positions, ...]
    """int64 [N], ascending, of the removed samples of each."""

    def __contains__(self, item: Item) -> bool:
        return bool(among(np.array([item.position]), self.positions[item.dataset])[0])


def forgotten(datasets: Sequence[Dataset]) -> Forgotten:
    """All that has been removed by now. Raises DataError for tombstones that are damaged."""
    counts = tuple(len(dataset.removals()) for dataset in datasets)
    return Forgotten(counts, tuple(removed(d, count) for d, count in zip(datasets, counts, strict=True)))


def removed(dataset: Dataset, generation: int) -> Positions:
    """Positions that are removed as of a generation, ascending: int64 [N]."""
    return dataset.masked(generation) if generation else NONE


def among(wanted: Positions, positions: Positions) -> npt.NDArray[np.bool_]:
    """Which of those wanted, in any order, are among positions that ascend: bool [N].

    >>> among(np.array([4, 3, 0]), np.array([1, 3])).tolist(), among(np.array([4]), np.array([])).tolist()
    ([False, True, False], [False])
    """
    if not len(positions):
        return np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(positions, wanted), len(positions) - 1)
    return np.asarray(positions[at] == wanted)


def digest(datasets: Sequence[Dataset], generations: Sequence[int]) -> str:
    """12 hex digits of what was removed as of these generations and why; nothing where nothing was.

    `generations` are none that a dataset does not have."""
    if not any(generations):
        return ""
    found = [d.removals()[count - 1].digest if count else "" for d, count in zip(datasets, generations, strict=True)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:HEX]
