"""Chat templates of many formats and tokenizers against transformers: ids, masks turn by turn, media, refusals."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mmdata.errors import DataError, SpecError
from mmdata.stream.arguments import stream_family
from mmdata.templates import MEDIUM, Encoded, Template, digest, encode, get_template
from mmdata.types import Media, Origin, Sample, Text
from mmtrain.tokenizer import pretrained
from tests.chat_formats import CHATML, DEFAULT_MARKERS, FORMATS, KINDS, MARKERS, chat_tokenizer

SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
LISTS = ("llava", "idefics3")
"""Formats that take a list of parts only."""

WORDS = [
    "a fox",
    "Yes.",
    "no",
    "1 + 1 = 2",
    "\n\n",
    "\n",
    "  ",
    "assistant",
    "USER:",
    "ASSISTANT: ",
    "{{ x }}",
    "{% if %}",
]
MORE = ["é", "数", "ok…", "user\n", "[/INST]", "</box>", "'type'", "<im_end>", "model\n", "<|", "|>", '"']
words = st.sampled_from([*WORDS, *MORE])
texts = st.lists(words, min_size=1, max_size=5).map(" ".join).filter(lambda text: bool(text.strip()))
talks = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def sample(*parts: Text | Media) -> Sample:
    return Sample(key="k", parts=parts, origin=Origin(uri="tests", row=0))


def user(text: str) -> Text:
    return Text(text=text, role="user")


def answer(text: str, train: bool = True) -> Text:
    return Text(text=text, role="assistant", train=train)


@functools.cache
def bound(form: str, kind: str = "bytes", **options: Any) -> tuple[Any, Template]:
    tokenizer: Any = chat_tokenizer(form, kind)
    markers = MARKERS.get(form, DEFAULT_MARKERS)
    return tokenizer, get_template("chat", tokenizer=tokenizer, markers=markers, **options)


def encoded_one(tokenizer: Any, template: Template, *parts: Text | Media) -> Encoded:
    (found,) = encode([sample(*parts)], tokenizer, template)
    assert isinstance(found, Encoded), found
    return found


def mask_of(encoded: Encoded) -> list[int]:
    mask = [0] * len(encoded.ids)
    for span in encoded.spans:
        assert not any(mask[span.start : span.stop]), "spans overlap"
        mask[span.start : span.stop] = [1] * (span.stop - span.start)
    return mask


def conversation(form: str, talk: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """A talk as transformers takes it."""
    found = []
    for role, text in zip(itertools.cycle(("user", "assistant")), itertools.chain(*talk), strict=False):
        found.append({"role": role, "content": [{"type": "text", "text": text}] if form in LISTS else text})
    return found


def rendered(tokenizer: Any, form: str, talk: list[tuple[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(conversation(form, talk), tokenize=False)
    return text


def answer_at(tokenizer: Any, form: str, talk: list[tuple[str, str]], number: int) -> tuple[int, int]:
    """Where the answer lies in the rendered talk: rendered with two other answers, the texts part there."""
    variants = []
    for other in ("\x01", "\x02"):
        changed = [(q, other if at == number else a) for at, (q, a) in enumerate(talk)]
        variants.append(rendered(tokenizer, form, changed))
    start = next(at for at, (a, b) in enumerate(zip(*variants, strict=True)) if a != b)
    behind = len(variants[0]) - start - 1
    return start, len(rendered(tokenizer, form, talk)) - behind


def prompt_end(tokenizer: Any, form: str, talk: list[tuple[str, str]], number: int, before: str) -> int:
    """Where the generation prompt ends, if only white space parts it from the answer: the model has to write that."""
    asked = [*conversation(form, talk[:number]), *conversation(form, [talk[number]])[:1]]
    prompt: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    left = before[len(prompt) :] if before.startswith(prompt) else "x"
    return len(before) if left.strip() else len(prompt)


def oracle(tokenizer: Any, form: str, talk: list[tuple[str, str]]) -> tuple[list[int], list[int], int]:
    """Ids by transformers, the mask turn by turn, and how many answers the template leaves without a stop."""
    text = rendered(tokenizer, form, talk)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    mask = [0] * len(ids)
    open_ends = 0
    for number in range(len(talk)):
        start, stop = answer_at(tokenizer, form, talk, number)
        asked = prompt_end(tokenizer, form, talk, number, text[:start])
        start = start if any(a < asked < b for a, b in offsets) else asked
        for at, (a, b) in enumerate(offsets):
            if a < stop and b > start:
                mask[at] = 1
        last = max(at for at, on in enumerate(mask) if on)
        following = next((at for at in range(last + 1, len(ids)) if ids[at] in tokenizer.all_special_ids), None)
        between = text[stop : offsets[following][0]] if following is not None else "x"
        if following is not None and not between.strip() and ids[following] == tokenizer.eos_token_id:
            mask[last : following + 1] = [1] * (following + 1 - last)
        else:
            open_ends += 1
    return ids, mask, open_ends


@pytest.mark.parametrize("form", ["idefics3", "vicuna", "chatml"])
@pytest.mark.parametrize("said", ["4", "a fox", "\u2615"])
def test_an_answer_begins_where_the_generation_prompt_ends(form: str, said: str) -> None:
    """`Assistant:` and not `Assistant: `: the space is the model's to write, a token of its own before figures."""
    tokenizer, template = bound(form)
    found = encoded_one(tokenizer, template, user("How many?"), answer(said))
    prompt = tokenizer.apply_chat_template(
        conversation(form, [("How many?", said)])[:1], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert found.ids[: found.spans[0].start] == prompt


def without_added(encoded: Encoded, tokenizer: Any, expected: list[int]) -> tuple[list[int], list[int], int]:
    """Ids and mask without the ends of answers that the reference has not, and their number."""
    ids, mask, added = [], [], 0
    for token, on in zip(encoded.ids, mask_of(encoded), strict=True):
        if token == tokenizer.eos_token_id and on and (len(ids) >= len(expected) or expected[len(ids)] != token):
            added += 1
            continue
        ids.append(token)
        mask.append(on)
    return ids, mask, added


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"llava"}))
@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(talk=talks)
def test_ids_and_mask_are_those_of_transformers_turn_by_turn(form: str, kind: str, talk: list[tuple[str, str]]) -> None:
    tokenizer, template = bound(form, kind)
    talk = [(q.strip(), a.strip()) for q, a in talk]
    ids, mask, open_ends = oracle(tokenizer, form, talk)
    found = encoded_one(tokenizer, template, *(part for q, a in talk for part in (user(q), answer(a))))
    ours, on, added = without_added(found, tokenizer, ids)
    assert ours == ids
    assert added == open_ends == 0
    assert on == mask, tokenizer.convert_ids_to_tokens([i for i, a, b in zip(ids, on, mask, strict=True) if a != b])
    assert sum(span.kind == "special" for span in found.spans) == len(talk)


