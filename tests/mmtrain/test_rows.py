"""Padded mode: what a model must not be given in packs is trained in rows, with the loss of the samples alone
(training.md, pitfalls 26 and 34 to 36)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmdata.collate import PackedCollator, PaddedCollator
from mmdata.errors import SpecError
from mmdata.labels import IGNORE
from mmdata.stream.spec import StreamSpec
from mmtrain import sft
from mmtrain.certificate import Certificate, adopt
from mmtrain.objective import loss_sum, losses, target_weights
from mmtrain.rows import borders, check, collator
from tests.mmtrain.test_pitfalls_packing import bare, gradients
from tests.mmtrain.test_sft import arguments, trace
from tests.mmtrain.tiny_models import FAMILIES, MASKED, UNSAFE, make, samples, words


@pytest.mark.parametrize("name", [*FAMILIES, *MASKED, *UNSAFE])
def test_padded_rows_give_the_loss_and_gradients_of_the_samples_alone(name: str) -> None:
    """Those families too that cannot be packed. The loss is transformers' own, of one sample at a time."""
    model, packs = make(name).train(), samples(name)
    counts = [int((pack.labels != IGNORE).sum()) for pack in packs]
    loss = sum((model(**bare(pack)).loss * count for pack, count in zip(packs, counts, strict=True)), torch.zeros(()))
    (loss / sum(counts)).backward()
    expected = gradients(model)
    adopt(model, "single")
    batch = PaddedCollator(pad_id=int(words().pad_token_id), multiple=8)(packs)
    assert batch["input_ids"].shape[0] == len(packs)
    total, weight = loss_sum(model, batch, strategy="single")
    assert weight == sum(counts) == batch["targets"]
    (total / weight).backward()
    found = gradients(model)
    assert float(total / weight) == pytest.approx(float(loss / sum(counts)), abs=1e-5)
    assert found.keys() == expected.keys()
    worst = max(expected, key=lambda each: float((found[each] - expected[each]).abs().max()))
    assert float((found[worst] - expected[worst]).abs().max()) < 1e-5, worst


@pytest.mark.parametrize("norm", ["token", "sample", "sqrt"])
def test_weights_and_losses_of_rows_are_those_of_the_packed_row(norm: Any) -> None:
    model, packs = make("llava"), samples("llava")
    rows, row = PaddedCollator(pad_id=0)(packs), PackedCollator()(packs)
    real = rows["attention_mask"].flatten().bool()
    mine, other = target_weights(rows, norm), target_weights(row, norm)
    assert torch.allclose(mine[real], other)
    assert not mine[~real].any()
    assert borders(rows).tolist() == [at * rows["input_ids"].shape[1] for at in range(len(packs) + 1)]
    with torch.no_grad():
        _, each = losses(model, rows, mine, "single")
        adopt(model, "varlen")
        _, packed = losses(model, row, other)
    assert torch.allclose(each[real], packed, atol=1e-5)


def test_who_is_padded() -> None:
    assert isinstance(collator("auto", "varlen", 0), PackedCollator)
    assert isinstance(collator("auto", "masks", 0), PackedCollator)
    assert isinstance(collator("auto", "single", 0), PaddedCollator)
    assert isinstance(collator("padded", "varlen", 0), PaddedCollator)
    unsafe = Certificate(model="Bloom", strategy="single", checks=(), reason="its positions")
    data = StreamSpec(dataset="x")
    with pytest.raises(SpecError, match=r"data.packing: best_fit: Bloom: must not be packed, for its positions"):
        check(unsafe, data, "auto", 1)
    check(unsafe, data, "padded", 1)
    with pytest.raises(SpecError, match=r"model: Bert: looks ahead, and must not be trained"):
        check(Certificate(model="Bert", strategy="single", checks=(), ahead=True), data, "auto", 1)
    check(unsafe, StreamSpec(dataset="x", packing="none", batch_rows=4), "auto", 4)
    check(unsafe, StreamSpec(dataset="x", packing="none"), "packed", 1)
    with pytest.raises(SpecError, match="collate: packed"):
        check(unsafe, StreamSpec(dataset="x", packing="none", batch_rows=4), "packed", 1)


def test_padded_training_is_packed_training(folder: Path, tmp_path: Path) -> None:
    """Through the command: the same samples at every step, in rows or in one row, have the same losses."""
    told = ["--set", "data.packing=none", "data.batch_rows=3", "steps=4"]
    assert sft.main(arguments(folder, tmp_path / "packed", *told)) == 0
    assert sft.main(arguments(folder, tmp_path / "padded", *told, "collate=padded")) == 0
    packed, padded = trace(tmp_path / "packed"), trace(tmp_path / "padded")
    assert [line["keys_crc32c"] for line in packed] == [line["keys_crc32c"] for line in padded]
    assert [line["targets"] for line in packed] == [line["targets"] for line in padded]
    for one, other in zip(packed, padded, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=2e-4)  # of weights that rounding has moved apart
    assert packed[0]["loss"] == pytest.approx(padded[0]["loss"], abs=1e-5)
    assert sum(line["tokens"] for line in padded) > sum(line["tokens"] for line in packed)
