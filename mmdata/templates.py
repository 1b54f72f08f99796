"""Templates: the parts of a sample to token ids, places of media, and the spans that are trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from mmdata.errors import DataError, SpecError
from mmdata.types import Media, Sample, Span, Text

MEDIUM = -1
"""Stands in `Encoded.ids` where a medium goes; a family replaces it by that medium's placeholders."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every Hugging Face tokenizer has it."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: list[str], *, add_special_tokens: bool, split_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a text of one role is framed. `before` is never trained; `stop` ends a trained text with the
    end-of-sequence token, which is trained too: exactly one per response."""

    before: str = ""
    train: bool = True
    stop: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How samples become tokens: the roles it knows, and whether media come before all texts."""

    name: str
    turns: Mapping[str, Turn] = field(default_factory=dict)
    media_first: bool = False


CAPTION = Template(name="caption", turns={"caption": Turn(), "document": Turn()}, media_first=True)
"""`<image>caption</s>`: media first, whatever the order of parts, because a caption answers its pictures."""

TEMPLATES = {CAPTION.name: CAPTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A sample as tokens, media not expanded yet: each is one `MEDIUM` in `ids`, in the order of the sample."""

    ids: list[int]
    spans: tuple[Span, ...]
    media: tuple[Media, ...]


def get_template(template: str | Template) -> Template:
    """A template by name, or the one given. Raises SpecError for a name nobody has."""
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise SpecError(f"no template is called {template!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[template]


def digest(template: Template) -> str:
    """Of everything that decides what the template makes of a sample."""
    return hashlib.sha256(json.dumps(asdict(template), sort_keys=True).encode()).hexdigest()[:16]


def encode(samples: Sequence[Sample], tokenizer: Tokenizer, template: Template) -> list[Encoded | DataError]:
    """Token ids and trained spans of each sample, or the reason why it has none.

    All texts are tokenised in one call, without special tokens and with any that the text spells out taken as
    plain characters. Reasons: `template_role` (a role that the template does not know), `text_special` (a text
    that yields a special token all the same), `no_target` (nothing to train on).
    """
    pieces: list[str] = []
    for sample in samples:
        for text in sample.texts:
            turn = template.turns.get(text.role)
            pieces += [turn.before, text.text] if turn else []
    ids = iter(_tokenise(pieces, tokenizer))
    special = set(tokenizer.all_special_ids)
    return [_assemble(sample, ids, special, tokenizer, template) for sample in samples]


def _tokenise(pieces: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    if not pieces:
        return []
    result: list[list[int]] = tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return result


def _assemble(
    sample: Sample, pieces: Any, special: set[int], tokenizer: Tokenizer, template: Template
) -> Encoded | DataError:
    texts: list[tuple[Text, Turn, list[int], list[int]]] = []
    problem: DataError | None = None
    for text in sample.texts:  # the whole sample, whatever is wrong with it: its pieces must leave the iterator
        turn = template.turns.get(text.role)
        if turn is None:
            problem = problem or DataError("template_role", f"{template.name!r} knows no role {text.role!r}")
            continue
        before, body = next(pieces), next(pieces)
        if special.intersection(body):
            problem = problem or DataError("text_special", "the text is tokenised to a special token")
        texts.append((text, turn, before, body))
    if problem:
        return problem
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    spans: list[Span] = []
    remaining = iter(texts)
    if template.media_first:
        ids += [MEDIUM] * len(sample.media)
    for part in sample.parts:
        if isinstance(part, Media):
            ids += [] if template.media_first else [MEDIUM]
            continue
        text, turn, before, body = next(remaining)
        ids += before
        start = len(ids)
        ids += body
        if text.train and turn.train and body:
            if turn.stop and tokenizer.eos_token_id is not None:
                ids.append(tokenizer.eos_token_id)
            spans.append(Span(start, len(ids)))
    if not any(span.stop > max(span.start, 1) for span in spans):
        return DataError("no_target", "no text of the sample is trained")
    return Encoded(ids=ids, spans=tuple(spans), media=sample.media)
