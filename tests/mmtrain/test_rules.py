"""Rules for parameters: what they resolve to, what they refuse, what they print."""

from __future__ import annotations

import pytest

from mmdata.errors import SpecError
from mmtrain.rules import Rule, resolve, table

NAMES = [
    "vision.embeddings.weight",
    "vision.layers.0.w",
    "vision.layers.1.w",
    "vision.layers.2.w",
    "vision.norm.weight",
    "connector.linear.weight",
    "language.embed_tokens.weight",
    "language.layers.0.w",
    "language.layers.1.w",
    "head.weight",
]


def test_from_general_to_particular() -> None:
    found = resolve(
        [
            Rule(match=r".*", lr=1e-4),
            Rule(match=r"vision\..*", train=False, layer_decay=0.5),
            Rule(match=r"vision\.layers\.2\..*", train=True, lr=1e-5, freeze_until=0.25),
        ],
        NAMES,
    )
    assert not found["vision.layers.1.w"].train
    top = found["vision.layers.2.w"]
    assert (top.train, top.lr, top.layer_decay, top.freeze_until) == (True, 1e-5, 0.5, 0.25)
    assert found["head.weight"].lr == 1e-4


def test_rates_fall_layer_by_layer() -> None:
    found = resolve([Rule(match=r"vision\..*", lr=1.0, layer_decay=0.5)], NAMES)
    rates = [found[name].rate(9.0) for name in NAMES]
    assert rates == [0.0625, 0.125, 0.25, 0.5, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0]


def test_layers_thaw_one_after_the_other() -> None:
    found = resolve([Rule(match=r"vision\..*", freeze_until=0.1, freeze_step=0.2)], NAMES)
    assert [round(found[name].thaws, 6) for name in NAMES[:6]] == [0.7, 0.5, 0.3, 0.1, 0.1, 0.0]


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(
        SpecError, match=r"parameters\.1\.match: 'visual.*' matches no parameter; there are vision\.emb"
    ):
        resolve([Rule(match=".*", train=True), Rule(match=r"visual\..*", train=False)], NAMES)


def test_two_rules_of_which_neither_is_the_more_particular() -> None:
    crossing = [Rule(match=r"vision\..*", lr=1e-5), Rule(match=r".*\.weight", lr=1e-3)]
    with pytest.raises(SpecError, match=r"parameters\.1\.lr: .* disagree on vision\.embeddings\.weight \(and 1 more\)"):
        resolve(crossing, NAMES)
    agreed = resolve([crossing[0], Rule(match=r".*\.weight", lr=1e-5)], NAMES)
    assert agreed["vision.norm.weight"].lr == 1e-5
    apart = resolve([crossing[0], Rule(match=r".*\.weight", weight_decay=0.1)], NAMES)
    assert (apart["vision.norm.weight"].lr, apart["vision.norm.weight"].weight_decay) == (1e-5, 0.1)


def test_all_mistakes_come_in_one_message() -> None:
    with pytest.raises(SpecError) as raised:
        resolve([Rule(match="a", train=True), Rule(match="b", train=True)], NAMES)
    assert len(str(raised.value).splitlines()) == 2


def test_a_broken_pattern_is_told_apart() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        Rule(match="(", train=True)


def test_the_table_says_what_holds() -> None:
    settings = resolve(
        [Rule(match=r"vision\..*", train=False), Rule(match=r"language\..*", layer_decay=0.5, freeze_until=0.3)], NAMES
    )
    lines = table(settings, dict.fromkeys(NAMES, 10), lr=1e-3).splitlines()
    assert lines[0].split() == ["vision", "5", "tensors", "50", "values", "frozen"]
    assert "lr 1.00e-03" in lines[1]
    assert "lr 1.25e-04 to 5.00e-04 by layer, frozen for the first 30% of the steps" in lines[2]
