"""Media of a pack, and packs of a batch, joined: numpy's own answer, without a copy of what is alone."""

from __future__ import annotations

import numpy as np
import pytest

from mmdata.families._join import joined, joined_again
from mmdata.types import Join

JOINS: tuple[Join, ...] = ("stack", "pad", "concat", "row")


def media(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.random(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("how", JOINS)
def test_arrays_alike_are_stacked_or_follow_each_other(how: Join, count: int) -> None:
    arrays = media(*[(2, 5)] * count)
    expected = np.stack(arrays) if how in ("stack", "pad") else np.concatenate(arrays)
    np.testing.assert_array_equal(joined(arrays, how), expected, strict=True)
    np.testing.assert_array_equal(joined_again(arrays, how), np.concatenate(arrays), strict=True)


def test_arrays_of_several_sizes_are_filled_up() -> None:
    small, large = media((1, 2), (3, 1))
    both = joined([small, large], "pad")
    assert both.shape == (2, 3, 2)
    np.testing.assert_array_equal(both[0, :1], small)
    np.testing.assert_array_equal(both[1, :, :1], large)
    assert np.count_nonzero(both) == small.size + large.size
    again = joined_again(media((2, 3, 2), (1, 4, 1)), "pad")
    assert again.shape == (3, 4, 2)


@pytest.mark.parametrize("how", JOINS)
def test_one_alone_is_not_copied_unless_it_must_be(how: Join) -> None:
    (alone,) = media((4, 6))
    assert np.shares_memory(joined([alone], how), alone)
    assert np.shares_memory(joined_again([alone], how, owned=True), alone)
    np.testing.assert_array_equal(joined_again([alone], how), alone, strict=True)
    assert not np.shares_memory(joined_again([alone], how), alone)
    turned, frozen = alone.T, alone.copy()
    frozen.flags.writeable = False
    for array in (turned, frozen):
        made = joined_again([array], how, owned=True)
        np.testing.assert_array_equal(made, array)
        assert made.flags.c_contiguous
        assert made.flags.writeable
        assert not np.shares_memory(made, array)
