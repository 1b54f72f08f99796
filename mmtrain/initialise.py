"""How new weights begin: rules by name, and embeddings of new tokens as the mean of the old."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch.nn import init

from mmdata import rng
from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.components import aliases

How = Literal["xavier", "kaiming", "normal", "zero", "one", "constant", "zero_last", "lora"]


class InitRule(Model):
    """How the parameters whose whole alias matches a pattern begin; later rules overrule earlier ones."""

    match: str
    """Regular expression for the whole alias, as in `parameters`."""
    how: How
    """Matrices: `xavier` (Glorot, uniform), `kaiming` (He, uniform, as torch's Linear), `normal` of `std`; the vectors
    among them (biases, norms) stay. `zero`, `one`, `constant` (`value`; layer scale, say): all values. `zero_last`: the
    last module among them answers zero at first, as a residual connector should. `lora`: A as kaiming, B zero."""
    std: float = Field(0.02, gt=0)
    """Of `normal`."""
    value: float = 1e-4
    """Of `constant`."""

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


@torch.no_grad()
def initialise(model: Any, rules: Sequence[InitRule], *, seed: int) -> list[str]:
    """Apply rules to the model; one line for each, for the console. The draws are keyed by seed and alias, so they do
    not depend on what else there is. Raises SpecError for a rule that changes nothing."""
    named = {
        alias: parameter for (name, alias) in aliases(model).items() if (parameter := _get(model, name)) is not None
    }
    lines = []
    for number, rule in enumerate(rules):
        mine = {alias: p for alias, p in named.items() if re.fullmatch(rule.match, alias)}
        if rule.how == "zero_last" and mine:
            last = list(mine)[-1].rpartition(".")[0]
            mine = {alias: p for alias, p in mine.items() if alias.rpartition(".")[0] == last}
        elif rule.how in ("xavier", "kaiming", "normal"):
            mine = {alias: p for alias, p in mine.items() if p.ndim >= 2}
        elif rule.how == "lora":
            mine = {alias: p for alias, p in mine.items() if _side(alias)}
        if not mine:
            raise SpecError(f"initialise.{number}: {rule.match!r} matches nothing that {rule.how} could set")
        for alias, parameter in mine.items():
            generator = torch.Generator().manual_seed(int(rng.generator("initialise", seed, alias).integers(2**63)))
            parameter.copy_(_drawn(rule, alias, parameter, generator))
        values = torch.cat([p.detach().float().flatten() for p in mine.values()])
        count = f"{len(mine):4d} tensors {values.numel():14,d} values"
        lines.append(f"begin      {count}  {rule.match}: {rule.how}, deviation {float(values.std(correction=0)):.2e}")
    return lines


def _get(model: Any, name: str) -> torch.Tensor | None:
    parameter: torch.Tensor = model.get_parameter(name)
    return parameter if parameter.is_floating_point() else None


def _side(alias: str) -> str | None:
    """`A` or `B` of a LoRA pair, by our names (`lora.a`) or peft's (`lora_A.default.weight`)."""
    found = re.search(r"lora[._]([abAB])\b", alias)
    return found[1].upper() if found else None


def _drawn(rule: InitRule, alias: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values for a parameter, float32 on the host, so that they are the same on any device."""
    result = torch.zeros(parameter.shape)
    match rule.how:
        case "xavier":
            init.xavier_uniform_(result, generator=generator)
        case "normal":
            result.normal_(0, rule.std, generator=generator)
        case "one":
            result.fill_(1)
        case "constant":
            result.fill_(rule.value)
        case "kaiming":
            init.kaiming_uniform_(result, a=5**0.5, generator=generator)
        case "lora":
            if _side(alias) == "A":
                init.kaiming_uniform_(result, a=5**0.5, generator=generator)
        case "zero" | "zero_last":
            pass
    return result


@torch.no_grad()
def mean_embeddings(model: Any, new: Sequence[int]) -> None:
    """Give the token ids `new` a row each in the embeddings and the head, both the mean of all other rows, so that a
    new token begins as likely as an average one (Hewitt 2021, "Initializing new word embeddings"). The tables grow
    where an id lies beyond them."""
    if not new:
        return
    old = model.get_input_embeddings().num_embeddings
    if max(new) >= old:
        model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    fresh = torch.tensor(sorted(new), device=model.get_input_embeddings().weight.device)
    known = torch.ones(model.get_input_embeddings().num_embeddings, dtype=torch.bool, device=fresh.device)
    known[fresh] = False
    known[old:] = False  # rows between the old end and the new ids
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight, *([] if head is None else [head.weight])]
    for table in {id(table): table for table in tables}.values():
        table[~known] = table[known].float().mean(0).to(table.dtype)
    if head is not None and getattr(head, "bias", None) is not None:
        head.bias[~known] = head.bias[known].float().mean().to(head.bias.dtype)
