"""The state of a stream: a few integers, and digests of everything they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

import mmdata
from mmdata.errors import SpecError
from mmdata.families._family import Family
from mmdata.spec import Model
from mmdata.specfile import bound, difference, digest
from mmdata.stream.deal import Cursor
from mmdata.stream.extent import Extent
from mmdata.stream.place import from_values, to_values
from mmdata.stream.spec import StreamSpec
from mmdata.stream.tokenizer import tokenizer_digest
from mmdata.templates import Template
from mmdata.templates import digest as template_digest

VERSION: Literal[3] = 3
PLAN = 3
"""Counts up whenever the same data and config would give another sequence of packs than before."""
SIDES = 2
"""The same where pictures are mirrored: counts up whenever other texts keep theirs from it."""
MAX_BYTES = 4096
ABBREVIATED = "sha256:"
SHORTEST = 24
"""Characters of a value that is not worth abbreviating."""


def config(spec: StreamSpec, family: Family | None, templates: Sequence[Template]) -> dict[str, Any]:
    """All that decides the sequence of packs, besides the data. Where the data lie and when the run ends do not."""
    # The templates' digests stand for their options and prompt, which may be longer than a state.
    left_out = ("dataset", "epochs", "template_options", "system")
    fields = {name: value for name, value in bound(spec).items() if name not in left_out}
    fields["datasets"] = [
        {name: value for name, value in each.items() if name not in ("path", "template")} for each in fields["datasets"]
    ]
    settings: dict[str, Any] = {**fields, "plan": PLAN, "family": None}
    if spec.augment is not None and spec.augment.flip:
        settings["sides"] = SIDES
    if family is not None:
        named = [f"{template.name} {template_digest(template, family.tokenizer)}" for template in templates]
        settings |= {
            "template": named[0] if len(set(named)) == 1 else named,
            "tokenizer": tokenizer_digest(family.tokenizer),
            "family": family.describe(),
        }
    return dict(json.loads(json.dumps(settings)))  # tuples are lists, as in a state that was written and read


class Logged(Model):
    """The part of a log in the run's folder that belongs to a state."""

    count: int = Field(ge=0)
    """Entries."""
    digest: str
    """Of these entries, in their order."""


class StreamState(Model):
    """Where a stream goes on, as it is saved: at most 4 KB of JSON, whatever the size of the datasets."""

    version: Literal[3] = VERSION
    code: str
    """The version of mmdata that saved it."""
    place: list[Any]
    """Position of the next step: epoch, block, pack, and of a mixture what each dataset has given when the block
    begins."""
    taken: int = Field(ge=0)
    """Packs taken since the run began."""
    first_epoch: int = Field(0, ge=0)
    """The epoch that the run began with."""
    size: int = Field(0, ge=0)
    """Packs of the step that is half done; 0 between steps."""
    dealt: list[tuple[int, int]] = Field(default_factory=list)
    """Of that step, (ranks, micro-steps) done by each number of ranks that worked on it."""
    data: list[Extent]
    """The datasets as the running epoch has them, and from which epoch on they are larger or have lost samples."""
    config_digest: str
    """Of `config`."""
    config: dict[str, Any]
    """All that decides the sequence of packs besides the data, long values by their digests; kept to show what
    differs."""
    skips: Logged | None = None
    """Of the samples that were masked so far; null where no log is kept."""
    control: Logged | None = None
    """Of the weights that were set while the run went on."""
    worker: tuple[int, int, int] | None = None
    """Of a DataLoader worker's own state: its number, that of all workers, and how many deals they had together."""

    def cursor(self) -> Cursor:
        """As the stream uses it."""
        return Cursor(
            position=from_values(self.place),
            taken=self.taken,
            first_epoch=self.first_epoch,
            size=self.size,
            dealt=tuple(self.dealt),
        )


def dump(
    cursor: Cursor,
    data: Sequence[Extent],
    settings: Mapping[str, Any],
    *,
    skips: tuple[int, str] | None = None,
    control: tuple[int, str] | None = None,
    worker: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """The state as JSON values. Raises RuntimeError for one over 4 KB, which takes some hundred datasets."""
    state = StreamState(
        code=mmdata.__version__,
        place=to_values(cursor.position),
        taken=cursor.taken,
        first_epoch=cursor.first_epoch,
        size=cursor.size,
        dealt=list(cursor.dealt),
        data=list(data),
        config_digest=digest(settings),
        config=dict(settings),
        skips=None if skips is None else Logged(count=skips[0], digest=skips[1]),
        control=None if control is None else Logged(count=control[0], digest=control[1]),
        worker=worker,
    ).model_dump(mode="json")
    state["config"] = _fitting(settings, MAX_BYTES - len(_compact({**state, "config": {}})))
    if (size := len(_compact(state))) > MAX_BYTES:
        raise RuntimeError(f"stream state: {size} bytes, more than {MAX_BYTES}")
    return state


def parse(saved: Mapping[str, Any]) -> StreamState:
    """A saved state, typed. Raises SpecError for something else, or one of another version."""
    version = saved.get("version")
    if isinstance(version, int) and version != VERSION:
        saved_by = saved.get("code", "another")
        remedy = "update mmdata" if version > VERSION else f"go on with mmdata {saved_by}, or begin a new run"
        raise SpecError(
            f"not a stream state that mmdata {mmdata.__version__} reads: version {version}, saved by mmdata "
            f"{saved_by}, and not {VERSION}: {remedy}",
            reason="state_version",
        )
    try:
        return StreamState.model_validate(dict(saved))
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise SpecError(f"not a stream state that mmdata {mmdata.__version__} reads: {wrong}") from error


def refuse_other(state: StreamState, settings: Mapping[str, Any], differing: Sequence[str]) -> None:
    """Raises SpecError, naming each difference, for a state of another config or (`differing`) of other data."""
    problems = list(differing)
    if state.config_digest != digest(settings):
        now = {name: _like(state.config.get(name), value) for name, value in settings.items()}
        changed = list(difference(state.config, now))
        problems += changed or [f"config: digest {state.config_digest} -> {digest(settings)}"]
    if problems:
        if state.code != mmdata.__version__:
            problems.append(f"mmdata: {state.code} -> {mmdata.__version__}")
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(
            f"this state belongs to another stream, and going on would mix two orders (saved -> now):\n{lines}"
        )


def _fitting(settings: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The settings in at most `size` bytes of JSON if their longest values, as digests, allow it."""
    fitting = dict(settings)
    by_length = sorted(settings, key=lambda name: (-len(_compact(settings[name])), name))
    for name in by_length:
        if len(_compact(fitting)) <= size or len(_compact(settings[name])) <= SHORTEST:
            break
        fitting[name] = _abbreviated(settings[name])
    return fitting


def _like(saved: Any, value: Any) -> Any:
    """A value as the saved one is written: whole, or by its digest."""
    return _abbreviated(value) if isinstance(saved, str) and saved.startswith(ABBREVIATED) else value


def _abbreviated(value: Any) -> str:
    return f"{ABBREVIATED}{digest(value)[:8]}"


def _compact(value: Any) -> str:
    return json.dumps(value)
