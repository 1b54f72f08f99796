"""The child process that runs the steps of one record at a time: decoders may hang or crash in it.

It speaks over one inherited channel: one record after another comes in, each is answered by an Outcome.
Messages are pickled, by our own two processes and from our own values only.
"""

from __future__ import annotations

import bisect
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PIL import Image

from mmdata import startup
from mmdata.decode.work import Work
from mmdata.engine.channel import Channel
from mmdata.errors import DataError, RunError, SpecError
from mmdata.ledger import STATES
from mmdata.registry import load_plugin, lookup
from mmdata.spec import OrderedStepSpec, StepSpec
from mmdata.types import Drop, Media, Packets, Sample, Text

_TOO_MUCH = "asked for more memory than engine.worker_memory_mib allows"
THUMBNAILS = 4
"""Pictures of rejected records kept per unit and reason."""
_UNWRITTEN = ("data", "packets", "place", "made", "excerpt")
"""Fields of media that are no values of the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker that was not forked must know before its first record: plugins to load, and each step's
    fields, from which the steps are rebuilt once the plugins that may define them are there."""

    plugins: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`steps`: run the pipeline. `thumbnail`: only make the picture of a record that was rejected later.
    `row` is the record's, in the input."""

    unit: int
    row: int = 0
    sample: Sample
    task: Literal["steps", "thumbnail"] = "steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a record.

    Media whose bytes the steps left alone come back with `data=None`, and `same` says which of the given
    media (by number) each such part was: the parent still holds them.
    `signatures` are those of the ordered steps reached, by step number. `bug` is a traceback, `mistake` what is wrong
    with the spec that only a step at its work finds.
    """

    sample: Sample | None = None
    same: dict[int, int] = field(default_factory=dict)
    drop: Drop | None = None
    step: int | None = None
    signatures: dict[int, dict[str, bytes]] = field(default_factory=dict)
    thumbnail: bytes | None = None
    facts: Media | None = None
    notes: dict[str, int] = field(default_factory=dict)
    bug: str | None = None
    mistake: str | None = None


def run_steps(sample: Sample, steps: tuple[StepSpec, ...], work: Work) -> Outcome:
    """The pipeline over one record, up to its end or the first Drop.

    Steps after an ordered one run before its decision is known: it is taken later, in input order, and
    costs nothing when the record is kept, which is the common case.
    """
    signatures: dict[int, dict[str, bytes]] = {}
    try:
        current = _excerpts(sample)
    except DataError as error:
        drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
        return Outcome(drop=drop, facts=_first_facts(sample))
    for number, step in enumerate(steps):
        try:
            if isinstance(step, OrderedStepSpec):
                signatures[number] = step.signature(current, work)
                continue
            result = step.apply(current, work)
        except DataError as error:
            result = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
        _check_answer(result, current)
        if isinstance(result, Drop):
            return Outcome(drop=result, step=number, facts=_first_facts(current), signatures=signatures)
        current = result
    _check_sample(current)
    return Outcome(sample=current, signatures=signatures, facts=_first_facts(current))


def _excerpts(sample: Sample) -> Sample:
    """The sample with what is meant of its media: clips and pages. They are taken out here, and not by the source,
    since a decoder may hang or crash. Raises DataError as `excerpt.taken` does."""
    if all(media.excerpt is None for media in sample.media):
        return sample
    from mmdata.decode import excerpt  # here: few builds need it

    parts = (excerpt.taken(part) if isinstance(part, Media) else part for part in sample.parts)
    return replace(sample, parts=tuple(parts))


def _check_answer(result: object, given: Sample) -> None:
    """Raise TypeError, a bug of the step, for an answer that would leave the record without a state."""
    if isinstance(result, Drop):
        if result.state == "ok" or result.state not in STATES or not result.reason:
            raise TypeError(f"a Drop has a reason, and a state other than `ok` out of {STATES}, not {result}")
    elif not isinstance(result, Sample):
        raise TypeError(f"a step answers a Sample or a Drop, not {type(result).__name__}")
    elif result.key != given.key:
        raise TypeError(f"a step keeps the key {given.key!r}; it made {result.key!r} of it")


def _check_sample(sample: Sample) -> None:
    """Raise TypeError or ValueError, a bug of a step, for a sample that shard and index cannot hold."""
    values: list[Any] = [dict(sample.meta)]
    for part in sample.parts:
        if isinstance(part, Media):
            if not isinstance(part.data, bytes):
                raise TypeError(f"a medium holds bytes at the end of the steps, not {type(part.data).__name__}")
            values += [getattr(part, name) for name in Media.__slots__ if name not in _UNWRITTEN]
            if not isinstance(part.packets, Packets | None):
                raise TypeError(f"`packets` is a packet table, not a {type(part.packets).__name__}")
        elif isinstance(part, Text):
            part.text.encode()
            values.append(part.role)
        else:
            raise TypeError(f"a part is a Text or a Media, not a {type(part).__name__}")
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()


def _first_facts(sample: Sample) -> Media | None:
    return replace(sample.media[0], data=None, made=()) if sample.media else None


class _Thumbnails:
    """Pictures of the first THUMBNAILS rows of a unit that end for one reason, so that a filter which rejects most of
    the input does not spend its time on pictures of it.

    A worker sees some of the rows, in any order: it makes a picture of each that is among the first it has seen so far.
    Whichever workers there are, the first rows of all are among these; `local` leaves out the others."""

    def __init__(self) -> None:
        self._unit = -1
        self._first: dict[str, list[int]] = {}

    def make(self, job: Job, reason: str, work: Work) -> bytes | None:
        if job.unit != self._unit:
            self._unit, self._first = job.unit, {}
        first = self._first.setdefault(reason, [])
        if not job.sample.media or (len(first) == THUMBNAILS and job.row > first[-1]):
            return None
        picture = work.thumbnail(job.sample.media[0])
        if picture is not None:
            bisect.insort(first, job.row)
            del first[THUMBNAILS:]
        return picture


def _answer(job: Job, steps: tuple[StepSpec, ...], work: Work, thumbnails: _Thumbnails) -> Outcome:
    if job.task == "thumbnail":
        return Outcome(thumbnail=work.thumbnail(job.sample.media[0]) if job.sample.media else None)
    outcome = run_steps(job.sample, steps, work)
    if outcome.drop is not None:
        thumbnail = thumbnails.make(job, outcome.drop.reason, work)
        return replace(outcome, thumbnail=thumbnail, notes=dict(work.notes))
    return replace(_sent_back(outcome, job.sample), notes=dict(work.notes))


def at_sight(sample: Sample, steps: tuple[StepSpec, ...]) -> Outcome | None:
    """What a worker would answer, where no step needs one: of a picture that is kept as it is and trusted behind its
    header, handing it over costs more than looking at it. None where a worker has to be asked."""
    if any(media.excerpt is not None for media in sample.media):
        return None
    current = sample
    try:
        for step in steps:
            seen = step.at_sight(current)
            if seen is None:
                return None
            _check_answer(seen, current)
            current = seen
        _check_sample(current)
    except Exception:  # a bug of the step or of the source: the worker meets it too, and tells it as it does all others
        return None
    return _sent_back(Outcome(sample=current, facts=_first_facts(current)), sample)


def _sent_back(outcome: Outcome, sample: Sample) -> Outcome:
    """Without the media that are those of the sample that was given."""
    assert outcome.sample is not None
    given = {id(media.data): number for number, media in enumerate(sample.media)}
    parts = list(outcome.sample.parts)
    same: dict[int, int] = {}
    for at, part in enumerate(parts):
        if isinstance(part, Media) and id(part.data) in given:
            same[at] = given[id(part.data)]
            parts[at] = replace(part, data=None)
    return replace(outcome, sample=replace(outcome.sample, parts=tuple(parts)), same=same)


def serve(channel: Channel, steps: tuple[StepSpec, ...], memory_mib: int | None = None) -> None:
    """Answer jobs until the parent goes away, each in no more memory than `memory_mib` (`limit_memory`) above what
    plugins and the steps have been given before the first. While steps are made ready for it, `False` is sent, and
    `True` when its time begins."""
    work = Work.for_steps(steps)
    thumbnails = _Thumbnails()
    slow = [step for step in steps if type(step).prepare is not StepSpec.prepare]
    if not slow:
        limit_memory(memory_mib)
    while True:
        try:
            job: Job = channel.receive()
        except EOFError:
            return
        except RunError as error:
            channel.send(Outcome(mistake=str(error)))
            continue
        if slow:
            channel.send(False)
            unready = _prepare(slow)
            if unready is not None:
                channel.send(unready)
                continue
            slow = []
            limit_memory(memory_mib)
            channel.send(True)
        try:
            outcome = _answer(job, steps, work, thumbnails)
        except MemoryError:
            outcome = Outcome(drop=Drop(reason="decoder_memory", detail=_TOO_MUCH, state="failed_permanent"))
        except SpecError as error:
            outcome = Outcome(mistake=str(error))
        except (Exception, SystemExit):  # a step that ends its process is wrong, and no decoder that crashed
            outcome = Outcome(bug=traceback.format_exc())
        work.clear()
        try:
            channel.send(outcome, channel.area)
        except RunError as error:
            channel.send(Outcome(mistake=str(error)))


def _prepare(steps: Sequence[StepSpec]) -> Outcome | None:
    """Make steps ready; what to answer where one cannot be."""
    try:
        for step in steps:
            step.prepare()
    except SpecError as error:
        return Outcome(mistake=str(error))
    except (Exception, SystemExit):
        return Outcome(bug=traceback.format_exc())
    return None


def _die_with_parent() -> None:
    """A worker stuck in a decoder would outlive a killed build; Linux can be told to end it (prctl(2))."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _keep_memory() -> None:
    """Let the allocators keep a few pictures' memory: to fault in fresh pages for each, which the kernel has to
    clear, costs a tenth of decoding it. What is larger than 32 MiB (as much as glibc lets us name) is given back."""
    Image.core.set_blocks_max(64)  # type: ignore[attr-defined]  # of up to 16 MiB
    startup.keep_memory()


