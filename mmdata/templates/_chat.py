"""A tokenizer's own chat template as skeletons: rendered once per structure of conversation, texts held back.

The template never sees a text of a sample, so that no text is taken for markup, and what belongs to the template and
what to a message is known by construction instead of searched for afterwards.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import jinja2

from mmdata.errors import DataError, SpecError
from mmdata.templates._codec import Codec, Run, Tokenizer
from mmdata.templates._skeleton import (
    OUTSIDE,
    REASONING,
    SENTINELS,
    Atom,
    Frame,
    Gap,
    Place,
    Shape,
    Special,
    numbered,
    sentinel,
    stopped,
    tokens,
)
from mmdata.types import MediaKind

Form = Literal["string", "list"]
ROLES = ("user", "assistant", "system", "tool")
_UNCHANGED = '"\n<1>'
"""What a template that quotes, escapes or joins lines gives back otherwise."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_CLOCK = re.compile(r"""strftime_now\(\s*["']([^"']+)["']\s*\)""")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What there is to say of a chat template before a tokenizer brings one.

    `markers` is what the template writes for each kind of medium, `options` what else it is told (`enable_thinking`,
    `date_string`, `tools`, or a `chat_template` in place of the tokenizer's). `stop="ensure"` sees to exactly one stop
    token per answer: the one in the template's `{% generation %}` block, else the one behind it, else an end of
    sequence put there; `"template"` leaves ids and mask as `apply_chat_template` makes them.
    """

    name: str = "chat"
    markers: Mapping[MediaKind, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    stop: Literal["ensure", "template"] = "ensure"

    def describe(self) -> dict[str, Any]:
        """All that decides what it makes of a sample, the tokenizer aside."""
        return {
            "name": self.name,
            "markers": dict(sorted(self.markers.items())),
            "options": dict(sorted(self.options.items())),
            "system": self.system,
            "stop": self.stop,
        }

    def trains(self, role: str) -> bool:
        return role == "assistant"

    def bind(self, tokenizer: Tokenizer, codec: Codec) -> ChatLayout:
        """The template with this tokenizer's. Raises SpecError where it has none or it cannot be followed."""
        return ChatLayout(self, tokenizer, codec)


class ChatLayout:
    """A chat template bound to a tokenizer: shapes to skeletons."""

    def __init__(self, chat: Chat, tokenizer: Tokenizer, codec: Codec) -> None:
        self.chat = chat
        self._codec = codec
        self._tokenizer: Any = tokenizer
        self._options = dict(chat.options)
        self.source = self._source()
        self.generation = bool(_GENERATION.search(self.source))
        self._markers = {kind: marker for kind, marker in chat.markers.items() if marker}
        spelled = sorted(set(self._markers.values()), key=len, reverse=True)
        self._marked = re.compile("|".join(map(re.escape, spelled))) if spelled else None
        self.forms = self._forms()
        self.native = frozenset(kind for kind in self._markers if self._writes(kind))
        self.bos = self._bos()
        self.stops: frozenset[int] = frozenset()
        self.stops = self._stops()
        self._add = tokenizer.eos_token_id if chat.stop == "ensure" else None

    def skeleton(self, outline: Shape) -> tuple[Atom, ...]:
        """The atoms of a conversation. Raises DataError where the template refuses it, drops or repeats a text, or
        writes another number of media than there are."""
        atoms = self._atoms(outline)
        if self.generation:
            answered = sorted({atom.turn for atom in atoms if isinstance(atom, Gap) and atom.turn != OUTSIDE})
        else:
            atoms = self._answers(atoms, outline)
            answered = [number for number, (role, _) in enumerate(outline) if role == "assistant"]
        atoms = tokens(atoms, self._codec)
        if self.chat.stop == "ensure" or not self.generation:
            atoms = stopped(atoms, answered, self.stops, self._add)
        return tuple(atoms)

    def messages(self, outline: Shape, texts: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The conversation as the template takes it, with sentinels, or with `texts` in their places."""
        conversation, _, _ = numbered(outline)
        result: list[dict[str, Any]] = []
        for role, items in conversation:
            form = self._form(role, items)
            content: list[dict[str, Any]] = []
            for item in items:
                if isinstance(item, str):
                    content.append({"type": "text", "text": _filled(item, texts)})
                elif form == "list" and item[0] in self.native:
                    content.append({"type": item[0], item[0]: "medium"})
                else:
                    inline = sentinel("m", item[1]) if texts is None else self._markers.get(item[0], "")
                    content.append({"type": "text", "text": inline})
            joined = "".join(part.get("text", "") for part in content)
            result.append({"role": role, "content": content if form == "list" else joined})
        return result

    def render(self, messages: list[dict[str, Any]], **more: Any) -> tuple[str, list[tuple[int, int]]]:
        """The rendered conversation, and the characters of each `{% generation %}` block in it."""
        from transformers.utils.chat_template_utils import render_jinja_template

        options = {**self._tokenizer.special_tokens_map, **self._options, **more}
        options.pop("chat_template", None)
        result: Any
        try:
            result = render_jinja_template(
                [messages],
                chat_template=self.source,
                return_assistant_tokens_mask=self.generation,
                **options,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise DataError("template_refused", f"the chat template says: {' '.join(str(error).split())}") from error
        rendered, generated = result
        return rendered[0], [(start, stop) for start, stop in generated[0]] if self.generation else []

    def _source(self) -> str:
        given = self._options.get("chat_template")
        try:
            source: str = self._tokenizer.get_chat_template(given, tools=self._options.get("tools"))
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise SpecError(
                "template chat: the tokenizer has no chat template; choose one of ours (chatml, llava_v1, basic, ...), "
                "or give one as options={'chat_template': ...}"
            ) from error
        return source

    def _forms(self) -> dict[str, Form]:
        """How the template takes the content of a role's messages; roles that it takes in no form are left out, and
        those whose texts it rewrites (Llama 3.1 writes what a tool says as JSON)."""
        found: dict[str, Form] = {}
        talk: dict[str, tuple[str, ...]] = {
            "user": ("user", "assistant"),
            "system": ("system", "user", "assistant"),
            "tool": ("user", "assistant", "tool", "assistant"),
        }
        for role, roles in talk.items():
            forms: tuple[Form, ...] = ("string", "list")
            for form in forms:
                trial = {"user": form, "assistant": form, **found, role: form}
                if self._takes(roles, trial):
                    found |= {name: trial[name] for name in roles}
                    break
            else:
                if role == "user":
                    detail = self._refusal()
                    raise SpecError(f"template chat: the chat template does not hold a question and its answer{detail}")
        return found

    def _takes(self, roles: Sequence[str], forms: Mapping[str, Form]) -> bool:
        messages: list[dict[str, Any]] = []
        texts = [sentinel("t", number) + _UNCHANGED for number in range(len(roles))]
        for text, role in zip(texts, roles, strict=True):
            content = text if forms[role] == "string" else [{"type": "text", "text": text}]
            messages.append({"role": role, "content": content})
        try:
            rendered, _ = self.render(messages)
        except DataError:
            return False
        numbers = sorted(int(number) for _, number in SENTINELS.findall(rendered))
        whole = numbers == list(range(len(roles))) and all(text in rendered for text in texts)
        return whole and "'type'" not in rendered and '"type"' not in rendered

    def _refusal(self) -> str:
        try:
            self.render([{"role": role, "content": sentinel("t", 0)} for role in ("user", "assistant")])
        except DataError as error:
            return f": {error.detail}"
        return ""

    def _writes(self, kind: MediaKind) -> bool:
        """Whether the template writes the marker of a medium itself."""
        content = [{"type": kind, kind: "medium"}, {"type": "text", "text": sentinel("t", 0)}]
        try:
            rendered, _ = self.render([{"role": "user", "content": content}])
        except DataError:
            return False
        return rendered.count(self._markers[kind]) == 1 and rendered.count(sentinel("t", 0)) == 1

    def _form(self, role: str, items: Sequence[str | tuple[MediaKind, int]]) -> Form:
        if role not in self.forms:
            raise DataError("template_role", f"the chat template takes no message of role {role!r} as it is")
        native = any(not isinstance(item, str) and item[0] in self.native for item in items)
        return "list" if native else self.forms[role]

    def _bos(self) -> int | None:
        """The start token that the tokenizer puts before a text by itself, as a model's processor lets it do."""
        bos = self._tokenizer.bos_token_id
        ids = self._tokenizer(["a"], add_special_tokens=True)["input_ids"][0]
        return bos if bos is not None and ids[:1] == [bos] else None

    def _stops(self) -> frozenset[int]:
        """What ends an answer: the special token behind one with which a conversation ends, or the end of sequence."""
        atoms = tokens(self._atoms((("user", ("\ue000",)), ("assistant", ("\ue000",)))), self._codec)
        last = max(at for at, atom in enumerate(atoms) if isinstance(atom, Gap))
        found = set() if self._tokenizer.eos_token_id is None else {int(self._tokenizer.eos_token_id)}
        for atom in atoms[last + 1 :]:
            if isinstance(atom, Special):
                return frozenset(found | {atom.id})
            if isinstance(atom, Frame) and atom.text.strip():
                break
        if not found and self.chat.stop == "ensure":
            raise SpecError("template chat: neither template nor tokenizer has a token that ends an answer")
        return frozenset(found)

    def _atoms(self, outline: Shape) -> list[Atom]:
        """The rendered outline as atoms, with the turns of its `{% generation %}` blocks."""
        conversation, cores, media = numbered(outline)
        rendered, generated = self.render(self.messages(outline))
        roles = [role for role, _ in conversation]
        of_core = [n for n, (_, items) in enumerate(conversation) for _ in SENTINELS.findall("".join(_texts(items)))]
        kinds = [item[0] for _, items in conversation for item in items if not isinstance(item, str)]
        atoms: list[Atom] = []
        for text, inside in _cut(rendered, generated):
            block: list[Atom] = []
            at = 0
            for found in SENTINELS.finditer(text):
                block += self._frame(text[at : found.start()])
                number = int(found[2])
                block.append(Gap(number) if found[1] == "t" else Place(number))
                at = found.end()
            block += self._frame(text[at:])
            answers = [of_core[atom.core] for atom in block if isinstance(atom, Gap)]
            answers = [turn for turn in answers if roles[turn] == "assistant"]
            if inside and answers:
                block = [atom if isinstance(atom, Place) else replace(atom, turn=answers[0]) for atom in block]
            atoms += block
        self._check_texts(atoms, outline, cores)
        return self._number_media(atoms, kinds, media)

    def _frame(self, text: str) -> list[Atom]:
        """A frame, its markers turned into places that are still without number."""
        if not text:
            return []
        atoms: list[Atom] = []
        at = 0
        for found in self._marked.finditer(text) if self._marked else ():
            atoms += [Frame(text[at : found.start()])] if found.start() > at else []
            atoms.append(_Marker(found[0]))  # type: ignore[arg-type]
            at = found.end()
        return [*atoms, Frame(text[at:])] if at < len(text) else atoms

    def _check_texts(self, atoms: Sequence[Atom], outline: Shape, cores: int) -> None:
        """A text comes back once, in its order. Reasoning may be left out: templates do that with earlier turns."""
        found = [atom.core for atom in atoms if isinstance(atom, Gap)]
        reasoning = any(REASONING.search(part) for _, parts in outline for part in parts)
        lost = sorted(set(range(cores)) - set(found))
        if len(set(found)) != len(found) or (lost and not reasoning):
            what = f"drops text {lost[0] + 1}" if lost else "repeats a text"
            raise DataError("template_text", f"the chat template {what} of {cores}")

    def _number_media(self, atoms: Sequence[Any], kinds: Sequence[MediaKind], media: int) -> list[Atom]:
        """Markers as places: the n-th marker of a kind is that kind's n-th medium, in whatever message."""
        inline = {atom.medium for atom in atoms if isinstance(atom, Place)}
        waiting = {
            kind: iter([n for n, of in enumerate(kinds) if of == kind and n not in inline]) for kind in self._markers
        }
        of_marker: dict[str, list[MediaKind]] = {}
        for kind, marker in self._markers.items():
            of_marker.setdefault(marker, []).append(kind)
        result: list[Atom] = []
        for atom in atoms:
            if isinstance(atom, _Marker):
                number = next((n for kind in of_marker[atom.text] for n in waiting[kind]), None)
                if number is None:
                    raise DataError(
                        "template_media", f"the chat template writes more {atom.text!r} than there are media"
                    )
                result.append(Place(number))
            else:
                result.append(atom)
        placed = [atom.medium for atom in result if isinstance(atom, Place)]
        if sorted(placed) != list(range(media)):
            missing = sorted({kinds[n] for n in set(range(media)) - set(placed)})
            raise DataError(
                "template_media",
                f"the chat template has no place for {', '.join(missing) or 'a medium'} in that message",
            )
        return result

    def _answers(self, atoms: Sequence[Atom], outline: Shape) -> list[Atom]:
        """The turns of a template without `{% generation %}`: from the first to the last text of an assistant's
        message, the white space that the message itself begins with, and reasoning tags that it opens or ends with."""
        conversation, _, _ = numbered(outline)
        own = {
            int(number): turn
            for turn, (role, items) in enumerate(conversation)
            if role == "assistant"
            for _, number in SENTINELS.findall("".join(_texts(items)))
        }
        ends: dict[int, tuple[int, int]] = {}
        for at, atom in enumerate(atoms):
            if isinstance(atom, Gap) and atom.core in own:
                turn = own[atom.core]
                ends[turn] = (ends.get(turn, (at, at))[0], at)
        result = list(atoms)
        for turn, (first, last) in ends.items():
            for at in range(first, last + 1):
                atom = result[at]
                result[at] = atom if isinstance(atom, Place) else replace(atom, turn=turn)
        lead = self._leads(outline, {turn: first for turn, (first, _) in ends.items()}, atoms)
        for turn in sorted(ends, key=lambda turn: ends[turn][0], reverse=True):
            first, last = ends[turn]
            behind = result[last + 1] if last + 1 < len(result) else None
            if isinstance(behind, Frame) and (own_end := _closed(behind.text, outline[turn][1])):
                result[last + 1 : last + 2] = [
                    Frame(behind.text[:own_end], turn),
                    *([Frame(behind.text[own_end:])] if own_end < len(behind.text) else []),
                ]
            if turn in lead:
                text = result[first - 1].text  # type: ignore[union-attr]
                cut = len(text) - lead[turn]
                result[first - 1 : first] = [Frame(text[:cut])] * bool(cut) + [Frame(text[cut:], turn)]
        return result

    def _leads(self, outline: Shape, firsts: Mapping[int, int], atoms: Sequence[Atom]) -> dict[int, int]:
        """How many characters before each answer's first text are its own: what the template keeps of the white
        space there, a reasoning tag, and white space that its generation prompt leaves to the answer."""
        found = self._own_leads(outline, firsts, atoms)
        for turn, at in firsts.items() if self._left else ():
            before = atoms[at - 1] if at else None
            if isinstance(before, Frame):
                mine = found.get(turn, 0)
                if before.text[: len(before.text) - mine].endswith(self._left):
                    found[turn] = mine + len(self._left)
        return found

    @functools.cached_property
    def _left(self) -> str:
        """White space before an answer that the model itself has to write, as the generation prompt ends before it: of
        `Assistant: 4` after `Assistant:`, which is a token of its own in front of figures."""
        asked: Shape = (("user", ("\ue000",)),)
        try:
            prompt, _ = self.render(self.messages(asked), add_generation_prompt=True)
            whole, _ = self.render(self.messages((*asked, ("assistant", ("\ue000",)))))
        except DataError:
            return ""
        before = whole.partition(sentinel("t", 1))[0]
        left = before[len(prompt) :] if before.startswith(prompt) else ""
        if not left or left.strip():
            return ""
        frame = self._codec.split(before.rpartition(sentinel("t", 0))[2])[-1]
        return left if isinstance(frame, str) and self._parted(frame, len(frame) - len(left)) else ""

    def _parted(self, frame: str, at: int) -> bool:
        """Whether no token reaches over the place `at` in a frame, before figures and before words."""
        if not at:
            return True
        texts = [frame + following for following in "4a"]
        runs = [Run(text, False, ((0, at), (at, len(text)))) for text in texts]
        runs += [Run(text, False, ((at, len(text)),)) for text in texts]
        both, alone = self._codec.encode(runs[:2]), self._codec.encode(runs[2:])
        return all(one.places[1] == other.places[0] for one, other in zip(both, alone, strict=True))

    def _own_leads(self, outline: Shape, firsts: Mapping[int, int], atoms: Sequence[Atom]) -> dict[int, int]:
        """Of `_leads`, what the message itself brings."""
        found: dict[int, int] = {}
        bare = list(outline)
        for turn, at in firsts.items():
            before = atoms[at - 1] if at else None
            lead = next(part for part in outline[turn][1] if "\ue000" in part).partition("\ue000")[0]
            if not lead or not isinstance(before, Frame):
                continue
            if REASONING.search(lead):
                tag = before.text.rfind("<think>")
                found |= {turn: len(before.text) - tag} if tag >= 0 else {}
                continue
            role, parts = outline[turn]
            bare[turn] = (role, tuple(part.removeprefix(lead) if "\ue000" in part else part for part in parts))
        if tuple(bare) == outline:
            return found
        without = self._atoms(tuple(bare))
        before_gap = {
            gap.core: frame.text
            for frame, gap in pairwise(without)
            if isinstance(gap, Gap) and isinstance(frame, Frame)
        }
        for turn, at in firsts.items():
            gap, before = atoms[at], atoms[at - 1] if at else None
            if bare[turn] != outline[turn] and isinstance(gap, Gap) and isinstance(before, Frame):
                template = before_gap.get(gap.core, "")
                if before.text.startswith(template) and len(before.text) > len(template):
                    found[turn] = len(before.text) - len(template)
        return found

    def reads_clock(self) -> bool:
        """Whether today's date is in what the template writes: the same data would be other tokens tomorrow."""
        formats = _CLOCK.findall(self.source)
        rendered, _ = self.render(self.messages((("user", ("\ue000",)),)))
        return any(time.strftime(wanted) in rendered for wanted in formats)


@dataclass(frozen=True, slots=True)
class _Marker:
    text: str
    turn: int = OUTSIDE


def _closed(behind: str, parts: Sequence[str]) -> int:
    """How many characters behind an answer's last text are its own: up to the reasoning tags with which it ends, as one
    does that thinks and then says nothing.

    >>> _closed("\\n</think>\\n<end>", ("<think>\ue000\\n</think>",))
    9
    >>> _closed("<end>", ("<think>\ue000</think>\ue000",))
    0
    """
    own = len(REASONING.findall("".join(parts).rpartition("\ue000")[2]))
    found = list(REASONING.finditer(behind))
    return found[own - 1].end() if 0 < own <= len(found) else 0


def _texts(items: Sequence[str | tuple[MediaKind, int]]) -> list[str]:
    return [item for item in items if isinstance(item, str)]


def _filled(text: str, texts: Sequence[str] | None) -> str:
    return text if texts is None else SENTINELS.sub(lambda found: texts[int(found[2])], text)


def _cut(rendered: str, generated: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """The rendered text in pieces, each inside or outside a generation block.

    >>> _cut("Q: a A: b.", [(8, 10)])
    [('Q: a A: ', False), ('b.', True)]
    """
    pieces = []
    at = 0
    for start, stop in generated:
        pieces += [(rendered[at:start], False), (rendered[start:stop], True)]
        at = stop
    return [(text, inside) for text, inside in [*pieces, (rendered[at:], False)] if text]
