"""What a loader's stages spend: busy seconds of each, how full its queue is over time, which one starves which."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Stage = Literal["plan", "read", "encode", "decode", "collate", "hand_over", "copy"]
STAGES: tuple[Stage, ...] = get_args(Stage)
KEPT = 512
"""Looks at the queue that are kept; beyond, every other one is forgotten and only half as many are added."""
IDLE = 0.02
"""Share of its time that a trainer may wait before something starves it."""
FULL = 0.6
"""Share of its threads' time from which on a stage is what all wait for."""

_DOES = {
    "plan": "planning of blocks",
    "read": "reading of bytes",
    "encode": "tokenising",
    "decode": "decoding and resizing",
    "collate": "collating",
    "hand_over": "the hand-over between processes",
    "copy": "the copy to the device",
}
_HELPS = {
    "plan": "larger `ahead` hides it, cached text lengths make it shorter",
    "read": "faster storage, a cache or more threads",
    "encode": "more threads, or a shorter template",
    "decode": "more threads or workers, `decode: guarded`, or a `materialize` step in the build",
    "collate": "more threads, or fewer packs per batch",
    "hand_over": "fewer workers with more threads each",
    "copy": "pinned memory, or smaller batches",
}


class Spent:
    """Seconds and counts of one batch, by stage. One thread writes it: `lap` gives a stage the time since the last."""

    __slots__ = ("_at", "bytes", "fallbacks", "samples", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = {}
        self.samples = 0
        self.bytes = 0
        self.fallbacks: Counter[str] = Counter()
        """Pictures that DALI left to the CPU, by reason."""
        self._at = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """All since the last lap was spent on `stage`."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
        self._at = now

    def count(self, stage: Stage, seconds: float) -> None:
        """Give a stage seconds that were measured elsewhere."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add(self, other: Spent) -> None:
        """Take over what another has counted."""
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.samples += other.samples
        self.bytes += other.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStats:
    """One pass of a loader so far."""

    seconds: float
    """Since the pass began."""
    waited: float
    """Of these, seconds that the trainer waited for a batch, the first one included;"""
    first: float
    """of these, seconds until the first one."""
    batches: int
    samples: int
    bytes: int
    """Of encoded media."""
    threads: int
    """That read and decode, in all workers together."""
    ahead: int
    """Batches that are read in front of the trainer at most."""
    busy: Mapping[Stage, float]
    """Seconds of all threads together that each stage was at work, or waited for a core to be."""
    queue: tuple[tuple[float, int], ...]
    """(seconds since the beginning, batches that were ready) when the trainer asked, at most `KEPT` of them."""

    @property
    def share(self) -> dict[Stage, float]:
        """Share of their time, 0 to 1, that the threads of each stage were busy with it. Planning has one thread."""
        time = max(self.seconds, 1e-9)
        return {
            stage: busy / (time * (1 if stage in ("plan", "copy") else max(1, self.threads)))
            for stage, busy in self.busy.items()
        }

    @property
    def ready(self) -> float:
        """Mean number of batches that were ready when the trainer asked."""
        return sum(count for _, count in self.queue) / max(1, len(self.queue))

    @property
    def verdict(self) -> str:
        """One sentence: which stage starves which."""
        if self.batches < 2:
            return "too few batches to tell"
        steady = self.seconds - self.first
        waits = (self.waited - self.first) / max(steady, 1e-9)
        if waits <= IDLE:
            return (
                f"nothing starves: the trainer waits {waits:.1%} of its time, {self.ready:.1f} of {self.ahead} batches "
                "are ready when it asks"
            )
        share = self.share
        stage: Stage = max(share, key=lambda name: share[name], default="read")
        readers = sum(value for name, value in share.items() if name not in ("plan", "copy"))
        if max(readers, share.get("plan", 0.0), share.get("copy", 0.0)) < FULL:
            return (
                f"the readers starve the trainer, which waits {waits:.0%} of its time, although they are busy "
                f"{readers:.0%} of theirs only: batches take unequal times, so give a larger `ahead` ({self.ahead})"
            )
        return (
            f"{_DOES[stage]} starves the trainer, which waits {waits:.0%} of its time while this takes "
            f"{share[stage]:.0%} of {self.threads if stage not in ('plan', 'copy') else 1} thread(s): {_HELPS[stage]}"
        )

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {busy:.2f} s" for name, busy in self.busy.items())
        return (
            f"{self.batches} batches, {self.samples} samples in {self.seconds:.1f} s, {self.waited:.2f} s waited "
            f"({self.first:.2f} s for the first); busy: {stages}; {self.verdict}"
        )


@dataclass(slots=True)
class Tally:
    """Counts a pass of a loader; the thread of the trainer alone writes it."""

    threads: int
    ahead: int
    spent: Spent = field(default_factory=Spent)
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    first: float = 0.0
    batches: int = 0
    queue: list[tuple[float, int]] = field(default_factory=list)
    _every: int = 1
    _ended: float | None = None

    def took(self, asked: float, ready: int) -> None:
        """The trainer asked for a batch at `asked` (perf_counter) and has it now; `ready` were, when it asked."""
        now = time.perf_counter()
        self.waited += now - asked
        if not self.batches:
            self.first = now - asked
        if self.batches % self._every == 0:
            self.queue.append((asked - self.began, ready))
            if len(self.queue) > KEPT:
                self.queue, self._every = self.queue[::2], self._every * 2
        self.batches += 1

    def end(self) -> None:
        """The pass is over: its clock stands still."""
        self._ended = self._ended or time.perf_counter()

    def stats(self) -> LoaderStats:
        """As it stands now."""
        busy = {stage: self.spent.seconds[stage] for stage in STAGES if stage in self.spent.seconds}
        return LoaderStats(
            seconds=(self._ended or time.perf_counter()) - self.began,
            waited=self.waited,
            first=self.first,
            batches=self.batches,
            samples=self.spent.samples,
            bytes=self.spent.bytes,
            threads=self.threads,
            ahead=self.ahead,
            busy=busy,
            queue=tuple(self.queue),
        )
