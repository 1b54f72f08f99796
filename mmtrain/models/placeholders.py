"""Where media stand among the tokens of a row, and vectors put in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def blanked(
    rows: torch.Tensor, tokens: Sequence[int], places: torch.Tensor, cu_seqlens: torch.Tensor, share: float
) -> torch.Tensor:
    """Modality dropout: rows [sum(tokens), D] of media of so many `tokens`, of which the first stand at `places` int64
    [N] in the row, with 0 in place of all media of some samples. Their placeholders stay, and are filled with nothing.
    (ModDrop: Neverova et al. 2015, arXiv 1501.00102, §3.5.)

    One number is drawn for each sample of a row, on the CPU, from torch's generator, which the trainer seeds by step
    and pack; a sample without such media uses its number up, so that others' do not depend on it.
    """
    gone = (torch.rand(len(cu_seqlens) - 1) < share).to(rows.device)
    sample = torch.searchsorted(cu_seqlens.contiguous(), places.to(cu_seqlens.dtype), right=True) - 1
    each = torch.repeat_interleave(gone[sample], torch.tensor(tokens, device=rows.device))
    return rows.masked_fill(each[:, None], 0)
