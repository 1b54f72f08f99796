"""The state of a stream: a few integers, and digests of everything they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmdata.errors import SpecError
from mmdata.families._family import Family
from mmdata.specfile import bound, difference, digest
from mmdata.stream.deal import Cursor
from mmdata.stream.plan import Position
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template, Tokenizer
from mmdata.templates import digest as template_digest

VERSION = 1
MAX_BYTES = 4096


def config(spec: StreamSpec, family: Family | None, template: Template) -> dict[str, Any]:
    """All that decides the sequence of packs, besides the data. Where the data lie and when the run ends do not."""
    fields = {name: value for name, value in bound(spec).items() if name not in ("dataset", "epochs")}
    if family is None:
        return {**fields, "family": None}
    settings: dict[str, Any] = {
        **fields,
        "template": f"{template.name} {template_digest(template)}",
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


def dump(cursor: Cursor, root_digest: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state as JSON values, at most 4 KB of them."""
    state = {
        "version": VERSION,
        "epoch": cursor.position.epoch,
        "block": cursor.position.block,
        "pack": cursor.position.pack,
        "taken": cursor.taken,
        "first_epoch": cursor.first_epoch,
        "root_digest": root_digest,
        "config_digest": digest(settings),
        "config": dict(settings),
    }
    assert len(json.dumps(state)) <= MAX_BYTES, state
    return state


def load(state: Mapping[str, Any], root_digest: str, settings: Mapping[str, Any]) -> Cursor:
    """The cursor of a state. Raises SpecError, naming each difference, for a state of other data or another config."""
    if state.get("version") != VERSION:
        raise SpecError(f"stream state: version {state.get('version')!r}, this code reads {VERSION}")
    problems = []
    if state.get("root_digest") != root_digest:
        problems.append(f"dataset: {state.get('root_digest')} -> {root_digest}")
    if state.get("config_digest") != digest(settings):
        problems += difference(state.get("config"), dict(settings))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(
            f"this state belongs to another stream, and going on would mix two orders (saved -> now):\n{lines}"
        )
    numbers = {name: state.get(name) for name in ("epoch", "block", "pack", "taken", "first_epoch")}
    if not all(isinstance(value, int) and value >= 0 for value in numbers.values()):
        raise SpecError(f"stream state: not a position: {numbers}")
    position = Position(state["epoch"], state["block"], state["pack"])
    return Cursor(position=position, taken=state["taken"], first_epoch=state["first_epoch"])
