"""Prefixes against attention over keys put together by hand, bottlenecks against their formula."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmtrain.adapters.small import Prefix
from mmtrain.adapters.spec import PrefixSpec
from mmtrain.attention import hf_attention
from tests.mmtrain.adapters.models import ids, llama, put

HEADS, GROUPS, WIDTH = 4, 2, 8


def prefix(length: int) -> Prefix:
    spec = PrefixSpec(kind="prefix", component="language", length=length, std=1.0)
    return Prefix(spec, HEADS // GROUPS, WIDTH, torch.zeros(1), np.random.default_rng(3))


def by_hand(own: Prefix, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """One sample: q [Hq, T, D], k and v [Hkv, T, D]; every query sees the prefix and (the past of) its own."""
    keys = torch.cat([own.keys.transpose(0, 1), k], 1).repeat_interleave(GROUPS, 0)
    values = torch.cat([own.values.transpose(0, 1), v], 1).repeat_interleave(GROUPS, 0)
    scores = q @ keys.transpose(1, 2) / WIDTH**0.5
    length, total = len(own.keys), q.shape[1]
    if causal:
        for query in range(total):
            scores[:, query, length + query + 1 :] = -torch.inf
    return (scores.softmax(-1) @ values).transpose(0, 1)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), length=st.integers(1, 4), causal=st.booleans())
def test_every_segment_sees_the_prefix_and_itself(lengths: list[int], length: int, causal: bool) -> None:
    """Values and gradients of packed rows are those of the samples alone."""
    torch.manual_seed(sum(lengths))
    total = sum(lengths)
    q, k, v = (torch.randn(1, heads, total, WIDTH, requires_grad=True) for heads in (HEADS, 2, 2))
    own = prefix(length)
    module: Any = SimpleNamespace(prefix=own, is_causal=causal)
    cu = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found, _ = hf_attention(
        module, q, k, v, None, cu_seq_lens_q=cu, cu_seq_lens_k=cu, max_length_q=max(lengths), max_length_k=max(lengths)
    )
    expected = torch.cat(
        [by_hand(own, *(x[0, :, a:b] for x in (q, k, v)), causal) for a, b in itertools.pairwise(cu.tolist())]
    )
    assert (found[0] - expected).abs().max() < 1e-5
    mine = torch.autograd.grad(found.square().sum(), [q, k, v, own.keys, own.values])
    hands = torch.autograd.grad(expected.square().sum(), [q, k, v, own.keys, own.values])
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(mine, hands, strict=True))


@pytest.mark.parametrize("kind", ["none", "keys", "bool", "additive"])
def test_rows_that_are_not_packed(kind: str) -> None:
    """Without a mask, with one of keys (padded rows) and with dense ones: the prefix is seen in all of them."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, heads, 5, WIDTH) for heads in (HEADS, 2, 2))
    own = prefix(3)
    module: Any = SimpleNamespace(prefix=own, is_causal=True)
    past = torch.ones(5, 5).tril().bool()[None, None].expand(2, 1, -1, -1)
    masks: dict[str, torch.Tensor | None] = {
        "none": None,
        "keys": torch.ones(2, 5, dtype=torch.long),
        "bool": past,
        "additive": torch.zeros(2, 1, 5, 5).masked_fill(~past, torch.finfo(torch.float32).min),
    }
    found, _ = hf_attention(module, q, k, v, masks[kind])
    expected = torch.stack([by_hand(own, q[row], k[row], v[row], True) for row in range(2)])
    assert (found - expected).abs().max() < 1e-5
    if kind == "keys":
        shorter = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        found, _ = hf_attention(module, q, k, v, shorter)
        assert (found[0, :3] - by_hand(own, q[0, :, :3], k[0, :, :3], v[0, :, :3], True)).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_bottlenecks_add_their_formula(mode: str) -> None:
    entry = {"kind": "bottleneck", "component": "language", "hidden": 5, "mode": mode, "scale": 4.0, "last": 1}
    model = put(llama(), {**entry, "activation": "gelu"})
    seen: dict[str, Any] = {}
    for name in ("self_attn", "mlp"):
        module = model.model.layers[2].get_submodule(name)

        def keep(_: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            seen[name] = (args[0] if args else kwargs["hidden_states"], output)

        module.register_forward_hook(keep, with_kwargs=True)
    model(input_ids=ids())
    for name, (inputs, output) in seen.items():
        module = model.model.layers[2].get_submodule(name)
        adapter = module.bottleneck
        inner = module.forward  # runs without hooks
        plain = inner(inputs) if name == "mlp" else None
        result = output[0] if isinstance(output, tuple) else output
        if plain is None:
            assert result.shape == inputs.shape
            continue
        source = inputs if mode == "parallel" else plain
        more = F.linear(F.gelu(F.linear(source, adapter.down, adapter.down_bias)), adapter.up, adapter.up_bias)
        assert (result - (plain + 4.0 * more)).abs().max() < 1e-5
    assert set(seen) == {"self_attn", "mlp"}
