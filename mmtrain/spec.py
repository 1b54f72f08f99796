"""What a training run may be told; what a part of it may be told stands beside that part."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from mmdata.spec import runtime
from mmdata.specfile import mistakes
from mmtrain import weighting
from mmtrain.adapters.spec import AdapterSpec, RanksSpec, is_qlora
from mmtrain.anchor import AnchorSpec
from mmtrain.balance.spec import BalanceSpec
from mmtrain.blocks import Checkpointing
from mmtrain.held_out import EvaluationSpec
from mmtrain.losses import Norm
from mmtrain.models.spec import ModelSpec, TinySpec
from mmtrain.preference.spec import PreferenceSpec
from mmtrain.quantise import QuantiseRule
from mmtrain.rows import Collate
from mmtrain.run_spec import RunSpec, on_something
from mmtrain.scheduled_sampling import ScheduledSamplingSpec
from mmtrain.stages import StageSpec, expanded
from mmtrain.weighting import WeightPhase


class TrainSpec(RunSpec):
    """Supervised fine-tuning of one model on one stream."""

    model: ModelSpec = TinySpec()
    adapters: tuple[AdapterSpec, ...] = ()
    """Small parts beside the weights of the model. With any, they alone are trained, without weight decay; rules may
    say otherwise. `--dry-run` prints where they go."""
    adapter_ranks: RanksSpec | None = None
    """Ranks of LoRA by what was measured on the first packs; it is kept in the run's folder."""
    quantise_aware: tuple[QuantiseRule, ...] = ()
    """Linear layers that compute with weights rounded to a few bits while they learn in full; later rules overrule
    earlier ones. `mmtrain.export --quantised` writes what they compute with."""
    loss_norm: Norm = "token"
    """What counts alike: every target token, every sample, or (`sqrt`) something between."""
    token_weight_schedule: tuple[WeightPhase, ...] = ()
    """What tokens weigh in each part of the run, in ascending order: early all, late answers only, say."""
    task_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """What the samples of a task (their `task`, or the name of their dataset) weigh; others weigh 1. Tasks of which no
    sample has come are told after the first epoch and at the end."""
    balance: BalanceSpec | None = None
    """How tasks share the loss, each by its own mean, or the stream: `fixed`, `inverse_loss`, `uncertainty`, `gradnorm`
    or `sampling`. The log has `loss/TASK` and `weight/TASK`. Without it all targets count alike, of whichever task."""
    preference: PreferenceSpec | None = None
    """Learning from pairs of answers (DPO and its kin), where samples have a `chosen` and a `rejected` one; it sets
    `data.pairs`. Without it, the chosen answers are learned."""
    scheduled_sampling: ScheduledSamplingSpec | None = None
    """Words of answers that are replaced by what the model itself would have written, more of them as the run goes
    on. Each step takes a second forward pass."""
    auxiliary: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weights of auxiliary losses by name, in place of their modules' own; what there is depends on the model
    (`reconstruction` of connector clusters, `itc` and `itm` of the Q-Former), and `--dry-run` prints it. The log has
    the mean of each as `aux/NAME`."""
    anchor: AnchorSpec | None = None
    """What of the vision tower is held to what it was, as auxiliary losses `distill` and `attention`."""
    collate: Collate = "auto"
    """`packed`: the samples of a batch share one row; `padded`: each is a row, filled up to the longest. `auto` packs,
    unless the model mixes packed samples up."""
    packs_per_forward: int = Field(1, ge=1)
    """Packs of a rank's share of a step that go through the model as one row; the others follow, their gradients added
    up. It changes nothing but the rounding."""
    max_tokens_per_forward: int | None = Field(None, ge=1)
    """Tokens of the packs that share a pass at most: so short packs share passes and long ones do not, and memory is
    that of the longest pass. Not for sharded models, whose ranks have to take equally many passes."""
    activation_checkpointing: Checkpointing = runtime("none")
    """Layers that keep nothing for the backward pass and run again in it: `none`, `full`, or every k-th (a number)."""
    compile: bool = False
    """Whether torch compiles each layer, for rows of any length."""
    evaluation: EvaluationSpec | None = runtime(None)
    """What the model is measured by while it learns; it changes nothing of that."""
    stages: tuple[StageSpec, ...] = ()
    """Several runs in a row, each from the weights of the one before (align, multi-task, instruct): a list of names,
    each with what is other than at the top level, which holds for all."""

    _runs: tuple[Self, ...] = PrivateAttr(())

    @property
    def runs(self) -> tuple[Self, ...]:
        """The whole spec of each stage, in order."""
        return self._runs

    @model_validator(mode="after")
    def _stages_are_runs(self, info: ValidationInfo) -> Self:
        runs = []
        if self.stages:
            values = self.model_dump(exclude_unset=True, exclude={"stages"})
            for stage, own in zip(self.stages, expanded(values, self.stages, self.output), strict=True):
                try:
                    runs.append(type(self).model_validate(own, context=info.context))
                except ValidationError as error:
                    found = "; ".join(mistakes(type(self), own, error))
                    raise ValueError(f"stages: {stage.name}: {found}") from error
                if stage.weights == "ema" and runs[-2].ema is None:
                    raise ValueError(f"stages: {stage.name}: weights: ema: the stage before averages none; set its ema")
        self._runs = tuple(runs)
        return self

    @model_validator(mode="after")
    def _evaluated_on_something(self) -> Self:
        if self.evaluation is not None and not self.stages:
            # A frozen model; nobody has seen it yet.
            object.__setattr__(self, "evaluation", on_something(self.evaluation, self.data))
        return self

    @model_validator(mode="after")
    def _pairs_are_compared(self) -> Self:
        told = self.preference
        if self.stages:
            return self
        if told is None:
            if self.data.pairs:
                raise ValueError("data.pairs: rejected answers would be learned; set preference: {}, or leave it out")
            return self
        of_tokens = ("balance", "task_weights", "token_weight_schedule", "scheduled_sampling")
        given = [name for name in of_tokens if getattr(self, name)]
        if given:
            raise ValueError(f"preference: pairs are weighed, not tokens; leave out {given[0]}")
        if told.reference == "base" and not self.adapters:
            raise ValueError("preference.reference: base: the model has no adapters to leave out; set start")
        if told.label_smoothing and told.loss != "robust":
            raise ValueError(f"preference.label_smoothing: loss: {told.loss} has none; set loss: robust")
        if self.data.overlong in ("truncate_text", "shrink_media"):
            raise ValueError(f"data.overlong: {self.data.overlong}: both answers have to see the same; set drop")
        # A frozen model; nobody has seen it yet.
        object.__setattr__(self, "data", self.data.model_copy(update={"pairs": True}))
        return self

    @model_validator(mode="after")
    def _four_bits_are_made_again(self) -> Self:
        if self.stages or self.checkpoint.weights == "trained" or not any(map(is_qlora, self.adapters)):
            return self
        if "weights" in self.checkpoint.model_fields_set:
            raise ValueError(
                "checkpoint.weights: all: weights in 4 bits (kind: qlora) are not saved but made from `model` again; "
                "set trained, or leave it out"
            )
        object.__setattr__(self, "checkpoint", self.checkpoint.model_copy(update={"weights": "trained"}))
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if wrong := weighting.problem(self.token_weight_schedule, self.data.train_on):
            raise ValueError(wrong)
        return self
