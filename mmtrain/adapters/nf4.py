"""A linear layer in 4 bits: bitsandbytes' NF4 with scales that are quantised too, kept out of the state of a model."""

from __future__ import annotations

import functools
from typing import Any

import crc32c
import torch
from torch import nn


def quantised(layer: nn.Linear) -> nn.Module:
    """The layer, frozen, its weight in NF4 with double quantisation (Dettmers et al. 2023) on the device where it was;
    `dequantised()` answers what it computes with, [out, in]. Raises ImportError without bitsandbytes."""
    made: nn.Module = _nf4_linear()(layer)
    return made


def crc(tensor: torch.Tensor) -> int:
    """CRC-32C of a tensor's bytes, or of what a weight in 4 bits was made from."""
    if (source := getattr(tensor, "source_crc", None)) is not None:
        return int(source)
    values: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return int(crc32c.crc32c(memoryview(values)))


def full(layer: Any) -> nn.Linear:
    """A layer in 4 bits as a linear one that computes the same, with the adapters that are in it."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(layer.dequantised().clone(), requires_grad=False)
    made.bias = layer.bias
    for name, child in layer.named_children():
        made.add_module(name, child)
    return made.train(layer.training)


@functools.cache
def _nf4_linear() -> type:
    import bitsandbytes

    class NF4Linear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
        """The weight is not in `state_dict()`: it is made from the model that was loaded, again and the same each
        time, and does not change."""

        def __init__(self, layer: nn.Linear) -> None:
            weight, bias = layer.weight, layer.bias
            source = crc(weight)  # of what it is made from: kinds of devices round differently
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
            self.weight.source_crc = source

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
