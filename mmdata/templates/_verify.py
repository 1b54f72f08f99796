"""Proof at load time that a chat template is followed: ids and masks against `apply_chat_template` itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmdata.errors import DataError, SpecError
from mmdata.templates._chat import Chat, ChatLayout
from mmdata.templates._codec import Run, Tokenizer, codec_of
from mmdata.templates._encode import MEDIUM, Encoded, encode
from mmdata.templates._skeleton import shape
from mmdata.templates._template import Template
from mmdata.templates._turns import messages
from mmdata.types import Media, Origin, Sample, Text

_ASK = Text(text="What is this?", role="user")
_ANSWER = Text(text="A red fox, in 3 words.", role="assistant")
# No answer ends with a character of several tokens: transformers' own mask leaves out all but the first of them.
_TALKS: dict[str, tuple[Text, ...]] = {
    "a question": (_ASK, _ANSWER),
    "two questions": (_ASK, _ANSWER, Text(text="Sure?", role="user"), Text(text="Yes.\n\nIt is.", role="assistant")),
    "a system prompt": (Text(text="Be brief.", role="system"), _ASK, _ANSWER),
    "white space": (Text(text=" \n hm \n", role="user"), Text(text="\n\n 1 + 1\t=  2 \n", role="assistant")),
    "other scripts": (Text(text="数 ☕ naïve?", role="user"), Text(text="是的。😀 é.", role="assistant")),
    "a tool": (_ASK, _ANSWER, Text(text='{"t": 3}', role="tool"), Text(text="3 degrees.", role="assistant")),
    "reasoning": (_ASK, Text(text="<think>\nFur, tail.\n</think>\n\nA fox.", role="assistant")),
}


def verify(template: Template, tokenizer: Tokenizer) -> None:
    """Encode probe conversations and compare with the tokenizer's own `apply_chat_template(tokenize=True)`: the same
    ids, and where the template has `{% generation %}` the same mask. Raises SpecError at the first difference, naming
    it. A conversation that the template refuses (many take no system prompt, no tools) is left out; the first may not
    be refused. Tokens that only we add (a start token, ends of answers) are left out of the comparison.
    """
    assert isinstance(template.form, Chat), template.form
    plain = Template(form=replace(template.form, stop="template"))
    layout = plain.bind(tokenizer).layout
    assert isinstance(layout, ChatLayout), layout
    if layout.reads_clock():
        raise SpecError(
            "template chat: it writes today's date, so the same data would be other tokens tomorrow; fix the date "
            "(many templates take options={'date_string': '26 Jul 2024'}) or give a chat_template without it"
        )
    media = [Media(kind=kind) for kind in layout.chat.markers]
    talks: dict[str, tuple[Text | Media, ...]] = {
        **_TALKS,
        **{f"{medium.kind} media": (medium, *_TALKS["two questions"]) for medium in media},
    }
    for name, parts in talks.items():
        problem = _difference(plain, layout, tokenizer, parts)
        if isinstance(problem, DataError):
            if name == "a question":
                raise SpecError(f"template chat: {name} and its answer cannot be encoded: {problem}")
            continue
        if problem:
            raise SpecError(
                f"template chat: for {name} the tokens are not those of apply_chat_template: {problem}; this chat "
                "template cannot be followed exactly. Choose one of ours, or give one as options={'chat_template': ...}"
            )
    _trained(template, tokenizer)


def _difference(
    template: Template, layout: ChatLayout, tokenizer: Tokenizer, parts: Sequence[Text | Media]
) -> str | DataError:
    (encoded,) = encode([_sample(parts)], tokenizer, template)
    if isinstance(encoded, DataError):
        return encoded
    codec = codec_of(tokenizer)
    ids: list[int] = []
    at = 0
    media = iter(encoded.media)
    mask = [0] * len(encoded.ids)
    for span in encoded.spans:
        mask[span.start : span.stop] = [1] * (span.stop - span.start)
    trained: list[int] = []
    for at, token in enumerate(encoded.ids):
        if token == MEDIUM:
            marker = layout.chat.markers[next(media).kind]
            pieces = codec.split(marker)
            for piece in pieces:
                ids += [piece] if isinstance(piece, int) else codec.encode([Run(piece, first=not ids)])[0].ids
        elif at == 0 and layout.bos is not None and token == layout.bos and not _opens(layout, tokenizer, parts):
            continue
        else:
            ids.append(token)
        trained += [mask[at]] * (len(ids) - len(trained))
    expected, wanted = _reference(layout, tokenizer, parts)
    if ids != expected:
        first = next(
            (n for n, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
        )
        return f"token {first} is {ids[first : first + 4]}, not {expected[first : first + 4]}"
    if wanted is not None and trained != wanted:
        first = next(n for n, (a, b) in enumerate(zip(trained, wanted, strict=True)) if a != b)
        return f"token {first} is {'not ' * (not trained[first])}trained, against its generation block"
    return ""


def _reference(layout: ChatLayout, tokenizer: Any, parts: Sequence[Text | Media]) -> tuple[list[int], list[int] | None]:
    """Ids, and with `{% generation %}` the mask, by transformers."""
    outline, cores = shape(messages(parts))
    conversation = layout.messages(outline, [core.text for core in cores])
    options = {name: value for name, value in layout.chat.options.items() if name != "chat_template"}
    found = tokenizer.apply_chat_template(
        conversation,
        chat_template=layout.source,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=layout.generation,
        **options,
    )
    return list(found["input_ids"]), list(found["assistant_masks"]) if layout.generation else None


def _opens(layout: ChatLayout, tokenizer: Any, parts: Sequence[Text | Media]) -> bool:
    """Whether the template itself writes the start token."""
    return _reference(layout, tokenizer, parts)[0][:1] == [layout.bos]


def _trained(template: Template, tokenizer: Tokenizer) -> None:
    """Each of two answers ends with one stop that is trained."""
    assert isinstance(template.form, Chat), template.form
    if template.form.stop == "template":
        return
    whole = Template(form=template.form)
    (encoded,) = encode([_sample(_TALKS["two questions"])], tokenizer, whole)
    if isinstance(encoded, Encoded):
        layout = whole.bind(tokenizer).layout
        assert isinstance(layout, ChatLayout), layout
        special = [encoded.ids[span.start] for span in encoded.spans if span.kind == "special"]
        stops = sum(token in layout.stops for token in special)  # beside the marks of a block that opens a turn, too
        if stops != 2:
            raise SpecError(f"template chat: two answers end with {stops} stop tokens that are trained")


def _sample(parts: Sequence[Text | Media]) -> Sample:
    return Sample(key="probe", parts=tuple(parts), origin=Origin(uri="probe", row=0))
