"""Lightning on packs: python -m examples.streaming.lightning_fit DATASET RUN_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from examples.streaming.tiny import Row, batch_of, make_model, make_tokenizer, open_packs
from mmdata import StreamingDataset


class Packs(lightning.LightningDataModule):
    """The stream; its state travels in the checkpoint, after as many steps as the trainer has done."""

    def __init__(self, stream: StreamingDataset, workers: int) -> None:
        super().__init__()
        self.stream, self.workers = stream, workers

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.stream, batch_size=None, num_workers=self.workers, collate_fn=batch_of)

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict(step=self.trainer.global_step)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


class Module(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, list[Row]()

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        keys = batch.pop("keys")
        loss = self.model(**batch).loss
        self.rows.append((keys, float(loss.detach())))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 0) -> list[Row]:
    """Train up to step `steps`, from the checkpoint if there is one; each pass' keys and loss, in order."""
    words = make_tokenizer(folder)
    module, path = Module(make_model(words)), Path(run_folder) / "last.ckpt"
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    # No sampler of Lightning's own may come between the ranks and the stream.
    quiet |= {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False}
    trainer = lightning.Trainer(max_steps=steps, accumulate_grad_batches=2, **quiet)
    packs = Packs(open_packs(folder, words, run_folder), workers)
    trainer.fit(module, packs, ckpt_path=str(path) if path.exists() else None)
    trainer.save_checkpoint(path)
    return module.rows


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2]), sep="\n")
