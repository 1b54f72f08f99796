"""TRL's SFTTrainer on packs: python -m examples.streaming.trl_sft DATASET RUN_FOLDER (pip install trl)."""

from __future__ import annotations

import sys

from datasets import IterableDataset
from trl import SFTConfig, SFTTrainer

from examples.streaming.hf_trainer import OnPacks, SaveStream, fit, told
from examples.streaming.tiny import Row, batch_of, make_model, make_tokenizer, open_packs


class PackSFTTrainer(OnPacks, SFTTrainer):
    """SFTTrainer's loss, metrics, PEFT and checkpoints; the batches are the stream's."""


def columns() -> IterableDataset:
    """SFTTrainer looks at the columns of a `datasets` dataset; no row of this one is ever asked for."""
    return IterableDataset.from_generator(lambda: iter([{"input_ids": [0], "labels": [0]}]))


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 0) -> list[Row]:
    """Train up to step `steps`; each pass' keys and loss, in order."""
    words = make_tokenizer(folder)
    stream = open_packs(folder, words, run_folder)
    arguments = SFTConfig(
        **told(run_folder, steps, workers),
        dataset_kwargs={"skip_prepare_dataset": True},  # tokens, labels and packs are made already
        max_length=None,  # nothing is cut here: the stream's `overlong` says what becomes of long samples
    )
    trainer = PackSFTTrainer(
        make_model(words),
        arguments,
        train_dataset=columns(),
        processing_class=words,
        data_collator=batch_of,
        callbacks=[SaveStream(stream)],
    )
    return fit(trainer, stream, run_folder)


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2]), sep="\n")
