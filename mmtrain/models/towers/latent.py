"""A frozen tokeniser of continuous tokens in a vision tower's place: pictures become latents, and latents pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from mmtrain.models.configs import LatentConfig
from mmtrain.models.tokens import Kl, KlSpec


class Latent(nn.Module):
    """`mmtrain.models.tokens.Kl` as a tower of fixed size: a patch is a cell of its grid. Its weights are buffers: they
    are saved and exported with the model, and no rule can train them."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        self.tokeniser = Kl(KlSpec.model_validate(config.tokeniser))
        for module in self.tokeniser.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.tokeniser.scale.dtype

    def train(self, mode: bool = True) -> Latent:
        """It stays as it is."""
        return super().train(False)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Pixels [N, 3, H, W] in [-1, 1] -> scaled latents [N, cells, width], row by row."""
        found = self.tokeniser.encode(pixel_values).flatten(1, 2)
        return BaseModelOutput(last_hidden_state=found)  # type: ignore[arg-type]

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """Scaled latents [N, cells, width] of squares -> pixels [N, 3, S, S] in [-1, 1]."""
        side = round(rows.shape[1] ** 0.5)
        return self.tokeniser.decode(rows.to(self.dtype).view(len(rows), side, side, -1))
