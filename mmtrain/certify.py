"""Ask a Hugging Face model whether it keeps the samples of a packed row apart: python -m mmtrain.certify MODEL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from mmdata import pointer, unread
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, RunError, SpecError
from mmdata.labels import IGNORE
from mmdata.rng import generator
from mmdata.shards.dataset import open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed, World
from mmtrain import models
from mmtrain.certificate import Certificate, certify, chosen
from mmtrain.models import hf
from mmtrain.models.source import folder_of
from mmtrain.models.spec import HfSpec

LENGTHS = (9, 17, 5, 12)
"""Tokens of the samples that stand in where no dataset is given."""
SAMPLES = 4


def texts(model: Any, *, seed: int = 0) -> list[Packed]:
    """Samples of words drawn from a model's vocabulary, each one segment, all but its first token trained: the words
    are no special tokens of the model."""
    vocabulary = model.get_input_embeddings().num_embeddings
    special = {value for name, value in vars(model.config).items() if name.endswith("token_id")}
    words = np.array([token for token in range(vocabulary) if token not in special], np.int32)
    packs = []
    for number, length in enumerate(LENGTHS):
        ids = generator(seed, "certify", number).choice(words, length)
        packs.append(
            Packed(
                input_ids=ids,
                labels=np.where(np.arange(length) > 0, ids, IGNORE).astype(np.int64),
                loss_weights=np.ones(length, np.float32),
                position_ids=np.arange(length, dtype=np.int64),
                cu_seqlens=np.array([0, length], np.int32),
                keys=(f"text-{number}",),
            )
        )
    return packs


def certified(path: str, data: str | None = None, *, random: bool = False, seed: int = 0) -> Certificate:
    """The certificate of the model in a folder: of its words alone, or of the samples of a dataset, which has its
    media. `random` builds it from its config without weights; borders do not depend on them. Raises SpecError for what
    cannot be loaded, and for a dataset without two samples to train on."""
    spec = HfSpec(kind="hf", path=path, random=random, local_files_only=True)
    folder = folder_of(spec, "MODEL")
    if data is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = hf.load(folder, hf.read_config(folder, "MODEL"), random=random, key="MODEL")
        packs = texts(model, seed=seed)
    else:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model = models.build(spec, tokenizer, seed=seed)
        told = StreamSpec(dataset=data, packing="none", batch_rows=1, seed=seed)
        stream = StreamingDataset(
            models.templated(told, tokenizer, open_dataset(data)),
            family=models.family_of(spec, tokenizer),
            yields="encoded",
            world=World(),
        )
        usable = (p for p in stream if isinstance(p, Packed) and not p.masked and (p.labels != IGNORE).any())
        packs = chosen(usable, {"image", "video", "audio"}, count=SAMPLES)
    return certify(model, packs, PackedCollator())


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code is 0 if the model may be packed, 1 if not, 2 for what cannot be asked."""
    parser = argparse.ArgumentParser(
        prog="python -m mmtrain.certify",
        description="Pack samples into one row and give each alone: the same loss and gradients, and not a bit of one "
        "may move with another; nor, in a sample alone, what predicts a token with that token. Says by which means the "
        "model may be packed, or that it must not be.",
    )
    parser.add_argument("model", help="folder of a Hugging Face model: config.json and weights")
    parser.add_argument("--data", metavar="DATASET", help="ask with its samples and media (default: drawn words)")
    parser.add_argument("--random", action="store_true", help="random weights, from config.json alone")
    parser.add_argument("--seed", type=int, default=0, help="of words and random weights (0)")
    parser.add_argument("--json", action="store_true", help="the certificate as JSON")
    told = parser.parse_args(argv)
    try:
        found = certified(told.model, told.data, random=told.random, seed=told.seed)
    except (SpecError, DataError, RunError, OSError) as error:
        print(f"mmtrain.certify: {pointer.told(error)}", file=sys.stderr)
        return 2
    print(found.to_json() if told.json else found)
    return 1 if found.strategy == "single" else 0


if __name__ == "__main__":
    sys.exit(main())
