"""A template as users choose it: by name, with what is trained and how much it weighs; bound to a tokenizer once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from mmdata.errors import DataError, SpecError
from mmdata.spec import Model
from mmdata.templates._chat import Chat
from mmdata.templates._codec import Codec, Tokenizer, codec_of
from mmdata.templates._plain import PLAIN, PROMPTS, Plain
from mmdata.templates._skeleton import Atom, Shape
from mmdata.types import MediaKind

TrainOn = Literal["assistant", "last_turn", "all"]
CHAT = "chat"
REMEMBERED = 4096
"""Structures of conversations whose skeletons are kept."""


class Weights(Model):
    """What a token weighs in the loss, by its class."""

    response: float = Field(1.0, ge=0)
    """What the assistant says; a caption, a document."""
    instruction: float = Field(1.0, ge=0)
    """What it is told, trained only by `train_on: all`."""
    special: float = Field(1.0, ge=0)
    """The token that ends a response; with `train_on: all` every token of the template."""
    box: float = Field(1.0, ge=0)
    """Coordinates: what is between `<box>`, `<quad>`, `<point>`, `<click>` and their ends, tags included."""
    entity: float = Field(1.0, ge=0)
    """Names of what lies there: what is between `<ref>` or `<p>` and its end, tags included."""


class Layout(Protocol):
    """A template bound to a tokenizer. `bos` is a start token that it does not write itself, `source` what the
    tokenizer has to say on it, `stops` the tokens that end an answer."""

    @property
    def bos(self) -> int | None: ...

    @property
    def source(self) -> str | None: ...

    @property
    def stops(self) -> frozenset[int]: ...

    def skeleton(self, outline: Shape) -> tuple[Atom, ...]: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """A template with a tokenizer's tokens."""

    codec: Codec
    layout: Layout
    _skeletons: dict[Shape, tuple[Atom, ...] | DataError] = field(default_factory=dict, repr=False)

    def skeleton(self, outline: Shape) -> tuple[Atom, ...]:
        """The atoms of a structure, remembered. Raises DataError for a structure that the template does not take."""
        found = self._skeletons.get(outline)
        if found is None:
            try:
                found = self.layout.skeleton(outline)
            except DataError as error:
                found = error
            if len(self._skeletons) >= REMEMBERED:
                self._skeletons.clear()
            self._skeletons[outline] = found
        if isinstance(found, DataError):
            raise DataError(found.reason, found.detail)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Template:
    """How samples become tokens, and which of them are trained.

    `train_on`: every message of a role that the form trains (`assistant`; of our caption template, captions), the last
    one of them only, or everything but the places of media (`all`). Whatever it says, a text with `train=False` is not
    trained. `system` comes before a sample that has no system prompt of its own.
    """

    form: Plain | Chat
    train_on: TrainOn = "assistant"
    weights: Weights = field(default_factory=Weights)
    system: str | None = None
    around: Mapping[MediaKind, tuple[str, str]] = field(default_factory=dict)
    """What a family writes before and after each medium of a kind, in one with the text there when it is tokenised."""
    pairs: bool = False
    """Of samples with a chosen and a rejected answer, encode both; else the chosen one alone."""
    _bound: dict[int, Bound] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.form.name

    def bind(self, tokenizer: Tokenizer, *, renew: bool = False) -> Bound:
        """The template with a tokenizer's tokens, remembered; `renew` after tokens were added. Raises SpecError where
        the template cannot be followed."""
        codec = codec_of(tokenizer, renew=renew)
        bound = self._bound.get(id(codec))
        if bound is None:
            bound = self._bound[id(codec)] = Bound(codec, self.form.bind(tokenizer, codec))
        return bound

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bound": {}}  # what is bound belongs to this process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def names() -> tuple[str, ...]:
    """Every name that `get_template` knows."""
    return (*PLAIN, CHAT)


def get_template(
    template: str | Template,
    *,
    tokenizer: Tokenizer | None = None,
    markers: Mapping[MediaKind, str] | None = None,
    around: Mapping[MediaKind, tuple[str, str]] | None = None,
    train_on: TrainOn = "assistant",
    weights: Weights | None = None,
    system: str | None = None,
    stop: Literal["ensure", "template"] = "ensure",
    options: Mapping[str, Any] | None = None,
    pairs: bool = False,
) -> Template:
    """A template by name, or the one given.

    Ours: `caption` (media first), `document` (media in their places), `basic`, `system`, `multi_image` ("Image 1: "),
    `cot`, `chatml`, `vicuna`, `llava_v1`. `chat` is the tokenizer's own: with `tokenizer` it is tried here, on
    conversations whose ids must equal those of `apply_chat_template`; else when it is first used. `markers` (a family's
    `MediaRule.marker`), `stop` and `options` are explained at `Chat`, `around` (a family's too) at `Template`. `system`
    is a name of `PROMPTS` or a prompt.

    Raises SpecError for a name nobody has, and for a chat template that cannot be followed exactly.
    """
    if isinstance(template, Template):
        return template
    prompt = PROMPTS.get(system or "", system)
    form: Plain | Chat
    if template == CHAT:
        form = Chat(markers=dict(markers or {}), options=dict(options or {}), stop=stop)
    elif template in PLAIN:
        form = PLAIN[template]
        prompt = form.system if prompt is None else prompt
        if options:
            raise SpecError(f"template {template}: options are for the tokenizer's own template, `chat`")
        if prompt is not None and "system" not in form.turns:
            raise SpecError(f"template {template}: it has no place for a system prompt")
    else:
        raise SpecError(f"no template is called {template!r}; known: {', '.join(names())}")
    found = Template(
        form=form,
        train_on=train_on,
        weights=weights or Weights(),
        system=prompt,
        around=dict(around or {}),
        pairs=pairs,
    )
    if tokenizer is not None:
        found.bind(tokenizer, renew=True)
        if isinstance(form, Chat):
            from mmdata.templates._verify import verify

            verify(found, tokenizer)
    return found


def digest(template: Template, tokenizer: Tokenizer | None = None) -> str:
    """Of everything that decides what the template makes of a sample; with a tokenizer, of its own template too."""
    own = None if tokenizer is None else template.bind(tokenizer).layout.source
    settings = {
        "form": template.form.describe(),
        "source": own,
        "train_on": template.train_on,
        "weights": template.weights.model_dump(),
        "system": template.system,
        **({"around": {kind: list(pair) for kind, pair in template.around.items()}} if template.around else {}),
        **({"pairs": True} if template.pairs else {}),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
