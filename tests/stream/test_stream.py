"""One sequence for all topologies, from any state, against the dataset itself."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.collate import PackedCollator
from mmdata.decode.image import decode
from mmdata.errors import DataError, SpecError
from mmdata.families import Family, get_family
from mmdata.labels import IGNORE
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.spec import StreamSpec
from mmdata.types import Decoded, Media, Packed, Sample, Text, World
from mmdata.views.augment import Augment
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

CAPACITY = 128


def stream(folder: Path, family: Family, **options: Any) -> StreamingDataset:
    """Two epochs of four blocks each."""
    spec = StreamSpec(dataset=str(folder), max_length=CAPACITY, seed=5, block_samples=10, epochs=2)
    return StreamingDataset(spec, family=family, **options)


def same(a: Packed, b: Packed) -> bool:
    names = ("input_ids", "labels", "loss_weights", "position_ids", "cu_seqlens")
    return (
        a.keys == b.keys
        and a.masked == b.masked
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
        and a.media.keys() == b.media.keys()
        and all(np.array_equal(a.media[name], b.media[name]) for name in a.media)
    )


@pytest.fixture(scope="module")
def whole(folder: Path, family: Family) -> list[Packed]:
    return [pack for pack in stream(folder, family) if isinstance(pack, Packed)]


def test_every_sample_once_per_epoch(whole: list[Packed], folder: Path) -> None:
    keys = [key for pack in whole for key in pack.keys]
    half = len(open_dataset(folder))
    assert sorted(keys[:half]) == sorted(keys[half:]) == open_dataset(folder).keys()
    assert keys[:half] != keys[half:]
    assert keys[:half] != sorted(keys[:half])


def test_a_pack_holds_what_the_dataset_holds(whole: list[Packed], folder: Path, family: Family) -> None:
    """Rebuilt sample by sample from the dataset, with nothing of the stream's own code but the view."""
    dataset, tokenizer, rule = open_dataset(folder), family.tokenizer, family.media["image"]
    for pack in whole:
        assert pack.cu_seqlens[0] == 0
        assert pack.cu_seqlens[-1] == len(pack.input_ids) <= CAPACITY
        assert len(pack.cu_seqlens) == len(pack.keys) + 1
        for number, (key, (start, stop)) in enumerate(zip(pack.keys, itertools.pairwise(pack.cu_seqlens), strict=True)):
            sample = dataset[key]
            caption = tokenizer([sample.texts[0].text], add_special_tokens=False, split_special_tokens=True)
            image = [family.placeholder_id(rule)] * 4
            ids = [tokenizer.bos_token_id, *image, *caption["input_ids"][0], tokenizer.eos_token_id]
            assert pack.input_ids[start:stop].tolist() == ids
            assert pack.labels[start:stop].tolist() == [IGNORE] * 5 + ids[5:]
            assert pack.loss_weights[start:stop].tolist() == [0] * 5 + [1] * len(ids[5:])
            assert pack.position_ids[start:stop].tolist() == list(range(len(ids)))
            assert pack.slots[number].start == start + 1
            medium = sample.media[0]
            assert medium.data is not None
            pixels = decode(medium.data, max_pixels=10**7)
            plan = rule.view.plan(medium)
            assert np.array_equal(pack.media["pixel_values"][number], rule.view.realize(pixels, plan).numpy())


@pytest.mark.parametrize(("ranks", "workers"), itertools.product([1, 2, 3], [0, 2]))
@pytest.mark.parametrize("global_batch", [None, 4])
def test_the_same_sequence_for_any_ranks_and_workers(
    whole: list[Packed], folder: Path, family: Family, ranks: int, workers: int, global_batch: int | None
) -> None:
    per_rank = [
        list(
            DataLoader(
                stream(folder, family, world=World(rank=rank, ranks=ranks), global_batch=global_batch),
                batch_size=None,
                num_workers=workers,
            )
        )
        for rank in range(ranks)
    ]
    assert len({len(packs) for packs in per_rank}) == 1, "every rank makes equally many micro-steps"
    dealt = [pack for micro in zip(*per_rank, strict=True) for pack in micro]
    dummies = [pack for pack in dealt if not pack.keys]
    real = [pack for pack in dealt if pack.keys]
    assert len(real) == len(whole)
    number = {pack.keys: at for at, pack in enumerate(whole)}
    numbers = [number[pack.keys] for pack in real]
    for at in range(0, len(whole), global_batch or ranks):  # which rank does which pack of a step is dealt by cost
        step = slice(at, at + (global_batch or ranks))
        assert sorted(numbers[step]) == list(range(len(whole)))[step]
    assert all(same(pack, whole[at]) for pack, at in zip(real, numbers, strict=True))
    for dummy in dummies:
        assert (dummy.labels == IGNORE).all()
        assert dummy.loss_weights.sum() == 0
        assert dummy.media["pixel_values"].shape[0] == len(dummy.slots) == 1


