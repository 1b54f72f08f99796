"""StreamingDataset: the stream as a torch dataset, in the same order for any number of ranks and workers."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info

from mmdata.errors import DataError, SpecError
from mmdata.families import Family
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.raw import RawSample
from mmdata.specfile import digest
from mmdata.stream import arguments, pictures, state
from mmdata.stream.anchors import Anchors
from mmdata.stream.arguments import Source
from mmdata.stream.bad import BadSamples, mark
from mmdata.stream.block import Block
from mmdata.stream.control import ControlLog
from mmdata.stream.deal import Cursor, Deal, deal
from mmdata.stream.extent import Extent, carried_on, changed, differing, extent, planner
from mmdata.stream.forgotten import among, forgotten
from mmdata.stream.order import Shuffle
from mmdata.stream.place import cursor_from_values, cursor_to_values, from_values, to_values
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.reader import dummy, read_bytes, read_pack, read_sample
from mmdata.stream.shared import SharedValue
from mmdata.stream.skips import SkipLog
from mmdata.stream.spec import Packing
from mmdata.stream.stats import Spent
from mmdata.stream.stretch import Stretch, Stretches
from mmdata.templates import Template, Tokenizer, TrainOn, Weights
from mmdata.types import Item, Packed, Sample, World

ASKED = 8, 1000
"""Samples that a dataset is asked for at once, at first and at most: they are looked up and read together, but nobody
waits for the first one longer than need be."""
Yields = Literal["packed", "encoded", "sample", "raw", "bytes"]


class StreamingDataset(IterableDataset[Sample | RawSample | Packed]):
    """Finished datasets in a keyed order: decoded `Sample`s, or with a `family` whole packs (`Packed`).

    `path_or_spec` is the folder of a dataset, a list of folders (pooled), folders with their weights (mixed by tokens,
    without end: `{"a": 0.7, "b": 0.3}`), a StreamSpec, or the path of a YAML file that holds one; a spec already says
    what `template`, `train_on`, `token_weights`, `max_length`, `packing`, `seed`, `shuffle` and `epochs` say, so they
    are not repeated; nor does a Template leave open what is trained. `family` is a name or a Family (then `tokenizer`
    is its own); `tokenizer` a Hugging Face tokenizer or the folder of one. `yields` is `packed` (the default with a
    family), `encoded` (each sample a Packed of its own), `sample` (the default without one), or `raw` (Samples whose
    media keep their bytes, checked and not decoded), or `bytes` (a `RawSample`: key and bytes of each part, checked,
    nothing made of them: the quickest). `world` says which of how many ranks this is; left out, an
    initialised `torch.distributed` is asked. `global_batch` is how many packs (without a family: samples) all ranks
    together take per step, by default one each.

    The sequence is a pure function of data, config and seed. Step s takes the next `global_batch` packs of it, dealt to
    the ranks; a rank that comes away empty gets a dummy pack without keys, so that all ranks do equally many. Batches
    are made here: use `DataLoader(dataset, batch_size=None, num_workers=...)`, and no wrapper that splits iterable
    datasets again.

    `iter()` always starts where `seek`, `set_epoch` or `load_state_dict` last put the dataset (the beginning)
    and ends after `epochs` passes; DataLoader workers, also persistent ones, start there too. `state_dict()` is exact
    for what this process has iterated; where DataLoader workers iterate, `state_dict(step=...)` is the state after
    that many global steps.

    A sample that cannot be read as planned is masked in its place (packs) or skipped (samples), counted in `bad`, and
    from then on masked whenever the run comes to it; too many stop the run with RunError (the spec's `failures`).
    Nothing whose bytes changed since the build is yielded. What was removed from a dataset (`mmdata.forget`) before it
    was opened here is left out (`forgotten`); in an epoch that began before, it is masked. `fallbacks` counts the
    pictures of packs that DALI left to the CPU, by reason, as far as this process read them.

    `run_folder`, the same for all ranks, is where a run keeps what its states refer to: the log of skipped samples
    (`skips.jsonl`), the anchors that let `seek` find any step at once, and quarantined bytes. Without it skipped
    samples are remembered by each process for itself only.
    """

    _known_anchors: tuple[int, Anchors] | None
    _control: ControlLog | None
    _progress: Cursor | Callable[[], Deal]
    """After what was last yielded in this process, or what tells its deal."""

    def __init__(
        self,
        path_or_spec: Source,
        *,
        family: str | Family | None = None,
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        template: str | Template | None = None,
        train_on: TrainOn = "assistant",
        token_weights: Weights | None = None,
        max_length: int | None = None,
        packing: Packing = "best_fit",
        seed: int = 0,
        shuffle: Shuffle = "global",
        epochs: int | None = 1,
        yields: Yields | None = None,
        world: World | None = None,
        global_batch: int | None = None,
        run_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        given: dict[str, Any] = {"train_on": train_on, "token_weights": token_weights or Weights(), "epochs": epochs}
        given |= {"max_length": max_length, "packing": packing, "seed": seed, "shuffle": shuffle}
        named = template.name if isinstance(template, Template) else template
        spec = arguments.stream_spec(path_or_spec, {**given, **({} if named is None else {"template": named})})
        self.world = arguments.stream_world(world)
        self.family = arguments.stream_family(family, tokenizer)
        self.global_batch = arguments.stream_batch(global_batch, self.world, packs=self.family is not None)
        self.yields = _yields(yields, self.family)
        if self.yields == "encoded":
            spec = spec.model_copy(update={"packing": "none", "batch_tokens": None, "batch_rows": None})
        if self.family is not None and spec.packing != "none" and spec.row_tokens is None:
            raise SpecError("max_length: packing needs to know how many tokens a pack holds")
        spec = pictures.settled(spec)
        self.spec = spec
        cache = arguments.stream_cache(spec)
        self.datasets = [open_dataset(each.path, integrity=spec.integrity, cache=cache) for each in spec.sources]
        if spec.integrity != "off" and (bare := next((each for each in self.datasets if each.unsummed), None)):
            raise SpecError(
                f"integrity: {bare.unsummed} shards of {bare.uri} were indexed without sums, there is nothing to check "
                "their bytes against; set `integrity: off`, or index them again with --digest crc32c"
            )
        self.templates = arguments.stream_templates(template, spec, self.family)
        self.forgotten = forgotten(self.datasets)
        self.extents = [self._now(0)]
        self.run_folder = None if run_folder is None else Path(run_folder)
        self.planner = self._planner()
        self.skips = SkipLog(self.run_folder, rank=self.world.rank, ranks=self.world.ranks)
        quarantine = self.run_folder / "quarantine" if self.run_folder and spec.quarantine else None
        self._bad = BadSamples(self.datasets, spec, self.skips, quarantine, self.forgotten)
        self.fallbacks: Counter[str] = Counter()
        self._progress = Cursor()
        self._shared = SharedValue(self._start(self._progress, serial=1))
        self._elsewhere = SharedValue(0)
        self._mine: tuple[int, Cursor, int, list[Extent]] | None = None
        self._worker = self._deals_done = 0

    @property
    def dataset(self) -> Dataset:
        """The dataset; of several, the first."""
        return self.datasets[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """All that decides the sequence of packs besides the data, as states keep it."""
        return state.config(self.spec, self.family, self.templates)

    @property
    def control(self) -> ControlLog | None:
        """Weights that were set while the run goes on; None for a stream without weights or a `run_folder`."""
        return self._control

    @property
    def template(self) -> Template:
        """How its samples become tokens."""
        return self.templates[0]

    @property
    def bad(self) -> Counter[str]:
        """Samples that were masked or skipped, by reason, as far as this process took them."""
        return self._bad.counts

    def __iter__(self) -> Iterator[Sample | RawSample | Packed]:
        info = get_worker_info()
        start, first = self._begin(None if info is None else info.id)
        self._progress, self._deals_done = start, first
        if info is None and self.family is None:
            return self._in_stretches(start)
        return self._pass(start, first, *((0, 1) if info is None else (info.id, info.num_workers)))

    def _pass(self, start: Cursor, first: int, worker: int, workers: int) -> Iterator[Sample | RawSample | Packed]:
        """What a worker yields from `start` on, where the deals of all workers are counted from `first`."""
        for number, dealt in enumerate(self._dealt(start), first):
            if number % workers != worker:
                continue
            value = self.read(dealt)
            self.account(dealt, value)
            self._progress, self._deals_done = dealt.after, number + 1
            if not isinstance(value, DataError | None):
                yield value

    def _in_stretches(self, start: Cursor) -> Iterator[Sample | RawSample]:
        """`_pass` without a family in one process: the same samples, states and accounts; no object is made of what is
        not yielded, and neighbours are read together."""
        if start.dealt or start.taken % self.global_batch:  # the rest of a step that was left half done
            for dealt in self._dealt(start):
                value = self.read(dealt)
                self.account(dealt, value)
                self._progress = start = dealt.after
                if isinstance(value, Sample | RawSample):
                    yield value
                if not start.dealt:
                    break
            if start.taken % self.global_batch:  # the last step had fewer packs
                return
        dealing = Stretches(
            self.planner, start, epochs=self.spec.epochs, global_batch=self.global_batch, world=self.world
        )
        anchors = self._anchors(start.first_epoch)
        for stretch in dealing:
            self.skips.refresh()
            if stretch.anchor is not None:
                count, at = stretch.anchor
                anchors.add(count, to_values(at), write=self.world.rank == 0)
            yield from self._stretch(stretch, dealing)

    def _stretch(self, stretch: Stretch, dealing: Stretches) -> Iterator[Sample | RawSample]:
        unreadable = DataError, OSError  # at the interpreter's end the module has lost its names
        # What the run masks already is told apart one by one, and so is what cannot be read.
        odd, of = np.full(len(stretch.taken), bool(len(self.skips))), stretch.dataset
        for number, positions in enumerate(self.forgotten.positions):
            if len(here := np.flatnonzero(of == number) if len(positions) else ()):
                odd[here] |= among(stretch.position[here], positions)
        borders = (np.flatnonzero((of[1:] != of[:-1]) | (odd[1:] != odd[:-1])) + 1).tolist()
        at, asked = 0, ASKED[0]
        for stop in [*borders, len(odd)]:
            while at < stop:
                if not odd[at]:
                    good, number, wanted = 0, int(of[at]), stretch.position[at : min(stop, at + asked)]
                    asked = min(4 * asked, ASKED[1])
                    try:
                        for value in self._values(number, wanted):
                            good += 1
                            self._progress = partial(dealing.deal, stretch.taken[at])
                            at += 1
                            yield value
                    except unreadable:
                        odd[at] = True
                    finally:
                        self._bad.good(number, good)
                    continue
                dealt = dealing.deal(stretch.taken[at])
                found = self.read(dealt)
                self.account(dealt, found)
                self._progress = dealt.after
                at += 1
                if isinstance(found, Sample | RawSample):
                    yield found

    def _values(self, number: int, positions: npt.NDArray[np.int64]) -> Iterator[Sample | RawSample]:
        dataset = self.datasets[number]
        if self.yields == "bytes":
            return itertools.starmap(RawSample, dataset.iter_raw(positions))
        decoded, limit = self.yields == "sample", self.spec.max_pixels
        return (read_sample(dataset, at, max_pixels=limit, decoded=decoded) for at in positions.tolist())

    def _after(self) -> Cursor:
        """Where this process' iteration stands."""
        if not isinstance(self._progress, Cursor):
            self._progress = self._progress().after
        return self._progress

    def deals(self) -> Iterator[Deal]:
        """This rank's packs from the start on, planned and not yet read. A new pass begins for the budgets."""
        self._begin(None)
        return self._dealt(self.start)

    def read(
        self, dealt: Deal, *, known: Callable[[Item], str | None] | None = None, spent: Spent | None = None
    ) -> Sample | RawSample | Packed | DataError | None:
        """The arrays of a deal (any thread may ask). Without a family: its sample, why there is none, or None
        for a rank that comes away empty. A loader says which samples are `known` to be bad and has what the reading
        took `spent`."""
        known = known or self.known
        if self.family is not None:
            if dealt.pack is None:
                return dummy(self.family)
            fallbacks = self.fallbacks if spent is None else spent.fallbacks
            return read_pack(dealt.pack, self.datasets, self.family, self.templates, self.spec, fallbacks, known, spent)
        if dealt.pack is None:
            return None
        item = dealt.pack.items[0]
        if (reason := known(item)) is not None:
            return DataError(reason, "known of this run")
        try:
            if self.yields == "bytes":
                return read_bytes(self.datasets[item.dataset], item.position, spent=spent)
            return read_sample(
                self.datasets[item.dataset],
                item.position,
                max_pixels=self.spec.max_pixels,
                decoded=self.yields == "sample",
                spent=spent,
            )
        except DataError as error:
            return error

    def known(self, item: Item) -> str | None:
        """Why the run already masks a sample, if it does."""
        return self._bad.known(item)

    def account(self, dealt: Deal, value: Sample | RawSample | Packed | DataError | None) -> None:
        """Note what went wrong with a deal that is taken. Raises RunError when a budget is spent."""
        self._bad.account(dealt, value)

    def seek(self, step: int) -> None:
        """Start the next `iter()` at global step `step` of the run: from the nearest anchor (`run_folder` keeps them),
        else by replanning the blocks before it."""
        self._place(self._cursor(step))

    def set_epoch(self, epoch: int) -> None:
        """Start the next `iter()` at the beginning of an epoch; steps count from there."""
        self._place(Cursor(position=Position(epoch), first_epoch=epoch))

    def state_dict(self, *, step: int | None = None) -> dict[str, Any]:
        """After what was last yielded in this process, or after `step` global steps; JSON values, at most 4 KB.

        A DataLoader worker answers a state of its own, for `StatefulDataLoader`; then its process alone knows how far
        it is, and the dataset outside raises RuntimeError unless it is told the `step`."""
        info = get_worker_info()
        if info is not None:
            worker = (info.id, info.num_workers, self._deals_done)
            return self._state(self._after(), skips=None, worker=worker)
        if step is not None:
            return self.state_at(self._cursor(step))
        if self._elsewhere.get() == self._shared.get()["serial"]:
            raise RuntimeError(
                "DataLoader workers iterate this dataset, so it does not know how far the trainer is: give "
                "state_dict(step=...), or use StreamLoader or torchdata's StatefulDataLoader"
            )
        return self.state_at(self._after())

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Start the next `iter()` after the state, whatever ranks and workers it was saved by.

        Shards that were added to a dataset since count from the next epoch on; samples that were removed are masked at
        once and left out from the next epoch on. Raises SpecError, naming each difference, for a state of other data or
        another config, or a skip log that is not in `run_folder`."""
        loaded = state.parse(saved)
        info = get_worker_info()
        cursor = loaded.cursor()
        state.refuse_other(loaded, self.config, differing(loaded.data, self.datasets))
        if loaded.control is not None:
            if self._control is None and loaded.control.count:
                raise SpecError(f"run_folder: the state counts {loaded.control.count} entries of its control log")
            if self._control is not None:
                self._control.check(loaded.control.count, loaded.control.digest)
        extents = self._carried_on(loaded.data, cursor)
        if loaded.worker is not None:
            self._load_worker(loaded.worker, cursor, extents)
            return
        if info is None and loaded.skips is not None:
            self.skips.restore(loaded.skips.count, loaded.skips.digest, mark(cursor))
        self._extend(extents)
        self._place(cursor)
        # Steps are found from here: what an epoch before held is not known any more.
        self._known_anchors = None
        anchors = self._anchors(cursor.first_epoch)
        anchors.add(cursor.taken, to_values(cursor.position), write=info is None and self.world.rank == 0)

    def state_at(self, cursor: Cursor) -> dict[str, Any]:
        """The state that goes on at a cursor."""
        return self._state(cursor, skips=None if self.run_folder is None else self.skips.save(mark(cursor)))

    @property
    def start(self) -> Cursor:
        """Where the next `iter()` starts."""
        return cursor_from_values(self._shared.get()["start"])

    def block(self, epoch: int = 0, number: int = 0) -> Block:
        """A planned block, for those who want to know before they read."""
        return self.planner.block(Position(epoch, number))

    def _dealt(self, start: Cursor) -> Iterator[Deal]:
        dealing = deal(self.planner, start, epochs=self.spec.epochs, global_batch=self.global_batch, world=self.world)
        anchors = self._anchors(start.first_epoch)
        anchored: tuple[int, int] | None = None
        for dealt in dealing:
            yield dealt
            at = dealt.after.position
            if not dealt.after.dealt and (at.epoch, at.block) != anchored:
                anchored = (at.epoch, at.block)
                self.skips.refresh()
                anchors.add(dealt.after.taken, to_values(at), write=self.world.rank == self._worker == 0)

    def _anchors(self, first_epoch: int) -> Anchors:
        if self._known_anchors is None or self._known_anchors[0] != first_epoch:
            identity = ""  # who keeps them for himself does not meet those of others
            if self.run_folder is not None:
                identity = digest([self.config, [held.model_dump() for held in self.extents]])
            anchors = Anchors(identity, folder=self.run_folder, first_epoch=first_epoch)
            self._known_anchors = (first_epoch, anchors)
        return self._known_anchors[1]

    def _cursor(self, step: int) -> Cursor:
        """Where global step `step` of the run begins."""
        if step < 0:
            raise SpecError(f"seek: no step {step}")
        taken, start, first = step * self.global_batch, self.start, self.start.first_epoch
        if taken < start.taken and self.extents[0].epoch > first:
            raise SpecError(f"seek: step {step} lies before the state that was loaded, and the data have changed since")
        anchors = self._anchors(first)
        count, values = anchors.before(taken)
        at, end = Position(first) if values is None else from_values(values), first + (self.spec.epochs or 1 << 62)
        found = self.planner.at(taken - count, at, end=end, beyond=self.global_batch)
        if self._control is None:  # whose later entries may move what is ahead
            # Where workers iterate, this process meets no anchors: asked step by step it would replan all each time.
            anchors.add(taken, to_values(found), write=False)
        return Cursor(position=found, taken=taken, first_epoch=first)

    def _begin(self, worker: int | None) -> tuple[Cursor, int]:
        """Where a pass starts, and how many deals of its own count are behind it; for a worker, what it must know."""
        self._bad.begin()
        shared = self._shared.get()
        self._worker = worker or 0
        if worker is None:
            return cursor_from_values(shared["start"]), 0
        self._elsewhere.set(shared["serial"])
        self.skips.follow(worker, shared["skips"])
        if self._mine is not None and self._mine[0] == shared["serial"]:
            _, start, done, extents = self._mine
            self._extend(extents)
            return start, done
        self._extend([Extent.model_validate(held) for held in shared["extents"]])
        return cursor_from_values(shared["start"]), 0

    def _load_worker(self, saved: tuple[int, int, int], cursor: Cursor, extents: list[Extent]) -> None:
        info = get_worker_info()
        if info is None or (info.id, info.num_workers) != saved[:2]:
            raise SpecError(
                f"this is the state of worker {saved[0]} of {saved[1]} of a DataLoader; load the whole loader's state "
                "into a loader with as many workers, or use state_dict(step=...), which fits any number"
            )
        self._mine = (self._shared.get()["serial"], cursor, saved[2], extents)

    def _state(
        self, cursor: Cursor, *, skips: tuple[int, str] | None, worker: tuple[int, int, int] | None = None
    ) -> dict[str, Any]:
        at = cursor.position.epoch
        running = [held for held in self.extents if held.epoch <= at][-1:]
        data = running + [held for held in self.extents if held.epoch > at]
        control = None if self._control is None else (len(self._control), self._control.digest())
        return state.dump(cursor, data, self.config, skips=skips, control=control, worker=worker)

    def _place(self, cursor: Cursor) -> None:
        self._progress = cursor
        self._shared.set(self._start(cursor, serial=self._shared.get()["serial"] + 1))

    def _start(self, cursor: Cursor, *, serial: int) -> dict[str, Any]:
        """Where workers begin, the serial-th time that they are told."""
        extents = [held.model_dump() for held in self.extents]
        return {"serial": serial, "start": cursor_to_values(cursor), "skips": self.skips.saved, "extents": extents}

    def _now(self, epoch: int) -> Extent:
        """The datasets as this stream knows them, from an epoch on."""
        return extent(self.datasets, epoch, generations=self.forgotten.generations)

    def _carried_on(self, saved: list[Extent], cursor: Cursor) -> list[Extent]:
        """What a run holds that goes on at a cursor: what has changed counts from the first epoch of which it has not
        begun a step."""
        at = cursor.position
        epoch = at.epoch if at.block == at.pack == 0 else at.epoch + 1
        if cursor.dealt and changed(saved, self._now(epoch)):
            # How the step's other packs are dealt follows from all of them, and they may reach into the next epoch.
            epoch = self._planned(saved).at(cursor.size - 1, at).epoch + 1
        return carried_on(saved, self._now(epoch), at)

    def _extend(self, extents: list[Extent]) -> None:
        if extents != self.extents:
            self.extents = extents
            self.planner = self._planner()

    def _planner(self) -> Planner:
        self._known_anchors = None
        controlled = self.spec.weighted and self.run_folder is not None
        self._control = ControlLog(self.run_folder) if controlled and self.run_folder else None
        return self._planned(self.extents)

    def _planned(self, extents: list[Extent]) -> Planner:
        return planner(self.datasets, self.spec, self.family, self.templates, extents=extents, control=self._control)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name not in ("planner", "_known_anchors", "_control")
        }

    def __setstate__(self, values: dict[str, Any]) -> None:
        vars(self).update(values)
        self.planner = self._planner()


def _yields(yields: Yields | None, family: Family | None) -> Yields:
    if yields is None:
        return "sample" if family is None else "packed"
    if (yields in ("packed", "encoded")) != (family is not None):
        needs = "needs a family" if family is None else "needs none: leave the family out"
        raise SpecError(f"yields: {yields!r} {needs}")
    return yields
