"""torchdata's StatefulDataLoader: its own state, workers and all."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from examples.toy import Model, open_stream, vector


def main(folder: str, run_folder: str, steps: int = 8, workers: int = 2) -> list[str]:
    """Train up to step `steps`, from the checkpoint if there is one. The keys that were trained on, in order."""
    stream = open_stream(folder, run_folder, global_batch=2)
    loader = StatefulDataLoader(stream, batch_size=None, num_workers=workers, collate_fn=vector)
    model, path, done = Model(), Path(run_folder) / "checkpoint.pt", 0
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["loader"])
        done = saved["step"]
    batches, keys = iter(loader), []
    for step in range(done, steps):
        for batch in islice(batches, stream.global_batch):  # one rank takes all of a step
            (model(batch["x"])["loss"] / stream.global_batch).backward()
            keys += batch["keys"]
        optimizer.step()
        optimizer.zero_grad()
        torch.save({"model": model.state_dict(), "loader": loader.state_dict(), "step": step + 1}, path)
    return keys


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
