"""Media spread over packed bins: nothing lost, no bin over, more even, and texts that add up against all subsets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import even_out, pack
from mmdata.pack.even import subset

CAPACITY = 100
ITEMS = st.lists(st.tuples(st.integers(1, CAPACITY), st.integers(0, 9)), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(ITEMS)
def test_nothing_is_lost_no_bin_is_over_and_none_is_worse(items: list[tuple[int, int]]) -> None:
    lengths, weights = np.array(items).T
    before = pack(lengths, CAPACITY)
    after = even_out(before, lengths, weights, CAPACITY)
    assert len(after) == len(before)
    assert sorted(after.items.tolist()) == list(range(len(items)))
    assert (after.loads(lengths) <= CAPACITY).all()
    assert (after.loads(weights) ** 2).sum() <= (before.loads(weights) ** 2).sum()
    again = even_out(before, lengths, weights, CAPACITY)
    assert again.tolist() == after.tolist()


def test_bins_of_text_alone_get_pictures() -> None:
    """576 tokens a picture, as LLaVA has them: packing by length leaves some packs without any."""
    draw = np.random.default_rng(0)
    images = draw.choice(3, 4000, p=[0.3, 0.6, 0.1])
    text = np.maximum(1, draw.lognormal(np.log(192), 0.75, 4000).astype(np.int64))
    lengths = np.minimum(text + 576 * images, 8192)
    before = pack(lengths, 8192)
    after = even_out(before, lengths, images, 8192)
    assert before.loads(images).min() == 0
    assert after.loads(images).min() > 0.4 * images.sum() / len(after)
    assert after.loads(images).std() < 0.7 * before.loads(images).std()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=8), st.integers(-3, 60), st.integers(0, 20), st.integers(0, 20))
def test_texts_that_add_up_against_all_subsets(lengths: list[int], wanted: int, below: int, above: int) -> None:
    wanted = max(1, wanted)
    low, high = wanted - below, wanted + above
    sums = {sum(some) for size in range(len(lengths) + 1) for some in combinations(lengths, size)}
    fitting = {total for total in sums if low <= total <= high}
    found = subset(lengths, low, wanted, high)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert len(set(found)) == len(found)
    under = [total for total in fitting if total <= wanted]
    assert sum(lengths[at] for at in found) == (max(under) if under else min(fitting))
