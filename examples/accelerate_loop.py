"""Accelerate: the model is prepared, the loader is not."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from examples.toy import Model, open_stream, vector


def main(folder: str, run_folder: str, steps: int = 8, workers: int = 2) -> list[str]:
    """Train up to step `steps`, from the checkpoint if there is one. The keys that were trained on, in order."""
    accelerator = Accelerator(cpu=True)
    stream = open_stream(folder, run_folder, global_batch=2 * accelerator.num_processes)
    # Not `prepare(loader)`: that wraps an iterable dataset in DataLoaderDispatcher (`dispatch_batches`: rank 0 reads
    # for all) or IterableDatasetShard (every rank reads all and keeps a part). The stream is split already.
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=vector)
    model, done, place = Model(), 0, Path(run_folder) / "checkpoint"
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    if place.exists():
        accelerator.load_state(str(place))
        saved = torch.load(place / "stream.pt")
        stream.load_state_dict(saved["stream"])
        done = saved["step"]
    batches, keys = iter(loader), []
    for step in range(done, steps):
        for batch in islice(batches, 2):
            accelerator.backward(model(batch["x"].to(accelerator.device))["loss"] / 2)
            keys += batch["keys"]
        optimizer.step()
        optimizer.zero_grad()
        accelerator.save_state(str(place))
        if accelerator.is_main_process:
            torch.save({"stream": stream.state_dict(step=step + 1), "step": step + 1}, place / "stream.pt")
    return keys


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
