"""What a training run may be told; what a part of it may be told stands beside that part."""

from __future__ import annotations

from pydantic import Field

from mmdata.spec import Model, OutputPath, runtime
from mmdata.stream.spec import StreamSpec
from mmtrain.losses import Norm
from mmtrain.models.spec import ModelSpec, TinySpec
from mmtrain.optim import OptimSpec
from mmtrain.rules import Rule
from mmtrain.tokenizer import TokenizerSpec


class TrainSpec(Model):
    """Supervised fine-tuning of one model on one stream."""

    data: StreamSpec
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = TinySpec()
    parameters: tuple[Rule, ...] = ()
    """Which parameters are trained, from when on and how fast; without rules, all are, alike. Aliases begin with
    `vision`, `audio`, `connector`, `language` or `head`; `--dry-run` prints what the rules come to."""
    loss_norm: Norm = "token"
    """What counts alike: every target token, every sample, or (`sqrt`) something between."""
    optim: OptimSpec = OptimSpec()
    steps: int = Field(60, ge=1)
    """Optimiser steps."""
    global_batch: int = Field(4, ge=1)
    """Packs per step."""
    seed: int = 0
    """Keys the weights; the stream has a seed of its own."""
    output: OutputPath
    """Folder of the run: tokenizer, log, checkpoints."""
    save_every: int = runtime(20, ge=1)
    """Steps between checkpoints; there is always one at the end."""
    keep: int = runtime(2, ge=1)
    """Checkpoints kept, the newest."""
    threads: int = runtime(2, ge=1)
    """Threads that read and decode ahead of the model."""
