"""Save a stream at every step, resume it on other topologies: what it replays, loses or puts elsewhere.

Any stream with a state can be tried, ours or another's: an `Adapter` says how one rank of it is opened, saved and
loaded, and what an item is called.

>>> class Numbers:
...     "A stream of 0..11, dealt round the ranks, whose state forgets that a step was half done."
...     def __init__(self, world): self.world, self.at = world, 0
...     def __iter__(self):
...         while self.at < 12:
...             self.at += self.world.ranks
...             yield self.at - self.world.ranks + self.world.rank
>>> def load(stream, state): stream.at = state // 4 * 4
>>> adapter = Adapter(open=Numbers, save=lambda stream: stream.at, load=load, ids=lambda item: [item])
>>> report = resume_at_every_step(adapter, saved_on=[Topology(ranks=2)], resumed_on=[Topology(), Topology(ranks=4)])
>>> report.resumes, report.replays, report.losses
(14, 12, 0)
>>> print(report.problems[0])
saved after 1 items on 2 ranks x 0 workers, resumed on 1 x 0: 2 replays, 0 losses, 12 of 12 steps differ; e.g. 0 again
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mmdata.types import World

Ids = tuple[Hashable, ...]
SHOWN = 20
"""Problems that a report describes in words; it counts all."""
PATIENCE = 300.0
"""Seconds in which a rank's process must answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How many ranks read, each with how many DataLoader workers (0: in the rank's own process)."""

    ranks: int = 1
    workers: int = 0

    def worlds(self) -> list[World]:
        """One World per rank; `workers` is what the rank's loader is to be given."""
        return [World(rank=rank, ranks=self.ranks, workers=self.workers) for rank in range(self.ranks)]

    def __str__(self) -> str:
        return f"{self.ranks} x {self.workers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What the harness must know of a stream."""

    open: Callable[[World], Iterable[Any]]
    """A fresh iterable for one rank, at the beginning of the stream."""
    save: Callable[[Any], Any]
    """The state of such an iterable after the item that was last taken from it; it must survive pickling."""
    load: Callable[[Any, Any], None]
    """Put a fresh iterable after a state. With as many ranks as saved it is the rank's own state, else that of rank 0,
    which must then hold for all."""
    ids: Callable[[Any], Iterable[Hashable]]
    """What identifies the content of an item; nothing for a filler that only keeps ranks in step."""


