"""A small tokenizer, trained from the captions of the test photographs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mmdata.shards.dataset import open_dataset
from mmtrain.tokenizer import TokenizerSpec, train
from tests.dataset_fixture import write_dataset


@functools.cache
def small_tokenizer() -> PreTrainedTokenizerBase:
    """About 400 byte-level tokens, the same in every process."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(write_dataset(Path(folder) / "dataset", samples=14))
        return train(dataset, TokenizerSpec(vocab_size=400))
