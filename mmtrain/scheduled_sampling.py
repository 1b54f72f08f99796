"""Scheduled sampling: some of the words that a model goes on from are its own, as they will be when it answers.

Two passes (Mihaylova & Martins, 2019), since a transformer sees all words at once. The first, without a gradient, says
what the model would have written in place of each word of an answer; some words are then replaced by that, and the
second pass learns the true ones from there. Labels stay, and so do prompts, media and the template's own tokens; a word
of one sample in a packed row changes no other sample.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from mmdata import rng
from mmdata.labels import IGNORE, KINDS, PROMPT
from mmdata.spec import Model
from mmdata.stream.loader import Batch
from mmtrain import auxiliary
from mmtrain.certificate import Strategy, prepared
from mmtrain.models import hearing
from mmtrain.precision import compute_dtype
from mmtrain.rows import borders
from mmtrain.sharding import within

CHUNK = 1024
"""Words whose logits exist at once."""


class ScheduledSamplingSpec(Model):
    """How likely a word of an answer is kept as it is at step i (Bengio et al., 2015, section 2.4), and what comes in
    its place."""

    decay: Literal["linear", "exponential", "inverse_sigmoid"] = "inverse_sigmoid"
    """`linear`: max(floor, k - c * i); `exponential`: k ** i with k < 1; `inverse_sigmoid`: k / (k + exp(i / k)) with
    k >= 1."""
    k: float = Field(..., gt=0)
    c: float = Field(0.0, ge=0)
    """Of `linear`: how much less each step."""
    floor: float = Field(0.0, ge=0, le=1)
    """No word is less likely to be kept."""
    choice: Literal["greedy", "sample"] = "greedy"
    """The likeliest word, or one drawn from what the model says of all."""

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.decay == "exponential" and self.k >= 1:
            raise ValueError(f"k: {self.k}; exponential decay has k < 1")
        if self.decay == "inverse_sigmoid" and self.k < 1:
            raise ValueError(f"k: {self.k}; inverse_sigmoid decay has k >= 1")
        if self.decay == "linear" and not self.c:
            raise ValueError("c: linear decay needs how much less a word is kept each step")
        return self


def keep_probability(spec: ScheduledSamplingSpec, step: int) -> float:
    """How likely a word is kept at a step, counted from 0.

    >>> slow = ScheduledSamplingSpec(decay="inverse_sigmoid", k=10)
    >>> [round(keep_probability(slow, step), 3) for step in (0, 20, 40, 80)]
    [0.909, 0.575, 0.155, 0.003]
    >>> keep_probability(ScheduledSamplingSpec(decay="linear", k=1, c=0.01, floor=0.25), 90)
    0.25
    """
    match spec.decay:
        case "linear":
            kept = spec.k - spec.c * step
        case "exponential":
            kept = spec.k**step
        case "inverse_sigmoid":
            kept = spec.k / (spec.k + math.exp(min(step / spec.k, 700.0)))
    return min(1.0, max(spec.floor, kept))


def banned(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The ids that never come in place of a word, int64: all special tokens, placeholders of media among them."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return torch.tensor(sorted({*tokenizer.all_special_ids, *added}), dtype=torch.long)


def drawn(batch: Batch, weights: torch.Tensor, keep: float, *, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Where words are replaced, int64 [n] places in rows laid after each other, and a number in [0, 1) for each, to
    choose by. Each sample's draws are keyed by seed, step and its key: the same however samples are packed and dealt.
    Only trained words of answers are drawn, and none of the template's own."""
    special = 1 + KINDS.index("special")
    classes = batch["token_classes"].flatten().cpu().numpy() % PROMPT
    labels = batch["labels"].flatten().cpu().numpy()
    open_ = (labels != IGNORE) & (weights.cpu().numpy() != 0) & (classes != special)
    places: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    edges = borders(batch).tolist()
    for key, start, stop in zip(batch["keys"], edges, edges[1:], strict=False):  # dummies and padding have no key
        draws = rng.generator("scheduled_sampling", seed, step, key).random((2, stop - start))
        mine = np.flatnonzero(open_[start:stop] & (draws[0] >= keep))
        places.append(start + mine)
        numbers.append(draws[1][mine])
    if not places:
        return np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate(places), np.concatenate(numbers)


def mixed(
    model: Any,
    batch: Batch,
    weights: torch.Tensor,
    strategy: Strategy,
    spec: ScheduledSamplingSpec,
    *,
    seed: int,
    step: int,
    never: torch.Tensor,
) -> Batch:
    """The batch with some words of answers replaced by the model's; `never` are ids that it is not to write. Every rank
    of a sharded model calls it equally often."""
    keep = keep_probability(spec, step)
    if keep >= 1:
        return batch
    places, numbers = drawn(batch, weights, keep, seed=seed, step=step)
    at = torch.from_numpy(places).to(batch["input_ids"].device)
    chance = torch.from_numpy(numbers).to(at.device) if spec.choice == "sample" else None
    with torch.no_grad(), auxiliary.recording():  # what modules say of themselves here counts nowhere
        words = within(model, _written, batch, at, chance, strategy, never.to(at.device))
    ids = batch["input_ids"].clone()
    ids.view(-1)[at] = words
    return {**batch, "input_ids": ids}


def _written(
    model: Any, batch: Batch, at: torch.Tensor, chance: torch.Tensor | None, strategy: Strategy, never: torch.Tensor
) -> torch.Tensor:
    """What the model writes at these places, each after the true words before it."""
    inputs = prepared(batch, strategy, model.config, compute_dtype(at.device, model.dtype))
    inputs.pop("labels")
    inputs |= hearing.told(model, batch)
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)
    head = model.get_output_embeddings()
    if not len(at):
        head(hidden[:1])  # shards wait for each other in it
        return at
    words = []
    for start in range(0, len(at), CHUNK):
        logits = head(hidden[at[start : start + CHUNK] - 1]).float()
        logits[:, never[never < logits.shape[-1]]] = -torch.inf
        if chance is None:
            words.append(logits.argmax(-1))
            continue
        reached = logits.double().softmax(-1).cumsum(-1)
        wanted = (chance[start : start + CHUNK, None] * reached[:, -1:]).contiguous()
        found = torch.searchsorted(reached, wanted, right=True)[:, 0]
        words.append(found.clamp(max=logits.shape[-1] - 1))
    return torch.cat(words)
