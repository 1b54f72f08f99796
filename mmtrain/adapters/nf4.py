"""A linear layer in 4 bits: bitsandbytes' NF4 with scales that are quantised too, kept out of the state of a model."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


def quantised(layer: nn.Linear) -> nn.Module:
    """The layer, frozen, its weight in NF4 with double quantisation (Dettmers et al. 2023) on the device where it was;
    `dequantised()` answers what it computes with, [out, in]. Raises ImportError without bitsandbytes."""
    made: nn.Module = _nf4_linear()(layer)
    return made


@functools.cache
def _nf4_linear() -> type:
    import bitsandbytes

    class NF4Linear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
        """The weight is not in `state_dict()`: it is made from the model that was loaded, again and the same each
        time, and does not change."""

        def __init__(self, layer: nn.Linear) -> None:
            weight, bias = layer.weight, layer.bias
            super().__init__(
                layer.in_features,
                layer.out_features,
                bias=bias is not None,
                compute_dtype=weight.dtype,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            self.weight = bitsandbytes.nn.Params4bit(
                weight.detach().cpu().contiguous(),
                requires_grad=False,
                compress_statistics=True,
                quant_type="nf4",
                module=self,
            ).to(weight.device)
            self.bias = bias

        def dequantised(self) -> torch.Tensor:
            """The weight that it computes with, [out, in]."""
            weight: Any = self.weight
            return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            if self.bias is not None:
                destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

        def _load_from_state_dict(
            self,
            state_dict: Any,
            prefix: str,
            local_metadata: Any,
            strict: bool,
            missing_keys: list[str],
            unexpected_keys: list[str],
            error_msgs: list[str],
        ) -> None:
            if self.bias is None:
                return
            if (saved := state_dict.get(f"{prefix}bias")) is None:
                missing_keys.append(f"{prefix}bias")
                return
            with torch.no_grad():
                self.bias.copy_(saved)

    return NF4Linear
