"""Hugging Face's Trainer on packs: python -m examples.streaming.hf_trainer DATASET RUN_FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from examples.streaming.tiny import Row, batch_of, make_model, make_tokenizer, open_packs


class OnPacks:
    """What any of Hugging Face's trainers needs besides: packs are batches already, and nobody may split them again."""

    rows: list[Row]

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.stream, batch_size=None, num_workers=self.args.dataloader_num_workers, collate_fn=batch_of
        )

    def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
        keys = inputs.pop("keys")
        loss = super().training_step(model, inputs, *more)
        self.rows.append((keys, float(loss)))
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trainer takes weights by name and passes over what does not fit. `save_pretrained` has other names for a
        LLaVA's (those of the hub), so that nothing fits, and a resumed run would begin with new weights."""
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype="float32")
        self.model.load_state_dict(saved.state_dict())


class PackTrainer(OnPacks, Trainer):
    pass


class SaveStream(TrainerCallback):
    """The stream's state lies in each checkpoint, after as many steps as that has."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "stream.json"
        place.write_text(json.dumps(self.stream.state_dict(step=state.global_step)))


def told(run_folder: str, steps: int, workers: int) -> dict[str, Any]:
    """Arguments. `ignore_data_skip`: the stream goes to its place by itself, nothing is read in vain."""
    return {
        "output_dir": run_folder, "max_steps": steps, "gradient_accumulation_steps": 2, "save_steps": 1,
        "ignore_data_skip": True, "use_cpu": True, "report_to": [], "dataloader_num_workers": workers,
        "disable_tqdm": True, "lr_scheduler_type": "constant", "learning_rate": 1e-3, "remove_unused_columns": False,
        "logging_strategy": "no", "bf16": False, "activation_checkpointing": False,
    }  # fmt: skip


def fit(trainer: Any, stream: Any, run_folder: str) -> list[Row]:
    """Train, from the last checkpoint if there is one."""
    trainer.rows, trainer.stream = [], stream
    last = get_last_checkpoint(run_folder)
    if last is not None:
        stream.load_state_dict(json.loads((Path(last) / "stream.json").read_text()))
    trainer.train(resume_from_checkpoint=last)
    return trainer.rows


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 0) -> list[Row]:
    """Train up to step `steps`; each pass' keys and loss, in order."""
    words = make_tokenizer(folder)
    stream = open_packs(folder, words, run_folder)
    arguments = TrainingArguments(**told(run_folder, steps, workers))
    trainer = PackTrainer(make_model(words), arguments, train_dataset=stream, callbacks=[SaveStream(stream)])
    return fit(trainer, stream, run_folder)


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2]), sep="\n")
