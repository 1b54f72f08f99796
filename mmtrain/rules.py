"""Rules for parameters: an ordered list of patterns that says which are trained, from when on and how fast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import Field, field_validator

from mmdata.errors import SpecError
from mmdata.spec import Model

LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|layer|h)\.(\d+)\.")


class Rule(Model):
    """What holds for the parameters whose whole alias matches a pattern; a field that is left out is not touched.

    Later rules overrule earlier ones, but only where their parameters are a part of the earlier rule's: from general
    to particular. Anything else would depend on which of two was meant, and is an error.
    """

    match: str
    """Regular expression for the whole alias: `vision\\..*`, `language\\.layers\\.(2|3)\\..*`, `.*\\.bias`."""
    train: bool | None = None
    """Whether they are trained at all."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate, in place of `optim.lr`."""
    weight_decay: float | None = Field(None, ge=0)
    """In place of `optim.weight_decay`; vectors and embeddings have none unless a rule says so."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the rate for each layer from the top of the part: with 0.9, what lies behind its last layer (a norm)
    has 1, the last layer 0.9, the one before 0.81, ..., what lies before the first (embeddings) one factor more.
    (BEiT: Bao et al. 2021, arXiv 2106.08254, `optim_factory.py`; timm, `param_groups_layer_decay`.)"""
    freeze_until: float | None = Field(None, ge=0, le=1)
    """Share of the steps for which they stay as they are."""
    freeze_step: float | None = Field(None, ge=0, le=1)
    """Share of the steps for which each layer stays longer than the one above it: the last layer of the part is
    thawed at `freeze_until`, then one after the other down to the embeddings. (Gradual unfreezing: Howard & Ruder 2018,
    arXiv 1801.06146, §3.3.)"""
    lora_rank: int | None = Field(None, ge=0)
    """Rank of the LoRA on the linear layers whose weights match, in place of the entry's under `adapters`; 0 for none.
    Without any LoRA there, such a rule puts one in."""

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the rules make of one parameter; None where they say nothing."""

    train: bool = True
    lr: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    freeze_until: float = 0.0
    freeze_step: float = 0.0
    lora_rank: int | None = None
    depth: int = 0
    """How far from the top of its part: 0 behind the last layer, 1 in it, 2 in the one before, ..."""
    adapter: bool = False
    """Whether it belongs to an adapter."""

    def rate(self, base: float) -> float:
        """Its peak rate, where others have `base`."""
        return (base if self.lr is None else self.lr) * (self.layer_decay or 1.0) ** self.depth

    @property
    def thaws(self) -> float:
        """The share of the steps after which it is trained."""
        return self.freeze_until + self.freeze_step * max(0, self.depth - 1)


FIELDS = tuple(field.name for field in fields(Setting) if field.name not in ("depth", "adapter"))
OF_THE_MODEL = ("train", "weight_decay")
"""What a rule says of adapters only if it matches nothing else: `language\\..*` can freeze a model with LoRA in it."""


def resolve(
    rules: Sequence[Rule], names: Sequence[str], defaults: Mapping[str, Setting] | None = None
) -> dict[str, Setting]:
    """The setting of each alias. Raises SpecError, naming every one, for a rule that matches nothing and for two rules
    of which neither is the more particular and that disagree on a parameter.

    `defaults` hold where no rule says otherwise (`adapters.defaults`). Of adapters among them, a rule's `train` and
    `weight_decay` are heeded only if it matches adapters alone.

    >>> found = resolve([Rule(match="vision.*", train=False)], ["vision.a", "language.b"])
    >>> found["vision.a"].train, found["language.b"].train
    (False, True)
    """
    matched, problems = _matched(rules, names)
    depths = _depths(names)
    settings = {name: replace((defaults or {}).get(name, Setting()), depth=depths[name]) for name in names}
    adapters = {name for name in names if settings[name].adapter}
    for field in FIELDS:
        reach = [mine - adapters if field in OF_THE_MODEL and mine - adapters else mine for mine in matched]
        for name, value in _said(rules, reach, field, problems).items():
            settings[name] = replace(settings[name], **{field: value})
    if problems:
        raise SpecError("\n".join(problems))
    return settings


def lora_ranks(rules: Sequence[Rule], names: Sequence[str]) -> dict[str, int]:
    """The ranks that rules give, by alias; as `resolve` has them, but before adapters are there. Raises SpecError."""
    saying = [rule if rule.lora_rank is not None else rule.model_copy(update={"match": ".*"}) for rule in rules]
    matched, problems = _matched(saying, names)
    ranks = _said(rules, matched, "lora_rank", problems)
    if problems:
        raise SpecError("\n".join(problems))
    return ranks


def _matched(rules: Sequence[Rule], names: Sequence[str]) -> tuple[list[set[str]], list[str]]:
    """What each rule matches, and what is to be said of those that match nothing."""
    matched = [{name for name in names if re.fullmatch(rule.match, name)} for rule in rules]
    problems = [
        f"parameters.{at}.match: {rule.match!r} matches no parameter; there are {_examples(names)}"
        for at, (rule, mine) in enumerate(zip(rules, matched, strict=True))
        if not mine
    ]
    return matched, problems


def _said(rules: Sequence[Rule], matched: Sequence[set[str]], field: str, problems: list[str]) -> dict[str, Any]:
    """What the rules say of one field, by alias; disagreements go to `problems`."""
    said: dict[str, int] = {}  # which rule has the word on each parameter
    for at, (rule, mine) in enumerate(zip(rules, matched, strict=True)):
        value = getattr(rule, field)
        if value is None:
            continue
        for before in sorted({said[name] for name in mine if name in said}):
            if not mine <= matched[before] and getattr(rules[before], field) != value:
                both = sorted(name for name in mine if said.get(name) == before)
                problems.append(
                    f"parameters.{at}.{field}: {rule.match!r} and {rules[before].match!r} disagree on {both[0]} "
                    f"(and {len(both) - 1} more), and neither is a part of the other; narrow one of them"
                )
        said |= dict.fromkeys(mine, at)
    return {name: getattr(rules[at], field) for name, at in said.items()}


def table(settings: Mapping[str, Setting], sizes: Mapping[str, int], *, lr: float) -> str:
    """One line for every part and kind of setting: parameters, whether and from when they are trained, their rates."""
    groups: dict[tuple[str, Setting], list[str]] = {}
    for name, setting in settings.items():
        key = replace(setting, depth=0, lora_rank=None)
        groups.setdefault((name.split(".")[0], key), []).append(name)
    lines = []
    for (part, setting), names in groups.items():
        rates = sorted({settings[name].rate(lr) for name in names})
        count = sum(sizes[name] for name in names)
        if not setting.train:
            how = "frozen"
        else:
            how = f"lr {rates[-1]:.2e}" if len(rates) == 1 else f"lr {rates[0]:.2e} to {rates[-1]:.2e} by layer"
            if setting.freeze_until:
                how += f", frozen for the first {setting.freeze_until:.0%} of the steps"
            if setting.freeze_step:
                how += f", each layer {setting.freeze_step:.0%} longer than the one above it"
            if setting.adapter:
                how = f"adapters, {how}"
            if setting.weight_decay is not None and not (setting.adapter and not setting.weight_decay):
                how += f", weight decay {setting.weight_decay:g}"
        lines.append(f"{part:<10} {len(names):4d} tensors {count:14,d} values  {how}")
    return "\n".join(lines)


def _depths(names: Sequence[str]) -> dict[str, int]:
    """`Setting.depth` of each parameter: what lies behind the last layer of its part in the model has 0, as all of a
    part without layers has; what comes before the first layer (embeddings) lies one deeper than it."""
    result = {}
    for part in dict.fromkeys(name.split(".")[0] for name in names):
        mine = [name for name in names if name.split(".")[0] == part]
        layers = {name: int(found[1]) for name in mine if (found := LAYER.search(name))}
        total = max(layers.values(), default=-1) + 1
        seen = False
        for name in mine:
            seen |= name in layers
            if name in layers:
                result[name] = total - layers[name]
            else:
                result[name] = 0 if seen or not layers else total + 1
    return result


def _examples(names: Sequence[str]) -> str:
    parts: dict[str, str] = {}
    for name in names:
        parts.setdefault(name.split(".")[0], name)
    return ", ".join(parts.values())
