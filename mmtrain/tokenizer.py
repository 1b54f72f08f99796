"""The run's tokenizer: of a folder, of the model, or trained from the captions of its dataset; kept with the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mmdata.boxes import BoxFormat, coordinate_tokens
from mmdata.errors import SpecError
from mmdata.shards.dataset import Dataset
from mmdata.spec import Model
from mmdata.templates import take_processors
from mmtrain.models.source import TOKENIZER_FILES, has_tokenizer
from mmtrain.models.spec import SourcePath
from mmtrain.picture_tokens import words

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"


class TokenizerSpec(Model):
    """A tokenizer of a folder; by default that of the model's folder, and for a model from numbers a byte-level BPE
    tokenizer that is trained on the dataset's own captions. It is kept with the run."""

    path: SourcePath | None = None
    """Folder of a tokenizer, or the id of a repository on the hub. Special tokens for media are added where they are
    missing."""
    vocab_size: int = Field(2048, ge=300)
    """Of one that is trained."""
    samples: int = Field(10_000, ge=1)
    """Captions to train on: the first so many of the dataset."""
    coordinates: BoxFormat | None = None
    """Boxes of this format are written with tokens of their own (tags; of `paligemma`, `florence2` and `kosmos2` every
    coordinate), which are added where the tokenizer does not know them."""
    picture_codes: int = Field(0, ge=0)
    """Codes of the tokeniser of pictures (`mmtrain.tokenize_images`) whose words stand in texts: each becomes a token,
    and so do those that begin and end a picture."""


def captions(dataset: Dataset, samples: int) -> Iterator[str]:
    """The texts of the first `samples` samples, media unread."""
    for position in range(min(samples, len(dataset))):
        for text in dataset.sample(position, media=False).texts:
            yield words.without(text.text)


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


def make(
    dataset: Dataset, spec: TokenizerSpec, source: Path | None = None, tokens: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """The tokenizer that the spec names, else the one in the model's folder `source`, else a trained one; with `tokens`
    as special tokens, and a padding token (its end of sequence where it has none). Raises SpecError for a folder
    without a tokenizer."""
    if spec.path is not None:
        tokenizer = pretrained(spec.path, "tokenizer.path")
    elif source is not None and has_tokenizer(source):
        tokenizer = pretrained(str(source), "model.path")
    else:
        tokenizer = train(dataset, spec)
    if spec.picture_codes:  # no special ones: texts may spell them, and answers are made of them
        spelled = words.vocabulary(spec.picture_codes)
        tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in spelled])
    if spec.coordinates is not None:
        known = tokenizer.get_vocab()
        wanted = [token for token in coordinate_tokens(spec.coordinates) if token not in known]
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in wanted])
    missing = [token for token in tokens if token not in tokenizer.all_special_tokens]
    if missing:
        added: Any = [AddedToken(token, special=True, normalized=False) for token in missing]
        tokenizer.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pretrained(path: str, key: str) -> PreTrainedTokenizerBase:
    """A tokenizer from a local folder or the hub. Raises SpecError, naming `key`, where there is none."""
    local = Path(path).is_dir()
    if local and not has_tokenizer(Path(path)):
        raise SpecError(f"{key}: {path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        told = (
            f"{path} holds no tokenizer that can be read" if local else f"no folder {path!r}, nor could the hub give it"
        )
        raise SpecError(f"{key}: {told}: {why}") from error
    take_processors(found, path, local=local)
    return found


def load_or_make(
    folder: Path, dataset: Dataset, spec: TokenizerSpec, source: Path | None = None, tokens: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`, or a new one (`make`), saved there whole or not at all."""
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        make(dataset, spec, source, tokens).save_pretrained(temporary)
        try:
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    return loaded
