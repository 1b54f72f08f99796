"""Quantisation-aware training: linear layers that compute with weights rounded to a few bits, and learn in full."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.adapters import adapters
from mmtrain.adapters.targets import Modules

SMALLEST = torch.finfo(torch.float32).eps
"""The least scale, as torch.ao's observers have it: that of an output whose weights are all zero."""


class QuantiseRule(Model):
    """Which linear layers compute with rounded weights, and in how many bits."""

    match: str
    """Regular expression for the whole alias of a module: `language\\..*`, `(vision|language)\\..*_proj`. Of what it
    matches, linear layers are rounded."""
    bits: int = Field(8, ge=2, le=8)
    """Of each weight; with 8, whole numbers from -127 to 127 times a scale of each output."""

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """A weight [out, in] on the symmetric grid of its rows: whole numbers within ±(2^(bits-1) - 1) times a scale, the
    row's largest magnitude over that bound. In the weight's dtype, computed in float32. The gradient goes straight
    through, and none through the scales.

    The arithmetic is torch.ao's, of `FakeQuantize` over a `PerChannelMinMaxObserver` (`per_channel_symmetric`, qint8,
    `quant_min=-127, quant_max=127`, which `default_symmetric_qnnpack_qat_qconfig` takes for weights). Straight-through:
    Bengio et al. 2013, arXiv 1308.3432; in training: Jacob et al. 2018, arXiv 1712.05877.
    """
    most = 2 ** (bits - 1) - 1
    full = weight.float()
    scales = (full.detach().abs().amax(1) / most).clamp_min(SMALLEST)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=scales.device)
    return torch.fake_quantize_per_channel_affine(full, scales, zeros, 0, -most, most).to(weight.dtype)


class RoundedLinear(nn.Linear):
    """A linear layer that computes with `rounded` weights. Its parameters, their names and its hooks are those of the
    layer that it was; nothing else is kept, as scales follow from the weights."""

    bits: int

    @classmethod
    def of(cls, layer: nn.Linear, bits: int) -> Self:
        """The layer itself, from now on of this class."""
        made: Any = layer
        made.__class__ = cls  # a module in its place would lose hooks, adapters and what others hold of it
        made.bits = bits
        return made  # type: ignore[no-any-return]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """x [..., in] to [..., out]."""
        return F.linear(input, rounded(self.weight, self.bits), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


def install(model: Any, rules: Sequence[QuantiseRule]) -> list[str]:
    """Let the linear layers that rules match compute with rounded weights, later rules over earlier ones; a line for
    each rule, for the console. The model has its adapters already.

    Raises SpecError for a rule that matches no linear layer, and for what cannot be rounded so: weights in 4 bits,
    experts in one tensor, GPT-2's Conv1D, weights that another module shares, layers with a DoRA."""
    chosen: dict[str, int] = {}
    lines = []
    modules, users = Modules(model), _users(model)
    for at, rule in enumerate(rules):
        where = f"quantise_aware.{at}.match"
        matched = [alias for alias in modules.by_alias if re.fullmatch(rule.match, alias)]
        modules.refuse_experts(matched, where, "is not rounded", "give a match that leaves it out")
        mine = [alias for alias in matched if isinstance(modules.by_alias[alias], nn.Linear | Conv1D)]
        if not mine:
            some = ", ".join(_examples(modules)) or "none"
            raise SpecError(f"{where}: {rule.match!r} matches no linear layer; there are {some}")
        for alias in mine:
            if wrong := _problem(modules.by_alias[alias], users):
                raise SpecError(f"{where}: {alias} {wrong}")
        chosen |= dict.fromkeys(mine, rule.bits)
        weights = sum(modules.by_alias[alias].weight.numel() for alias in mine)  # type: ignore[operator,misc,union-attr]
        most = 2 ** (rule.bits - 1) - 1
        lines.append(
            f"rounded    {len(mine):4d} layers  {weights:14,d} weights  {rule.match}: {rule.bits} bits, -{most} to "
            f"{most} times a scale of each output; learned in full"
        )
    for alias, bits in chosen.items():
        layer = modules.by_alias[alias]
        assert isinstance(layer, nn.Linear)
        RoundedLinear.of(layer, bits)
    return lines


def check(rules: Sequence[QuantiseRule], *, cast: bool) -> None:
    """Raises SpecError where shards are `cast` before layers see them: what is rounded then is not what is saved."""
    if rules and cast:
        raise SpecError(
            "quantise_aware: shards come in the type of `precision`, and would be rounded from there, not in full; set "
            "distributed.mixed_precision: false, or distributed.mode: ddp"
        )


def layers(model: nn.Module) -> list[RoundedLinear]:
    """Those that compute with rounded weights."""
    return [module for module in model.modules() if isinstance(module, RoundedLinear)]


def remove(model: nn.Module) -> None:
    """Let all layers compute with their weights in full again."""
    for layer in layers(model):
        layer.__class__ = nn.Linear  # type: ignore[assignment]
        del layer.bits


@torch.no_grad()
def settle(model: nn.Module) -> int:
    """Round the weights themselves, and let plain layers compute with them: to the bit what they computed before; how
    many did."""
    found = layers(model)
    for layer in found:
        layer.weight.copy_(rounded(layer.weight, layer.bits))
    remove(model)
    return len(found)


def adapted(model: nn.Module) -> list[str]:
    """The aliases of rounded layers that adapters change: the sum of both lies on no grid."""
    return [adapter.target.alias for _, module, adapter in adapters(model) if isinstance(module, RoundedLinear)]


def _problem(layer: Any, users: Mapping[int, int]) -> str | None:
    leave = "give a match that leaves it out"
    if hasattr(layer, "dequantised"):
        return f"is in 4 bits (kind: qlora) and not trained; {leave}, or take kind: lora"
    if type(layer) is not nn.Linear:
        return f"is a {type(layer).__name__}, and only torch.nn.Linear is rounded; {leave}"
    if users[id(layer.weight)] > 1:
        return f"shares its weight with another module, which is not rounded (tied embeddings?); {leave}"
    if getattr(getattr(layer, "lora", None), "magnitude", None) is not None:
        return f"has a DoRA, which measures its weight in full; {leave}, or take kind: lora"
    return None


def _users(model: nn.Module) -> dict[int, int]:
    """How many modules each parameter is in."""
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    return users


def _examples(modules: Modules) -> list[str]:
    """A linear layer of each part."""
    found: dict[str, str] = {}
    for alias, module in modules.by_alias.items():
        if type(module) is nn.Linear:
            found.setdefault(alias.split(".")[0], alias)
    return list(found.values())
