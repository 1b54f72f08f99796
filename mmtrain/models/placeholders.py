"""Where media stand among the tokens of a row, and vectors put in their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmtrain.rows import borders


def holes(ids: torch.Tensor, tokens: tuple[int | None, ...]) -> torch.Tensor:
    """Where placeholders stand: bool, of the shape of `ids`.

    >>> holes(torch.tensor([5, 7, 7, 9]), (7, None)).tolist()
    [False, True, True, False]
    """
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        if token is not None:
            mask |= ids == token
    return mask


def placed(
    embeds: torch.Tensor, ids: torch.Tensor | None, tokens: tuple[int | None, ...], features: torch.Tensor
) -> torch.Tensor:
    """Features [n, D] in place of the n placeholders of a row, in order. Raises ValueError for other numbers."""
    assert ids is not None, "media need token ids, for their placeholders"
    mask = holes(ids, tokens)
    if int(mask.sum()) != len(features):
        raise ValueError(f"{len(features)} features for {int(mask.sum())} placeholders")
    return embeds.masked_scatter(mask[..., None], features.to(embeds.dtype))


def segments(batch: Mapping[str, Any]) -> torch.Tensor:
    """`mmtrain.rows.borders`; of a packed row that dense masks keep apart, where its positions begin anew."""
    mask, places = batch.get("attention_mask"), batch.get("position_ids")
    if mask is None or (torch.is_tensor(mask) and mask.ndim == 2) or places is None:
        return borders(batch)
    begins = torch.nonzero(places[:, 1:] != places[:, :-1] + 1)[:, 1] + 1
    return torch.cat([begins.new_zeros(1), begins, begins.new_full((1,), places.shape[1])])
