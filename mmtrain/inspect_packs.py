"""A pack as a person can read it: its segments, what is trained in each, and its media."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mmdata.errors import SpecError
from mmdata.explain_page.page import render
from mmdata.stream.dataset import StreamingDataset
from mmdata.types import Packed
from mmtrain.collate import PackedCollator

SHOWN = 60
PAGE = "inspect.html"
"""In the run's folder, unless another file is given."""


def show_packs(stream: StreamingDataset, count: int, page: Path) -> None:
    """Print the first packs of a stream, and render them as one HTML page: tokens by what they weigh in the loss, with
    their labels and positions, segments, and the pixels that the model sees."""
    if stream.world.rank:
        return
    deals = list(itertools.islice((deal for deal in stream.deals() if deal.pack is not None), count))
    if not deals:
        raise SpecError("--inspect: the stream has no pack")
    assert stream.family is not None, deals
    tokenizer: Any = stream.family.tokenizer
    for deal in deals:
        packed = stream.read(deal)
        assert isinstance(packed, Packed), packed
        print(describe_pack(PackedCollator()([packed]), tokenizer))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(render(stream, deals, title=f"The first {len(deals)} packs"))
    print(f"page   {page}")


def describe_pack(batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """One line for the row, one per segment: key, tokens, and the text of its trained tokens."""
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    borders = batch["cu_seq_lens_q"].tolist()
    media = ", ".join(f"{name} {tuple(v.shape)}" for name, v in batch.items() if name.startswith("pixel_values"))
    lines = [f"pack of {len(ids)} tokens, {batch['targets']} trained; {media or 'no media'}"]
    keys = itertools.chain(batch["keys"], itertools.repeat("(padding)"))
    for key, (start, stop) in zip(keys, itertools.pairwise(borders), strict=False):
        trained = ids[start:stop][labels[start:stop] != -100]
        text = tokenizer.decode(trained.tolist())
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"
        lines.append(f"  {key}  {stop - start:5d} tokens, {len(trained):5d} trained: {shown!r}")
    return "\n".join(lines)
