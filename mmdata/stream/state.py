"""The state of a stream: a few integers, and digests of everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmdata.errors import SpecError
from mmdata.families._family import Family
from mmdata.stream.deal import Cursor
from mmdata.stream.plan import Position
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template, Tokenizer
from mmdata.templates import digest as template_digest

VERSION = 1
MAX_BYTES = 4096


def config(spec: StreamSpec, family: Family | None, template: Template) -> dict[str, Any]:
    """All that decides the sequence of packs, besides the data. Where the data lie and when the run ends do not."""
    fields = spec.model_dump(mode="json", exclude={"dataset", "epochs", "integrity"})
    if family is None:
        return {**fields, "family": None}
    return {
        **fields,
        "template": f"{template.name} {template_digest(template)}",
        "tokenizer": tokenizer_digest(family.tokenizer),
        "family": family.describe(),
    }


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
    return _digest(content)


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
        "config_digest": _digest(settings),
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
        problems.append(f"dataset: saved {state.get('root_digest')}, now {root_digest}")
    if state.get("config_digest") != _digest(settings):
        problems += [
            f"{name}: saved {old!r}, now {new!r}" for name, old, new in _differences(state["config"], settings)
        ]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(f"this state belongs to another stream, and resuming it would mix two orders:\n{lines}")
    numbers = {name: state.get(name) for name in ("epoch", "block", "pack", "taken", "first_epoch")}
    if not all(isinstance(value, int) and value >= 0 for value in numbers.values()):
        raise SpecError(f"stream state: not a position: {numbers}")
    position = Position(state["epoch"], state["block"], state["pack"])
    return Cursor(position=position, taken=state["taken"], first_epoch=state["first_epoch"])


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    old, new = json.loads(json.dumps([old, new]))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif old != new:
        yield path, old, new


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
