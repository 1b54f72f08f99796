"""Sound events as they are measured: from probabilities of frames to events, and events against events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COLLAR = 0.2
"""Seconds by which an onset may be off (DCASE, sed_eval)."""
SHARE = 0.2
"""Of a reference's length, by which its offset may be off, where that is more than the collar."""


class Event(NamedTuple):
    """Something that is heard from `onset` to `offset`, in seconds."""

    onset: float
    offset: float
    label: str


class Counts(NamedTuple):
    """Events of the reference that were found, events that were found and are none, and those that were missed."""

    hits: int
    false: int
    missed: int


def events_of(
    probabilities: np.ndarray, labels: Sequence[str], hz: float, *, threshold: float = 0.5, gap: float = 0.0
) -> list[Event]:
    """Events of frame probabilities [frames, classes], `hz` frames a second: stretches of a class above the threshold;
    of one class, those with no more than `gap` seconds between them are one.

    >>> events_of(np.array([[0.9], [0.9], [0.1], [0.9]]), ["dog"], 2.0)
    [Event(onset=0.0, offset=1.0, label='dog'), Event(onset=1.5, offset=2.0, label='dog')]
    """
    found = []
    for number, label in enumerate(labels):
        active = np.concatenate([[False], probabilities[:, number] > threshold, [False]])
        edges = np.flatnonzero(np.diff(active.astype(np.int8)))
        mine: list[list[float]] = []
        for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if mine and first / hz - mine[-1][1] <= gap + 1e-9:
                mine[-1][1] = stop / hz
            else:
                mine.append([first / hz, stop / hz])
        found += [Event(onset, offset, label) for onset, offset in mine]
    return sorted(found)


def counted(found: Sequence[Event], wanted: Sequence[Event], *, collar: float = COLLAR, share: float = SHARE) -> Counts:
    """Events of one clip against its reference: a pair is of one label, its onsets no more than `collar` apart, its
    offsets no more than that or `share` of the reference's length; as many pairs as can be, each event in one at most
    (Mesaros et al. 2016, Metrics for Polyphonic Sound Event Detection, §3.2).

    >>> counted([Event(0.1, 1.0, "dog"), Event(2, 3, "cat")], [Event(0, 1, "dog")])
    Counts(hits=1, false=1, missed=0)
    """
    fits = [[at for at, event in enumerate(found) if _fits(event, reference, collar, share)] for reference in wanted]
    hits = most_pairs(fits)
    return Counts(hits=hits, false=len(found) - hits, missed=len(wanted) - hits)


def most_pairs(fits: Sequence[Sequence[int]]) -> int:
    """The most pairs of which each takes one of the things that fit it, no thing being taken twice.

    >>> most_pairs([[0, 1], [0]])
    2
    """
    taken: dict[int, int] = {}

    def placed(one: int, seen: set[int]) -> bool:
        for at in fits[one]:
            if at not in seen:
                seen.add(at)
                if at not in taken or placed(taken[at], seen):
                    taken[at] = one
                    return True
        return False

    return sum(placed(one, set()) for one in range(len(fits)))


def _fits(event: Event, reference: Event, collar: float, share: float) -> bool:
    late = max(collar, share * (reference.offset - reference.onset))
    return (
        event.label == reference.label
        and abs(event.onset - reference.onset) <= collar + 1e-9
        and abs(event.offset - reference.offset) <= late + 1e-9
    )


def f1(hits: float, false: float, missed: float) -> float:
    """2 * hits / (2 * hits + false + missed); 1 where there is nothing and nothing was found.

    >>> f1(1, 1, 1), f1(0, 0, 0)
    (0.5, 1.0)
    """
    whole = 2 * hits + false + missed
    return 2 * hits / whole if whole else 1.0


def frames_of(events: Sequence[Event], labels: Sequence[str], frames: int, hz: float) -> np.ndarray:
    """What share of each frame an event of each class covers: float32 [frames, classes], 0 to 1. Events of other labels
    are left out.

    >>> frames_of([Event(0.25, 1.0, "dog")], ["dog"], 2, 2.0).tolist()
    [[0.5], [1.0]]
    """
    starts = np.arange(frames) / hz
    result = np.zeros((frames, len(labels)), np.float32)
    for onset, offset, label in events:
        if label in labels:
            inside = np.minimum(offset, starts + 1 / hz) - np.maximum(onset, starts)
            column = result[:, labels.index(label)]
            np.minimum(column + np.clip(inside * hz, 0, 1), 1, out=column)
    return result
