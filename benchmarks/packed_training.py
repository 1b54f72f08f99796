"""Training on the CPU, packed and padded: tokens of samples a second, by the same model on the same stream.

`python -m benchmarks.packed_training [--tokens 4096] [--steps 6] [--rounds 5]`. A native model of random weights in
float32; samples of text and pictures of a realistic mix of lengths (`benchmarks._lengths`, a picture 144 tokens), from
a dataset that is built first and read, decoded and collated by the loader. Batches hold `tokens` tokens at most,
padding included:

- packed: several samples in a row, told apart by borders;
- padded: rows in the order of the stream, as many as fit with their padding, which is what trainers do;
- bucketed: padded rows of like length (`packing: none`, `batch_tokens`).

Rounds take turns in one process. `loader` is the share of the time in which the model waited for data.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import _options
from benchmarks._interleaved import Row, table
from benchmarks._lengths import parts
from benchmarks.claims import beside, figure, write
from mmdata import StreamingDataset, StreamLoader, build_dataset
from mmdata.collate import PackedCollator, PaddedCollator
from mmdata.shards.dataset import open_dataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed
from mmtrain import certificate, models
from mmtrain.certificate import Strategy
from mmtrain.models.spec import NativeSpec, NavitSpec, TinyLanguageSpec, Views
from mmtrain.objective import loss_sum
from mmtrain.tokenizer import TokenizerSpec, make

SIDE, PATCH, MERGE = 384, 16, 2
PER_IMAGE = (SIDE // PATCH // MERGE) ** 2
SPEC = NativeSpec(
    kind="native",
    vision=NavitSpec(hidden=128, layers=2, heads=4, patch=PATCH, merge=MERGE),
    audio=None,
    language=TinyLanguageSpec(hidden=256, layers=4, heads=4),
    views=Views(image={"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}),
)


def dataset(folder: Path, samples: int) -> Path:
    """Samples of noise and words: as many pictures and words as the mix says, at a quarter of its text's length."""
    text, images, _ = parts("llava576", samples)
    draw = np.random.default_rng(0)
    words = ["a", "and", "red", "house", "by", "the", "water", "under", "trees", "with", "two", "people"]
    (folder / "in").mkdir()
    lines = []
    for number in range(samples):
        names = []
        for at in range(int(images[number])):
            name = f"{number:05d}_{at}.jpg"
            coarse = draw.integers(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((SIDE, SIDE)).save(folder / "in" / name)
            names.append(name)
        said = " ".join(draw.choice(words, max(2, int(text[number]) // 4)))
        lines.append(json.dumps({"image": names, "text": said} if names else {"image": [], "text": said}))
    (folder / "in" / "all.jsonl").write_text("\n".join(lines))
    spec = {
        "source": {"kind": "jsonl", "path": str(folder / "in" / "all.jsonl")},
        "steps": [{"kind": "probe"}],
        "output": {"path": str(folder / "data")},
    }
    (folder / "spec.yaml").write_text(json.dumps(spec))
    build_dataset(folder / "spec.yaml")
    return folder / "data"


def useful(batch: dict[str, Any]) -> int:
    return int(batch["input_ids"].numel()) - int(batch["padding"])


def in_order(loader: StreamLoader, tokens: int) -> Iterator[dict[str, Any]]:
    """Padded batches of rows in the order of the stream, as many as fit with their padding."""
    rows: list[Packed] = []
    longest = 0
    for row in loader:
        size = len(row.input_ids)
        if rows and max(longest, size) * (len(rows) + 1) > tokens:
            yield PaddedCollator()(rows)
            rows, longest = [], 0
        rows.append(row)
        longest = max(longest, size)


def batches(kind: str, folder: Path, family: Any, tokens: int) -> Iterator[dict[str, Any]]:
    """Without end, in the order of chance."""
    common: dict[str, Any] = {"dataset": str(folder), "epochs": None, "max_length": tokens, "template": "caption"}
    if kind == "packed":
        stream = StreamingDataset(StreamSpec(**common, packing="best_fit"), family=family)
        return iter(StreamLoader(stream, PackedCollator(), threads=1))
    if kind == "bucketed":
        stream = StreamingDataset(StreamSpec(**common, packing="none", batch_tokens=tokens), family=family)
        return iter(StreamLoader(stream, PaddedCollator(), threads=1))
    stream = StreamingDataset(StreamSpec(**common, packing="none"), family=family)
    return in_order(StreamLoader(stream, lambda pack: pack, threads=1), tokens)  # type: ignore[arg-type,return-value]


def train(net: Any, optim: torch.optim.Optimizer, source: Iterator[dict[str, Any]], kind: Strategy, steps: int) -> Row:
    """Some steps of training: useful tokens a second, their share of all, and the share of the time that is waiting."""
    tokens = total = 0
    waited, began = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        summed, weight = loss_sum(net, batch, strategy=kind)
        (summed / weight).backward()
        optim.step()
        optim.zero_grad(set_to_none=True)
        tokens += useful(batch)
        total += int(batch["input_ids"].numel())
    seconds = time.perf_counter() - began
    return {"useful_rate": tokens / seconds, "fill": tokens / total, "loader": waited / seconds}


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    parser.add_argument("--steps", type=int, default=6, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=600)
    _options.add_ours(parser)
    options = _options.parse(parser, tokens=2048, steps=3, samples=200)
    with tempfile.TemporaryDirectory() as temporary:
        folder = dataset(Path(temporary), options.samples)
        tokenizer: Any = make(
            open_dataset(str(folder)), TokenizerSpec(vocab_size=2048), None, models.media_tokens(SPEC)
        )
        family = models.family_of(SPEC, tokenizer)
        net: Any = models.build(SPEC, tokenizer, seed=0).train()
        optim = torch.optim.AdamW(net.parameters(), lr=1e-4)
        strategies: dict[str, Strategy] = {"packed": "varlen", "padded": "single", "bucketed": "single"}
        sources = {kind: batches(kind, folder, family, options.tokens) for kind in strategies}
        rows: dict[str, list[Row]] = {kind: [] for kind in strategies}
        if options.ours:
            certificate.adopt(net, "varlen")
            _options.repeat(options.ours, [lambda: train(net, optim, sources["packed"], "varlen", options.steps)])
            return
        for turn in range(options.rounds + 1):  # the first one warms up
            for kind, strategy in strategies.items():
                certificate.adopt(net, strategy)
                row = train(net, optim, sources[kind], strategy, options.steps)
                if turn:
                    rows[kind].append(row)
    table(rows)
    what = f"training on the CPU, batches of {options.tokens:,} tokens, useful tokens a second"
    waited_share = [100 * row["loader"] for row in rows["packed"]]
    claims = [
        beside(what, rows, "packed", "padded", by="useful_rate", goal=1.5, headline=True),
        beside(what, rows, "packed", "bucketed", by="useful_rate"),
        figure("share of the time that the model waits for data", "packed", waited_share, "%", goal=5.0, at_most=True),
        figure("places that hold tokens of samples", "packed", [100 * row["fill"] for row in rows["packed"]], "%"),
        figure("places that hold tokens of samples", "padded", [100 * row["fill"] for row in rows["padded"]], "%"),
    ]
    told = {"tokens": options.tokens, "steps": options.steps, "peers": {"torch": torch.__version__}}
    write("packed_training", claims, figures=rows, threads=torch.get_num_threads(), to=options.json, **told)


if __name__ == "__main__":
    main()
