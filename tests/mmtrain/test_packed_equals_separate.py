"""Packed training is separate training: losses, gradients, and no influence across borders (training.md, pitfalls 1, 2,
3, 9, 10, 11, 12, 14)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator, PaddedCollator, model_inputs
from mmdata.families import get_family
from mmdata.labels import IGNORE, cu_seqlens, positions
from mmdata.types import Packed
from mmtrain.models import build
from mmtrain.models.spec import TinySpec, TowerSpec
from mmtrain.objective import loss_sum
from tests.tokenizer_fixture import small_tokenizer

SPEC = TinySpec(vision=TowerSpec(hidden=32, heads=2), language=TowerSpec(hidden=64))
CAPACITY = 300


@pytest.fixture(scope="module")
def model() -> Any:
    return build(SPEC, small_tokenizer(), seed=1)


@pytest.fixture(scope="module")
def packs(folder: Path) -> list[Packed]:
    family = get_family("llava", tokenizer=small_tokenizer(), image={"size": SPEC.image_size})
    stream = StreamingDataset(folder, family=family, max_length=CAPACITY)
    return [pack for pack in stream if isinstance(pack, Packed)]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def separate(pack: Packed, number: int) -> dict[str, torch.Tensor]:
    """Sample `number` of a pack as an ordinary batch of one, as a trainer without packing would feed it."""
    tokens = slice(*pack.cu_seqlens[number : number + 2])
    return {
        "input_ids": torch.from_numpy(pack.input_ids[tokens]).long()[None],
        "labels": torch.from_numpy(pack.labels[tokens])[None],
        "pixel_values": torch.from_numpy(pack.media["pixel_values"][number : number + 1]),
    }


@pytest.mark.parametrize("pad_to", [None, CAPACITY + 11])
def test_loss_and_gradients_of_a_pack_are_those_of_its_samples(
    model: Any, packs: list[Packed], pad_to: int | None
) -> None:
    model.train()
    for pack in packs[:3]:
        batch = PackedCollator(pad_to=pad_to)(pack)
        total, weight = loss_sum(model, batch)
        assert weight == batch["targets"] == (batch["labels"][:, 1:] != -100).sum()
        (total / weight).backward()
        packed_gradients = gradients(model)

        summed = torch.zeros(())
        for number in range(len(pack.keys)):
            inputs = separate(pack, number)
            labels = inputs.pop("labels")
            logits = model(**inputs, use_cache=False).logits
            summed = summed + F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
        mean = summed / batch["targets"]
        mean.backward()
        assert abs(float(total / weight) - float(mean)) < 1e-5
        expected = gradients(model)
        assert packed_gradients.keys() == expected.keys()
        assert len(expected) > 40
        for name in expected:
            assert (packed_gradients[name] - expected[name]).abs().max() < 1e-5, name


def logits_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {key: value for key, value in model_inputs(batch).items() if key != "labels"}
    with torch.no_grad():
        return model(**inputs).logits[0]


def test_one_segment_never_moves_another(model: Any, packs: list[Packed]) -> None:
    model.eval()
    pack = packs[0]
    before = PackedCollator(pad_to=CAPACITY)(pack)
    untouched = logits_of(model, before)
    borders = before["cu_seq_lens_q"].tolist()
    for number in range(len(pack.keys)):
        start, stop = borders[number], borders[number + 1]
        token = PackedCollator(pad_to=CAPACITY)(pack)
        token["input_ids"][0, stop - 3] = (token["input_ids"][0, stop - 3] + 7) % 300 + 20
        pixel = PackedCollator(pad_to=CAPACITY)(pack)
        pixel["pixel_values"][number, 0, 5, 5] += 3
        for changed in (token, pixel):
            moved = logits_of(model, changed)
            others = [at for at in range(borders[-1]) if not start <= at < stop]
            assert torch.equal(moved[others], untouched[others])
            assert not torch.equal(moved[start:stop], untouched[start:stop])


def test_the_leak_that_an_attention_mask_opens_would_be_seen(model: Any, packs: list[Packed]) -> None:
    """The tests above can fail: an all-ones mask, the usual mistake, joins the segments."""
    batch = PackedCollator()(packs[0])
    leaking = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    assert (logits_of(model, leaking) - logits_of(model, batch)).abs().max() > 1e-3


def test_the_spread_of_targets_over_packs_does_not_matter(model: Any, packs: list[Packed]) -> None:
    """One row of two packs, or two micro-batches: the same loss and gradients."""
    model.train()
    joined = PackedCollator()(packs[:2])
    total, weight = loss_sum(model, joined)
    (total / weight).backward()
    expected = gradients(model)
    loss = 0.0
    for pack in packs[:2]:
        part, _ = loss_sum(model, PackedCollator()(pack))
        (part / weight).backward()
        loss += float(part / weight)
    found = gradients(model)
    assert loss == pytest.approx(float(total / weight), abs=1e-6)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6


def test_padding_changes_nothing_and_stays_finite(model: Any, packs: list[Packed]) -> None:
    plain, padded = PackedCollator()(packs[0]), PackedCollator(pad_to=CAPACITY + 40)(packs[0])
    length = plain["input_ids"].shape[1]
    logits = logits_of(model, padded)
    assert torch.isfinite(logits).all()
    assert (logits[:length] - logits_of(model, plain)).abs().max() < 1e-5


def test_padded_rows_give_the_loss_and_gradients_of_the_packed_one(model: Any, packs: list[Packed]) -> None:
    model.train()
    pack = max(packs, key=lambda one: len(one.keys))
    assert len(pack.keys) > 1
    total, weight = loss_sum(model, PackedCollator()(pack))
    (total / weight).backward()
    expected = gradients(model)
    batch = PaddedCollator(pad_id=0, multiple=8)(pack)
    inputs = model_inputs(batch)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    mean = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    mean.backward()
    assert float(mean) == pytest.approx(float(total / weight), abs=1e-5)
    found = gradients(model)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_no_targets_give_zero_loss_and_zero_gradients(model: Any, packs: list[Packed]) -> None:
    batch = PackedCollator()(packs[0])
    batch["labels"].fill_(-100)
    total, weight = loss_sum(model, batch)
    assert float(total.detach()) == float(weight) == 0
    total.backward()
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(model).values())


def test_a_pack_without_images(model: Any) -> None:
    """Text alone, in two segments: equal to each alone."""
    ids = np.array([1, 40, 41, 42, 2, 1, 50, 51, 2], np.int32)
    cu = cu_seqlens([5, 4])
    labels = ids.astype(np.int64)
    labels[[0, 5]] = IGNORE
    weights = (labels != IGNORE).astype(np.float32)
    pack = Packed(input_ids=ids, labels=labels, loss_weights=weights, position_ids=positions(cu), cu_seqlens=cu)
    model.eval()
    together = logits_of(model, PackedCollator()(pack))
    for start, stop in ((0, 5), (5, 9)):
        with torch.no_grad():
            alone = model(input_ids=torch.from_numpy(ids[start:stop]).long()[None], use_cache=False).logits[0]
        assert (together[start:stop] - alone).abs().max() < 1e-5
