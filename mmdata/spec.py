"""What a build, a stream and their parts may be told: typed specs in which an unknown key is an error.

A class here is configuration only. A step or source adds to its fields the one method that does the work;
runtime context (decoded pixels, sessions) and state (what was kept so far) are other values.
Fields marked `runtime()` change how fast a build runs, never what it makes: they stay out of its digest.
"""

from __future__ import annotations

import difflib
import itertools
import os
import typing
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from mmdata import registry
from mmdata.optout import WISHES, Wish
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


class Model(BaseModel):
    """A spec: frozen, and any key that is not a field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


MADE = {"use_attribute_docstrings": False}
"""Class arguments of a model made by `create_model`, whose fields are described as they are made: pydantic would look
for docstrings in the source of whoever calls, which takes a tenth of a second where many modules are loaded."""


def runtime(default: Any = ..., **constraints: Any) -> Any:
    """A field that cannot change the bytes of the result, and so is not part of a build's digest."""
    return Field(default, json_schema_extra={"runtime": True}, **constraints)


def owned(value: Any, given: dict[int, str]) -> Any:
    """A value of a command line with strings of its own, each noted in `given` by its identity: whoever validates one
    can tell where it comes from (`from_here`), wherever in the spec it lies."""
    if isinstance(value, dict):
        return {name: owned(held, given) for name, held in value.items()}
    if isinstance(value, list):
        return [owned(held, given) for held in value]
    if not isinstance(value, str) or not value:
        return value
    # Python keeps one string of each single letter for all; of paths only the folder itself is one.
    made = "./." if value == "." else (value + " ")[:-1]
    if len(made) > 1:
        given[id(made)] = made
    return made


def from_here(value: Any, info: ValidationInfo) -> Any:
    """A path that a command line names (`given` holds the very strings) is relative to where the command runs, as
    every other word of that line is."""
    if isinstance(value, str) and "://" not in value and id(value) in (info.context or {}).get("given", {}):
        return os.path.abspath(os.path.expanduser(value))
    return value


def _resolve(value: str, info: ValidationInfo) -> str:
    """Make a local path absolute, relative to the folder of the spec file that names it."""
    if "://" in value:
        return value
    base = (info.context or {}).get("base")
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:  # `~nobody/`
        raise ValueError(str(error)) from error
    return str(path if path.is_absolute() or base is None else Path(base) / path)


def _exists(value: str, info: ValidationInfo) -> str:
    resolved = _resolve(value, info)
    check = (info.context or {}).get("check_paths", False)
    if check and "://" not in resolved and not any(c in resolved for c in "*?[{"):
        try:
            found = Path(resolved).exists()
        except OSError as error:  # a name too long, a folder that may not be entered
            raise ValueError(f"{error.strerror}: {resolved}") from error
        if not found:
            raise ValueError(f"no such file or folder: {resolved}{_near(Path(resolved))}")
    return resolved


def _near(path: Path) -> str:
    """A file or folder of nearly this name beside it, as a question."""
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plugin(value: str, info: ValidationInfo) -> str:
    return _exists(value, info) if value.endswith(".py") else value


def _imported(value: str) -> str:
    registry.load_plugin(value)
    return value


InputPath = Annotated[str, BeforeValidator(from_here), AfterValidator(_exists)]
"""A local path (checked to exist; patterns with `*` or `{}` are checked when opened) or any fsspec URL."""
OutputPath = Annotated[str, BeforeValidator(from_here), AfterValidator(_resolve)]
"""A local path, relative to the spec file (on a command line to where it runs), or any fsspec URL."""


Plugin = Annotated[str, AfterValidator(_plugin), AfterValidator(_imported)]
"""A module that registers kinds, imported when it is validated: a dotted name, or a `.py` file beside the spec."""


