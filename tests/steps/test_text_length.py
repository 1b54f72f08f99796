"""Counts over all texts, against the tokenizer itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdata.steps.text_length import TextLength
from tests.steps.given import apply, build, record


def test_a_build(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    texts = ["A cat on a mat.", "猫と犬", "one", "a " * 60]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=280, show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    counts = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    step = {"kind": "text_length", "tokenizer": str(folder), "min_words": 2, "max_tokens": counts[3] - 1}
    built = build(tmp_path, [record(text) for text in texts], [step])
    assert built.reasons == ["", "", "text_length", "text_length"]
    assert built.details[2:] == ["1 words, fewer than 2", f"{counts[3]} tokens, more than {counts[3] - 1}"]
    assert built.column("tokens") == counts[:2]
    assert built.column("chars") == [15, 3]
    assert built.column("words") == [5, 3]


def test_texts_are_added_up_by_role() -> None:
    found = apply(TextLength(roles=("user", "assistant")), "a caption", ("user", "two words"), ("assistant", "one"))
    assert dict(found.meta) == {"chars": 12, "words": 3}  # type: ignore[union-attr]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="need `tokenizer`"):
        TextLength(max_tokens=5)
    with pytest.raises(ValidationError, match="nothing would be kept"):
        TextLength(min_chars=5, max_chars=4)
    with pytest.raises(ValidationError, match=r"tokenizer: .*absent"):
        TextLength(tokenizer=str(tmp_path / "absent"))
