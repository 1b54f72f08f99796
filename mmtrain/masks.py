"""Dense masks: the reference that `cu_seqlens` stands for, and the patterns that only a dense mask can say.

All are bool [T, T], true where query (row) sees key (column). `explicit` puts one where a Hugging Face model takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Kind = Literal["full_attention", "sliding_attention"]


def segments(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """int64 [T]: the number of each token's segment; `cu_seqlens` int32 [S + 1].

    >>> segments(torch.tensor([0, 2, 3])).tolist()
    [0, 0, 1]
    """
    numbers = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(numbers, cu_seqlens.diff())


def same_segment(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Every token sees its segment (a packed vision tower)."""
    number = segments(cu_seqlens)
    return number[:, None] == number[None, :]


def causal(cu_seqlens: torch.Tensor, *, sliding_window: int | None = None) -> torch.Tensor:
    """Every token sees its segment up to itself; with a sliding window W only the last W of these, itself counted.

    >>> causal(torch.tensor([0, 3, 5]), sliding_window=2).int().tolist()
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    """
    mask = same_segment(cu_seqlens)
    place = torch.arange(len(mask), device=mask.device)
    distance = place[:, None] - place[None, :]
    mask &= distance >= 0
    if sliding_window is not None:
        mask &= distance < sliding_window
    return mask


def prefix(cu_seqlens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Prefix-LM (PaliGemma): the first `lengths[s]` tokens of segment s see each other both ways, all else is causal.

    >>> prefix(torch.tensor([0, 3]), torch.tensor([2])).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    number = segments(cu_seqlens)
    place = torch.arange(len(number), device=number.device) - cu_seqlens[:-1].long()[number]
    return both_ways(cu_seqlens, place < lengths.to(number.device)[number])


def both_ways(cu_seqlens: torch.Tensor, inside: torch.Tensor, *, sliding_window: int | None = None) -> torch.Tensor:
    """Those tokens of a segment that are `inside` (bool [T]) see each other both ways, all else is causal; a sliding
    window bounds all of it, as in `image_blocks`.

    >>> both_ways(torch.tensor([0, 3]), torch.tensor([True, False, True])).int().tolist()
    [[1, 0, 1], [1, 1, 0], [1, 1, 1]]
    """
    inside = inside.to(cu_seqlens.device)
    mask = causal(cu_seqlens) | (same_segment(cu_seqlens) & inside[:, None] & inside[None, :])
    return mask if sliding_window is None else mask & _within(mask, sliding_window)


def image_blocks(
    cu_seqlens: torch.Tensor, token_type_ids: torch.Tensor, *, sliding_window: int | None = None
) -> torch.Tensor:
    """Gemma 3: causal, and the tokens of one image, a run of `token_type_ids` 1 (int [T]), see each other both ways. A
    sliding window W bounds all of it: nothing W or more places back is seen, not in an image either (transformers 5.23,
    `create_masks_for_vision_model`).

    >>> image_blocks(torch.tensor([0, 4]), torch.tensor([1, 1, 0, 1])).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    """
    image = token_type_ids.to(cu_seqlens.device) == 1
    number = segments(cu_seqlens)
    begins = image & ~torch.nn.functional.pad(image[:-1] & (number[1:] == number[:-1]), (1, 0))
    block = torch.where(image, begins.cumsum(0), 0)
    alike = (block[:, None] == block[None, :]) & image[:, None]
    mask = causal(cu_seqlens) | alike
    return mask if sliding_window is None else mask & _within(mask, sliding_window)


def _within(mask: torch.Tensor, window: int) -> torch.Tensor:
    place = torch.arange(len(mask), device=mask.device)
    return place[:, None] - place[None, :] < window


def local(rows: int, columns: int, *, reach: int = 1) -> torch.Tensor:
    """Patches of a grid see those at most `reach` rows and columns away: the 3 x 3 window for 1. [R*C, R*C].

    >>> local(1, 4).int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    return ((row[:, None] - row).abs() <= reach) & ((column[:, None] - column).abs() <= reach)


def explicit(masks: torch.Tensor | Mapping[Kind, torch.Tensor], dtype: torch.dtype) -> object:
    """What a model takes as `attention_mask`: additive [1, 1, T, T] of `dtype`, 0 where seen and its lowest value
    elsewhere. Models with sliding layers need a dict with one mask for each kind of layer: of a single one all layers
    would take the same, and lose their window."""
    if isinstance(masks, Mapping):
        return {kind: explicit(mask, dtype) for kind, mask in masks.items()}
    result = torch.zeros(masks.shape, dtype=dtype).masked_fill(~masks, torch.finfo(dtype).min)
    return result[None, None]
