"""Auxiliary losses: what a module says of itself while it runs, and how that becomes a part of the step's loss.

A module that has any declares them in an attribute, and records their values as it runs, one for each unit, in order:

    class Compression(nn.Module):
        auxiliary = {"reconstruction": Term(weight=0.1, per="picture")}

        def forward(self, ...):
            record("reconstruction", errors)      # [pictures]

The loss of a step is its main loss plus, for each term, weight * sum(values) / units, both sums over all batches of all
ranks: a mean over the step's pictures (tokens, samples), however these were dealt to packs, passes and ranks. Units in
which nothing is trained (padding, dummies, samples that could not be read) count neither above nor below. `auxiliary`
in a config overrules weights; the log has each term's mean as `aux/NAME`. Where several modules record one name (the
layers of a mixture of experts), their values are averaged. Outside training, what is recorded goes nowhere; compute it
all the same, for layers that run again for their gradient must do what they did before.

A loss that belongs to no module is a function of the last hidden states, in a plugin (`plugins:` of a config):

    @register("loss", "calm")
    @loss(weight=0.01, per="token")
    def calm(hidden, labels, batch):
        return hidden.square().mean(-1)           # [T]

It is computed where `auxiliary: {calm: 0.01}` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from mmdata import rng
from mmdata.errors import SpecError
from mmdata.registry import kinds, lookup, nearest
from mmtrain.rows import borders

Unit = Literal[
    "picture", "token", "sample", "pack", "box", "sound", "drawing", "actions", "quality", "two_stream", "offset"
]
UNITS: tuple[Unit, ...] = get_args(Unit)
"""Pictures (a frame of a video is one) and tokens as the model sees them, segments of a row; `pack` is one value for
all of a forward pass, which weighs as much as its targets do; all others are what a head says they are."""
OF_HEADS = UNITS[4:]
Recorded = dict[str, list[torch.Tensor]]
OWN = "own_losses"
"""Where a model has the users' losses that are wanted of it, by name."""
_recorded: ContextVar[Recorded | None] = ContextVar("recorded", default=None)
_step: ContextVar[tuple[int, ...]] = ContextVar("step", default=())


@dataclass(frozen=True, slots=True)
class Term:
    """What a module declares of an auxiliary loss."""

    weight: float
    """What its mean is multiplied by, where the config does not say."""
    per: Unit


def record(name: str, values: torch.Tensor) -> None:
    """Say the values [units] of a declared term in this forward pass."""
    if (found := _recorded.get()) is not None:
        found.setdefault(name, []).append(values)


@dataclass(frozen=True, slots=True)
class Loss:
    """A user's loss: a term, and what says its values [units], in order, of the last hidden states [T, D], the labels
    int64 [T] (un-shifted; padded rows are laid after each other), and the batch."""

    term: Term
    values: Callable[[torch.Tensor, torch.Tensor, Mapping[str, Any]], torch.Tensor]


def loss(*, weight: float, per: Unit) -> Callable[[Callable[..., torch.Tensor]], Loss]:
    """Make a `Loss` of a function, with the weight that it has where the config names none, to be registered."""
    return lambda values: Loss(Term(weight=weight, per=per), values)


def record_own(model: Any, hidden: torch.Tensor, labels: torch.Tensor, batch: Mapping[str, Any]) -> None:
    """Record the users' losses that `declared` has found to be wanted of a model."""
    for name, own in getattr(model, OWN, {}).items():
        record(name, own.values(hidden, labels, batch))


@contextmanager
def recording(*step: int) -> Iterator[Recorded]:
    """What is recorded inside, by name: a list of the values of each module that did. `step` (a run's seed and the
    number of its step) keys what they draw."""
    found: Recorded = {}
    token, before = _recorded.set(found), _step.set(step)
    try:
        yield found
    finally:
        _recorded.reset(token)
        _step.reset(before)


def keyed(*what: int | str) -> torch.Generator:
    """A generator on the host for what a module draws for its loss: by the run's seed and step, and by `what`, such as
    the key of a sample, so that it is the same in any pack. Outside training, by `what` alone."""
    return torch.Generator().manual_seed(int(rng.generator("auxiliary", *_step.get(), *what).integers(2**62)))


def declared(model: torch.nn.Module, weights: Mapping[str, float] | None = None) -> dict[str, Term]:
    """The terms of all modules of a model, by name, with the config's `weights` in place of their own; and those of
    users' losses that `weights` name, which the model is told to compute. Raises SpecError for a name that no module
    has and no plugin registers."""
    found: dict[str, Term] = {}
    for module in model.modules():
        found |= getattr(module, "auxiliary", {})
    users = kinds("loss")
    own = {name: lookup("loss", name) for name in weights or () if name not in found and name in users}
    if own and getattr(getattr(model, "config", None), "objective", "language") != "language":
        raise SpecError(f"auxiliary.{next(iter(own))}: a loss of yours is for language models (model.objective)")
    found |= {name: each.term for name, each in own.items()}
    setattr(model, OWN, own)
    for name, weight in (weights or {}).items():
        if name not in found:
            known = f"; {nearest(name, [*found, *users])}" if found or users else "; its modules have none"
            raise SpecError(f"auxiliary.{name}: the model has no such loss{known}")
        found[name] = replace(found[name], weight=weight)
    return found


def units(model: Any, batch: Mapping[str, Any], weights: torch.Tensor, terms: Mapping[str, Term]) -> dict[Unit, Any]:
    """What each unit of a batch weighs in the terms that are counted by it, float32 [units]: 1 in a segment in which
    something is trained, else 0. `weights` float32 [T] are those of the labels."""
    wanted = {term.per for term in terms.values()}
    if not wanted:
        return {}
    lengths = borders(batch).diff().long().to(weights.device)
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=weights.device), lengths)
    trained = weights.new_zeros(len(lengths)).index_add_(0, segment, (weights != 0).to(weights.dtype)).clamp(max=1)
    found: dict[Unit, Any] = {"sample": trained, "token": trained[segment], "pack": weights.sum()[None]}
    if "picture" in wanted:
        places = model.base_model.first_tokens(batch)
        found["picture"] = trained[segment[places]]
    for head in heads_of(model).values() if wanted.intersection(OF_HEADS) else ():
        found |= head.units(model, batch, weights)
    return {unit: values for unit, values in found.items() if unit in wanted}


def heads_of(model: Any) -> Mapping[str, Any]:
    """The heads of a native model beside its language head, by name (`mmtrain.models.heads`)."""
    found = getattr(getattr(model, "base_model", None), "heads", None)
    return dict(found.items()) if isinstance(found, torch.nn.ModuleDict) else {}


def totals(each: Sequence[Mapping[Unit, torch.Tensor]]) -> list[float]:
    """The sum of each of UNITS over batches."""
    return [float(sum(float(found[unit].sum()) for found in each if unit in found)) for unit in UNITS]


def summed(terms: Mapping[str, Term], found: Recorded, weights: Mapping[Unit, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of each term that was recorded, the sum over the batch's units of weight * value, a float32 scalar with its
    gradient. Raises ValueError for values that are not as many as the units."""
    result = {}
    for name, parts in found.items():
        if name not in terms:
            raise ValueError(f"{name!r} is recorded and no module declares it")
        mine = weights[terms[name].per]
        if any(part.shape != mine.shape for part in parts):
            shapes = [tuple(part.shape) for part in parts]
            raise ValueError(f"{name}: {shapes} values for {len(mine)} units ({terms[name].per})")
        result[name] = (torch.stack([part.float() for part in parts]).mean(0) * mine).sum()
    return result
