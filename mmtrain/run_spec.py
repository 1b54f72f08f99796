"""What every training run may be told, whatever it learns: data, weights, optimiser, steps, where it lies."""

from __future__ import annotations

from typing import Self, TypeVar

from pydantic import Field, model_validator

from mmdata.spec import Model, OutputPath, Plugin, runtime
from mmdata.stream.spec import StreamSpec
from mmtrain import precision, schedule
from mmtrain.checkpoint import CheckpointSpec
from mmtrain.distributed import DistributedSpec
from mmtrain.ema import EmaSpec
from mmtrain.held_out import EvaluationSpec, as_taught, kept_out
from mmtrain.initialise import InitRule
from mmtrain.optim import OptimSpec
from mmtrain.precision import DeviceName, Precision, Weights
from mmtrain.rules import Rule
from mmtrain.stopping import StoppingSpec
from mmtrain.tokenizer import TokenizerSpec
from mmtrain.watch import WatchSpec

Evaluation = TypeVar("Evaluation", bound=Model)


class RunSpec(Model):
    """What the loop, checkpoints, log and evaluations of any run go by."""

    plugins: tuple[Plugin, ...] = runtime(())
    """Modules to import first, so that they register their kinds (families, losses): dotted names, or `.py` files
    beside this config."""
    data: StreamSpec
    tokenizer: TokenizerSpec = TokenizerSpec()
    parameters: tuple[Rule, ...] = ()
    """Which parameters are trained, from when on and how fast; without rules, all are, alike. Aliases begin with
    `vision`, `audio`, `connector`, `language` or `head`; `--dry-run` prints what the rules come to."""
    initialise: tuple[InitRule, ...] = ()
    """How weights begin, of a run that starts anew: in order, over what the model was built or loaded with."""
    optim: OptimSpec = OptimSpec()
    precision: Precision = "fp32"
    """What products of matrices are computed in: `bf16` and `fp16` (with a loss scale) by autocast."""
    params: Weights = "fp32"
    """What weights and the optimiser's moments are kept in; `bf16` takes half the memory and rounds every step."""
    device: DeviceName = runtime("auto")
    """`auto` is the GPU where there is one."""
    ema: EmaSpec | None = None
    """An average of the weights over steps, kept in checkpoints."""
    early_stopping: StoppingSpec | None = None
    """When evaluations end the run before its last step."""
    watch: WatchSpec = WatchSpec()
    """What is done about steps that go wrong."""
    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    global_batch: int = Field(4, ge=1)
    """Packs per step."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Keys the weights; the stream has a seed of its own."""
    output: OutputPath
    """Folder of the run: tokenizer, log, checkpoints."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When the run is saved, and what stays."""
    distributed: DistributedSpec = DistributedSpec()
    """How several processes share the model."""
    threads: int = runtime(2, ge=1)
    """Threads that read and decode ahead of the model."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if wrong := precision.problem(self.precision, self.params):
            raise ValueError(wrong)
        told = getattr(self, "evaluation", None)
        if self.ema is None and told is not None and told.weights == "ema":
            raise ValueError("evaluation.weights: ema: the run averages none; set ema, or evaluation.weights: auto")
        return self

    @model_validator(mode="after")
    def _phases_are_reached(self) -> Self:
        several = getattr(self, "stages", ())  # each is a run, and is asked by itself
        if not several and (wrong := schedule.problem(self.steps, self.optim)):
            raise ValueError(wrong)
        return self


def on_something(told: Evaluation, data: StreamSpec) -> Evaluation:
    """An evaluation, of what the training keeps out where it names no data, else of its data `as_taught`. Raises
    ValueError where there are none."""
    named: EvaluationSpec = told  # type: ignore[assignment]  # any that names data
    if named.data:
        return told.model_copy(update={"data": {name: as_taught(own, data) for name, own in named.data.items()}})
    if not data.hold_out:
        raise ValueError(
            "evaluation.data: nothing to evaluate on; name held-out datasets there, or set data.hold_out: 0.05, "
            "which keeps a part of the training data for it"
        )
    return told.model_copy(update={"data": {"held_out": kept_out(data)}})