def test_a_state_goes_on_exactly_from_every_pack(whole: list[Packed], folder: Path, family: Family) -> None:
    expected = [pack.keys for pack in whole]
    running = stream(folder, family)
    states = [running.state_dict(), *(json.loads(json.dumps(running.state_dict())) for _ in running)]
    assert len(states) == len(expected) + 1
    assert max(len(json.dumps(state)) for state in states) <= 4096
    for taken, state in enumerate(states):
        ranks = 1 + taken % 3
        rest: list[list[tuple[str, ...]]] = []
        for rank in range(ranks):
            resumed = stream(folder, family, world=World(rank=rank, ranks=ranks), global_batch=6)
            resumed.load_state_dict(state)
            rest.append([(dealt.step, dealt.pack.keys if dealt.pack else ()) for dealt in resumed.deals()])
        flat = [dealt for micro in zip(*rest, strict=True) for dealt in micro if dealt[1]]
        assert sorted(flat) == sorted((at // 6, keys) for at, keys in enumerate(expected) if at >= taken), (
            taken,
            ranks,
        )


def test_states_of_different_topologies_are_equal(folder: Path, family: Family) -> None:
    """After step s all ranks stand at the same place, whatever their number."""

    def after(ranks: int, rank: int) -> dict[int, Any]:
        dealing = stream(folder, family, world=World(rank=rank, ranks=ranks), global_batch=6)
        return {
            dealt.step: dealing.state_at(dealt.after) for dealt in dealing.deals() if dealt.micro + 1 == dealt.micros
        }

    expected = after(1, 0)
    assert len(expected) > 4
    for ranks in (2, 3, 6, 8):
        for rank in range(ranks):
            assert after(ranks, rank) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_with_workers_yields_the_same_arrays(
    whole: list[Packed], folder: Path, family: Family, workers: int
) -> None:
    running = stream(folder, family)
    taken = len(whole) // 3
    for _ in itertools.islice(running, taken):
        pass
    resumed = stream(folder, family)
    resumed.load_state_dict(running.state_dict())
    rest = list(DataLoader(resumed, batch_size=None, num_workers=workers))
    assert len(rest) == len(whole) - taken
    assert all(same(a, b) for a, b in zip(rest, whole[taken:], strict=True))


def test_seek_counts_steps(whole: list[Packed], folder: Path, family: Family) -> None:
    for step in (0, 1, 3, len(whole) // 4):
        seeking = stream(folder, family, global_batch=4)
        seeking.seek(step)
        assert [deal.pack.keys for deal in seeking.deals() if deal.pack] == [p.keys for p in whole[4 * step :]]
        counted = next(iter(seeking.deals()))
        assert (counted.step, counted.micro) == (step, 0)
    with pytest.raises(SpecError, match="no step -1"):
        seeking.seek(-1)


def test_a_step_far_behind_the_end_is_not_planned_for(folder: Path, family: Family) -> None:
    spec = StreamSpec(dataset=str(folder), max_length=CAPACITY, seed=5, block_samples=10, epochs=2)
    stream = StreamingDataset(spec, family=family, global_batch=4)
    packs = [deal.pack.keys for deal in stream.deals() if deal.pack]
    blocks: list[int] = []
    planned = stream.planner._plan
    stream.planner._plan = lambda at: (blocks.append(at.epoch), planned(at))[1]  # type: ignore[method-assign, func-returns-value]
    stream.seek(10**9)
    assert list(stream) == []
    assert max(blocks, default=0) < 2
    for step in range(-(-len(packs) // 4) + 3):  # the last one has fewer packs, those behind it none
        stream.seek(step)
        assert [pack.keys for pack in stream] == packs[4 * step :]


def test_states_by_steps_plan_no_block_twice(folder: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside DataLoader workers this process iterates nothing, and has only these calls to go by."""
    saving, planned, plan = stream(folder, family, global_batch=2), [], Planner.at

    def counted(self: Planner, count: int, start: Position, **limits: int) -> Position:
        planned.append(count)
        return plan(self, count, start, **limits)

    monkeypatch.setattr(Planner, "at", counted)
    states = [saving.state_dict(step=step) for step in range(1, 9)]
    assert planned == [2] * 8
    monkeypatch.undo()
    assert states == [stream(folder, family, global_batch=2).state_dict(step=step) for step in range(1, 9)]


def test_iterating_again_starts_again_and_epochs_differ(folder: Path, family: Family) -> None:
    once = StreamingDataset(folder, family=family, max_length=CAPACITY)
    first = [pack.keys for pack in once]
    assert [pack.keys for pack in once] == first
    once.set_epoch(1)
    second = [pack.keys for pack in once]
    assert second != first
    assert sorted(itertools.chain(*second)) == sorted(itertools.chain(*first))


def test_without_a_family_decoded_samples(folder: Path) -> None:
    dataset = open_dataset(folder)
    samples = list(StreamingDataset(folder, seed=2))
    assert sorted(sample.key for sample in samples) == dataset.keys()
    for sample in samples[:9]:
        assert isinstance(sample, Sample)
        text, image = sample.parts
        assert isinstance(text, Text)
        assert isinstance(image, Decoded)
        stored = dataset[sample.key]
        assert stored.texts == (text,)
        assert image.data == stored.media[0].data
        assert np.array_equal(image.pixels, decode(image.data or b"", max_pixels=10**7))
    plain = [sample.key for sample in StreamingDataset(folder, shuffle="none")]
    assert plain == dataset.keys()


def test_the_loader_yields_the_same_and_counts_what_was_taken(
    whole: list[Packed], folder: Path, family: Family
) -> None:
    expected = [list(pack.keys) for pack in whole]
    loader = StreamLoader(stream(folder, family), PackedCollator(), threads=3, ahead=5)
    assert [batch["keys"] for batch in loader] == expected
    for taken in range(0, len(expected), 5):
        first = StreamLoader(stream(folder, family), PackedCollator(), ahead=7)
        for _ in itertools.islice(first, taken):
            pass
        second = StreamLoader(stream(folder, family), PackedCollator())
        second.load_state_dict(first.state_dict())
        assert [batch["keys"] for batch in second] == expected[taken:]


def test_steps_of_the_loader_are_global_batches(whole: list[Packed], folder: Path, family: Family) -> None:
    expected = [pack.keys for pack in whole]
    loader = StreamLoader(stream(folder, family, global_batch=4), PackedCollator())
    steps = [[tuple(batch["keys"]) for batch in step] for step in loader.steps()]
    assert steps == [expected[at : at + 4] for at in range(0, len(expected), 4)]
    with pytest.raises(SpecError, match="steps are of packs"):
        next(StreamLoader(StreamingDataset(folder)).steps())


def test_another_stream_is_refused_with_the_difference(folder: Path, family: Family, tmp_path: Path) -> None:
    saved = stream(folder, family).state_dict()
    other = StreamSpec(dataset=str(folder), max_length=CAPACITY, seed=6, block_samples=11, epochs=2)
    with pytest.raises(SpecError) as refusal:
        StreamingDataset(other, family=family).load_state_dict(saved)
    assert "seed: 5 -> 6" in str(refusal.value)
    assert "block_samples: 10 -> 11" in str(refusal.value)
    with pytest.raises(SpecError, match=r"root digest [0-9a-f]{12} -> [0-9a-f]{12}"):
        stream(write_dataset(tmp_path / "other", samples=42), family).load_state_dict(saved)
    larger = get_family("llava", tokenizer=small_tokenizer(), image={"size": 42})
    with pytest.raises(SpecError, match=r"family\.media\.image\.view\.size: 28 -> 42"):
        stream(folder, larger).load_state_dict(saved)
    changed = small_tokenizer().__class__(tokenizer_object=small_tokenizer().backend_tokenizer, eos_token="</s>")
    changed.add_special_tokens({"additional_special_tokens": ["<image>", "<other>"]})
    with pytest.raises(SpecError, match="tokenizer: "):
        stream(folder, get_family("llava", tokenizer=changed, image={"size": 28})).load_state_dict(saved)
    with pytest.raises(SpecError, match="place: Field required"):
        stream(folder, family).load_state_dict({})
    with pytest.raises(SpecError, match=r"version 1, saved by mmdata .*, and not 3"):
        stream(folder, family).load_state_dict({**saved, "version": 1})
    moved = write_dataset(tmp_path / "moved", samples=43)
    stream(moved, family).load_state_dict(saved)


def test_overlong_samples_are_left_out_and_counted(folder: Path, family: Family) -> None:
    roomy = StreamingDataset(folder, family=family, max_length=CAPACITY).block()
    lengths = sorted(item.tokens for pack in roomy.packs for item in pack.items)
    limit = lengths[len(lengths) // 2]
    tight = StreamingDataset(folder, family=family, max_length=limit)
    block = tight.block()
    assert block.left_out == {"overlong": sum(length > limit for length in lengths)}
    assert sum(len(pack.items) for pack in block.packs) == sum(length <= limit for length in lengths)
    with pytest.raises(DataError, match="43 overlong"):
        list(StreamingDataset(folder, family=family, max_length=6))


def test_no_packing_gives_each_sample_a_row(folder: Path, family: Family) -> None:
    packs = list(StreamingDataset(folder, family=family, packing="none"))
    assert len(packs) == 43
    assert all(len(pack.keys) == 1 for pack in packs)


def test_mistakes_are_named(folder: Path, family: Family, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="max_length"):
        StreamingDataset(folder, family=family)
    with pytest.raises(SpecError, match="needs one"):
        StreamingDataset(folder, family="llava", max_length=9)
    with pytest.raises(SpecError, match=r"shuffle: .*'sideways'.*; epochs: .*greater"):
        StreamingDataset(folder, shuffle="sideways", epochs=0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="rank 2 of 2"):
        StreamingDataset(folder, world=World(rank=2, ranks=2))
    with pytest.raises(SpecError, match="seed: the stream's spec says otherwise"):
        StreamingDataset(StreamSpec(dataset=str(folder), seed=1), seed=2)
    file = tmp_path / "stream.yaml"
    file.write_text(f"dataset: {folder}\nseed: 4\nshufle: none\n")
    with pytest.raises(SpecError, match="did you mean 'shuffle'"):
        StreamingDataset(file)
    file.write_text(f"dataset: {folder}\nseed: 4\n")
    assert StreamingDataset(file).spec.seed == 4


def test_by_names(folder: Path, tmp_path: Path) -> None:
    small_tokenizer().save_pretrained(tmp_path)
    packs = list(StreamingDataset(folder, family="llava", tokenizer=str(tmp_path), template="caption", max_length=2048))
    assert packs[0].media["pixel_values"].shape[1:] == (3, 336, 336)
    assert packs[0].slots[0].tokens == 576


def test_media_are_planned_from_facts_alone(folder: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a whole epoch reads no medium: it is the same where the media cannot be read."""
    planned = stream(folder, family)
    reads: list[Media] = []
    original = type(planned.dataset).sample

    def watched(self: Any, position: int, *, media: bool = True) -> Sample:
        found = original(self, position, media=media)
        reads.extend(medium for medium in found.media if medium.data is not None)
        return found

    monkeypatch.setattr(type(planned.dataset), "sample", watched)
    assert len(list(planned.deals())) > 10
    assert not reads


def test_importing_mmdata_loads_neither_torch_nor_a_codec() -> None:
    heavy = ("torch", "transformers", "PIL", "simplejpeg", "pyarrow")
    code = f"import sys, mmdata; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_model_keeps_its_threads_while_the_loader_reads(folder: Path, family: Family) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        during = [torch.get_num_threads() for _ in StreamLoader(stream(folder, family), PackedCollator())]
    finally:
        torch.set_num_threads(before)
    assert set(during) == {3}


def test_augmented_packs_are_planned_and_read_alike(folder: Path, family: Family) -> None:
    rules = Augment(crop=(0.3, 0.9), flip=0.5, scale=(0.8, 1.2), brightness=0.3, hue=0.1)
    spec = StreamSpec(dataset=str(folder), max_length=64, epochs=2, augment=rules)
    packs = list(StreamingDataset(spec, family=family))
    again = list(StreamingDataset(spec, family=family))
    plain = list(StreamingDataset(spec.model_copy(update={"augment": None}), family=family))
    assert [pack.keys for pack in packs] == [pack.keys for pack in again] == [pack.keys for pack in plain]
    pixels = [np.concatenate([pack.media["pixel_values"] for pack in some]) for some in (packs, again, plain)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.isclose(pixels[0], pixels[2]).all(axis=(1, 2, 3)).any()
    assert not any(pack.masked for pack in packs)
    half = len(pixels[0]) // 2
    order = [key for pack in packs for key in pack.keys]
    first, second = (
        dict(zip(order[:half], pixels[0][:half], strict=True)),
        dict(zip(order[half:], pixels[0][half:], strict=True)),
    )
    assert sum(np.array_equal(first[key], second[key]) for key in first) == 0, "a new epoch draws anew"


def test_a_rank_that_would_never_get_a_sample_is_told(folder: Path, family: Family) -> None:
    with pytest.raises(SpecError, match="1 samples per step for 3 ranks"):
        StreamingDataset(str(folder), world=World(rank=2, ranks=3), global_batch=1)
    packed = StreamingDataset(str(folder), family=family, max_length=72, world=World(rank=2, ranks=3), global_batch=1)
    assert next(iter(packed)).keys == (), "a dummy"
