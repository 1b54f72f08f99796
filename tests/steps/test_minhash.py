"""MinHash against sets counted in full: similarity, recall, and an index that agrees with trying all."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mmdata.steps._minhash import HASHES, MinHashIndex, rows_per_band, shingles, signature, words


def pair(draw: random.Random, jaccard: float, size: int = 120) -> tuple[list[str], list[str]]:
    """Two sets of just this similarity, unlike all other sets."""
    common = round(size * jaccard)
    names = [f"{draw.getrandbits(64):x}" for _ in range(size)]
    own = (size - common) // 2
    return names[: common + own], names[:common] + names[common + own :]


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.9])
def test_recall_at_the_stated_similarity(jaccard: float) -> None:
    """At least 0.95 of the pairs whose similarity is what was asked for, or just above; few of those far below."""
    draw = random.Random(0)
    index = MinHashIndex(jaccard)
    pairs = [pair(draw, jaccard + 0.004) for _ in range(400)]
    for first, _ in pairs:
        index.add(signature(first))
    found = [index.nearest(signature(second)) for _, second in pairs]
    hits = [near is not None and near[1] == at for at, near in enumerate(found)]
    assert sum(hits) >= 0.95 * len(hits), sum(hits) / len(hits)
    far = [pair(draw, jaccard - 0.2) for _ in range(200)]
    other = MinHashIndex(jaccard)
    for first, _ in far:
        other.add(signature(first))
    assert sum(other.nearest(signature(second)) is not None for _, second in far) <= 0.02 * len(far)


def test_the_share_that_agrees_is_the_similarity() -> None:
    draw = random.Random(1)
    shares = [np.mean(signature(first) == signature(second)) for first, second in (pair(draw, 0.6) for _ in range(100))]
    assert np.mean(shares) == pytest.approx(0.6, abs=3 * (0.24 / HASHES / 100) ** 0.5)


def test_the_index_is_trying_all() -> None:
    """Among thousands of sets that overlap in clumps, growth included: what it finds is the best that there is."""
    draw = random.Random(2)
    clumps = [[f"{clump}-{n}" for n in range(60)] for clump in range(40)]
    values = [signature(sorted(draw.sample(clump, 50))) for clump in clumps for _ in range(40)]
    index, all_values = MinHashIndex(0.8), np.zeros((0, HASHES), np.uint32)
    for value in values:
        near = index.nearest(value)
        shares = (all_values == value).mean(axis=1) if len(all_values) else np.zeros(1)
        best = int(shares.argmax())
        if near is None:
            assert shares.max() < 0.8, "one above the similarity is never missed here"
        else:
            assert near == (shares[best], best)
        assert index.add(value) == len(all_values)
        all_values = np.concatenate([all_values, value[None]])
    assert len(index) == len(values) > 1024


def test_shingles_are_sets_of_words() -> None:
    assert shingles("One, two THREE", 2) == ["one two", "two three"]
    assert shingles("猫と犬", 2) == ["と 犬", "猫 と"]
    assert np.array_equal(signature(["a", "b"]), np.minimum(signature(["a"]), signature(["b"])))
    assert [rows_per_band(value) for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)] == [2, 2, 4, 4, 8, 16]


def test_long_texts_are_hashed_in_pieces() -> None:
    pieces = [str(n) for n in range(9000)]
    whole = np.minimum(signature(pieces[:5000]), signature(pieces[5000:]))
    assert np.array_equal(signature(pieces), whole)


def test_vowels_belong_to_words() -> None:
    """Marks parted words, so that runs of 13 words of Hindi were runs of 13 consonants."""
    assert words("यह हिन्दी है, ক্ষমা") == ["यह", "हिन्दी", "है", "ক্ষমা"]
    assert words("soft\u00adhyphen snake_case") == ["softhyphen", "snake", "case"]
