"""Metrics of short answers against published examples and brute force."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.metrics import METRICS, edits, normalised, score


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6))
@settings(deadline=None)
def test_edits_are_the_fewest(a: str, b: str) -> None:
    @functools.cache
    def fewest(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(fewest(i - 1, j) + 1, fewest(i, j - 1) + 1, fewest(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edits(a, b) == fewest(len(a), len(b))


def test_published_distances() -> None:
    assert edits("kitten", "sitting") == 3  # Levenshtein's textbook case
    assert edits("saturday", "sunday") == 3
    assert edits("intention", "execution") == 5  # Jurafsky & Martin, §2.5


@pytest.mark.parametrize(
    ("answer", "references", "wanted"),
    [
        ("It is 1995", ["1995"], 0.0),  # 6 of 10 characters differ: under the threshold
        ("Hilton", ["hilton"], 1.0),
        ("hiltan", ["hilton"], 5 / 6),
        ("abcd", ["abxy"], 0.5),  # exactly the threshold counts
        ("abcd", ["awxy"], 0.0),
        ("b", ["a", "b"], 1.0),
        ("", [""], 1.0),
    ],
)
def test_anls(answer: str, references: list[str], wanted: float) -> None:
    assert score("anls", answer, references) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("95", "100", 1.0),
        ("-5", "5", 0.0),
        ("0", "0", 1.0),
        ("1,050", "1000", 1.0),
        ("12%", "0.12", 1.0),
        ("$3", "3", 1.0),
        ("Blue", "blue", 1.0),
        ("blues", "blue", 0.0),
        ("NaN", "nan", 1.0),
        ("inf", "100", 0.0),
    ],
)
def test_relaxed_accuracy(answer: str, reference: str, wanted: float) -> None:
    assert score("relaxed_accuracy", answer, [reference]) == wanted


@given(st.integers(0, 10))
def test_vqa_accuracy_is_the_mean_over_all_but_one(same: int) -> None:
    people = ["yes"] * same + ["no"] * (10 - same)
    subsets = [people[:at] + people[at + 1 :] for at in range(10)]
    wanted = sum(min(1.0, subset.count("yes") / 3) for subset in subsets) / 10
    assert score("vqa_accuracy", "Yes.", people) == pytest.approx(wanted)


def test_exact_match_takes_squads_liberties() -> None:
    assert normalised("  The U.S.A., a country ") == "usa country"
    assert score("exact_match", "an Apple!", ["pear", "apple"]) == 1
    assert score("exact_match", "apples", ["apple"]) == 0


def test_rates_of_errors() -> None:
    assert score("wer", "the cat sat on mat", ["the cat sat on the mat"]) == pytest.approx(1 / 6)
    assert score("cer", "hallo", ["hello"]) == pytest.approx(0.2)
    assert score("wer", "a b c d", ["a"]) == 3.0
    assert score("cer", "x", ["x", "yyyy"]) == 0


def test_no_reference_is_refused() -> None:
    for metric in METRICS:
        with pytest.raises(ValueError, match="no reference"):
            score(metric, "a", [])  # type: ignore[arg-type]
    assert list(itertools.islice(METRICS, 1)) == ["exact_match"]