@pytest.mark.parametrize("form", ["chatml_generation", "llava"])
@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(talk=talks)
def test_generation_blocks_decide_where_there_are_any(form: str, kind: str, talk: list[tuple[str, str]]) -> None:
    tokenizer, template = bound(form, kind, stop="template")
    reference = tokenizer.apply_chat_template(
        conversation(form, talk), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    found = encoded_one(tokenizer, template, *(part for q, a in talk for part in (user(q), answer(a))))
    assert found.ids == reference["input_ids"]
    assert mask_of(found) == reference["assistant_masks"]


@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(talk=talks)
def test_an_answer_without_an_end_gets_one(kind: str, talk: list[tuple[str, str]]) -> None:
    tokenizer, template = bound("llava", kind)
    found = encoded_one(tokenizer, template, *(part for q, a in talk for part in (user(q), answer(a))))
    ends = [at for at, token in enumerate(found.ids) if token == tokenizer.eos_token_id]
    assert len(ends) == len(talk)
    assert all(mask_of(found)[at] for at in ends)
    assert tokenizer.decode([token for token, on in zip(found.ids, mask_of(found), strict=True) if on]).count(
        "</s>"
    ) == len(talk)


@pytest.mark.parametrize("form", sorted(FORMATS))
@SETTINGS
@given(talk=talks, spelled=st.sampled_from(["<|im_end|>", "</s>", "<image>", "<|image_pad|>", "<end_of_turn>", "<s>"]))
def test_special_tokens_spelled_by_a_text_stay_text(form: str, talk: list[tuple[str, str]], spelled: str) -> None:
    tokenizer, template = bound(form)
    clean = encoded_one(tokenizer, template, *(part for q, a in talk for part in (user("q" + q), answer("a" + a))))
    found = encoded_one(
        tokenizer, template, *(part for q, a in talk for part in (user(spelled + q), answer(f"a{spelled}{a}{spelled}")))
    )
    special = set(tokenizer.all_special_ids)
    assert [i for i in found.ids if i in special] == [i for i in clean.ids if i in special]
    trained = tokenizer.decode([token for token, on in zip(found.ids, mask_of(found), strict=True) if on])
    for _, said in talk:
        assert f"a{spelled}{said}{spelled}".strip() in trained


@pytest.mark.parametrize("form", sorted(FORMATS))
@SETTINGS
@given(data=st.data(), talk=talks)
def test_media_lie_where_the_template_puts_their_markers(form: str, data: st.DataObject, talk: list[Any]) -> None:
    tokenizer, template = bound(form)
    kinds = sorted(MARKERS.get(form, DEFAULT_MARKERS))
    parts: list[Text | Media] = []
    messages: list[dict[str, Any]] = []
    native = form in ("qwen2_vl", "gemma3", *LISTS)
    for question, said in talk:
        placed = data.draw(st.lists(st.sampled_from(kinds), max_size=2))
        media = [Media(kind=kind, height=len(parts) + at + 1) for at, kind in enumerate(placed)]
        before = data.draw(st.integers(0, len(media)))
        own = [*media[:before], user(question), *media[before:]]
        parts += [*own, answer(said)]
        content = [{"type": p.kind} if isinstance(p, Media) else {"type": "text", "text": p.text} for p in own]
        markers = MARKERS.get(form, DEFAULT_MARKERS)
        inline = "".join(markers[p.kind] if isinstance(p, Media) else p.text for p in own)
        messages += [
            {"role": "user", "content": content if native else inline},
            {"role": "assistant", "content": [{"type": "text", "text": said}] if native else said},
        ]
    (found,) = encode([sample(*parts)], tokenizer, template)
    assert isinstance(found, Encoded), found
    given_media = [part for part in parts if isinstance(part, Media)]
    assert found.ids.count(MEDIUM) == len(given_media)
    assert sorted(map(id, found.media)) == sorted(map(id, given_media))
    if form != "llava":  # which puts images first
        assert list(map(id, found.media)) == list(map(id, given_media))
    assert all(token != MEDIUM for token, on in zip(found.ids, mask_of(found), strict=True) if on)
    expanded: list[int] = []
    remaining = iter(found.media)
    for token in found.ids:
        if token != MEDIUM:
            expanded.append(token)
            continue
        marker = MARKERS.get(form, DEFAULT_MARKERS)[next(remaining).kind]
        expanded += tokenizer(marker, add_special_tokens=False)["input_ids"]
    reference = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    if form == "llava":
        expanded = [token for token in expanded if token != tokenizer.eos_token_id]
    assert expanded == reference


def test_media_in_answers_and_tool_messages_and_a_system_prompt() -> None:
    tokenizer, template = bound("qwen2_vl", system="ocr")
    image = Media(kind="image")
    found = encoded_one(
        tokenizer,
        template,
        user("Draw."),
        Media(kind="image", role="assistant"),
        answer("There."),
        user("Call."),
        answer("<tool_call>"),
        Text(text="a picture", role="tool"),
        image,
        answer("I see."),
    )
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    text = tokenizer.decode([token if token != MEDIUM else placeholder for token in found.ids])
    assert text.startswith("<|im_start|>system\nYou read text in images.")
    assert "<|im_start|>assistant\n<image>There.<|im_end|>" in text
    assert "<|im_start|>tool\na picture<image><|im_end|>" in text
    assert all(token != MEDIUM for token, on in zip(found.ids, mask_of(found), strict=True) if on)


def test_reasoning_is_moved_as_the_template_moves_it() -> None:
    tokenizer, template = bound("qwen3")
    first, last = "<think>\nHm.\n</think>\n\nNo.", "<think>\nAha.\n</think>\n\nYes."
    found = encoded_one(tokenizer, template, user("1?"), answer(first), user("2?"), answer(last))
    reference = tokenizer.apply_chat_template(conversation("qwen3", [("1?", first), ("2?", last)]), return_dict=False)
    assert found.ids == reference
    trained = tokenizer.decode([token for token, on in zip(found.ids, mask_of(found), strict=True) if on])
    assert trained == "No.<|im_end|><think>\nAha.\n</think>\n\nYes.<|im_end|>"
    plain = encoded_one(tokenizer, template, user("1?"), answer("Yes."))
    said = tokenizer.decode([token for token, on in zip(plain.ids, mask_of(plain), strict=True) if on])
    assert said == "Yes.<|im_end|>"  # the empty thought is the template's


def test_refusals_are_named() -> None:
    tokenizer: Any = chat_tokenizer("none")
    with pytest.raises(SpecError, match="no chat template"):
        get_template("chat", tokenizer=tokenizer)
    for source, message in (
        ("{% for m in messages %}{{ m['content'] | upper | tojson }}{% endfor %}", "does not hold a question"),
        ("{% for m in messages %}{{ m['content'] | length }}{% endfor %}", "does not hold a question"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ strftime_now('%Y') }}" + CHATML, "today's date"),
        (CHATML.replace("m['content']", "(m['content'] | replace('e', 'E'))"), "not those of apply_chat_template"),
    ):
        with pytest.raises(SpecError, match=message):
            get_template("chat", tokenizer=tokenizer, options={"chat_template": source})
    tokenizer, template = bound("gemma3")
    found = encode(
        [
            sample(answer("I begin."), user("No.")),
            sample(user("?"), answer("call"), Text(text="3", role="tool"), answer("three")),
            sample(user("?"), Media(kind="audio"), answer("a sound")),
            sample(user("?"), answer("")),
            sample(user("?"), answer("x", train=False)),
            sample(user("?"), answer("fine")),
        ],
        tokenizer,
        template,
    )
    assert [getattr(item, "reason", "") for item in found] == [
        "template_refused",
        "template_role",
        "",
        "no_target",
        "no_target",
        "",
    ]