def is_path(field: FieldInfo) -> bool:
    """Whether a field holds an InputPath or an OutputPath, or may hold one.

    >>> is_path(OutputSpec.model_fields["path"]), is_path(OutputSpec.model_fields["seed"])
    (True, False)
    """
    options = [getattr(option, "__metadata__", ()) for option in typing.get_args(field.annotation)]
    checks = itertools.chain(field.metadata, *options)
    return any(getattr(check, "func", None) in (_exists, _resolve) for check in checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One input row. `sample` holds what the source says of it, media still to be fetched (`uri`) or already
    there (`data`); `drop` is set when the source itself rejects the row (`where:`, an unreadable line).

    `row` counts all input rows from 0, rejected ones too, so that a filter never moves a key.
    """

    row: int
    sample: Sample
    drop: Drop | None = None


class Source(Protocol):
    """The records of one input, in a fixed order, readable from any row on."""

    def inputs(self) -> list[dict[str, Any]]:
        """What binds a build to its input. Tables: name, size, digest of head and tail of each file. Folders of many
        small files: their names and sizes, since reading all of them first would cost as much as the build."""

    def count(self) -> int | None:
        """Number of input rows, or None where only reading everything would tell."""

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Every row with start <= row < stop, in order, none left out."""


@runtime_checkable
class Growing(Protocol):
    """What a source also offers whose new rows can be built behind those that are built (`--append`)."""

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        """Check that all that `before` names (what `inputs` said once) is there, unchanged, and that its rows come
        first. Raises SpecError that names the input and the remedy."""


@runtime_checkable
class Listed(Growing, Protocol):
    """A Growing source of files that are found by looking: a new one may lie between old ones, and comes after them."""

    def listings(self) -> list[dict[str, int]]:
        """Names and sizes of its files, in batches: the first holds those of the first build, each other one what an
        append found new."""

    def arrange(self, before: Sequence[dict[str, int]]) -> None:
        """Put the files of these batches first; what is in none of them becomes a batch of its own. Raises SpecError
        that names a file which is gone or changed."""


class SourceSpec(Model):
    """A kind of raw input. Subclasses set `kind` and implement `open`."""

    kind: str

    @abstractmethod
    def open(self) -> Source:
        """Check the input (files readable, columns there) and return its records. Raises SpecError or DataError."""

    def searched(self) -> tuple[str, ...]:
        """The paths (files, folders and patterns) under which files are looked for that a dataset has, too: tars,
        tables, JSON, HTML. An output among them would be read as input by the next run, and is refused."""
        return ()


class StepSpec(Model):
    """A kind of step: one pure function of a sample. It runs in a worker process.

    `apply` answers the sample (changed with `dataclasses.replace`), or a Drop. Pixels come from
    `work.pixels(media)`, which decodes once however many steps ask.
    """

    kind: str
    last: ClassVar[bool] = False
    """Whether it must see media as they will be written: only steps of which this is true may follow."""

    @property
    def moves_points(self) -> bool:
        """Whether what lies somewhere in a picture may lie elsewhere afterwards (it moves the column `boxes`)."""
        return False

    @property
    def writes_points(self) -> bool:
        """Whether it writes coordinates into texts, where no later step moves them."""
        return False

    @property
    def reads_points(self) -> bool:
        """Whether it reads places in a picture as it came, from a column that no step moves."""
        return False

    def at_sight(self, sample: Sample) -> Sample | None:
        """What `apply` makes of a sample that it keeps and whose media take no decoder to look at, where that takes
        less time than handing the sample to a worker; None says nothing about it. Called in the build's own process,
        so it must not call what could hang or crash."""
        return None

    def prepare(self) -> None:
        """Read what takes long to read and is kept for all samples: a model, a set to compare with. Called in each
        worker before its first record, whose time has not begun then. Raises SpecError for what cannot be used."""

    @abstractmethod
    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        """The step itself. Raises DataError for media that cannot be used; the record then ends as
        `failed_permanent` under that reason."""


class OrderedState(Protocol):
    """What an ordered step remembers of the rows kept so far."""

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        """Reject a row because of those kept before it, or None."""

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        """Remember a row that the build keeps."""


@runtime_checkable
class ExpectingState(Protocol):
    """An ordered state that answers sooner when it is told what it will be asked, as searches are."""

    def expect(self, signatures: Sequence[Mapping[str, bytes]]) -> None:
        """`check` comes next for some of these, in their order, with `keep` between them. Changes no answer."""


class OrderedStepSpec(StepSpec):
    """A step that may look at the kept rows before it. Its map half computes a small signature in a worker;
    its state decides in input order. Signatures of kept rows are stored in the index, so that a resumed,
    extended or compared build can restore the state from them."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        return sample

    @abstractmethod
    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        """Named digests of the sample at this point of the pipeline (names become part of the index, with `#2` behind
        those of the second step of a kind)."""

    @abstractmethod
    def state(self) -> OrderedState:
        """An empty state."""


class RespectSpec(Model):
    """Whose wishes are obeyed, before the request and at the response."""

    robots: bool = True
    """Fetch and obey each origin's robots.txt (RFC 9309), cached for the run."""
    headers: tuple[Wish, ...] = WISHES
    """Opt-outs honoured in `X-Robots-Tag` and `TDM-Reservation` response headers."""


class FetchSpec(Model):
    """How media are fetched."""

    user_agent: str = Field("mmdata/0.1 (dataset builder; see your logs' operator contact)", min_length=1)
    """Sent as it is. Put a way to contact you into it."""
    respect: RespectSpec = RespectSpec()
    allow_private: bool = False
    """Allow addresses that are not public (loopback, private, link-local). Off: refused, after redirects too."""
    max_bytes: int = Field(20_000_000, ge=1)
    """Largest accepted body, declared or actual, and after decompression."""
    max_redirects: int = Field(5, ge=0, le=20)
    retries: int = Field(3, ge=0, le=20)
    """Further attempts after a transient failure (429, 5xx, timeout, reset, short body)."""
    concurrency: int = runtime(128, ge=1, le=10_000)
    """Requests under way at once."""
    per_host_concurrency: int = runtime(8, ge=1)
    per_host_rate: float = runtime(20.0, gt=0)
    """Requests that one host gets within any second, at most: a token bucket with one second's worth. The ports
    80 and 443 of a name are one host."""
    connect_seconds: float = runtime(10.0, gt=0)
    read_seconds: float = runtime(20.0, gt=0)
    """Longest silence while a body arrives."""
    total_seconds: float = runtime(60.0, gt=0)
    """Longest time for one attempt, redirects included; waiting for a turn is not counted."""
    backoff_seconds: float = runtime(0.5, ge=0)
    """Base of the exponential back-off; each wait is drawn between half and the whole of base * 2^attempt."""
    backoff_max_seconds: float = runtime(30.0, gt=0)
    """Longest wait before a retry, `Retry-After` included: a server that asks for more is left alone."""
    run_seconds: float | None = runtime(None, gt=0)
    """After this long the run fetches nothing more: what is left ends as `failed_transient: run_deadline`."""


class OutputSpec(Model):
    """Where and how the dataset is written."""

    path: OutputPath = runtime()
    """Folder of the dataset."""
    unit_rows: int = Field(1000, ge=1, le=1_000_000)
    """Input rows per work unit; unit n becomes shard n."""
    seed: int = 0
    """Seeds what is sampled for the report."""


class EngineSpec(Model):
    """How the work is run; none of it changes a byte of the result."""

    kind: Literal["local", "ray"] = runtime("local")
    """`local`: this machine. `ray`: tasks on a Ray cluster fetch and map units, one core each, and this process commits
    them; same bytes. Every node needs this package, and the source's files under the same paths."""
    address: str | None = runtime(None)
    """Of a Ray cluster: `auto`, or a head's `host:6379`. Default: `RAY_ADDRESS`, else one of this machine alone."""
    workers: int | None = runtime(None, ge=1, le=1024)
    """Processes that decode, hash and resize. Default: one per core."""
    sample_seconds: float = runtime(30.0, gt=0)
    """Longest time that decoding one record may take before its process is killed: `decoder_timeout`."""
    worker_memory_mib: int | None = runtime(8192, ge=64)
    """What a worker may take beyond what it begins with: a record whose decoding asks for more ends as
    `decoder_memory` (or `decoder_crashed`, where a library does not look at what it gets), and not the run. Null: no
    limit. Linux only."""
    memory_mib: int = runtime(1024, ge=1)
    """Media held in memory while they wait for their turn; beyond it they wait on disk."""
    units_ahead: int = runtime(16, ge=1)
    """Units that may be under way beyond the oldest uncommitted one."""


class BuildSpec(Model):
    """A build: records from a source, media fetched, steps applied in order, kept samples written as shards.

    `source` and `steps` are told apart by their `kind`; `specfile.build_model` puts the unions of all
    registered kinds in their places.
    """

    plugins: tuple[Annotated[str, AfterValidator(_plugin)], ...] = runtime(())
    """Modules to import first, so that they register their kinds: dotted names, or `.py` files beside this spec."""
    source: SourceSpec
    """Where the records come from."""
    fetch: FetchSpec = FetchSpec()
    """How media are fetched."""
    steps: tuple[StepSpec, ...] = ()
    """What is done to each record, in order."""
    output: OutputSpec
    """Where and how the dataset is written."""
    engine: EngineSpec = EngineSpec()
    """How the work is run."""
    limit: int | None = Field(None, ge=1)
    """Use the first so many input rows. Part of the digest."""

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[StepSpec, ...]) -> tuple[StepSpec, ...]:
        for step, following in itertools.pairwise(steps):
            if step.last and not following.last:
                raise ValueError(f"{following.kind} after {step.kind}, which comes after all others: put it before")
        for at, step in enumerate(steps):
            moving = next((later for later in steps[at + 1 :] if later.moves_points), None)
            if step.writes_points and moving is not None:
                raise ValueError(
                    f"{moving.kind} after {step.kind}, which writes coordinates of the picture: put it before"
                )
            moved = next((earlier for earlier in steps[:at] if earlier.moves_points), None)
            if step.reads_points and moved is not None:
                raise ValueError(
                    f"{step.kind} after {moved.kind}: its boxes are of the picture as it came, and nothing moves them; "
                    f"put {step.kind} before"
                )
        return steps
