"""Hugging Face Trainer: its own loader, and a callback that saves the stream beside each checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from examples.toy import Model, open_stream, vector


class Streaming(Trainer):
    """The Trainer would wrap an iterable dataset in IterableDatasetShard, which reads everything on every rank and
    keeps a part, and skip batch by batch on resume (`ignore_data_skip` stops that): both are the stream's work."""

    keys: list[str]

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(self.train_dataset, batch_size=None, num_workers=workers, collate_fn=vector)

    def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
        self.keys += inputs.pop("keys")
        return super().training_step(model, inputs, *more)


class SaveStream(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "stream.json"
        place.write_text(json.dumps(self.stream.state_dict(step=state.global_step)))


def main(folder: str, run_folder: str, steps: int = 8, workers: int = 2) -> list[str]:
    """Train up to step `steps`, from the last checkpoint if there is one. The keys trained on, in order."""
    stream = open_stream(folder, run_folder, global_batch=2)
    arguments = TrainingArguments(
        run_folder, max_steps=steps, gradient_accumulation_steps=2, save_steps=1, ignore_data_skip=True, use_cpu=True,
        report_to=[], dataloader_num_workers=workers, disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    saving = SaveStream()
    saving.stream = stream
    trainer = Streaming(Model(), arguments, train_dataset=stream, callbacks=[saving])
    trainer.keys = []
    last = get_last_checkpoint(run_folder)
    if last is not None:
        stream.load_state_dict(json.loads((Path(last) / "stream.json").read_text()))
    trainer.train(resume_from_checkpoint=last)
    return trainer.keys


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
