"""Where a frame stands in time: sines and cosines of seconds, so that other frame rates mean the same."""

from __future__ import annotations

import math
from typing import Literal

import torch

Times = Literal["seconds", "frames", "none"]
LONGEST = 10_000.0


def time_code(at: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of times float32 [N], any real numbers -> float32 [N, width] (Vaswani et al. 2017, §3.5, at
    real numbers): sines in the first half, cosines in the second.

    >>> time_code(torch.tensor([0.0, 0.5]), 4).shape
    torch.Size([2, 4])
    """
    half = width // 2
    step = math.log(LONGEST) / max(1, half - 1)
    angles = at.float()[:, None] * torch.exp(-step * torch.arange(half, device=at.device))
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(code, (0, width - code.shape[1]))


def coded(
    elapsed: torch.Tensor, frames: tuple[int, ...], lengths: tuple[int, ...], width: int, *, by: Times, rate: float
) -> torch.Tensor | None:
    """What is added to every patch of each frame, float32 [P, width]: the code of its seconds `elapsed` from the
    beginning of its video times `rate`, or of its number in the video; None where nothing is."""
    if by == "none":
        return None
    at = elapsed * rate
    if by == "frames":
        at = torch.cat([torch.arange(count, device=elapsed.device).float() for count in frames])
    return time_code(at, width).repeat_interleave(torch.tensor(lengths, device=elapsed.device), 0)