def test_a_role_whose_texts_are_rewritten_is_not_taken() -> None:
    tokenizer, template = bound("llama31")
    said = sample(user("?"), answer("call"), Text(text='{"t": 3}', role="tool"), answer("three"))
    (refused,) = encode([said], tokenizer, template)
    assert isinstance(refused, DataError)
    assert refused.reason == "template_role"
    assert encoded_one(tokenizer, template, user("?"), answer("three")).spans


def test_a_marker_may_have_words_between_its_tokens() -> None:
    tokenizer: Any = chat_tokenizer("none", "metaspace")
    source = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    marker = "<|vision_start|>image<|vision_end|>"
    template = get_template("chat", tokenizer=tokenizer, markers={"image": marker}, options={"chat_template": source})
    assert encoded_one(tokenizer, template, Media(kind="image"), user("?"), answer("a fox")).ids.count(MEDIUM) == 1


def test_a_template_travels_to_other_processes_and_has_a_digest() -> None:
    tokenizer, template = bound("chatml")
    again, loaded = pickle.loads(pickle.dumps((template, tokenizer)))
    talk = (user("?"), answer("a fox"))
    assert encoded_one(loaded, again, *talk).ids == encoded_one(tokenizer, template, *talk).ids
    other = chat_tokenizer("chatml_generation")
    assert digest(template, tokenizer) == digest(again, loaded) != digest(template, other)  # type: ignore[arg-type]
    assert digest(template) != digest(get_template("chat", train_on="all", markers=DEFAULT_MARKERS))


