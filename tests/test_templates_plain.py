"""Our own templates: what they write, what is trained, weights by class, texts too long for a pack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, SpecError
from mmdata.labels import labels
from mmdata.templates import (
    MEDIUM,
    PROMPTS,
    Encoded,
    Template,
    Truncated,
    Weights,
    encode,
    get_template,
    names,
    sentence_ends,
    truncate,
)
from mmdata.types import Media, Origin, Sample, Span, Text
from tests.chat_formats import chat_tokenizer
from tests.tokenizer_fixture import small_tokenizer

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)
IMAGE = Media(kind="image")


def sample(*parts: Text | Media) -> Sample:
    return Sample(key="k", parts=parts, origin=Origin(uri="tests", row=0))


def user(text: str) -> Text:
    return Text(text=text, role="user")


def answer(text: str, train: bool = True) -> Text:
    return Text(text=text, role="assistant", train=train)


def one(tokenizer: Any, template: Template, *parts: Text | Media) -> Encoded:
    (found,) = encode([sample(*parts)], tokenizer, template)
    assert isinstance(found, Encoded), found
    return found


def shown(tokenizer: Any, found: Encoded) -> str:
    """The text, trained stretches in brackets, media as `@`."""
    on = [False] * len(found.ids)
    for span in found.spans:
        on[span.start : span.stop] = [True] * (span.stop - span.start)
    pieces: list[tuple[bool, list[int]]] = []
    for token, trained in zip(found.ids, on, strict=True):
        if token == MEDIUM or not pieces or pieces[-1][0] != trained or pieces[-1][1][-1:] == [MEDIUM]:
            pieces.append((trained, []))
        pieces[-1][1].append(token)
    texts = [("@" if ids == [MEDIUM] else tokenizer.decode(ids), trained) for trained, ids in pieces]
    return "".join(f"[{text}]" if trained else text for text, trained in texts)


TALK = (IMAGE, user("What?"), answer("A fox."), user("Sure?"), answer("Yes."))
WRITTEN = {
    "basic": "<s>User: @\nWhat?\nAssistant:[ A fox.</s>]\nUser: Sure?\nAssistant:[ Yes.</s>]\n",
    "multi_image": "<s>User: Image 1: @\nWhat?\nAssistant:[ A fox.</s>]\nUser: Sure?\nAssistant:[ Yes.</s>]\n",
    "llava_v1": "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: @\nWhat? ASSISTANT:[ A fox.</s>]USER: Sure? "
    "ASSISTANT:[ Yes.</s>]",
    "chatml": "<|im_start|>user\n@What?<|im_end|>\n<|im_start|>assistant\n[A fox.<|im_end|>]\n"
    "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n[Yes.<|im_end|>]\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_templates_write(name: str) -> None:
    tokenizer: Any = chat_tokenizer("none")
    text = shown(tokenizer, one(tokenizer, get_template(name), *TALK))
    # Whether a space before a word is a token of its own is the vocabulary's affair.
    expected = WRITTEN[name] if name != "chatml" else "<s>" + WRITTEN[name]
    assert text.replace("[ ", " [") == expected.replace("[ ", " [")


def test_chatml_without_its_tokens_spells_them_and_stops_with_the_end_of_sequence() -> None:
    tokenizer: Any = small_tokenizer()
    text = shown(tokenizer, one(tokenizer, get_template("chatml"), user("Hi."), answer("Yes.")))
    assert text == "<s><|im_start|>user\nHi.</s>\n<|im_start|>assistant\n[Yes.</s>]\n"


def test_a_start_token_that_opens_every_turn_is_not_put_twice() -> None:
    tokenizer: Any = chat_tokenizer("chatml", "nfc")
    tokenizer.bos_token = "<|im_start|>"
    found = one(tokenizer, get_template("chatml"), user("Hi."), answer("Yes."))
    assert found.ids.count(tokenizer.bos_token_id) == 2
    chat_tokenizer.cache_clear()


def test_system_prompts_are_put_before_samples_without_one() -> None:
    tokenizer: Any = chat_tokenizer("none")
    talk = (user("What?"), answer("A fox."))
    own = Text(text="Be brief.", role="system")
    assert PROMPTS["general"] in shown(tokenizer, one(tokenizer, get_template("system"), *talk))
    assert PROMPTS["ocr"] in shown(tokenizer, one(tokenizer, get_template("basic", system="ocr"), *talk))
    assert "Be brief." in (text := shown(tokenizer, one(tokenizer, get_template("system"), own, *talk)))
    assert PROMPTS["general"] not in text
    assert "step by step" in shown(tokenizer, one(tokenizer, get_template("cot"), *talk))


def test_document_keeps_media_in_their_places_and_stops_once() -> None:
    tokenizer: Any = chat_tokenizer("none")
    parts = (Text(text="One", role="document"), IMAGE, Text(text="two", role="document"))
    assert shown(tokenizer, one(tokenizer, get_template("document"), *parts)) == "<s>[One]@[two</s>]"
    assert shown(tokenizer, one(tokenizer, get_template("caption"), *parts)) == "<s>@[Onetwo</s>]"
    captions = (Text(text="one"), IMAGE, Text(text="two"))
    assert shown(tokenizer, one(tokenizer, get_template("caption"), *captions)) == "<s>@[one</s>two</s>]"


@pytest.mark.parametrize("name", ["basic", "chatml", "llava_v1"])
def test_what_is_trained(name: str) -> None:
    tokenizer: Any = chat_tokenizer("none")

    def trained(train_on: Any, *parts: Text | Media) -> str:
        found = one(tokenizer, get_template(name, train_on=train_on), *parts)
        ids = [i for span in found.spans for i in found.ids[span.start : span.stop]]
        return str(tokenizer.decode(ids))

    end = tokenizer.eos_token if name != "chatml" else "<|im_end|>"
    assert trained("assistant", *TALK).replace(" ", "") == f"Afox.{end}Yes.{end}"
    assert trained("last_turn", *TALK).replace(" ", "") == f"Yes.{end}"
    assert trained("assistant", *TALK[:2], answer("A fox.", train=False), *TALK[3:]).replace(" ", "") == f"Yes.{end}"
    everything = trained("all", *TALK)
    found = one(tokenizer, get_template(name), *TALK)
    assert everything == tokenizer.decode([i for i in found.ids if i not in (MEDIUM, tokenizer.bos_token_id)]) or (
        everything == tokenizer.decode([i for i in found.ids if i != MEDIUM])
    )
    (nothing,) = encode(
        [sample(user("?"), answer("a"), user("?"), answer("b", train=False))],
        tokenizer,
        get_template(name, train_on="last_turn"),
    )
    assert isinstance(nothing, DataError)
    assert nothing.reason == "no_target"


def test_a_prompt_within_an_answer_is_not_trained_and_ends_where_it_ends() -> None:
    tokenizer: Any = chat_tokenizer("none")
    found = one(tokenizer, get_template("chatml"), user("?"), answer("The answer: ", train=False), answer("a fox"))
    assert shown(tokenizer, found).endswith("<|im_start|>assistant\nThe answer: [a fox<|im_end|>]\n")


GROUNDED = "See <ref>a fox</ref><box>(1,2),(3,4)</box> there. <box>open <point>(5, 6)</point>"


def test_weights_by_class() -> None:
    tokenizer: Any = chat_tokenizer("none")
    weights = Weights(response=1, instruction=0.25, special=0.5, box=3, entity=2)
    template = get_template("chatml", weights=weights, train_on="all")
    found = one(tokenizer, template, IMAGE, user("Where? <ref>it</ref>"), answer(GROUNDED))
    texts: dict[str, str] = {}
    for span in found.spans:
        assert span.weight == getattr(weights, span.kind)
        texts[span.kind] = texts.get(span.kind, "") + tokenizer.decode(found.ids[span.start : span.stop])
    bare = {kind: text.replace(" ", "").replace("<", "") for kind, text in texts.items()}  # " <" may be one token
    assert bare["entity"] == "ref>it/ref>ref>afox/ref>"
    assert bare["box"] == "box>(1,2),(3,4)/box>point>(5,6)/point>"
    assert bare["instruction"] == "Where?"
    assert bare["response"] == "Seethere.box>open"
    assert "<|im_end|>" in texts["special"]
    values, loss = labels(np.array(found.ids), found.spans)
    assert set(loss.tolist()) == {0.0, 0.25, 0.5, 1.0, 2.0, 3.0}
    assert (values[1:] != -100).sum() == (loss[1:] > 0).sum()
    quiet = get_template("chatml", weights=Weights(response=0, special=0))
    (refused,) = encode([sample(user("?"), answer("a"))], tokenizer, quiet)
    assert isinstance(refused, DataError)
    assert refused.reason == "no_target"


def test_names_and_refusals() -> None:
    tokenizer: Any = chat_tokenizer("none")
    assert {"caption", "basic", "system", "multi_image", "cot", "chatml", "vicuna", "llava_v1", "chat"} <= set(names())
    with pytest.raises(SpecError, match="known: caption"):
        get_template("chatlm")
    with pytest.raises(SpecError, match="no place for a system prompt"):
        get_template("caption", system="ocr")
    with pytest.raises(SpecError, match="options are for"):
        get_template("chatml", options={"enable_thinking": True})
    found = encode([sample(Text(text="x", role="narrator"))], tokenizer, get_template("basic"))
    assert [getattr(item, "reason", "") for item in found] == ["template_role"]


@st.composite
def long_talks(draw: st.DrawFn) -> tuple[Text | Media, ...]:
    parts: list[Text | Media] = []
    for _ in range(draw(st.integers(1, 5))):
        parts += [Media(kind="image", height=len(parts)) for _ in range(draw(st.integers(0, 2)))]
        parts.append(user(draw(st.sampled_from(["What is it?", "And now? Look."]))))
        sentences = draw(st.integers(1, 6))
        parts.append(answer(" ".join(f"It is fox {n}." for n in range(sentences))))
    return tuple(parts)


@pytest.mark.parametrize("name", ["chatml", "llava_v1", "chat"])
@pytest.mark.parametrize("keep", ["first", "last"])
@SETTINGS
@given(parts=long_talks(), data=st.data())
def test_what_is_shortened_is_whole(name: str, keep: Any, parts: tuple[Text | Media, ...], data: st.DataObject) -> None:
    tokenizer: Any = chat_tokenizer("qwen2_vl")
    marker: Any = {"image": "<|vision_start|><|image_pad|><|vision_end|>"}
    template = _bound(name, tokenizer, marker)
    given_sample = sample(*parts)
    (encoded,) = encode([given_sample], tokenizer, template)
    assert isinstance(encoded, Encoded)
    sizes = {id(medium): data.draw(st.integers(1, 40)) for medium in encoded.media}
    whole = len(encoded.ids) - len(encoded.media) + sum(sizes.values())
    most = data.draw(st.integers(2, whole + 5))
    found = truncate(
        given_sample,
        encoded,
        [sizes[id(medium)] for medium in encoded.media],
        max_length=most,
        tokenizer=tokenizer,
        template=template,
        keep=keep,
    )
    if isinstance(found, DataError):
        assert found.reason == "overlong"
        assert whole > most
        return
    assert found.tokens <= most
    assert found.encoded.ids.count(MEDIUM) == len(found.encoded.media) == len(found.kept)
    assert found.tokens == len(found.encoded.ids) + sum(sizes[id(m)] - 1 for m in found.encoded.media)
    assert [id(given_sample.media[at]) for at in found.kept] == [id(medium) for medium in found.sample.media]
    assert encode([found.sample], tokenizer, template) == [found.encoded]
    texts = [part.text for part in found.sample.texts if part.role == "assistant"]
    assert all(text.endswith(".") for text in texts)
    assert (found.done == {}) == (whole <= most)
    if keep == "last":
        assert found.kept == tuple(range(len(given_sample.media)))
    originals = [part.text for part in given_sample.texts if part.role == "assistant"]
    cut = [text for text in texts if text not in originals]
    assert len(cut) == found.done.get("response_cut", 0)
    if not cut:  # no more would have fitted
        kept = len(found.sample.parts)
        assert kept == len(parts) or found.done["messages_dropped"] > 0


_templates: dict[str, Template] = {}


def _bound(name: str, tokenizer: Any, markers: Any) -> Template:
    if name not in _templates:
        _templates[name] = get_template(name, tokenizer=tokenizer, markers=markers)
    return _templates[name]


def test_shortening_keeps_as_much_as_fits_and_names_what_went() -> None:
    tokenizer: Any = chat_tokenizer("none")
    template = get_template("chatml")
    parts = (IMAGE, user("What?"), answer("A fox. It sits."), user("Sure?"), answer("Yes."))
    encoded = one(tokenizer, template, *parts)

    def cut(most: int, keep: Any = "first") -> Truncated | DataError:
        return truncate(
            sample(*parts), encoded, [100], max_length=most, tokenizer=tokenizer, template=template, keep=keep
        )

    first = one(tokenizer, template, *parts[:3])
    size = len(first.ids) + 99
    found = cut(size)
    assert isinstance(found, Truncated)
    assert (found.tokens, dict(found.done), found.encoded) == (size, {"messages_dropped": 2}, first)
    shorter = cut(size - 1)
    assert isinstance(shorter, Truncated)
    assert [text.text for text in shorter.sample.texts] == ["What?", "A fox."]
    assert dict(shorter.done) == {"messages_dropped": 2, "response_cut": 1}
    assert isinstance(cut(100), DataError)
    assert isinstance(cut(size + 3, "last"), DataError)  # the first exchange holds the picture
    caption = one(tokenizer, get_template("caption"), IMAGE, Text(text="One fox. Two foxes."))
    shortened = truncate(
        sample(IMAGE, Text(text="One fox. Two foxes.")),
        caption,
        [5],
        max_length=len(caption.ids) + 3,
        tokenizer=tokenizer,
        template=get_template("caption"),
    )
    assert isinstance(shortened, Truncated)
    assert shortened.sample.texts[0].text == "One fox."
    assert shortened.encoded.spans[-1] == Span(
        len(shortened.encoded.ids) - 1, len(shortened.encoded.ids), 1.0, "special"
    )


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("यह एक कुत्ता है। वह बिल्ली है।", "यह एक कुत्ता है।"),
        ("هذا كلب؟ نعم.", "هذا كلب؟"),
        ("یہ کتا ہے۔ ہاں۔", "یہ کتا ہے۔"),
        ("እሺ። ደህና።", "እሺ።"),
        ("Սա շուն է։ Այո։", "Սա շուն է։"),
        ("这是狗。对。", "这是狗。"),
    ],
)
def test_sentences_end_in_other_scripts(text: str, first: str) -> None:
    assert [text[:end] for end in sentence_ends(text)] == [first, text]