def limit_memory(mib: int | None) -> None:
    """Let this process allocate no more than `mib` MiB beyond what it has: `malloc` fails then, and so does a record.

    RLIMIT_DATA counts private writable memory alone, so neither libraries' code nor the areas shared with the parent
    nor address space that is only reserved (as CUDA does) use it up, as they would RLIMIT_AS."""
    if mib is None or sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        has = int(file.read().split()[5]) * resource.getpagesize()  # data and stack, in pages
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + (mib << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def settle_in(parent: int) -> None:
    """Make this process a worker of `parent`: it ends with it, and leaves interrupts to it."""
    _die_with_parent()
    _keep_memory()
    if os.getppid() != parent:  # it had died before prctl took effect
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Garbage of the parent is the parent's: of libav it waits for threads that have not come along, for good.
    gc.freeze()
    # There is a worker for every core: threads that torch starts in each of them would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def as_fields(steps: Sequence[StepSpec]) -> tuple[dict[str, Any], ...]:
    """Steps as they travel to a worker that is started afresh."""
    return tuple(step.model_dump(mode="python") | {"kind": step.kind} for step in steps)


def made_again(fields: Sequence[dict[str, Any]]) -> tuple[StepSpec, ...]:
    """The steps of such fields, whose plugins have been loaded."""
    return tuple(lookup("step", step["kind"]).model_validate(step) for step in fields)


def main() -> None:
    """Entry of a worker that was started afresh: parent's pid, socket and areas of memory are its arguments."""
    parent, socket, *areas = map(int, sys.argv[1:])
    settle_in(parent)
    channel = Channel(socket, *areas)
    setup: Setup = channel.receive()
    try:
        for plugin in setup.plugins:
            load_plugin(plugin)
        steps = made_again(setup.steps)
    except Exception:  # to die of it would look like a decoder's crash, and cost each record
        channel.receive()
        channel.send(Outcome(bug=traceback.format_exc()), channel.area)
        return
    serve(channel, steps, setup.memory_mib)
