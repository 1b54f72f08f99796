"""Rotary positions: angles of tokens along one axis or two, in the conventions of the models, and the rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mmdata.errors import SpecError

if TYPE_CHECKING:
    import torch


def rope_1d(positions: torch.Tensor, width: int, *, theta: float = 10_000.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions [N] for heads of `width`: float32 [N, width] each, both halves alike.

    Frequency j is theta^(-2j / width). Arithmetic is float32, as in the models.
    """
    import torch

    if width < 2 or width % 2:
        raise SpecError(f"rope_1d: heads of {width} are not even")
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = positions.to(torch.float32)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rope_2d(
    coordinates: torch.Tensor, width: int, *, variant: Literal["qwen", "pixtral"] = "qwen", theta: float = 10_000.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of (row, column) coordinates [N, 2] for heads of `width`: float32 [N, width] each.

    A quarter of the width turns with the row and the next with the column; the second half repeats the first. The
    frequencies differ: `qwen` gives both axes those of a head of half the width, `pixtral` gives the even ones of a
    whole head to the row and the odd ones to the column (transformers, `models/qwen2_vl` and `models/pixtral`).

    >>> import torch
    >>> cos, _ = rope_2d(torch.tensor([[1, 0]]), 8)
    >>> cos[0, :4].tolist() == [torch.tensor(1.0).cos(), torch.tensor(0.01).cos(), 1.0, 1.0]
    True
    """
    import torch

    if width < 4 or width % 4:
        raise SpecError(f"rope_2d: heads of {width} are no multiple of 4")
    if variant == "qwen":
        frequencies = 1.0 / theta ** (torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
        by_row = by_column = frequencies
    elif variant == "pixtral":
        frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
        by_row, by_column = frequencies[0::2], frequencies[1::2]
    else:
        raise SpecError(f"rope_2d: variant {variant!r} is neither 'qwen' nor 'pixtral'")
    row, column = coordinates.to(torch.float32).unbind(-1)
    angles = torch.cat([row[:, None] * by_row, column[:, None] * by_column], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys [..., N, width] by the angles [N, width]; the halves of a head are the two coordinates.

    >>> import torch
    >>> rotate(torch.tensor([[1.0, 0.0]]), *rope_1d(torch.tensor([0]), 2))
    tensor([[1., 0.]])
    """
    import torch

    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
