"""Plain PyTorch with our own loader: python -m examples.streaming.plain_pytorch DATASET RUN_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from examples.streaming.tiny import Row, batch_of, make_model, make_tokenizer, open_packs
from mmdata import StreamLoader


def main(folder: str, run_folder: str, steps: int = 6, workers: int = 0) -> list[Row]:
    """Train up to step `steps`, from the checkpoint if there is one; each pass' keys and loss, in order."""
    words = make_tokenizer(folder)
    loader = StreamLoader(open_packs(folder, words, run_folder), batch_of, workers=workers)
    model, path, done = make_model(words), Path(run_folder) / "checkpoint.pt", 0
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        done = saved["step"]
    rows: list[Row] = []
    for step, batches in zip(range(done, steps), loader.steps(), strict=False):  # all packs of a step
        targets = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        for batch in batches:
            keys = batch.pop("keys")
            loss = model(**batch, num_items_in_batch=targets).loss  # a sum over the whole step, whoever takes its packs
            loss.backward()
            rows.append((keys, float(loss.detach())))
        optimizer.step()
        optimizer.zero_grad()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        torch.save({**state, "step": step + 1}, path)
    loader.close()
    return rows


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2]), sep="\n")
