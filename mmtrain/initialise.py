"""How weights that no checkpoint has begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def mean_embeddings(model: Any, new: Sequence[int]) -> None:
    """Give the token ids `new` a row each in the embeddings and the head, both the mean of all other rows, so that a
    new token begins as likely as an average one (Hewitt 2021, "Initializing new word embeddings"). The tables grow
    where an id lies beyond them."""
    if not new:
        return
    old = model.get_input_embeddings().num_embeddings
    if max(new) >= old:
        model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    fresh = torch.tensor(sorted(new), device=model.get_input_embeddings().weight.device)
    known = torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool, device=fresh.device)
    known[fresh] = False
    known[old:] = False  # rows between the old end and the new ids
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight, *([] if head is None else [head.weight])]
    for table in {id(table): table for table in tables}.values():
        table[~known] = table[known].float().mean(0).to(table.dtype)
    if head is not None and getattr(head, "bias", None) is not None:
        head.bias[~known] = head.bias[known].float().mean().to(head.bias.dtype)
