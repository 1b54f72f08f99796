"""Dense masks against loops over pairs of tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain import masks


def borders(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    data=st.data(),
    window=st.sampled_from([None, 1, 2, 3]),
)
def test_every_mask_is_its_sentence(lengths: list[int], data: st.DataObject, window: int | None) -> None:
    cu = borders(lengths)
    total = sum(lengths)
    segment = [s for s, n in enumerate(lengths) for _ in range(n)]
    place = [i for n in lengths for i in range(n)]
    prefixes = [data.draw(st.integers(0, n)) for n in lengths]
    types = data.draw(st.lists(st.integers(0, 1), min_size=total, max_size=total))
    image = []  # number of each token's image; None for text
    for t in range(total):
        begins = types[t] and (place[t] == 0 or not types[t - 1])
        image.append(None if not types[t] else t if begins else image[-1])

    causal = masks.causal(cu, sliding_window=window)
    whole = masks.same_segment(cu)
    prefixed = masks.prefix(cu, torch.tensor(prefixes))
    blocks = masks.image_blocks(cu, torch.tensor(types), sliding_window=window)
    for q in range(total):
        for k in range(total):
            same = segment[q] == segment[k]
            past = same and k <= q
            near = past and (window is None or q - k < window)
            assert bool(causal[q, k]) == near
            assert bool(whole[q, k]) == same
            in_prefix = same and max(place[q], place[k]) < prefixes[segment[q]]
            assert bool(prefixed[q, k]) == (past or in_prefix)
            together = image[q] is not None and image[q] == image[k]
            assert bool(blocks[q, k]) == ((past or together) and (window is None or q - k < window))


@pytest.mark.parametrize(("rows", "columns", "reach"), [(1, 1, 1), (3, 4, 1), (5, 2, 2)])
def test_a_window_of_patches(rows: int, columns: int, reach: int) -> None:
    mask = masks.local(rows, columns, reach=reach)
    for q in range(rows * columns):
        for k in range(rows * columns):
            near = abs(q // columns - k // columns) <= reach and abs(q % columns - k % columns) <= reach
            assert bool(mask[q, k]) == near


def test_explicit_masks_are_additive_and_named_by_kind() -> None:
    cu = borders([2, 1])
    both = masks.explicit(
        {"full_attention": masks.causal(cu), "sliding_attention": masks.causal(cu, sliding_window=1)}, torch.float32
    )
    assert isinstance(both, dict)
    full = both["full_attention"]
    assert full.shape == (1, 1, 3, 3)
    assert ((full == 0) == masks.causal(cu)).all()
    assert full.min() == torch.finfo(torch.float32).min
    assert (both["sliding_attention"][0, 0] == 0).sum() == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_lie_where_the_borders_do() -> None:
    cu = torch.tensor([0, 3, 7], dtype=torch.int32)
    types = torch.tensor([1, 1, 0, 0, 1, 1, 0])
    for make in (
        lambda b, t: masks.same_segment(b),
        lambda b, t: masks.causal(b, sliding_window=2),
        lambda b, t: masks.prefix(b, torch.tensor([2, 3])),
        lambda b, t: masks.both_ways(b, t == 1, sliding_window=3),
        lambda b, t: masks.image_blocks(b, t, sliding_window=3),
    ):
        found = make(cu.cuda(), types.cuda())
        assert found.is_cuda
        assert torch.equal(found.cpu(), make(cu, types))
