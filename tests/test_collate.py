"""The packed batch, tensor by tensor, against loops; and what the collator refuses."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdata.collate import OWN_KEYS, PackedCollator, PaddedCollator, model_inputs
from mmdata.labels import IGNORE, cu_seqlens, positions
from mmdata.types import Packed, Slot

IMAGE = 3


def packed(lengths: list[int], seed: int = 0) -> Packed:
    """Segments of an image placeholder and random tokens, the second half of each trained."""
    draw = np.random.default_rng(seed)
    cu = cu_seqlens(lengths)
    ids = draw.integers(10, 99, cu[-1]).astype(np.int32)
    labels = np.full(cu[-1], IGNORE, np.int64)
    for start, stop in itertools.pairwise(cu):
        ids[start] = IMAGE
        middle = start + 1 + (stop - start) // 2
        labels[middle:stop] = ids[middle:stop]
    return Packed(
        input_ids=ids,
        labels=labels,
        loss_weights=(labels != IGNORE).astype(np.float32),
        position_ids=positions(cu),
        cu_seqlens=cu,
        slots=tuple(Slot(kind="image", start=int(start), length=1, tokens=1) for start in cu[:-1]),
        media={"pixel_values": draw.random((len(lengths), 3, 2, 2), np.float32)},
        keys=tuple(f"{seed}-{i}" for i in range(len(lengths))),
    )


packs = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3)


@given(packs, st.integers(1, 16))
def test_every_tensor(lengths: list[list[int]], multiple: int) -> None:
    given_packs = [packed(one, seed) for seed, one in enumerate(lengths)]
    batch = PackedCollator(multiple=multiple)(given_packs)
    segments = [length for one in lengths for length in one]
    used = sum(segments)
    padding = -used % multiple
    segments += [padding] if padding else []
    total = sum(segments)
    assert total % multiple == 0
    shapes = {name: (value.dtype, tuple(value.shape)) for name, value in batch.items() if torch.is_tensor(value)}
    row = (1, total)
    assert shapes == {
        "input_ids": (torch.int64, row),
        "labels": (torch.int64, row),
        "position_ids": (torch.int64, row),
        "seq_idx": (torch.int32, row),
        "loss_weights": (torch.float32, row),
        "token_classes": (torch.int8, row),
        "sample_weights": (torch.float32, (len(segments),)),
        "cu_seq_lens_q": (torch.int32, (len(segments) + 1,)),
        "cu_seq_lens_k": (torch.int32, (len(segments) + 1,)),
        "pixel_values": (torch.float32, (sum(map(len, lengths)), 3, 2, 2)),
    }
    assert batch["cu_seq_lens_q"].tolist() == [sum(segments[:i]) for i in range(len(segments) + 1)]
    assert type(batch["max_length_q"]) is int
    assert batch["max_length_q"] == batch["max_length_k"] == max(segments)
    assert batch["position_ids"][0].tolist() == [at for length in segments for at in range(length)]
    assert batch["seq_idx"][0].tolist() == [number for number, length in enumerate(segments) for _ in range(length)]
    assert batch["use_cache"] is False
    assert "attention_mask" not in batch
    ids = np.concatenate([pack.input_ids for pack in given_packs])
    assert batch["input_ids"][0, :used].tolist() == ids.tolist()
    assert (batch["input_ids"][0, used:] == 0).all()
    assert (batch["labels"][0, used:] == IGNORE).all()
    assert (batch["loss_weights"][0, used:] == 0).all()
    assert (batch["labels"][0, batch["cu_seq_lens_q"][:-1].long()] == IGNORE).all()
    assert batch["padding"] == padding
    assert batch["media_tokens"] == sum(slot.tokens for pack in given_packs for slot in pack.slots)
    assert len(batch["tasks"]) == len(segments)
    assert batch["targets"] == int((batch["labels"][:, 1:] != IGNORE).sum())
    assert batch["keys"] == [key for pack in given_packs for key in pack.keys]
    expected = np.concatenate([pack.media["pixel_values"] for pack in given_packs])
    assert np.array_equal(batch["pixel_values"].numpy(), expected)
    assert OWN_KEYS.isdisjoint(model_inputs(batch))


def test_one_pack_is_a_batch_of_one() -> None:
    alone, listed = PackedCollator(pad_to=12)(packed([4, 5])), PackedCollator(pad_to=12)([packed([4, 5])])
    assert alone["input_ids"].shape == (1, 12)
    assert alone["cu_seq_lens_q"].tolist() == [0, 4, 9, 12]
    assert torch.equal(alone["input_ids"], listed["input_ids"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="9 tokens do not fit"):
        PackedCollator(pad_to=8)(packed([4, 5]))
    with pytest.raises(ValueError, match="placeholder of a medium"):
        PackedCollator(pad_to=10, pad_id=IMAGE)(packed([4, 5]))
    with pytest.raises(ValueError, match="no pack"):
        PackedCollator()([])
    leaking = packed([4, 5])
    labels = leaking.labels.copy()
    labels[4] = 17
    with pytest.raises(ValueError, match="first label is trained"):
        PackedCollator()(replace(leaking, labels=labels))


def mrope(pack: Packed, rows: int = 4) -> Packed:
    """A pack of a family with M-RoPE."""
    return replace(
        pack,
        position_ids=np.stack([pack.position_ids] * rows),
        token_arrays={"mm_token_type_ids": (pack.input_ids == IMAGE).astype(np.int64)},
        media={**pack.media, "image_grid_thw": np.ones((len(pack.cu_seqlens) - 1, 3), np.int64)},
    )


def without_types(pack: Packed, **more: object) -> Packed:
    return replace(pack, token_arrays={}, **more)  # type: ignore[arg-type]


PLAIN = packed([4, 5])
LEAKS = {
    "three rows of M-RoPE": (mrope(PLAIN, 3), "of three rows a model cannot tell"),
    "M-RoPE without types": (without_types(mrope(PLAIN)), "mm_token_type_ids is missing"),
    "Gemma without types": (replace(PLAIN, type_ids=("token_type_ids",)), "token_type_ids is missing"),
    "a mask of two axes": (replace(PLAIN, token_arrays={"attention_mask": np.ones(9, np.int64)}), "attention_mask"),
    "a mask among the media": (
        replace(PLAIN, media={**PLAIN.media, "attention_mask": np.ones((2, 7), np.int64)}),
        "attention_mask",
    ),
    "positions over the whole row": (replace(PLAIN, position_ids=np.arange(9)), "begin anew in each"),
    "the temporal row first": (
        replace(mrope(PLAIN), position_ids=np.zeros((4, 9), np.int64)),
        "count by one inside the segments",
    ),
    "borders that stop short": (replace(PLAIN, cu_seqlens=np.array([0, 4, 7], np.int32)), "do not cut 9 tokens"),
    "an empty segment": (replace(PLAIN, cu_seqlens=np.array([0, 4, 4, 9], np.int32)), "do not cut 9 tokens"),
    "a trained placeholder": (
        replace(PLAIN, slots=(Slot(kind="image", start=7, length=1, tokens=1),)),
        "placeholder of a medium is trained",
    ),
    "labels of another length": (replace(PLAIN, labels=PLAIN.labels[:-1]), "labels has the shape"),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("collate", [PackedCollator(), PaddedCollator(pad_id=1)])
def test_what_would_leak_is_refused(collate: PackedCollator | PaddedCollator, name: str) -> None:
    pack, message = LEAKS[name]
    with pytest.raises(ValueError, match=message):
        collate(pack)


def test_packs_that_run_into_each_other_are_refused() -> None:
    """Transformers finds borders where positions do not go up by one."""
    second = packed([5])
    with pytest.raises(ValueError, match="begin anew in each"):
        PackedCollator()([packed([4]), replace(second, position_ids=second.position_ids + 4)])


@given(packs, st.integers(1, 16), st.booleans())
def test_padded_rows_are_the_segments(lengths: list[list[int]], multiple: int, four: bool) -> None:
    given_packs = [packed(one, seed) for seed, one in enumerate(lengths)]
    if four:
        given_packs = [mrope(pack) for pack in given_packs]
    batch = PaddedCollator(multiple=multiple, pad_id=1)(given_packs)
    sizes = [length for one in lengths for length in one]
    length = -(-max(sizes) // multiple) * multiple
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(sizes), length)
    assert batch["position_ids"].shape == ((4,) if four else ()) + (len(sizes), length)
    assert "cu_seq_lens_q" not in batch
    row = 0
    for pack in given_packs:
        for start, stop in itertools.pairwise(pack.cu_seqlens.tolist()):
            size = stop - start
            assert batch["input_ids"][row].tolist() == [*pack.input_ids[start:stop], *[1] * (length - size)]
            assert batch["labels"][row].tolist() == [*pack.labels[start:stop], *[IGNORE] * (length - size)]
            assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (length - size)
            assert batch["loss_weights"][row].sum() == pack.loss_weights[start:stop].sum()
            assert np.array_equal(batch["position_ids"][..., row, :size].numpy(), pack.position_ids[..., start:stop])
            row += 1
    assert row == len(sizes) == len(batch["keys"])
    assert batch["targets"] == PackedCollator()(given_packs)["targets"]
    assert torch.equal(batch["pixel_values"], PackedCollator()(given_packs)["pixel_values"])


def test_padding_that_stands_for_a_medium_is_refused() -> None:
    with pytest.raises(ValueError, match="placeholder of a medium"):
        PaddedCollator(pad_id=IMAGE)(packed([4, 5]))
    with pytest.raises(ValueError, match="no pack"):
        PaddedCollator()([])
