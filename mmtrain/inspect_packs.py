"""A pack as a person can read it: its segments, what is trained in each, and its media."""

from __future__ import annotations

import itertools
from typing import Any

from transformers import PreTrainedTokenizerBase

SHOWN = 60


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
