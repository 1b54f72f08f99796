"""Lightning: a data module whose state travels in the checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from examples.toy import Model, open_stream, vector


class Data(lightning.LightningDataModule):
    """The stream, saved after as many steps as the trainer has done."""

    def __init__(self, folder: str, run_folder: str, workers: int) -> None:
        super().__init__()
        self.stream, self.workers = open_stream(folder, run_folder, global_batch=2), workers

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.stream, batch_size=None, num_workers=self.workers, collate_fn=vector)

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict(step=self.trainer.global_step)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.keys = Model(), []

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self.keys += batch["keys"]
        return self.model(batch["x"])["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def main(folder: str, run_folder: str, steps: int = 8, workers: int = 2) -> list[str]:
    """Train up to step `steps`, from the checkpoint if there is one; the keys trained on, in order."""
    module, path = Module(), Path(run_folder) / "last.ckpt"
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    # No sampler of Lightning's own may come between the ranks and the stream.
    quiet |= {"accelerator": "cpu", "use_distributed_sampler": False}
    trainer = lightning.Trainer(max_steps=steps, accumulate_grad_batches=2, **quiet)
    trainer.fit(module, Data(folder, run_folder, workers), ckpt_path=str(path) if path.exists() else None)
    trainer.save_checkpoint(path)
    return module.keys


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
