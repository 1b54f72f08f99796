"""Plain DataLoader and DistributedDataParallel: torchrun --nproc-per-node 2 -m examples.plain_ddp DATASET FOLDER."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from examples.toy import Model, open_stream, vector

GLOBAL_BATCH = 4


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 1) -> list[str]:
    """Train up to step `steps`, from the checkpoint if there is one, on any number of ranks that divides the global
    batch. The keys that this rank trained on, in order."""
    distributed.init_process_group("gloo")
    stream = open_stream(folder, run_folder, GLOBAL_BATCH)  # asks torch.distributed for its rank
    micros = GLOBAL_BATCH // stream.world.ranks
    model, path, done = DistributedDataParallel(Model()), Path(run_folder) / "checkpoint.pt", 0
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if path.exists():
        saved = torch.load(path)
        model.module.load_state_dict(saved["model"])
        stream.load_state_dict(saved["stream"])
        done = saved["step"]
    keys = []
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=vector))
    for step in range(done, steps):
        for batch in islice(batches, micros):
            (model(batch["x"])["loss"] / micros).backward()
            keys += batch["keys"]
        optimizer.step()
        optimizer.zero_grad()
        distributed.barrier()  # all ranks are past the step, and have noted what they skipped
        if stream.world.rank == 0:
            state = stream.state_dict(step=step + 1)
            torch.save({"model": model.module.state_dict(), "stream": state, "step": step + 1}, path)
    distributed.barrier()
    distributed.destroy_process_group()
    return keys


if __name__ == "__main__":
    print(" ".join(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
