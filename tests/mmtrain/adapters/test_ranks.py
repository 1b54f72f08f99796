"""Ranks by importance, against every way to deal a budget out, and Fisher traces against a loop."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmtrain import adapters, certificate
from mmtrain.adapters import ranks
from mmtrain.adapters.spec import LoraSpec, RanksSpec
from mmtrain.objective import loss_sum
from tests.mmtrain.tiny_models import make, samples


@settings(deadline=None, max_examples=60)
@given(
    importance=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    budget=st.integers(4, 12),
    most=st.integers(1, 6),
)
def test_no_other_way_is_nearer_to_the_proportion(importance: list[float], budget: int, most: int) -> None:
    named = {str(at): value for at, value in enumerate(importance)}
    found = ranks.allot(named, budget, least=1, most=most)
    total = min(budget, most * len(named))
    assert sum(found.values()) == total
    assert all(1 <= rank <= most for rank in found.values())

    def cost(way: tuple[int, ...]) -> float:
        return sum(rank * rank / value for rank, value in zip(way, importance, strict=True))

    ways = (way for way in itertools.product(range(1, most + 1), repeat=len(named)) if sum(way) == total)
    assert cost(tuple(found.values())) <= min(map(cost, ways)) * (1 + 1e-9)
    assert found == ranks.allot(named, budget, least=1, most=most)


def test_without_information_all_are_alike() -> None:
    assert ranks.allot(dict.fromkeys("abcd", 0.0), 10, least=2) == {"a": 3, "b": 3, "c": 2, "d": 2}
    with pytest.raises(SpecError, match="budget: 3 is less than 1 for each of 4 modules; give 4 or more"):
        ranks.allot(dict.fromkeys("abcd", 1.0), 3)


def test_traces_are_the_squared_gradients_of_each_batch() -> None:
    model = make("llava").train()
    certificate.adopt(model, "varlen")
    targets = adapters.plan(model, [LoraSpec(kind="lora", match=r"(language|vision)\..*(q_proj|fc1|down_proj)")], ())
    packs = samples("llava")
    batches = [PackedCollator()(packs[0]), PackedCollator()([packs[1], packs[2]])]
    model.get_parameter("lm_head.weight").requires_grad_(False)
    found = ranks.traces(model, targets, batches, norm="token", strategy="varlen")
    assert model.training
    assert not model.lm_head.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    expected = dict.fromkeys(found, 0.0)
    for batch in batches:
        total, weight = loss_sum(model, batch, strategy="varlen")
        (total / weight).backward()
        for target in targets:
            gradient = model.get_parameter(f"{target.module}.weight").grad
            expected[target.alias] += 0.0 if gradient is None else float(gradient.square().sum()) / 2
        model.zero_grad()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-20)
    assert sum(value > 0 for value in found.values()) >= len(found) - 1


def test_a_batch_of_words_says_nothing_of_what_is_for_pictures() -> None:
    model = make("llava")
    certificate.adopt(model, "varlen")
    targets = adapters.plan(model, [LoraSpec(kind="lora", component="connector")], ())
    packs = samples("llava")
    words = next(pack for pack in packs if not pack.slots)
    pictures, both = (
        ranks.traces(model, targets, [PackedCollator()(pack) for pack in which], norm="token", strategy="varlen")
        for which in ([packs[0]], [packs[0], words])
    )
    assert all(value > 0 for value in pictures.values())
    assert both == pytest.approx({alias: value / 2 for alias, value in pictures.items()})


def test_no_rank_is_more_than_a_layer_has(tmp_path: Path) -> None:
    model = make("llava")
    targets = adapters.plan(model, [LoraSpec(kind="lora", component="language", targets=("q_proj",))], ())
    found = {target.alias: float(at) for at, target in enumerate(targets)}
    with pytest.raises(SpecError, match="its smaller side is 32; set most to 32"):
        ranks.measured(model, RanksSpec(budget=60, most=64), targets, found)
    chosen = ranks.measured(model, RanksSpec(budget=9, most=16), targets, found)
    ranks.write(tmp_path / "ranks.json", found, chosen)
    assert ranks.read(tmp_path / "ranks.json") == chosen == dict(zip(found, [1, 8], strict=True))
    (tmp_path / "ranks.json").write_text("{")
    with pytest.raises(SpecError, match="is damaged"):
        ranks.read(tmp_path / "ranks.json")
    with pytest.raises(SpecError, match="is missing"):
        ranks.read(tmp_path / "none.json")
