"""What a run of training holds in its hands: the one value that its steps, checkpoints and reports share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mmdata.stream.loader import StreamLoader
from mmdata.types import World
from mmtrain.certificate import Strategy
from mmtrain.rules import Setting
from mmtrain.spec import TrainSpec


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
    step: int = 0
    """Optimiser steps done."""

    @property
    def staged(self) -> bool:
        """Whether which parameters are trained has to be said at all."""
        return any(setting.freeze_until or not setting.train for setting in self.settings.values())
