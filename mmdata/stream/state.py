"""The state of a stream: a few integers, and digests of everything they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from mmdata.errors import SpecError
from mmdata.families._family import Family
from mmdata.spec import Model
from mmdata.specfile import bound, difference, digest
from mmdata.stream.deal import Cursor
from mmdata.stream.plan import Position
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template, Tokenizer
from mmdata.templates import digest as template_digest

VERSION: Literal[1] = 1
MAX_BYTES = 4096


def config(spec: StreamSpec, family: Family | None, template: Template) -> dict[str, Any]:
    """All that decides the sequence of packs, besides the data. Where the data lie and when the run ends do not."""
    # The template's digest stands for its options and prompt, which may be longer than a state.
    left_out = ("dataset", "epochs", "template_options", "system")
    fields = {name: value for name, value in bound(spec).items() if name not in left_out}
    if family is None:
        return {**fields, "family": None}
    settings: dict[str, Any] = {
        **fields,
        "template": f"{template.name} {template_digest(template, family.tokenizer)}",
        "tokenizer": tokenizer_digest(family.tokenizer),
        "family": family.describe(),
    }
    return dict(json.loads(json.dumps(settings)))  # tuples are lists, as in a state that was written and read


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Of what decides the ids of a text; padding and truncation, which the last call left behind, do not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
    else:
        content = {"class": type(tokenizer).__qualname__, "vocabulary": tokenizer.get_vocab()}  # type: ignore[attr-defined]
    content["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, sorted(tokenizer.all_special_ids)]
    return digest(content)


class StreamState(Model):
    """Where a stream goes on, as it is saved: at most 4 KB of JSON, whatever the size of the dataset."""

    version: Literal[1] = VERSION
    epoch: int = Field(ge=0)
    """Position of the next pack: its epoch,"""
    block: int = Field(ge=0)
    """its block in the epoch,"""
    pack: int = Field(ge=0)
    """its number in the block."""
    taken: int = Field(ge=0)
    """Packs taken since the run began."""
    first_epoch: int = Field(0, ge=0)
    """The epoch that the run began with."""
    root_digest: str
    """Of the dataset."""
    config_digest: str
    """Of `config`."""
    config: dict[str, Any]
    """All that decides the sequence of packs besides the data; kept to show what differs."""


def dump(cursor: Cursor, root_digest: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state as JSON values. Raises RuntimeError for one over 4 KB, which no config should reach."""
    at = cursor.position
    state = StreamState(
        epoch=at.epoch,
        block=at.block,
        pack=at.pack,
        taken=cursor.taken,
        first_epoch=cursor.first_epoch,
        root_digest=root_digest,
        config_digest=digest(settings),
        config=dict(settings),
    ).model_dump(mode="json")
    if (size := len(json.dumps(state))) > MAX_BYTES:
        raise RuntimeError(f"stream state: {size} bytes, more than {MAX_BYTES}")
    return state


def load(saved: Mapping[str, Any], root_digest: str, settings: Mapping[str, Any]) -> Cursor:
    """The cursor of a state. Raises SpecError, naming each difference, for a state of other data or another config."""
    try:
        state = StreamState.model_validate(dict(saved))
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise SpecError(f"not a stream state that this version reads: {wrong}") from error
    problems = []
    if state.root_digest != root_digest:
        problems.append(f"dataset: {state.root_digest} -> {root_digest}")
    if state.config_digest != digest(settings):
        problems += difference(state.config, dict(settings))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(
            f"this state belongs to another stream, and going on would mix two orders (saved -> now):\n{lines}"
        )
    position = Position(state.epoch, state.block, state.pack)
    return Cursor(position=position, taken=state.taken, first_epoch=state.first_epoch)