def test_tokens_added_later_are_seen_when_the_template_is_asked_for_again() -> None:
    tokenizer: Any = chat_tokenizer("chatml", "nfc")
    before = encoded_one(tokenizer, get_template("chat", tokenizer=tokenizer), user("<|new|>"), answer("x"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_start|>'", "'<|new|>'")
    after = encoded_one(tokenizer, get_template("chat", tokenizer=tokenizer), user("<|new|>"), answer("x"))
    new = tokenizer.convert_tokens_to_ids("<|new|>")
    assert (before.ids.count(new), after.ids.count(new)) == (0, 2)
    chat_tokenizer.cache_clear()


def test_data_errors_do_not_spill() -> None:
    tokenizer, template = bound("chatml")
    good = sample(user("?"), answer("fine"))
    found = encode([good, sample(Text(text="a caption")), good], tokenizer, template)
    assert isinstance(found[1], DataError)
    assert found[0] == found[2]


class NoBackend:
    """A tokenizer that is neither fast nor knows offsets: each word, and each run of other characters, is a token."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0
    all_special_ids = (0, 1, 2)

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, text: list[str], *, add_special_tokens: bool, split_special_tokens: bool) -> Any:
        assert not add_special_tokens
        assert split_special_tokens
        found = [re.findall(r"\w+|\W+", piece) for piece in text]
        return {"input_ids": [[self.words.setdefault(w, len(self.words) + 3) for w in words] for words in found]}

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return 0


class NoSplitting(NoBackend):
    def __call__(self, text: list[str], **_: Any) -> Any:
        raise ValueError("unknown argument split_special_tokens")


def test_tokenizers_without_offsets_are_cut_at_the_borders() -> None:
    tokenizer: Any = NoBackend()
    found = encode([sample(user("a fox?"), answer("Yes, it is."))], tokenizer, get_template("basic"))
    assert isinstance(found[0], Encoded)
    names = {token: word for word, token in tokenizer.words.items()} | {1: "<s>", 2: "</s>"}
    said = [names[token] for span in found[0].spans for token in found[0].ids[span.start : span.stop]]
    assert "".join(said) == "Yes, it is.</s>"
    assert "".join(names[token] for token in found[0].ids) == "<s>User: a fox?\nAssistant: Yes, it is.</s>\n"
    with pytest.raises(SpecError, match="NoSplitting: it has no"):
        encode([sample(user("?"), answer("!"))], NoSplitting(), get_template("basic"))  # type: ignore[arg-type]


def folders() -> list[Path]:
    """Real tokenizers, one folder each, where somebody has put them."""
    place = os.environ.get("MMDATA_TOKENIZERS")
    return sorted(path.parent for path in Path(place).rglob("tokenizer_config.json")) if place else []


@pytest.mark.skipif(not folders(), reason="MMDATA_TOKENIZERS names no folder of tokenizers")
@pytest.mark.parametrize("folder", folders(), ids=str)
def test_real_tokenizers(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    options = {"date_string": "26 Jul 2024"} if "date_string" in tokenizer.chat_template else {}
    template = get_template("chat", tokenizer=tokenizer, options=options)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(talk=talks)
    def same(talk: list[tuple[str, str]]) -> None:
        reference = tokenizer.apply_chat_template(conversation("", talk), tokenize=True, return_dict=False, **options)
        found = encoded_one(tokenizer, template, *(part for q, a in talk for part in (user(q), answer(a))))
        assert found.ids == reference
        said = tokenizer.decode([token for token, on in zip(found.ids, mask_of(found), strict=True) if on])
        assert said.count(tokenizer.eos_token) == len(talk)
        assert all(a.strip() in said for _, a in talk)

    same()


@pytest.mark.parametrize(
    "block",
    [
        "{% generation %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endgeneration %}",  # SmolLM3
        "<|im_start|>{{ m.role }} {% generation %}{{ m.content }}{% endgeneration %}<|im_end|>",  # LLaVA-OneVision
    ],
)
def test_generation_blocks_of_other_bounds(block: str) -> None:
    """One that opens the turn, and one whose answers may end within a character of several tokens."""
    tokenizer = chat_tokenizer("chatml")
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + block
        + "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    template = get_template("chat", tokenizer=tokenizer, options={"chat_template": source})
    found = encoded_one(tokenizer, template, user("q"), answer("是的。😀"), user("q"), answer("yes."))
    trained = [token for token, on in zip(found.ids, mask_of(found), strict=True) if on]
    assert tokenizer.decode(trained).count("<|im_end|>") == 2
    assert "是的。😀<|im_end|>" in tokenizer.decode(trained)


def test_a_processors_template_is_read_from_its_file(tmp_path: Path) -> None:
    """As older checkpoints of LLaVA have it; one in `chat_template.jinja` is newer."""
    plain = chat_tokenizer("chatml")
    plain.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert stream_tokenizer(tmp_path).chat_template is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": FORMATS["llava"]}))
    assert stream_tokenizer(tmp_path).chat_template == FORMATS["llava"]
    assert pretrained(str(tmp_path), "tokenizer").chat_template == FORMATS["llava"]
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert stream_tokenizer(tmp_path).chat_template == CHATML
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text("[]")
    with pytest.raises(SpecError, match=r"chat_template.json: holds no chat template"):
        stream_tokenizer(tmp_path)


def stream_tokenizer(folder: Path) -> Any:
    family = stream_family("llava", folder)
    assert family is not None
    return family.tokenizer


@pytest.mark.parametrize("form", ["chatml", "qwen2_vl", "idefics3", "qwen3", "vicuna"])
@pytest.mark.parametrize("said", ["<think>\nFur.\n</think>\n\n", "<think>Fur.</think>", "A fox <think>"])
def test_an_answer_that_ends_with_its_reasoning_ends_once(form: str, said: str) -> None:
    tokenizer, template = bound(form)
    found = encoded_one(tokenizer, template, user("What?"), answer("Yes."), user("Why?"), answer(said))
    reference = tokenizer.apply_chat_template(
        conversation(form, [("What?", "Yes."), ("Why?", said)]), tokenize=True, return_dict=True
    )["input_ids"]
    assert [token for token in found.ids if token != tokenizer.bos_token_id] == [
        token for token in reference if token != tokenizer.bos_token_id
    ]
    trained = tokenizer.decode([token for token, on in zip(found.ids, mask_of(found), strict=True) if on])
    assert trained.count(tokenizer.eos_token) == 2
    assert said.strip() in re.sub(r"(?<=<think>)\n|\n(?=</think>)", "", trained) or said.strip() in trained


@pytest.mark.parametrize("kind", ["metaspace", "legacy"])
def test_what_a_vocabulary_does_not_know_is_kept_and_not_trained(kind: str) -> None:
    tokenizer, template = bound("chatml", kind)
    found = encoded_one(tokenizer, template, user("a \u2603?"), answer("It is a \u2603 fox."))
    assert found.ids.count(tokenizer.unk_token_id) == 2
    trained = [token for token, on in zip(found.ids, mask_of(found), strict=True) if on]
    assert tokenizer.unk_token_id not in trained
    assert tokenizer.decode(trained).split() == ["It", "is", "a", "fox.<|im_end|>"]
    (refused,) = encode([sample(user("a?"), answer("\u2603"))], tokenizer, template)
    assert isinstance(refused, DataError)
    assert refused.reason == "text_special"
