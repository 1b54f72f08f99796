"""What a training run may be told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mmdata.spec import Model, OutputPath, runtime
from mmdata.stream.spec import StreamSpec
from mmtrain.losses import Norm
from mmtrain.rules import Rule


class TokenizerSpec(Model):
    """A byte-level BPE tokenizer, trained on the dataset's own captions and kept with the run."""

    vocab_size: int = Field(2048, ge=300)
    samples: int = Field(10_000, ge=1)
    """Captions to train on: the first so many of the dataset."""


class TowerSpec(Model):
    """A stack of transformer layers."""

    hidden: int = Field(..., ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class ModelSpec(Model):
    """A LLaVA built from these numbers, with random weights: a CLIP tower, a two-layer projector, a Llama decoder."""

    family: Literal["llava"] = "llava"
    image_size: int = Field(56, ge=14)
    """Side of the square that every image becomes, in pixels."""
    patch_size: int = Field(14, ge=2)
    """Side of a patch; (image_size / patch_size)^2 tokens per image."""
    vision: TowerSpec = TowerSpec(hidden=64)
    language: TowerSpec = TowerSpec(hidden=128)


class OptimSpec(Model):
    """AdamW under a cosine with warm-up."""

    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(0.1, ge=0, le=1)
    """Last learning rate, as a share of the peak."""
    warmup_steps: int = Field(5, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    """For matrices; norms, biases and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""


class TrainSpec(Model):
    """Supervised fine-tuning of one model on one stream."""

    data: StreamSpec
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
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
