"""A loop in torchtitan's style: parts with states, saved together by torch.distributed.checkpoint.

python -m examples.streaming.titan_loop DATASET RUN_FOLDER, or the same under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from examples.streaming.tiny import Row, batch_of, make_model, make_tokenizer, open_packs
from mmdata import StreamLoader


class Trained:
    """Model and optimiser as one part, in shards where the model has them."""

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


class Progress:
    """Step and loader. The loader's state is the same for all ranks and loads on any number of them; as one text it
    stays out of the way of whoever cuts tensors into shards."""

    def __init__(self, loader: StreamLoader) -> None:
        self.step, self.loader = 0, loader

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "loader": json.dumps(self.loader.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.loader.load_state_dict(json.loads(state["loader"]))


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 0) -> list[Row]:
    """Train up to step `steps`, from the newest checkpoint if there is one; each pass' keys and loss, in order."""
    words = make_tokenizer(folder)
    loader = StreamLoader(open_packs(folder, words, run_folder), batch_of, workers=workers)
    model = make_model(words)  # with several GPUs: torch.distributed.fsdp.fully_shard(model)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-3)
    progress = Progress(loader)
    parts = {"trained": Trained(model, optimizer), "progress": progress}
    saved = sorted(Path(run_folder).glob("step-*"))
    if saved:
        dcp.load(parts, checkpoint_id=saved[-1])
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    rows: list[Row] = []
    for _, batches in zip(range(progress.step, steps), loader.steps(), strict=False):
        targets = torch.tensor(sum(int((batch["labels"] != -100).sum()) for batch in batches))
        if ranks > 1:
            distributed.all_reduce(targets)  # every token of the step counts alike, on whichever rank it lies
        for batch in batches:
            keys = batch.pop("keys")
            loss = model(**batch, num_items_in_batch=targets).loss
            loss.backward()
            rows.append((keys, float(loss.detach())))
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        dcp.save(parts, checkpoint_id=Path(run_folder) / f"step-{progress.step:06d}")
    loader.close()
    return rows


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2]), sep="\n")
