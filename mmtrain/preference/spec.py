"""What a run may be told of learning from pairs of answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmdata.spec import Model, OutputPath, runtime
from mmtrain.preference.losses import Loss


class PreferenceSpec(Model):
    """Learning from pairs of answers, in place of learning each answer."""

    loss: Loss = "dpo"
    """`dpo` (Rafailov et al., 2023), `ipo` (Azar et al., 2023; over means of tokens, as TRL has it), `hinge` (SLiC,
    Zhao et al., 2023), `robust` (Chowdhury et al., 2024, with `label_smoothing`), `apo_zero` (D'Oosterlinck et al.,
    2024)."""
    beta: float = Field(0.1, gt=0)
    """How closely the model is held to the reference; larger is closer. Of `ipo` it is tau."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Of `robust`: the share of pairs that are the wrong way round."""
    nll: float = Field(0.0, ge=0)
    """Weight of the chosen answer's mean cross-entropy beside it (RPO's term, Pang et al., 2024), against falling
    likelihood of both."""
    reference: Literal["start", "base"] = "start"
    """What the model is compared with: itself as the run begins, or (`base`) that without its adapters."""
    cache: OutputPath | None = runtime(None)
    """Folder for what the reference says; null is `$XDG_CACHE_HOME/mmdata/reference` (`~/.cache/mmdata/reference`)."""
