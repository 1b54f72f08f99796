"""Packed is separate, family by family: against the plain forward of transformers, one sample at a time (training.md,
pitfalls 1 to 10, 12, 13).

What a sample alone gives is computed without anything of ours but its tokens and media: no borders, no positions, the
model's own attention and its own loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmdata.collate import PackedCollator, model_inputs
from mmdata.labels import IGNORE
from mmdata.types import Packed
from mmtrain.certificate import BORDERS, Strategy, adopt, prepared
from mmtrain.objective import loss_sum
from tests.mmtrain import tiny_models
from tests.mmtrain.tiny_models import FAMILIES, MASKED, make, samples

WAYS: list[tuple[str, Strategy]] = [
    *((name, "varlen") for name in FAMILIES),
    *((name, "masks") for name in (*MASKED, "llava", "qwen2_5_vl", "idefics3")),
]
"""Families and how the trainer tells them of borders."""


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def bare(pack: Packed) -> dict[str, Any]:
    """One sample as transformers' own example would feed it: of positions only those the model cannot find itself."""
    inputs = model_inputs(PackedCollator()(pack))
    return {name: value for name, value in inputs.items() if name not in (*BORDERS, "position_ids")}


def hidden(model: Any, batch: dict[str, Any], strategy: Strategy) -> torch.Tensor:
    inputs = prepared(batch, strategy, model.config, torch.float32)
    inputs.pop("labels")
    with torch.no_grad():
        state: torch.Tensor = model.base_model(**inputs).last_hidden_state[0]
        return state


@pytest.mark.parametrize(("name", "strategy"), WAYS)
def test_loss_and_gradients_are_those_of_the_samples_alone(name: str, strategy: Strategy) -> None:
    """1, 3, 12, 13: in training mode, with `use_cache` left on in the model's config as it is published."""
    model, packs = make(name).train(), samples(name)
    model.config.use_cache = model.config.get_text_config().use_cache = True
    loss = torch.zeros(())
    for pack in packs:
        targets = int((pack.labels != IGNORE).sum())
        loss = loss + model(**bare(pack)).loss * targets  # transformers' own: a mean over this sample's targets
    total = sum(int((pack.labels != IGNORE).sum()) for pack in packs)
    (loss / total).backward()
    expected = gradients(model)
    assert len(expected) > 20

    adopt(model, strategy)
    batch = PackedCollator(pad_id=int(tiny_models.words().pad_token_id), multiple=16)(packs)
    summed, weight = loss_sum(model, batch, strategy=strategy)
    assert weight == total == batch["targets"]
    (summed / weight).backward()
    found = gradients(model)
    assert float(summed / weight) == pytest.approx(float(loss / total), abs=1e-5)
    assert found.keys() == expected.keys()
    largest = max(float((found[each] - expected[each]).abs().max()) for each in expected)
    assert largest < 1e-5, max(expected, key=lambda each: float((found[each] - expected[each]).abs().max()))


def changed(pack: Packed) -> Iterator[tuple[str, Packed]]:
    """The sample with another word, and with one other value in each of its media's arrays."""
    ids = pack.input_ids.copy()
    ids[-2] = ids[-2] + 1 if ids[-2] + 1 not in tiny_models.words().all_special_ids else ids[-2] - 1
    yield "word", replace(pack, input_ids=ids)
    for key, array in pack.media.items():
        if array.dtype == np.float32 and array.ndim > 1:
            other = array.copy()
            other[(0,) * (array.ndim - 1) + (2,)] += 0.5
            yield key, replace(pack, media={**pack.media, key: other})


@pytest.mark.parametrize(("name", "strategy"), WAYS)
def test_nothing_in_a_sample_moves_another_by_a_bit(name: str, strategy: Strategy) -> None:
    """2: a word, a pixel, a value of a spectrogram; the sample itself moves, all others and the padding do not."""
    model, packs = make(name), samples(name)
    adopt(model, strategy)
    collate = PackedCollator(pad_id=int(tiny_models.words().pad_token_id), multiple=16)
    batch = collate(packs)
    borders = batch["cu_seq_lens_q"].tolist()
    before = hidden(model, batch, strategy)
    assert torch.isfinite(before).all()
    head = model.get_output_embeddings()
    for number, pack in enumerate(packs):
        for what, other in changed(pack):
            after = hidden(model, collate([*packs[:number], other, *packs[number + 1 :]]), strategy)
            for segment, (start, stop) in enumerate(itertools.pairwise(borders)):
                same = torch.equal(after[start:stop], before[start:stop])
                assert same == (segment != number), (what, number, segment)
                with torch.no_grad():
                    assert torch.equal(head(after[start:stop]), head(before[start:stop])) == same
