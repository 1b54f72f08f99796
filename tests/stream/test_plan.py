"""Plans against a planner that reads every text and plans each medium anew; capacities, policies, mixtures, reports."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdata import StreamingDataset, rng
from mmdata.errors import DataError, RunError
from mmdata.families import Family, get_family
from mmdata.families._family import media_length, plan_media
from mmdata.pack import pack, packing_efficiency
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.stream.fair import parts
from mmdata.stream.mix import Mixer, Part
from mmdata.stream.order import Order
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.report import plan_report
from mmdata.stream.spec import StreamSpec
from mmdata.templates import encode, get_template
from mmdata.types import Media, Text
from mmdata.views.augment import Augment, drawn
from tests.stream.planning import Parts, mixed, write_facts
from tests.tokenizer_fixture import small_tokenizer

LLAVA = {"size": 112}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = mixed(300)
    samples[7] = [Media(kind="image"), Text(text="a picture whose size nobody knows")]
    samples[8] = [Media(kind="audio", samples=9), Text(text="a sound")]
    samples[9] = [Text(text="nothing is trained", train=False)]
    samples[10] = [*[Media(kind="image", height=64, width=640)] * 3, Text(text="three")]
    return write_facts(tmp_path_factory.mktemp("plan") / "dataset", samples, per_shard=90)


def family(name: str = "llava", **image: Any) -> Family:
    return get_family(name, tokenizer=small_tokenizer(), image=image or (LLAVA if name == "llava" else None))


def planner(folder: Path, taken: Family, **fields: Any) -> Planner:
    spec = StreamSpec(**{"dataset": str(folder), "max_length": 256, "block_samples": 150, "seed": 4, **fields})
    return Planner([open_dataset(folder)], spec, taken, [get_template("caption", tokenizer=taken.tokenizer)])


def measured_by_hand(
    dataset: Dataset, taken: Family, spec: StreamSpec, epoch: int
) -> dict[int, tuple[int, Any] | DataError]:
    """Tokens and plans of every position, from its text and each medium by itself."""
    found: dict[int, tuple[int, Any] | DataError] = {}
    template = get_template("caption", tokenizer=taken.tokenizer)
    for position in range(len(dataset)):
        sample = drawn(dataset.sample(position, media=False), spec.augment, seed=spec.seed, epoch=epoch)
        (encoded,) = encode([sample], taken.tokenizer, template)
        if isinstance(encoded, DataError):
            found[position] = encoded
            continue
        try:
            plans = plan_media(
                taken, encoded.media, lambda at, key=sample.key: rng.generator("view", spec.seed, epoch, key, at)
            )
        except DataError as error:
            found[position] = error
            continue
        tokens = len(encoded.ids) - len(plans) + sum(media_length(taken, plan) for plan in plans)
        fits = spec.max_length is None or tokens <= spec.max_length
        found[position] = (tokens, plans) if fits else DataError("overlong")
    return found


@pytest.mark.parametrize("augment", [None, Augment(crop=(0.3, 1.0), scale=(0.5, 1.5))])
@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_plan_is_what_texts_and_media_make(folder: Path, name: str, augment: Augment | None) -> None:
    taken = family(name)
    plans = planner(folder, taken, max_length=2600 if name == "llava_next" else 128, augment=augment)
    for epoch in (0, 1):
        expected = measured_by_hand(plans.datasets[0], taken, plans.spec, epoch)
        items, left_out = [], Counter[str]()
        for number in range(plans.blocks):
            block = plans.block(Position(epoch, number))
            items += [item for planned in block.packs for item in planned.items]
            left_out += block.left_out
        right = {position: value for position, value in expected.items() if not isinstance(value, DataError)}
        assert {item.position: (item.tokens, item.media) for item in items} == right
        assert len(items) == len(right)
        assert left_out == Counter(value.reason for value in expected.values() if isinstance(value, DataError))
        assert all(item.key == f"{item.position:09d}" and item.epoch == epoch for item in items)
        assert left_out.keys() >= {"no_facts", "media_kind", "no_target"}


def test_no_text_is_read_once_texts_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planner(folder, family()).block(Position())
    monkeypatch.setattr(Dataset, "sample", lambda *_, **__: pytest.fail("a text was read"))
    after = planner(folder, family()).block(Position())
    assert list(after.packs) == list(before.packs)


@pytest.mark.parametrize("packing", ["best_fit", "thorough", "best_fit_decreasing", "first_fit", "next_fit"])
def test_packs_hold_what_fits_and_are_few(folder: Path, packing: Any) -> None:
    plans = planner(folder, family(), packing=packing, pack_tokens=300)
    block = plans.block(Position())
    assert (block.tokens <= 300).all()
    assert sorted(block.bins.items.tolist()) == np.flatnonzero(block.measured.tokens).tolist()
    strategy: Any = "best" if packing == "best_fit" else packing
    kept = block.measured.tokens[block.measured.tokens > 0]
    assert len(block.packs) == len(pack(kept, 300, strategy))
    assert block.fill(300) == packing_efficiency(block.bins, block.measured.tokens, 300)


def test_other_capacities_hold(folder: Path) -> None:
    plans = planner(folder, family(), max_length=512, capacity={"patches": 128, "media": 2})
    block = plans.block(Position())
    assert block.left_out["over_capacity"] == sum(
        len(block.measured.plans[i]) > 2 for i in np.flatnonzero(block.measured.tokens)
    )
    assert max(sum(len(item.media) for item in each.items) for each in block.packs) == 2
    assert (block.costs[:, 2] <= 128).all()


def test_rows_of_like_length_without_packing(folder: Path) -> None:
    plans = planner(folder, family(), packing="none", batch_tokens=512, pad_multiple=8)
    block = plans.block(Position())
    waste = []
    for each in block.packs:
        assert each.padded
        longest = -(-max(item.tokens for item in each.items) // 8) * 8
        assert longest * len(each.items) <= 512
        waste.append(longest * len(each.items) - each.tokens)
    assert sum(waste) < 0.12 * int(block.tokens.sum())
    assert {len(each.items) for each in planner(folder, family(), packing="none").block(Position()).packs} == {1}
    rows = planner(folder, family(), packing="none", batch_rows=4).block(Position())
    assert max(len(each.items) for each in rows.packs) == 4


def test_too_long_stops_where_nothing_may_be_left_out(folder: Path) -> None:
    with pytest.raises(RunError, match=r"position \d+: \d+ tokens, 90 fit; allow it to be left out"):
        planner(folder, family(), max_length=90, overlong="error").block(Position())


def test_positions_count_packs(folder: Path) -> None:
    plans = planner(folder, family(), block_samples=60)
    places = list(itertools.islice(plans.packs(Position(), 2), 200))
    for count in (0, 1, 17, len(places) - 1):
        position = Position() if not count else places[count - 1][1]
        assert plans.at(count, Position()) == position
        assert next(plans.packs(position, None))[0] == places[count][0]
        assert plans.at(len(places) - 1 - count, position) == places[-2][1]


def test_positions_are_found_where_few_blocks_have_a_pack(tmp_path: Path) -> None:
    """The only one of an epoch may come first, and that of the next epoch last."""
    few: list[Parts] = [[Text(text="no", train=False)]] * 5 + [[Text(text="a fox")]]
    plans = planner(write_facts(tmp_path / "dataset", few), family(), block_samples=1, epochs=9)
    places = list(plans.packs(Position(), 9))
    assert len(places) == 9
    assert [plans.at(count, Position()) for count in range(1, 10)] == [after for _, after in places]


def test_another_process_plans_the_same(folder: Path) -> None:
    """Nothing but data and spec decides: not the order of asking, nor what was planned before."""
    first, second = planner(folder, family()), planner(folder, family())
    second.block(Position(3, 1))
    for at in (Position(0, 1), Position(0, 0), Position(5, 1)):
        assert list(first.block(at).packs) == list(second.block(at).packs)


def test_several_datasets_without_weights_are_one(folder: Path, tmp_path: Path) -> None:
    other = write_facts(tmp_path / "other", mixed(100, seed=9), per_shard=30)
    taken = family()
    named = ({"path": str(folder)}, {"path": str(other)})
    spec = StreamSpec.model_validate({"datasets": named, "max_length": 256, "block_samples": 150, "shuffle": "block"})
    template = get_template("caption", tokenizer=taken.tokenizer)
    plans = Planner([open_dataset(folder), open_dataset(other)], spec, taken, [template] * 2)
    items = [item for each, _ in plans.packs(Position(), 1) for item in each.items]
    alone = [
        {item.position: item.tokens for each, _ in planner(path, taken).packs(Position(), 1) for item in each.items}
        for path in (folder, other)
    ]
    for number, expected in enumerate(alone):
        assert {item.position: item.tokens for item in items if item.dataset == number} == expected
    assert len(items) == sum(map(len, alone))


def test_a_weighted_mixture_keeps_its_shares_of_tokens(folder: Path, tmp_path: Path) -> None:
    other = write_facts(tmp_path / "other", mixed(200, seed=9, images=0, words=20), per_shard=50)
    taken, datasets = family(), [open_dataset(folder), open_dataset(other)]
    named = ({"path": str(folder), "weight": 3}, {"path": str(other), "weight": 1})
    spec = StreamSpec.model_validate({"datasets": named, "max_length": 256, "block_samples": 200})
    orders = [Order(n=len(d), shuffle="global", seed=number, block_samples=100) for number, d in enumerate(datasets)]
    weights = parts([Fraction(3, 4), Fraction(1, 4)])
    mixer = Mixer(
        [Part(name=str(n), order=order, epochs=4) for n, order in enumerate(orders)],
        lambda _: weights,
        block_samples=200,
    )
    template = get_template("caption", tokenizer=taken.tokenizer)
    plans = Planner([*datasets], spec, taken, [template] * 2, mixer)
    given = np.zeros(2)
    for number, (each, after) in enumerate(itertools.islice(plans.packs(Position(), None), 150)):
        for item in each.items:
            given[item.dataset] += item.tokens
        if number > 50:
            assert abs(given[0] / given.sum() - 0.75) < 0.02, number
        assert after.epoch == 0
    third = plans.at(100, Position())
    rest = [each for each, _ in itertools.islice(plans.packs(third, None), 20)]
    fresh = Planner([*datasets], spec, taken, [template] * 2, mixer)
    assert rest == [each for each, _ in itertools.islice(fresh.packs(third, None), 20)]
    assert rest == [each for each, _ in itertools.islice(plans.packs(Position(), None), 100, 120)]
    whole = [item for each, _ in plans.packs(Position(), None) for item in each.items]
    usable = [len({item.position for item in whole if item.dataset == number}) for number in (0, 1)]
    assert usable == [297, 200], "each of them, until both are spent"
    assert max(item.epoch for item in whole) == 3


def test_a_report_tells_fill_and_balance(tmp_path: Path) -> None:
    folder = write_facts(tmp_path / "dataset", mixed(1500), per_shard=500)
    plans = planner(folder, family(), max_length=1024, block_samples=1500)
    report = plan_report(plans, ranks=4, global_batch=16)
    block = plans.block(Position())
    assert report.packs == len(block.packs)
    assert report.steps == report.packs // 16
    assert report.fill == pytest.approx(block.fill(1024))
    assert report.padding == pytest.approx(1 - report.fill)
    assert report.fill <= report.bound <= 1
    assert report.padding < 0.02 or report.bound < 0.985
    assert 1 <= report.step_total.mean <= report.step_total.worst < 1.05
    assert 1 <= report.step_vision.worst < 1.05
    assert report.media_share < 0.5 * report.media_share_by_chance
    assert "most over mean" in "\n".join(report.lines())


def test_a_dataset_of_which_nothing_can_be_packed_is_refused(tmp_path: Path) -> None:
    hopeless: list[Parts] = [[Text(text="no", train=False)]] * 20
    plans = planner(write_facts(tmp_path / "dataset", hopeless), family(), block_samples=5)
    with pytest.raises(DataError, match="no sample can be packed"):
        list(plans.packs(Position(), None))
    with pytest.raises(DataError, match="no sample can be packed"):
        plans.at(1, Position())


@pytest.mark.timeout(60)
def test_a_mixture_ends_where_what_is_left_weighs_nothing(folder: Path, tmp_path: Path) -> None:
    """Blocks without samples went on without end."""
    other = write_facts(tmp_path / "other", mixed(200, seed=9), per_shard=50)

    def drawn_of(schedule: Sequence[Mapping[str, Any]], epochs: int | None = None) -> list[int]:
        named = [{"path": str(folder), "weight": 1, "epochs": 1}, {"path": str(other), "weight": 0, "epochs": epochs}]
        fields: dict[str, Any] = {"datasets": named, "schedule": schedule, "max_length": 1024, "block_samples": 100}
        stream = StreamingDataset(StreamSpec.model_validate(fields), family=family())
        items = [item for each, _ in stream.planner.packs(Position(), None) for item in each.items]
        at = stream.planner.at(10_000, Position())
        assert not list(stream.planner.packs(at, None))
        return [len({item.position for item in items if item.dataset == number}) for number in (0, 1)]

    assert drawn_of([]) == drawn_of([], epochs=1) == [297, 0]
    assert drawn_of([{"at": 2000, "weights": {"other": 1}}], epochs=1) == [297, 200], "it comes in later"
    assert drawn_of([{"at": 110, "weights": {"other": 1}}, {"at": 190, "weights": {"other": 0}}]) == [297, 0]


@pytest.mark.timeout(60)
def test_a_mixture_of_which_no_pack_can_hold_anything_is_refused(tmp_path: Path) -> None:
    pictures = write_facts(tmp_path / "dataset", mixed(50, images=1.0))
    named = [{"path": str(pictures), "name": name, "weight": 1} for name in "ab"]
    fields = {"datasets": named, "max_length": 1024, "capacity": {"patches": 1}, "block_samples": 20}
    stream = StreamingDataset(StreamSpec.model_validate(fields), family=family())
    with pytest.raises(DataError, match="no sample can be packed"):
        next(iter(stream))
