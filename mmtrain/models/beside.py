"""What layers of a language model are told beside their rows: what its tokens see, what they stand for, whose they are.

A language model of transformers hands on to each layer the arguments that it does not know; so nothing is kept between
calls, and layers that run again for their gradient are told the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmdata.errors import SpecError

if TYPE_CHECKING:
    from mmtrain.models.fusion.sight import Sight

MODALITIES = ("text", "picture", "sound")
"""What a token may stand for; frames of videos are pictures. Padding is -1."""
BESIDE = "beside"
"""The argument by which it is handed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of a batch, its rows laid after each other: int64 [T] their number in MODALITIES, and the borders of
    its samples, int [S + 1]."""

    modality: torch.Tensor
    cu_seqlens: torch.Tensor


@dataclass(slots=True, kw_only=True)
class Beside:
    """Of one forward pass. The layers of a fusion change what is `seen` as they go."""

    seen: Sight | None = None
    tokens: Tokens | None = None


def beside_of(layer: nn.Module, kwargs: Mapping[str, Any]) -> Beside:
    """What a layer is told. Raises ValueError where its model kept it back."""
    found = kwargs.get(BESIDE)
    if not isinstance(found, Beside):
        raise ValueError(
            f"{type(layer).__name__} is not told by its model what its tokens are and see: model.fusion: early, "
            "without model.experts, is what it can do"
        )
    return found


def decoder_layers(language_model: nn.Module, count: int, key: str) -> nn.ModuleList:
    """The list of a language model's layers. Raises SpecError, naming `key` of the config, where there is none."""
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise SpecError(f"model.{key}: {type(language_model).__name__} has no list of {count} layers; leave it out")
