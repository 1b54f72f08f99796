"""The harness finds each kind of fault in a stream that has it, and none in one that has none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch.utils.data import IterableDataset

from mmdata.testing.resume import Adapter, Topology, resume_at_every_step, stateful
from mmdata.types import World

G = 6
ONE, TWO, THREE, FOUR = (Topology(ranks=ranks) for ranks in (1, 2, 3, 4))


@dataclass
class Numbers:
    """0..n-1 in steps of G, each dealt round the ranks; a short rank gets None. `skew` turns a step's deal round."""

    world: World
    n: int = 26
    at: int = 0
    skew: bool = False

    def __iter__(self) -> Iterator[int | None]:
        while self.at < self.n:
            start, stop = self.at, min(self.n, self.at - self.at % G + G)
            step = list(range(start, stop))
            for micro in range(0, len(step), self.world.ranks):
                dealt = step[micro : micro + self.world.ranks]
                if self.skew:
                    dealt = dealt[::-1]
                self.at = start + min(micro + self.world.ranks, len(step))
                yield dealt[self.world.rank] if self.world.rank < len(dealt) else None


def load(stream: Numbers, state: int) -> None:
    stream.at = state


SOUND = Adapter(open=Numbers, save=lambda stream: stream.at, load=load, ids=lambda item: [] if item is None else [item])


@pytest.mark.parametrize("processes", [False, True])
def test_a_sound_stream_is_exact(processes: bool) -> None:
    every = 13 if processes else 1
    report = resume_at_every_step(
        SOUND, saved_on=[ONE, THREE], resumed_on=[ONE, TWO, THREE, FOUR], every=every, processes=processes
    )
    assert report.exact, report
    assert report.steps == 26
    assert report.resumes == (3 + 1 if processes else 27 + 10) * 4


def test_dealing_may_differ_within_a_step_only() -> None:
    skewed = replace(SOUND, open=lambda world: Numbers(world, skew=world.ranks > 1))
    loose = resume_at_every_step(skewed, saved_on=[TWO], resumed_on=[TWO, THREE], step_items=G)
    assert loose.exact, loose
    strict = resume_at_every_step(skewed, saved_on=[TWO], resumed_on=[TWO, THREE])
    assert (strict.replays, strict.losses) == (0, 0)
    assert strict.differing > 0


def test_a_state_that_is_behind_replays() -> None:
    report = resume_at_every_step(
        replace(SOUND, load=lambda stream, state: load(stream, max(0, state - 1))), saved_on=[ONE], resumed_on=[TWO]
    )
    assert (report.resumes, report.replays, report.losses) == (27, 26, 0)
    assert "e.g. 0 again" in str(report)


def test_a_state_that_counts_what_was_prefetched_loses() -> None:
    report = resume_at_every_step(
        replace(SOUND, save=lambda stream: min(stream.n, stream.at + 2)), saved_on=[ONE], resumed_on=[ONE]
    )
    assert (report.replays, report.losses) == (0, 25 * 2 + 1)
    assert len(report.problems) == 20


def test_a_tail_is_enough_to_find_them() -> None:
    sound = resume_at_every_step(SOUND, saved_on=[TWO], resumed_on=[ONE, FOUR], tail=2)
    assert sound.exact, sound
    behind = replace(SOUND, load=lambda stream, state: load(stream, max(0, state - 1)))
    assert resume_at_every_step(behind, saved_on=[TWO], resumed_on=[ONE], tail=2).replays == 13


def test_a_stream_that_ends_before_its_tail_has_lost_the_rest() -> None:
    ended = replace(SOUND, load=lambda stream, state: setattr(stream, "at", stream.n if state else 0))
    report = resume_at_every_step(ended, saved_on=[ONE], resumed_on=[ONE], tail=2)
    assert report.losses == sum(26 - taken for taken in range(1, 27))
    assert not report.exact


@pytest.mark.parametrize("nowhere", [{"saved_on": [], "resumed_on": [ONE]}, {"saved_on": [ONE], "resumed_on": []}])
def test_resuming_nothing_proves_nothing(nowhere: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one topology"):
        resume_at_every_step(SOUND, **nowhere)


def test_other_steps_than_the_uninterrupted_run_are_counted() -> None:
    """All ids come, in steps of another size."""
    shifted = replace(SOUND, load=lambda stream, state: (load(stream, state), setattr(stream, "skew", True))[0])
    report = resume_at_every_step(shifted, saved_on=[TWO], resumed_on=[TWO], step_items=1, every=13)
    assert (report.resumes, report.replays, report.losses, report.differing) == (2, 0, 0, 26)


def test_ranks_that_get_unequally_much_are_refused() -> None:
    uneven = replace(SOUND, open=lambda world: Numbers(world, n=26 + 6 * world.rank))
    with pytest.raises(ValueError, match="all must get equally many"):
        resume_at_every_step(uneven, saved_on=[TWO], resumed_on=[ONE])
    with pytest.raises(ValueError, match="empty"):
        resume_at_every_step(replace(SOUND, open=lambda world: Numbers(world, n=0)), saved_on=[ONE], resumed_on=[ONE])


def test_a_rank_that_fails_or_dies_is_named() -> None:
    def broken(stream: Numbers, state: int) -> None:
        if stream.world.rank == 1:
            raise KeyError("no such state")

    with pytest.raises(RuntimeError, match="rank 1 of 2: KeyError: 'no such state'"):
        resume_at_every_step(replace(SOUND, load=broken), saved_on=[ONE], resumed_on=[TWO], processes=True)

    def dying(stream: Numbers, state: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="rank 0 of 2: it died"):
        resume_at_every_step(replace(SOUND, load=dying), saved_on=[ONE], resumed_on=[TWO], processes=True)


def test_what_has_a_state_dict_needs_no_adapter_of_its_own() -> None:
    """torchdata's loader over a dataset that knows its place: exact on one rank, whatever the workers."""
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def opened(world: World) -> Iterable[Any]:
        return loaders.StatefulDataLoader(Places(10), batch_size=None, num_workers=world.workers)

    report = resume_at_every_step(
        stateful(opened, ids=lambda item: [int(item)]),
        saved_on=[Topology()],
        resumed_on=[Topology()],
    )
    assert report.steps == 10
    assert (report.replays, report.losses) == (0, 0), report
    forgetful = resume_at_every_step(
        replace(stateful(opened, ids=lambda item: [int(item)]), load=lambda loader, state: None),
        saved_on=[Topology()],
        resumed_on=[Topology()],
    )
    assert forgetful.replays == sum(range(11))


class Places(IterableDataset[int]):
    """0..n-1, with a state."""

    def __init__(self, n: int) -> None:
        self.n, self.at = n, 0

    def __iter__(self) -> Iterator[int]:
        while self.at < self.n:
            self.at += 1
            yield self.at - 1

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]
