"""StreamingDataset: the stream as a torch dataset, in the same order for any number of ranks and workers."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from torch.utils.data import IterableDataset, get_worker_info

from mmdata import specfile
from mmdata.errors import Budget, DataError, SpecError
from mmdata.families import Family, get_family
from mmdata.shards.dataset import open_dataset
from mmdata.stream import pictures, state
from mmdata.stream.deal import Cursor, Deal, deal
from mmdata.stream.order import Shuffle
from mmdata.stream.plan import Block, Planner, Position
from mmdata.stream.reader import dummy, read_pack, read_sample
from mmdata.stream.spec import Packing, StreamSpec
from mmdata.templates import Template, Tokenizer, TrainOn, Weights, get_template
from mmdata.types import Packed, Sample, World

log = logging.getLogger(__name__)


class StreamingDataset(IterableDataset[Sample | Packed]):
    """A finished dataset in a keyed order: decoded `Sample`s, or with a `family` whole packs (`Packed`).

    `path_or_spec` is the folder of a dataset, a StreamSpec, or the path of a YAML file that holds one; a spec
    already says what `template`, `train_on`, `token_weights`, `max_length`, `packing`, `seed`, `shuffle` and `epochs`
    say, so they are not repeated; nor does a Template leave open what is trained. `family` is a name or a Family
    (then `tokenizer` is its own); `tokenizer` a Hugging Face tokenizer or the folder of one. `world` says which of how
    many ranks this is, `global_batch` how many packs (without a family: samples) all ranks together take per step, by
    default one each.

    The sequence is a pure function of data, config and seed. Step s takes the next `global_batch` packs of it,
    dealt round the ranks; a rank that comes away empty gets a dummy pack without keys, so that all ranks do equally
    many. Batches are made here: use `DataLoader(dataset, batch_size=None, num_workers=...)`, and no wrapper that
    splits iterable datasets again.

    `iter()` always starts where `seek`, `set_epoch` or `load_state_dict` last put the dataset (the beginning)
    and ends after `epochs` passes. `state_dict()` is exact for what this process has iterated; with DataLoader
    workers the iterating happens elsewhere, so count steps and `seek`, or use StreamLoader.

    A sample that cannot be read as planned is masked in its place (packs) or skipped with a warning (samples) and
    counted in `bad`; too many stop the run with RunError. Nothing whose bytes changed since the build is yielded.
    `fallbacks` counts the pictures of packs that DALI left to the CPU, by reason, as far as this process read them.
    """

    def __init__(
        self,
        path_or_spec: str | os.PathLike[str] | StreamSpec,
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
        world: World | None = None,
        global_batch: int | None = None,
    ) -> None:
        given: dict[str, Any] = {"train_on": train_on, "token_weights": token_weights or Weights(), "epochs": epochs}
        given |= {"max_length": max_length, "packing": packing, "seed": seed, "shuffle": shuffle}
        named = template.name if isinstance(template, Template) else template
        self.spec = _spec(path_or_spec, {**given, **({} if named is None else {"template": named})})
        self.world = world or World()
        self.global_batch = self.world.ranks if global_batch is None else global_batch
        if self.global_batch < 1:
            raise SpecError(f"global_batch: {self.global_batch} packs per step; at least 1 is needed")
        if not 0 <= self.world.rank < self.world.ranks:
            raise SpecError(f"world: rank {self.world.rank} of {self.world.ranks}")
        self.family = _family(family, tokenizer)
        if self.family is not None and self.spec.packing != "none" and self.spec.max_length is None:
            raise SpecError("max_length: packing needs to know how many tokens a pack holds")
        pictures.check(self.spec)
        self.dataset = open_dataset(self.spec.dataset, integrity=self.spec.integrity)
        self.template = _template(template, self.spec, self.family)
        self.planner = Planner(self.dataset, self.spec, self.family, self.template)
        self.config = state.config(self.spec, self.family, self.template)
        self.bad: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self._start = Cursor()
        self._progress = self._start

    def __iter__(self) -> Iterator[Sample | Packed]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        budget = Budget()
        self._progress = self._start
        for number, dealt in enumerate(self.deals()):
            if number % workers != worker:
                continue
            value = self.read(dealt)
            self.account(dealt, value, budget)
            self._progress = dealt.after
            if not isinstance(value, DataError | None):
                yield value

    def deals(self) -> Iterator[Deal]:
        """This rank's packs from the start on, planned and not yet read."""
        return deal(
            self.planner, self._start, epochs=self.spec.epochs, global_batch=self.global_batch, world=self.world
        )

    def read(self, dealt: Deal) -> Sample | Packed | DataError | None:
        """The arrays of a deal (any thread may ask). Without a family: its sample, why there is none, or None
        for a rank that comes away empty."""
        if self.family is not None:
            if dealt.pack is None:
                return dummy(self.family)
            return read_pack(dealt.pack, self.dataset, self.family, self.template, self.spec, self.fallbacks)
        if dealt.pack is None:
            return None
        try:
            return read_sample(self.dataset, dealt.pack.items[0].position, max_pixels=self.spec.max_pixels)
        except DataError as error:
            return error

    def account(self, dealt: Deal, value: Sample | Packed | DataError | None, budget: Budget) -> None:
        """Count what went wrong with a deal. Raises RunError when the budget is spent."""
        if dealt.pack is None:
            return
        failed: dict[str, str] = {}
        if isinstance(value, DataError):
            position = dealt.pack.items[0].position
            failed = {"": value.reason}
            log.warning("%s: position %d is skipped: %s", self.dataset.path, position, value)
        elif isinstance(value, Packed):
            failed = dict(value.masked)
            for key, reason in failed.items():
                log.warning("%s: %s is masked: %s", self.dataset.path, key, reason)
        for item in dealt.pack.items:
            if item.key not in failed:
                budget.ok()
                continue
            reason = failed[item.key]
            self.bad[reason] += 1
            ref = self.dataset.ref(item.position)
            budget.failed(f"{self.dataset.path} shard {ref.shard} row {ref.row} {item.key}: {reason}")

    def seek(self, step: int) -> None:
        """Start the next `iter()` at global step `step` of the run, replanning the blocks before it."""
        if step < 0:
            raise SpecError(f"seek: no step {step}")
        taken = step * self.global_batch
        first = self._start.first_epoch
        self._place(Cursor(position=self.planner.at(taken, Position(first)), taken=taken, first_epoch=first))

    def set_epoch(self, epoch: int) -> None:
        """Start the next `iter()` at the beginning of an epoch; steps count from there."""
        self._place(Cursor(position=Position(epoch), first_epoch=epoch))

    def state_dict(self) -> dict[str, Any]:
        """After what was last yielded in this process; JSON values, at most 4 KB."""
        if get_worker_info() is not None:
            raise RuntimeError(
                "a DataLoader worker sees a part of the stream only; use StreamLoader, or count and seek"
            )
        return self.state_at(self._progress)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Start the next `iter()` after the state, whatever ranks and workers it was saved by.

        Raises SpecError, naming each difference, for a state of other data or another config."""
        self._place(state.load(saved, self.dataset.manifest.root_digest, self.config))

    def state_at(self, cursor: Cursor) -> dict[str, Any]:
        """The state that goes on at a cursor."""
        return state.dump(cursor, self.dataset.manifest.root_digest, self.config)

    @property
    def start(self) -> Cursor:
        """Where the next `iter()` starts."""
        return self._start

    def block(self, epoch: int = 0, number: int = 0) -> Block:
        """A planned block, for those who want to know before they read."""
        return self.planner.block(epoch, number)

    def _place(self, cursor: Cursor) -> None:
        self._start = self._progress = cursor


def _spec(path_or_spec: str | os.PathLike[str] | StreamSpec, given: dict[str, Any]) -> StreamSpec:
    if isinstance(path_or_spec, StreamSpec):
        spec = path_or_spec
    elif str(path_or_spec).endswith((".yaml", ".yml")):
        spec, _ = specfile.load(StreamSpec, str(path_or_spec))
    else:
        try:
            return StreamSpec(dataset=str(path_or_spec), **given)
        except ValidationError as error:
            wrong = [f"{e['loc'][0]}: {e['msg']}, not {e['input']!r}" for e in error.errors(include_url=False)]
            raise SpecError("StreamingDataset: " + "; ".join(wrong)) from error
    defaults = StreamSpec(dataset="")
    twice = [name for name, value in given.items() if value not in (getattr(defaults, name), getattr(spec, name))]
    if twice:
        raise SpecError(f"{', '.join(twice)}: the stream's spec says otherwise; say it there only")
    return spec


def _template(template: str | Template | None, spec: StreamSpec, family: Family | None) -> Template:
    if isinstance(template, Template):
        told: dict[str, Any] = {
            "template_options": {},
            "system": None,
            "train_on": "assistant",
            "token_weights": Weights(),
        }
        if twice := [name for name, default in told.items() if getattr(spec, name) != default]:
            raise SpecError(f"{', '.join(twice)}: the template already says it; give its name, or say it there only")
        return template
    return get_template(
        spec.template,
        tokenizer=None if family is None else family.tokenizer,
        markers={} if family is None else family.markers,
        train_on=spec.train_on,
        weights=spec.token_weights,
        system=spec.system,
        options=spec.template_options,
    )


def _family(family: str | Family | None, tokenizer: str | os.PathLike[str] | Tokenizer | None) -> Family | None:
    if family is None:
        if tokenizer is not None:
            raise SpecError("tokenizer: without a family the stream yields samples and tokenises nothing")
        return None
    if isinstance(family, Family):
        if tokenizer is not None and tokenizer is not family.tokenizer:
            raise SpecError("tokenizer: the family already has one; leave it out here")
        return family
    if tokenizer is None:
        raise SpecError(f"tokenizer: family {family!r} needs one")
    if isinstance(tokenizer, str | os.PathLike):
        from transformers import AutoTokenizer

        loaded: Any = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
        return get_family(family, tokenizer=loaded)
    return get_family(family, tokenizer=tokenizer)
