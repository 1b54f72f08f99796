"""Rules for parameters: an ordered list of patterns that says which are trained, from when on and how fast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pydantic import Field, field_validator

from mmdata.errors import SpecError
from mmdata.spec import Model

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|layer|h)\.(\d+)\.")


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
    """Factor on the rate for each layer below the last one of the part: 0.9 gives 1, 0.9, 0.81 ... from the top."""
    freeze_until: float | None = Field(None, ge=0, le=1)
    """Share of the steps for which they stay as they are."""

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
    depth: int = 0
    """Layers of its part above it."""

    def rate(self, base: float) -> float:
        """Its peak rate, where others have `base`."""
        return (base if self.lr is None else self.lr) * (self.layer_decay or 1.0) ** self.depth


FIELDS = tuple(field.name for field in fields(Setting) if field.name != "depth")


def resolve(rules: Sequence[Rule], names: Sequence[str]) -> dict[str, Setting]:
    """The setting of each alias. Raises SpecError, naming every one, for a rule that matches nothing and for two rules
    of which neither is the more particular and that disagree on a parameter.

    >>> found = resolve([Rule(match="vision.*", train=False)], ["vision.a", "language.b"])
    >>> found["vision.a"].train, found["language.b"].train
    (False, True)
    """
    matched = [{name for name in names if re.fullmatch(rule.match, name)} for rule in rules]
    problems = [
        f"parameters.{at}.match: {rule.match!r} matches no parameter; there are {_examples(names)}"
        for at, (rule, mine) in enumerate(zip(rules, matched, strict=True))
        if not mine
    ]
    settings = {name: Setting(depth=depth) for name, depth in _depths(names).items()}
    for field in FIELDS:
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
            for name in mine:
                said[name] = at
                settings[name] = replace(settings[name], **{field: value})
    if problems:
        raise SpecError("\n".join(problems))
    return settings


def table(settings: Mapping[str, Setting], sizes: Mapping[str, int], *, lr: float) -> str:
    """One line for every part and kind of setting: parameters, whether and from when they are trained, their rates."""
    groups: dict[tuple[str, Setting], list[str]] = {}
    for name, setting in settings.items():
        key = replace(setting, depth=0)
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
            if setting.weight_decay is not None:
                how += f", weight decay {setting.weight_decay:g}"
        lines.append(f"{part:<10} {len(names):4d} tensors {count:14,d} values  {how}")
    return "\n".join(lines)


def _depths(names: Sequence[str]) -> dict[str, int]:
    """Layers above each parameter in its part: those of the last layer, and all behind it in the model, have 0; what
    comes before the first layer (embeddings) lies one deeper than it."""
    result = {}
    for part in dict.fromkeys(name.split(".")[0] for name in names):
        mine = [name for name in names if name.split(".")[0] == part]
        layers = {name: int(found[1]) for name in mine if (found := _LAYER.search(name))}
        total = max(layers.values(), default=-1) + 1
        seen = False
        for name in mine:
            seen |= name in layers
            if name in layers:
                result[name] = total - 1 - layers[name]
            else:
                result[name] = 0 if seen or not layers else total
    return result


def _examples(names: Sequence[str]) -> str:
    parts: dict[str, str] = {}
    for name in names:
        parts.setdefault(name.split(".")[0], name)
    return ", ".join(parts.values())