def stateful(open: Callable[[World], Iterable[Any]], ids: Callable[[Any], Iterable[Hashable]]) -> Adapter:
    """The Adapter of any iterable with `state_dict()` and `load_state_dict(state)`, as torchdata has it: our streams
    and loader, torchdata's StatefulDataLoader and its nodes, others' loaders that keep to it.

    >>> class Counter:
    ...     def __init__(self, world): self.at = 0
    ...     def __iter__(self):
    ...         while self.at < 3:
    ...             self.at += 1
    ...             yield self.at
    ...     def state_dict(self): return {"at": self.at}
    ...     def load_state_dict(self, state): self.at = state["at"]
    >>> adapter = stateful(Counter, ids=lambda item: [item])
    >>> print(resume_at_every_step(adapter, saved_on=[Topology()], resumed_on=[Topology()]))
    4 resumes over 3 steps: 0 replays, 0 losses, 0 steps differ
    """
    return Adapter(
        open=open,
        save=lambda stream: stream.state_dict(),
        load=lambda stream, state: stream.load_state_dict(state),
        ids=ids,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of all resumes together."""

    steps: int
    """Of the uninterrupted run."""
    resumes: int
    replays: int
    """Ids that came once more than in the uninterrupted run, over all resumes."""
    losses: int
    """Ids that did not come although the uninterrupted run has them."""
    differing: int
    """Steps whose items are not those of the uninterrupted run."""
    problems: tuple[str, ...]
    """One line each for the first resumes that went wrong."""

    @property
    def exact(self) -> bool:
        return not (self.replays or self.losses or self.differing)

    def __str__(self) -> str:
        head = (
            f"{self.resumes} resumes over {self.steps} steps: {self.replays} replays, {self.losses} losses, "
            f"{self.differing} steps differ"
        )
        return "\n".join([head, *self.problems])


def resume_at_every_step(
    adapter: Adapter,
    *,
    saved_on: Sequence[Topology],
    resumed_on: Sequence[Topology],
    step_items: int = 1,
    every: int = 1,
    tail: int | None = None,
    processes: bool = False,
) -> Report:
    """Run the stream once undisturbed on one rank; then, for each topology of `saved_on`, save it after every
    `every`-th item of its ranks and resume each state on each topology of `resumed_on`.

    `step_items` is how many items all ranks together take per global step: within a step the order may depend on the
    topology, across steps it may not. With 1 the whole sequence must be the same: micro-step by micro-step, the ranks
    in turn. `tail` bounds the items that each rank reads after a resume; None reads to the end. With `processes` every
    rank lives in a forked process of its own.

    Raises ValueError for a stream that is empty or does not give every rank equally many items, and where there is
    nothing to resume on: that would prove nothing.
    """
    if not saved_on or not resumed_on:
        raise ValueError("saved_on and resumed_on: name at least one topology each")
    whole = _flat(_read(adapter, Topology(), None, None, processes))
    if not whole:
        raise ValueError("the stream is empty: there is nothing to resume")
    steps = -(-len(whole) // step_items)
    resumes = replays = losses = differing = 0
    problems: list[str] = []
    for saved in saved_on:
        before, states = _saved(adapter, saved, processes)
        for taken in range(0, len(states), every):
            head = _flat([rank[:taken] for rank in before])
            for resumed in resumed_on:
                own = states[taken] if resumed.ranks == saved.ranks else [states[taken][0]] * resumed.ranks
                rest = _read(adapter, resumed, own, tail, processes)
                got = head + _flat(rest)
                expected = whole
                cut = len(rest[0]) == tail  # by us: a stream that ends before its tail is to have given everything
                if cut and len(got) < len(whole):  # whole steps only: ranks differ in what a tail reaches
                    got = got[: len(got) // step_items * step_items]
                    expected = whole[: len(got)]
                again, lost, wrong = _compare(got, expected, step_items)
                resumes, replays, losses = resumes + 1, replays + again.total(), losses + lost.total()
                differing += wrong
                if (again or lost or wrong) and len(problems) < SHOWN:
                    example = f"{next(iter(again))} again" if again else f"{next(iter(lost))} lost" if lost else "order"
                    problems.append(
                        f"saved after {taken} items on {saved.ranks} ranks x {saved.workers} workers, resumed on "
                        f"{resumed}: {again.total()} replays, {lost.total()} losses, {wrong} of {steps} steps differ; "
                        f"e.g. {example}"
                    )
    return Report(
        steps=steps,
        resumes=resumes,
        replays=replays,
        losses=losses,
        differing=differing,
        problems=tuple(problems),
    )


def _compare(got: list[Ids], expected: list[Ids], step_items: int) -> tuple[Counter[Hashable], Counter[Hashable], int]:
    """Ids that came too often and too rarely, and the number of steps that hold other items."""
    came = Counter(name for ids in got for name in ids)
    due = Counter(name for ids in expected for name in ids)
    ours, theirs = _steps(got, step_items), _steps(expected, step_items)
    wrong = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
    return came - due, due - came, wrong


def _steps(items: list[Ids], step_items: int) -> list[Counter[Ids]]:
    return [Counter(items[at : at + step_items]) for at in range(0, len(items), step_items)]


def _flat(ranks: list[list[Ids]]) -> list[Ids]:
    """One sequence: micro-step by micro-step, the ranks in turn, without fillers."""
    _check_even(ranks)
    return [ids for micro in zip(*ranks, strict=True) for ids in micro if ids]


def _check_even(ranks: list[list[Ids]]) -> None:
    if len({len(rank) for rank in ranks}) > 1:
        raise ValueError(f"the ranks get {[len(rank) for rank in ranks]} items; all must get equally many")


def _saved(adapter: Adapter, topology: Topology, processes: bool) -> tuple[list[list[Ids]], list[list[Any]]]:
    """An undisturbed run: each rank's items, and after every item (and before the first) the states of all ranks."""

    def run(world: World) -> tuple[list[Ids], list[Any]]:
        stream = adapter.open(world)
        taken: list[Ids] = []
        states = [pickle.dumps(adapter.save(stream))]
        for item in stream:
            taken.append(tuple(adapter.ids(item)))
            states.append(pickle.dumps(adapter.save(stream)))
        return taken, [pickle.loads(state) for state in states]

    results = list(_each(run, topology.worlds(), processes))
    _check_even([taken for taken, _ in results])
    return [taken for taken, _ in results], [list(at) for at in zip(*(states for _, states in results), strict=True)]


def _read(
    adapter: Adapter, topology: Topology, states: Sequence[Any] | None, tail: int | None, processes: bool
) -> list[list[Ids]]:
    """What each rank reads, from its state on."""

    def run(world: World) -> list[Ids]:
        stream = adapter.open(world)
        if states is not None:
            adapter.load(stream, states[world.rank])
        return [tuple(adapter.ids(item)) for item in islice(stream, tail)]

    return list(_each(run, topology.worlds(), processes))


def _each(run: Callable[[World], Any], worlds: list[World], processes: bool) -> Iterator[Any]:
    """`run` of every world: one after the other here, or at once in forked processes."""
    if not processes:
        yield from map(run, worlds)
        return
    context = multiprocessing.get_context("fork")  # the adapter's callables need not be importable
    started = []
    for world in worlds:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(run, world, theirs))
        process.start()
        theirs.close()
        started.append((world, process, ours))
    try:
        for world, _, pipe in started:
            try:
                error, value = pipe.recv() if pipe.poll(PATIENCE) else (f"no answer in {PATIENCE:g} s", None)
            except EOFError:
                error, value = "it died", None
            if error:
                raise RuntimeError(f"the process of rank {world.rank} of {world.ranks}: {error}")
            yield value
    finally:
        for _, process, pipe in started:
            process.kill()
            process.join()
            pipe.close()


def _answer(run: Callable[[World], Any], world: World, pipe: Any) -> None:
    try:
        pipe.send((None, run(world)))
    except Exception as error:
        pipe.send((f"{type(error).__name__}: {error}", None))
