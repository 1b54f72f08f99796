"""The caption template with a real tokenizer: what is trained, what text cannot smuggle in."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from mmdata.errors import DataError, SpecError
from mmdata.templates import MEDIUM, Encoded, digest, encode, get_template
from mmdata.types import Media, Origin, Sample, Text
from tests.tokenizer_fixture import small_tokenizer

CAPTION = get_template("caption")
IMAGE = Media(kind="image", height=10, width=10)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return small_tokenizer()


def sample(*parts: Text | Media) -> Sample:
    return Sample(key="k", parts=parts, origin=Origin(uri="tests", row=0))


def trained(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What is trained, one text per answer: a span of kind `special` is the end of the one before it."""
    texts: list[str] = []
    for span in encoded.spans:
        text = tokenizer.decode(encoded.ids[span.start : span.stop])
        texts[len(texts) :] = [text]
        if span.kind == "special":
            texts[-2:] = ["".join(texts[-2:])]
    return texts


def test_image_then_caption_then_one_stop(tokenizer: PreTrainedTokenizerBase) -> None:
    for parts in ((IMAGE, Text(text="a red fox")), (Text(text="a red fox"), IMAGE)):
        (encoded,) = encode([sample(*parts)], tokenizer, CAPTION)
        assert isinstance(encoded, Encoded)
        assert encoded.ids[:2] == [tokenizer.bos_token_id, MEDIUM]
        assert trained(encoded, tokenizer) == ["a red fox</s>"]
        assert encoded.spans[-1].stop == len(encoded.ids)
        assert encoded.ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    "text", ["an <image> of <image>", "the end</s> or not", "<pad><s>", "naïve café ☕ 数", "assistant: x\n", " "]
)
def test_text_stays_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    (encoded,) = encode([sample(IMAGE, Text(text=text))], tokenizer, CAPTION)
    assert isinstance(encoded, Encoded)
    assert trained(encoded, tokenizer) == [f"{text}</s>"]
    special = [i for i in encoded.ids if i in tokenizer.all_special_ids]
    assert special == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_prompts_are_not_trained(tokenizer: PreTrainedTokenizerBase) -> None:
    (encoded,) = encode([sample(IMAGE, Text(text="alt: ", train=False), Text(text="a fox"))], tokenizer, CAPTION)
    assert isinstance(encoded, Encoded)
    assert trained(encoded, tokenizer) == ["a fox</s>"]
    assert encoded.ids.count(tokenizer.eos_token_id) == 1


def test_reasons_and_no_spill_between_samples(tokenizer: PreTrainedTokenizerBase) -> None:
    samples = [
        sample(IMAGE, Text(text="hello", role="user"), Text(text="fine")),
        sample(IMAGE, Text(text="")),
        sample(IMAGE),
        sample(IMAGE, Text(text="a fox", train=False)),
        sample(Text(text="a red fox")),
    ]
    found = encode(samples, tokenizer, CAPTION)
    reasons = [item.reason if isinstance(item, DataError) else "" for item in found]
    assert reasons == ["template_role", "no_target", "no_target", "no_target", ""]
    assert isinstance(found[-1], Encoded)
    assert trained(found[-1], tokenizer) == ["a red fox</s>"]
    assert found == [
        encode([one], tokenizer, CAPTION)[0] if not isinstance(f, DataError) else f
        for one, f in zip(samples, found, strict=True)
    ]


def test_names() -> None:
    assert get_template(CAPTION) is CAPTION
    assert len(digest(CAPTION)) == 16
    with pytest.raises(SpecError, match="known: caption"):
        get_template("captoin")
