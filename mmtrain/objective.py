"""The loss of a model on a batch, packed or padded."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.labels import IGNORE
from mmtrain.auxiliary import record_own
from mmtrain.certificate import Strategy, prepared
from mmtrain.losses import Groups, Norm, normed, weighted_cross_entropy
from mmtrain.models import hearing
from mmtrain.models.connectors.objectives import qformer_losses
from mmtrain.models.fusion.late import contrastive_losses
from mmtrain.models.heads import learn
from mmtrain.precision import compute_dtype
from mmtrain.rows import borders
from mmtrain.sharding import within

OUTWARD = "connector.vision_connector.out."
"""What leads from a Q-Former to the language model."""


def loss_sum(
    model: Any, batch: dict[str, Any], norm: Norm = "token", strategy: Strategy = "varlen"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the batch's targets of weight * cross-entropy, and the sum of the weights; both float32 scalars.

    `strategy` says how the model is told of borders, as its certificate has it."""
    weights = target_weights(batch, norm)
    return losses(model, batch, weights, strategy)[0], weights.sum()


def losses(
    model: Any,
    batch: dict[str, Any],
    weights: torch.Tensor,
    strategy: Strategy = "varlen",
    groups: Groups | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the batch's targets of weight * cross-entropy, a float32 scalar to be differentiated, and the
    cross-entropy of each target at its place, float32 [T] without a gradient, 0 where there is no target of any weight.

    Padded rows are laid after each other, T = B * L: the first label of a row is -100, so none predicts the next. With
    `groups` (of language models) there is a sum for each group of labels, float32 [groups].
    """
    return within(model, _losses, batch, weights, strategy, groups)


def _losses(
    model: Any, batch: dict[str, Any], weights: torch.Tensor, strategy: Strategy, groups: Groups | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if getattr(model.config, "objective", "language") == "qformer":
        return qformer_losses(model, batch, weights)
    dtype = compute_dtype(batch["input_ids"].device, model.dtype)
    inputs = prepared(batch, strategy, model.config, dtype)
    inputs |= hearing.told(model, batch)
    labels = inputs.pop("labels").flatten()
    if getattr(model.config, "objective", "language") == "contrastive":
        return contrastive_losses(model, batch, inputs, weights)
    output = model.base_model(**inputs)
    hidden = output.last_hidden_state.flatten(0, 1)
    learn(model, batch, hidden, getattr(output, "towers", None))
    record_own(model, hidden, labels, batch)
    return weighted_cross_entropy(hidden, model.get_output_embeddings(), labels, weights, groups=groups)


def check(model: Any, trained: Collection[str], packs_per_forward: int) -> None:
    """Raises SpecError where a model's objective leaves out what is `trained` (aliases of parameters), whose weights
    would decay and learn nothing, or compares samples of several packs, whose loss would depend on their passes."""
    objective = getattr(model.config, "objective", "language")
    if objective == "language":
        return
    parts, outward = {"head", "audio"}, ["connector.audio_connector."]
    if objective == "qformer":
        parts, outward = parts | {"language"}, [*outward, OUTWARD]
    elif model.config.tie_word_embeddings:
        parts = {"audio"}  # the head is the embeddings
    idle = {alias.split(".")[0] for alias in trained} & parts
    idle |= {alias for alias in trained if alias.startswith(tuple(outward))}
    if idle:
        first = sorted(idle)[0]
        raise SpecError(
            f"model.objective: {objective} has no part for {first}; freeze it: parameters: "
            f"[{{match: '{re.escape(first)}.*', train: false}}]"
        )
    if packs_per_forward > 1:
        raise SpecError(
            f"packs_per_forward: {packs_per_forward}, but model.objective: {objective} compares the samples of a "
            "pack; set packs_per_forward: 1, and larger packs"
        )


def target_weights(batch: dict[str, Any], norm: Norm) -> torch.Tensor:
    """What each label of a batch weighs, float32 [T]: 0 where there is none. Padded rows are laid after each
    other."""
    labels = batch["labels"].flatten()
    weights = normed(batch["loss_weights"].flatten(), labels, borders(batch), norm)
    return torch.where(labels == IGNORE, 0, weights)
