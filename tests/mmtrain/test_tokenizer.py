"""The trained tokenizer: deterministic, lossless, and saved whole."""

from __future__ import annotations

import json
from pathlib import Path

from mmdata.shards.dataset import open_dataset
from mmdata.stream.tokenizer import tokenizer_digest
from mmtrain.tokenizer import TokenizerSpec, captions, load_or_make, train

SPEC = TokenizerSpec(vocab_size=500)


def test_the_same_captions_give_the_same_tokenizer(folder: Path) -> None:
    dataset = open_dataset(folder)
    trained = [json.loads(train(dataset, SPEC).backend_tokenizer.to_str()) for _ in range(3)]
    assert trained[0] == trained[1] == trained[2]
    assert len(trained[0]["model"]["merges"]) > 100


def test_any_text_survives_and_special_tokens_have_fixed_ids(folder: Path) -> None:
    tokenizer = train(open_dataset(folder), SPEC)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<image>"]) == [0, 1, 2, 3]
    for text in [*captions(open_dataset(folder), 5), "naïve ☕ 数\n\ttab", "  two  spaces "]:
        ids = tokenizer([text], add_special_tokens=False, split_special_tokens=True)["input_ids"][0]
        assert tokenizer.decode(ids) == text


def test_saved_and_loaded_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder)
    first = load_or_make(tmp_path / "tokenizer", dataset, SPEC)
    again = load_or_make(tmp_path / "tokenizer", dataset, SPEC)
    assert tokenizer_digest(first) == tokenizer_digest(again) == tokenizer_digest(train(dataset, SPEC))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
