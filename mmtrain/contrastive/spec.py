"""What a contrastive run may be told; what a part of it may be told stands beside that part."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmdata.spec import Model, runtime
from mmdata.stream.spec import StreamSpec
from mmtrain.contrastive.evaluation import ContrastiveEvaluationSpec
from mmtrain.contrastive.momentum import MomentumSpec
from mmtrain.contrastive.objective import LossSpec
from mmtrain.contrastive.spread import SpreadSpec
from mmtrain.contrastive.towers import DualEncoderSpec, DualSpec
from mmtrain.optim import OptimSpec
from mmtrain.rules import Rule
from mmtrain.run_spec import RunSpec, on_something


class MaskingSpec(Model):
    """Patches that are left out in training (FLIP: Li et al. 2022, arXiv 2212.00794)."""

    share: float = Field(0.0, ge=0, lt=1)
    """Of each picture's patches, drawn anew for each sample and step."""
    until: float = Field(1.0, ge=0, le=1)
    """Share of the run after which nothing is left out: FLIP's unmasked tuning at the end."""


class ContrastiveSpec(RunSpec):
    """Training of a dual encoder on one stream of pairs."""

    data: StreamSpec
    """Without `packing` or with `packing: none`, each pack is a pair."""
    model: DualEncoderSpec = DualSpec()
    loss: LossSpec = LossSpec()
    masking: MaskingSpec = MaskingSpec()
    momentum: MomentumSpec | None = None
    """A slow copy of the model, which teaches or fills a queue; null: none."""
    grad_cache: Literal["auto", "always", "never"] = runtime("auto")
    """Whether vectors of the whole batch are made before any gradient, so that memory is that of one pass: `auto` does
    so where a rank's share of a step is several passes. `never` keeps what all passes need at once. It changes nothing
    but the rounding."""
    pairs_per_forward: int = runtime(256, ge=1)
    """Packs of a rank's share of a step that go through the towers at once."""
    parameters: tuple[Rule, ...] = ()
    """Which parameters are trained, from when on and how fast. Aliases begin with `vision`, `language` (the text tower)
    or `connector` (all else); `--dry-run` prints what the rules come to."""
    optim: OptimSpec = OptimSpec(lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6)
    """The defaults are CLIP's for a ViT (table 19), but for the rate."""
    evaluation: ContrastiveEvaluationSpec | None = runtime(None)
    """What the model is measured by while it learns; it changes nothing of that."""
    spread: SpreadSpec = SpreadSpec()
    """What is measured of vectors, and what is done about their collapse."""
    global_batch: int = Field(64, ge=2)
    """Packs per step; without packing, pairs."""
    seed: int = 0
    """Keys the weights and the patches that are left out; the stream has a seed of its own."""

    # What parts of the trainer ask of a run, and this one cannot be told.
    adapters: ClassVar[tuple[()]] = ()
    quantise_aware: ClassVar[tuple[()]] = ()
    stages: ClassVar[tuple[()]] = ()
    balance: ClassVar[None] = None
    preference: ClassVar[None] = None
    scheduled_sampling: ClassVar[None] = None
    anchor: ClassVar[None] = None
    activation_checkpointing: ClassVar[str] = "none"

    @field_validator("data", mode="before")
    @classmethod
    def _a_pair_is_a_pack(cls, value: Any) -> Any:
        return {"packing": "none", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.data.batch_rows is not None or self.data.batch_tokens is not None:
            raise ValueError("data.batch_rows and batch_tokens: leave them out; global_batch says what a step holds")
        if self.loss.labels.teacher and self.momentum is None:
            raise ValueError("loss.labels.teacher: there is no teacher without `momentum`; set momentum: {}")
        if self.distributed.mode in ("fsdp", "hsdp"):
            raise ValueError("distributed.mode: towers are whole on each rank; set ddp")
        if self.watch.drift is not None:
            raise ValueError("watch.drift: it follows a tower beside a language model; leave it out")
        if self.checkpoint.weights != "all":
            raise ValueError("checkpoint.weights: set all; the towers are saved whole")
        return self

    @model_validator(mode="after")
    def _evaluated_on_something(self) -> Self:
        if self.evaluation is not None:
            object.__setattr__(self, "evaluation", on_something(self.evaluation, self.data))
        return self
