"""Our own templates, for tokenizers that bring none: a table of how each role is framed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmdata.errors import DataError, SpecError
from mmdata.templates._codec import Codec, Tokenizer
from mmdata.templates._skeleton import SENTINELS, Atom, Frame, Gap, Place, Shape, Special, numbered, tokens

PROMPTS = {
    "general": "You are a helpful assistant. You look closely at what you are shown, answer what you are asked in full "
    "sentences, and say so when a picture, a video or a sound does not tell.",
    "ocr": "You read text in images. You copy it exactly as it is written, with its spelling, punctuation and line "
    "breaks, in reading order, add nothing, and put [?] where a character cannot be read.",
}
"""Ready system prompts by name."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The system prompt that Vicuna and LLaVA 1.5 were trained with; other words would be another format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a message of one role is framed. `before` and `after` are never trained (except by `train_on: all`);
    `stop` ends the message with the template's stop token, which is trained with it: exactly one per response."""

    before: str = ""
    after: str = ""
    train: bool = False
    stop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A template in plain words.

    `stop` is the token that ends a response, if the tokenizer has it as a special token, else its end-of-sequence
    token; `{stop}` in a frame means the same. Special tokens that a frame spells are honoured where the tokenizer has
    them and are characters like others where it has not. `media` frames each medium, `{n}` being its number among
    those of its kind and `{kind}` what it is; `media_first` puts all media before all texts.
    """

    name: str
    turns: Mapping[str, Turn] = field(default_factory=dict)
    media: tuple[str, str] = ("", "")
    media_first: bool = False
    system: str | None = None
    stop: str | None = None

    def describe(self) -> dict[str, Any]:
        """All that decides what it makes of a sample."""
        return asdict(self)

    def trains(self, role: str) -> bool:
        return role in self.turns and self.turns[role].train

    def bind(self, tokenizer: Tokenizer, codec: Codec) -> PlainLayout:
        """The template with this tokenizer's tokens. Raises SpecError where it has none to stop with."""
        stop = codec.special.get(self.stop or "")
        stop = tokenizer.eos_token_id if stop is None else stop
        if stop is None:
            raise SpecError(f"template {self.name}: the tokenizer has no end-of-sequence token to end responses with")
        return PlainLayout(self, tokenizer, codec, stop)


class PlainLayout:
    """A plain template bound to a tokenizer: shapes to skeletons."""

    def __init__(self, plain: Plain, tokenizer: Tokenizer, codec: Codec, stop: int) -> None:
        self.plain = plain
        self.source = None
        self._codec = codec
        self._stop = stop
        self.stops = frozenset({stop})
        framed = tokens([Frame(turn.before + turn.after) for turn in plain.turns.values()], codec)
        own = {atom.id for atom in framed if isinstance(atom, Special)}
        # A tokenizer whose start token opens every turn (SmolLM2) gets no second one.
        bos = tokenizer.bos_token_id
        self.bos = None if bos is None or bos in own else bos

    def skeleton(self, outline: Shape) -> tuple[Atom, ...]:
        """The atoms of a conversation. Raises DataError for a role that the template does not know."""
        conversation, _, _ = numbered(outline)
        atoms: list[Atom] = []
        if self.plain.media_first:
            for _, items in conversation:
                atoms += [atom for item in items if not isinstance(item, str) for atom in self._medium(item, {})]
        counts: dict[str, int] = {}
        for number, (role, items) in enumerate(conversation):
            turn = self.plain.turns.get(role)
            if turn is None and any(isinstance(item, str) for item in items):
                known = ", ".join(self.plain.turns)
                raise DataError("template_role", f"template {self.plain.name!r} knows no role {role!r}, only {known}")
            turn = turn or Turn()
            own = number if turn.train else -1
            atoms += self._frame(turn.before)
            for item in items:
                if not isinstance(item, str):
                    atoms += [] if self.plain.media_first else self._medium(item, counts)
                    continue
                pieces = SENTINELS.split(item)
                for at in range(0, len(pieces), 3):
                    atoms += [Frame(pieces[at], own)] if pieces[at] else []
                    atoms += [Gap(int(pieces[at + 2]), own)] if at + 2 < len(pieces) else []
            if turn.stop and any(isinstance(item, str) for item in items):
                atoms.append(Special(self._stop, own, stop=True))
            atoms += self._frame(turn.after)
        return tuple(tokens(atoms, self._codec))

    def _medium(self, item: tuple[str, int], counts: dict[str, int]) -> list[Atom]:
        kind, number = item
        counts[kind] = counts.get(kind, 0) + 1
        before, after = (words.format(kind=kind.capitalize(), n=counts[kind]) for words in self.plain.media)
        return [*self._frame(before), Place(number), *self._frame(after)]

    def _frame(self, text: str) -> list[Atom]:
        atoms: list[Atom] = []
        for at, piece in enumerate(text.split("{stop}")):
            atoms += [Special(self._stop)] if at else []
            atoms += [Frame(piece)] if piece else []
        return atoms


def _spoken(user_after: str = "\n") -> dict[str, Turn]:
    return {
        "system": Turn(before="System: ", after="\n"),
        "user": Turn(before="User: ", after=user_after),
        "assistant": Turn(before="Assistant: ", after="\n", train=True, stop=True),
        "tool": Turn(before="Tool: ", after="\n"),
    }


def _vicuna() -> dict[str, Turn]:
    return {
        "system": Turn(after=" "),
        "user": Turn(before="USER: ", after=" "),
        "assistant": Turn(before="ASSISTANT: ", train=True, stop=True),
        "tool": Turn(before="TOOL: ", after=" "),
    }


def _chatml(roles: Sequence[str]) -> dict[str, Turn]:
    opened = {role: f"<|im_start|>{role}\n" for role in roles}
    return {
        role: Turn(before=before, after="\n", train=True, stop=True)
        if role == "assistant"
        else Turn(before=before, after="{stop}\n")
        for role, before in opened.items()
    }


_CAPTION = {"caption": Turn(train=True, stop=True), "document": Turn(train=True, stop=True)}

PLAIN = {
    plain.name: plain
    for plain in (
        # Media first, whatever the order of parts, because a caption answers its pictures.
        Plain(name="caption", turns=_CAPTION, media_first=True),
        # Media where they lie in the text: interleaved pages, transcripts.
        Plain(name="document", turns=_CAPTION),
        Plain(name="basic", turns=_spoken(), media=("", "\n")),
        Plain(name="system", turns=_spoken(), media=("", "\n"), system=PROMPTS["general"]),
        Plain(name="multi_image", turns=_spoken(), media=("{kind} {n}: ", "\n")),
        Plain(name="cot", turns=_spoken("\nThink step by step, then give the answer.\n"), media=("", "\n")),
        Plain(name="chatml", turns=_chatml(("system", "user", "assistant", "tool")), stop="<|im_end|>"),
        Plain(name="vicuna", turns=_vicuna(), system=VICUNA_SYSTEM),
        Plain(name="llava_v1", turns=_vicuna(), system=VICUNA_SYSTEM, media=("", "\n")),
    )
}
"""Our templates by name."""
