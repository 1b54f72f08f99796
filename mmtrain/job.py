"""What a run of training holds in its hands: the one value that its steps, checkpoints and reports share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from mmdata.errors import SpecError
from mmdata.stream.loader import StreamLoader
from mmdata.types import World
from mmtrain.auxiliary import Term
from mmtrain.balance import PART as BALANCE
from mmtrain.balance import Balance, started
from mmtrain.certificate import Strategy
from mmtrain.gate import Gate
from mmtrain.monitor import Monitor
from mmtrain.optim import staged
from mmtrain.rules import Setting
from mmtrain.spec import TrainSpec
from mmtrain.stopping import Stopping


class Stateful(Protocol):
    """A part of a run that has to be what it was when the run goes on: a loss scaler, averaged weights."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors (sharded ones too) and JSON values, in dictionaries of any depth with texts as keys. Before
        `load_state_dict` it has the tensors that a saved one has, so that each rank knows its share of them."""
        ...

    def load_state_dict(self, saved: dict[str, Any], /) -> None: ...


@dataclass(slots=True, kw_only=True)
class Job:
    """A model, the data it learns from, and how. Only `step` and what tensors hold change while it runs."""

    spec: TrainSpec
    world: World
    folder: Path
    """The run's folder."""
    model: Any
    tokenizer: PreTrainedTokenizerBase
    settings: Mapping[str, Setting]
    """What the rules make of each parameter, by alias."""
    optim: torch.optim.Optimizer
    loader: StreamLoader
    strategy: Strategy
    """How the model is told of the borders in a row."""
    terms: Mapping[str, Term] = field(default_factory=dict)
    """Auxiliary losses of the model's modules, with the config's weights (`auxiliary.declared`)."""
    step: int = 0
    """Optimiser steps done."""
    parts: dict[str, Stateful] = field(default_factory=dict)
    """What else a checkpoint keeps, by name."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the run is bound to (`run.binding`); checkpoints carry it."""
    base: str | None = None
    """Digest of what is never trained, where checkpoints leave that out."""

    gate: Gate = field(init=False)
    """Judges each step before it is taken."""
    monitor: Monitor = field(default_factory=Monitor)
    """Measures each step."""

    def __post_init__(self) -> None:
        self.gate = Gate(self.spec.watch)
        self.parts["gate"] = self.gate
        if self.spec.early_stopping is not None:
            self.parts["stopping"] = Stopping(self.spec.early_stopping)

        objective = getattr(self.model.config, "objective", "language")
        if self.spec.scheduled_sampling is not None and objective != "language":
            raise SpecError(f"scheduled_sampling: model.objective: {objective} writes no answers; leave it out")
        if self.spec.balance is not None:
            self.parts[BALANCE] = started(self)

    @property
    def balance(self) -> Balance | None:
        """What weighs its tasks."""
        found = self.parts.get(BALANCE)
        return found if isinstance(found, Balance) else None

    def optimised(self) -> dict[str, torch.nn.Parameter]:
        """All that the optimiser may move, by name: the model's parameters, and what the balance learns."""
        return {**dict(self.model.named_parameters()), **({} if self.balance is None else self.balance.learned)}

    def state(self) -> dict[str, Any]:
        """The state of every part, by its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    @property
    def stopped(self) -> bool:
        """Whether evaluations have ended the run."""
        stopping = self.parts.get("stopping")
        return isinstance(stopping, Stopping) and stopping.stop

    @property
    def staged(self) -> bool:
        """Whether which parameters are trained has to be said at all."""
        return staged(self.settings)
