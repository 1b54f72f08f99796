"""A tokenizer trained from the captions of a dataset: byte-level BPE, the same for the same captions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mmdata.shards.dataset import Dataset
from mmdata.spec import Model

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"


class TokenizerSpec(Model):
    """A byte-level BPE tokenizer, trained on the dataset's own captions and kept with the run."""

    vocab_size: int = Field(2048, ge=300)
    samples: int = Field(10_000, ge=1)
    """Captions to train on: the first so many of the dataset."""


def captions(dataset: Dataset, samples: int) -> Iterator[str]:
    """The texts of the first `samples` samples, media unread."""
    for position in range(min(samples, len(dataset))):
        for text in dataset.sample(position, media=False).texts:
            yield text.text


def train(dataset: Dataset, spec: TokenizerSpec) -> PreTrainedTokenizerBase:
    """Train on the dataset's captions. Ids 0 to 3 are padding, start, end and the image's placeholder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(dataset, spec.samples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
    )


def load_or_train(folder: Path, dataset: Dataset, spec: TokenizerSpec) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`, or a new one, saved there whole or not at all."""
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        train(dataset, spec).save_pretrained(temporary)
        try:
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return loaded
