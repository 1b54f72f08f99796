"""A reader of packs that can be killed at any moment: what it took is in a log, its place in a state, as a trainer's.

    python -m mmdata.testing.reading DATASET LOG --ranks 2 --workers 1

All ranks read side by side in this process. After every global step their packs are a line of `LOG/log.jsonl`; then,
with workers after every fifth, the stream's state and the length of the log replace `LOG/state.json` at once. Started
again, on whatever ranks and workers, it cuts the log to that length and goes on: the log in the end is that of a
reader that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from mmdata import StreamingDataset, unread
from mmdata.families import Family, get_family
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed, World

GLOBAL_BATCH = 4
SAVED_EVERY = 5
"""Steps between states where DataLoader workers read."""


def small_family() -> Family:
    """LLaVA's rows with pictures of 28 pixels, and a tokenizer of single bytes that needs no file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<unk>", "<pad>", "<s>", "</s>"]
    made = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    return get_family("llava", tokenizer=tokenizer, image={"size": 28})


def read(dataset: str, log: Path, *, ranks: int, workers: int, seed: int, epochs: int, max_length: int) -> int:
    """Read to the end from wherever the log's state is; the number of steps that are in the log then."""
    log.mkdir(parents=True, exist_ok=True)
    family = small_family()
    spec = StreamSpec(dataset=dataset, max_length=max_length, seed=seed, epochs=epochs, block_samples=10)
    streams = [
        StreamingDataset(spec, family=family, world=World(rank=rank, ranks=ranks), global_batch=GLOBAL_BATCH)
        for rank in range(ranks)
    ]
    step, size = 0, 0
    if (log / "state.json").exists():
        saved = json.loads((log / "state.json").read_text())
        step, size = saved["step"], saved["size"]
        for stream in streams:
            stream.load_state_dict(saved["state"])
    with open(log / "log.jsonl", "ab") as file:
        file.truncate(size)  # what was written after the state was saved is read again
        file.seek(size)
        for packs in _steps(streams, workers):
            file.write(json.dumps([step, sorted(map(_name, packs))]).encode() + b"\n")
            file.flush()
            step += 1
            if workers and step % SAVED_EVERY:  # of workers' streams a state is planned anew
                continue
            state = streams[0].state_dict(step=step) if workers else streams[0].state_dict()
            body = {"step": step, "size": file.tell(), "state": state}
            # No sync: a killed process loses nothing that it has written, only a machine does.
            (log / "state.new").write_text(json.dumps(body))
            os.replace(log / "state.new", log / "state.json")
    return step


def _steps(streams: list[StreamingDataset], workers: int) -> Iterator[list[Packed]]:
    """The packs of each global step, dummies left out."""
    readers: list[Iterator[Any]] = [
        iter(
            DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context="fork")
            if workers
            else stream
        )
        for stream in streams
    ]
    while True:
        packs: list[Packed] = []
        for _ in range(-(-GLOBAL_BATCH // len(streams))):
            packs += [pack for reader in readers if (pack := next(reader, None)) is not None and pack.keys]
        if not packs:
            return
        yield packs


def _name(pack: Packed) -> str:
    """The keys of a pack, and what its tokens and pixels are."""
    sums = [zlib.crc32(pack.input_ids.tobytes()), *(zlib.crc32(array.tobytes()) for array in pack.media.values())]
    return " ".join([*pack.keys, *(f"{each:08x}" for each in sums), *(f"masked:{key}" for key, _ in pack.masked)])


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.testing.reading", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="folder of a dataset of pictures and texts")
    parser.add_argument("log", type=Path, help="folder of log and state")
    parser.add_argument("--ranks", type=int, default=1, help="of this start (default 1)")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers of each rank (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the stream (default 0)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the dataset (default 10)")
    parser.add_argument("--max-length", type=int, default=160, help="tokens of a pack (default 160)")
    told = parser.parse_args(argv)
    steps = read(
        told.dataset,
        told.log,
        ranks=told.ranks,
        workers=told.workers,
        seed=told.seed,
        epochs=told.epochs,
        max_length=told.max_length,
    )
    print(f"{steps} steps are read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
