"""Varlen attention against a loop with a dense mask, against Hugging Face's own attention, and its CUDA call against
fake tensors."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from mmtrain import attention, masks
from mmtrain.attention import CAUSAL, FULL, varlen_attention


def borders(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32)


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Written out: one score per query, key and head, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(q)
    for head in range(q.shape[1]):
        other = head // (q.shape[1] // k.shape[1])
        scores = q[:, head] @ k[:, other].T * (q.shape[-1] ** -0.5 if scale is None else scale)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        shares = scores.masked_fill(~mask, -torch.inf).exp()
        total = shares.sum(-1, keepdim=True)
        if sinks is not None:
            total = total + sinks[head].double().exp()
        out[:, head] = shares / total @ v[:, other]
    return out


def inputs(lengths: list[int], heads: int, kv: int, dim: int = 8, seed: int = 0) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    return [torch.randn(total, n, dim, generator=make, requires_grad=True) for n in (heads, kv, kv)]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    groups=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 2, 7]),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    softcap=st.sampled_from([None, 5.0]),
    sink=st.booleans(),
)
def test_the_twin_is_a_dense_mask_written_out(
    lengths: list[int],
    groups: tuple[int, int],
    window: int | None,
    causal: bool,
    scale: float | None,
    softcap: float | None,
    sink: bool,
) -> None:
    q, k, v = inputs(lengths, *groups)
    cu = borders(lengths)
    if causal:
        mask = masks.causal(cu, sliding_window=window)
        sides = CAUSAL if window is None else (window - 1, 0)
    else:
        mask, sides = masks.same_segment(cu), FULL
    sinks = torch.linspace(-1, 1, groups[0], requires_grad=True) if sink else None
    found = varlen_attention(
        q, k, v, cu, cu, max(lengths), max(lengths), window=sides, scale=scale, softcap=softcap, sinks=sinks
    )
    expected = dense(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks)
    assert (found - expected).abs().max() < 1e-5
    leaves = [q, k, v] + ([sinks] if sinks is not None else [])
    weights = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-4


def test_more_keys_than_queries_end_together() -> None:
    q, k, v = (torch.randn(n, 2, 8) for n in (2, 5, 5))
    found = varlen_attention(q, k, v, borders([2]), borders([5]), 2, 5, window=CAUSAL)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert (found - dense(q, k, v, mask)).abs().max() < 1e-5


def test_segments_do_not_see_each_other() -> None:
    q, k, v = inputs([4, 3], 4, 2)
    cu = borders([4, 3])
    before = varlen_attention(q, k, v, cu, cu, 4, 4, window=CAUSAL)
    with torch.no_grad():
        k[:4] += 1
        v[:4] -= 3
    after = varlen_attention(q, k, v, cu, cu, 4, 4, window=CAUSAL)
    assert torch.equal(before[4:], after[4:])
    assert not torch.equal(before[:4], after[:4])


@pytest.mark.parametrize("window", [FULL, CAUSAL, (1, 1)])
def test_segments_of_one_length_go_together(window: tuple[int, int]) -> None:
    """As each would alone, gradients too."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(12, 2, 8, generator=draw, requires_grad=True) for _ in range(3))
    whole, one = torch.arange(0, 13, 4, dtype=torch.int32), torch.tensor([0, 4], dtype=torch.int32)
    together = varlen_attention(query, key, value, whole, whole, 4, 4, window=window)
    pieces = zip(query.split(4), key.split(4), value.split(4), strict=True)
    alone = torch.cat([varlen_attention(q, k, v, one, one, 4, 4, window=window) for q, k, v in pieces])
    assert torch.allclose(together, alone, atol=1e-6)
    for mine, theirs in zip(
        *(torch.autograd.grad(x.square().sum(), (query, key, value)) for x in (together, alone)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_the_cuda_call_takes_these_arguments() -> None:
    """torch's own fake implementation checks the signature and gives the shapes; nothing runs."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        q = torch.empty(7, 4, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        k, v = (torch.empty(7, 2, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(2))
        cu = torch.empty(3, dtype=torch.int32, device="cuda")
        for window in (FULL, CAUSAL, (3, 0)):
            out = varlen_attention(q, k, v, cu, cu, 4, 4, window=window, scale=0.1)
            assert out.shape == q.shape
            assert (out.dtype, out.device.type) == (torch.bfloat16, "cuda")
        with pytest.raises(NotImplementedError, match="sinks"):
            varlen_attention(q, k, v, cu, cu, 4, 4, sinks=torch.empty(4, device="cuda"))


def _of_2_10(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, is_causal: bool = False) -> Any:
    assert q.shape[1] == k.shape[1], "it knows no groups of heads"
    return varlen_attention(q, k, v, cu_q, cu_k, max_q, max_k, window=CAUSAL if is_causal else FULL)


def _with_windows(
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *, scale: Any = None, window_size: Any = FULL
) -> Any:
    assert q.shape[1] == k.shape[1], "it knows no groups of heads"
    return varlen_attention(q, k, v, cu_q, cu_k, max_q, max_k, window=window_size, scale=scale)


@pytest.mark.parametrize("kernel", [_of_2_10, _with_windows])
def test_older_kernels_of_torch_are_called_by_what_they_take(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments grew from one torch to the next: what is missing is done before the call, or refused."""
    taken = frozenset(inspect.signature(kernel).parameters)
    monkeypatch.setattr(attention, "_torch_kernel", lambda: (kernel, taken))
    q, k, v = inputs([5, 1, 9], 4, 2)
    cu = borders([5, 1, 9])
    for window in (FULL, CAUSAL, (2, 0)):
        expected = varlen_attention(q, k, v, cu, cu, 9, 9, window=window, scale=0.3)
        if window == (2, 0) and kernel is _of_2_10:
            with pytest.raises(NotImplementedError, match="window"):
                attention._torch_varlen(q, k, v, cu, cu, 9, 9, window, 0.3)
        else:
            found = attention._torch_varlen(q, k, v, cu, cu, 9, 9, window, 0.3)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [FULL, CAUSAL, (2, 0)])
def test_the_kernel_is_its_twin(window: tuple[int, int]) -> None:
    lengths = [130, 1, 257]
    q, k, v = (x.detach().to(torch.bfloat16) for x in inputs(lengths, 4, 2, dim=64))
    cu = borders(lengths)
    twin = varlen_attention(q.float(), k.float(), v.float(), cu, cu, 257, 257, window=window)
    on_gpu = [x.cuda() for x in (q, k, v, cu, cu)]
    found = varlen_attention(*on_gpu, 257, 257, window=window)
    assert (found.float().cpu() - twin).abs().max() < 2e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_has_its_twins_gradients() -> None:
    lengths = [130, 1, 257]
    cu = borders(lengths)
    cpu = [x.detach().to(torch.bfloat16).float().requires_grad_() for x in inputs(lengths, 4, 2, dim=64)]
    gpu = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in cpu]
    weight = torch.randn(sum(lengths), 4, 64, generator=torch.Generator().manual_seed(1))
    (varlen_attention(*cpu, cu, cu, 257, 257, window=CAUSAL) * weight).sum().backward()
    (varlen_attention(*gpu, cu.cuda(), cu.cuda(), 257, 257, window=CAUSAL) * weight.cuda()).sum().backward()
    for one, other in zip(cpu, gpu, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (other.grad.float().cpu() - one.grad).abs().max() < 3e-2 * one.grad.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_on_a_gpu_is_exact() -> None:
    q, k, v = (x.detach() for x in inputs([13, 1, 20], 4, 2, dim=16))
    cu = borders([13, 1, 20])
    found = varlen_attention(*(x.cuda() for x in (q, k, v, cu, cu)), 20, 20, window=CAUSAL)
    assert (found.cpu() - varlen_attention(q, k, v, cu, cu, 20, 20, window=CAUSAL)).abs().max() < 1e-5


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_under_autocast_the_kernel_gets_half_precision(device: str) -> None:
    """Qwen3's norms of queries and keys make float32 of bfloat16."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    q, k, v = (x.detach().to(device).transpose(0, 1)[None] for x in inputs([5, 4], 4, 2, dim=16))
    cu = borders([5, 4]).to(device)
    module = torch.nn.Module()
    told: dict[str, Any] = {"is_causal": True, "cu_seq_lens_q": cu, "max_length_q": 5}
    with torch.autocast(device, torch.bfloat16):
        out, _ = attention.hf_attention(module, q, k, v.to(torch.bfloat16), None, **told)
    assert out.dtype == torch.bfloat16
    exact, _ = attention.hf_attention(module, q, k, v, None, **told)
    assert exact.dtype == torch.float32
    assert (out.float() - exact).abs().max() < 3e-2


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        varlen_attention(
            torch.ones(1, 3, 4), torch.ones(1, 2, 4), torch.ones(1, 2, 4), borders([1]), borders([1]), 1, 1
        )


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "head_dim": 8,
}


def language_models() -> dict[str, Any]:
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL)),
        "sliding": MistralForCausalLM(MistralConfig(**SMALL, sliding_window=3)),
        "softcap": Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=3, query_pre_attn_scalar=8)),
    }


@pytest.mark.parametrize("name", ["llama", "sliding", "softcap"])
def test_hugging_face_decoders_packed_are_separate_ones(name: str) -> None:
    """Windows, grouped heads and softcaps included: each segment's logits are those of eager attention alone."""
    torch.manual_seed(0)
    plain = language_models()[name].eval()
    plain.set_attn_implementation("eager")
    packed = copy.deepcopy(plain)
    attention.register()
    packed.set_attn_implementation(attention.NAME)
    lengths = [5, 1, 9]
    cu = borders(lengths)
    ids = torch.randint(0, 60, (1, 15))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        found = packed(
            input_ids=ids,
            position_ids=positions,
            cu_seq_lens_q=cu,
            cu_seq_lens_k=cu,
            max_length_q=9,
            max_length_k=9,
            use_cache=False,
        ).logits[0]
        for start, stop in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
            alone = plain(input_ids=ids[:, start:stop], use_cache=False).logits[0]
            assert (found[start:stop] - alone).abs().max() < 2e-5


def call(query: torch.Tensor, mask: torch.Tensor | None, causal: bool = False, **more: Any) -> torch.Tensor:
    module = torch.nn.Module()
    out, _ = attention.hf_attention(module, query, query, query, mask, is_causal=causal, **more)
    return out


def test_rows_without_borders_are_plain_attention() -> None:
    """Towers: a batch with keys hidden by a mask of two axes, and masks of four axes as they are."""
    torch.manual_seed(0)
    query = torch.randn(2, 2, 5, 8)
    keys = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    hidden = call(query, keys)
    assert (hidden[1, :, :, :] - call(query[1:, :, :, :], keys[1:])[0]).abs().max() < 1e-6
    shortened = query[1:, :, :3]
    assert (hidden[1, :3] - call(shortened, None)[0]).abs().max() < 1e-6
    four = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    assert (call(query, four) - call(query, None, causal=True)).abs().max() < 1e-6


def test_what_would_leak_is_refused() -> None:
    query, cu = torch.randn(1, 2, 5, 8), borders([2, 3])
    with pytest.raises(ValueError, match="would leak"):
        call(query, torch.ones(1, 5), cu_seq_lens_q=cu)
    with pytest.raises(ValueError, match="would leak"):
        call(query.expand(2, -1, -1, -1), None, cu_seq_lens_q=cu)
    with pytest.raises(ValueError, match="dropout"):
        call(query, None, cu_seq_lens_q=cu, dropout=0.1)


def test_dropout_is_drawn_where_rows_are_single() -> None:
    query = torch.randn(1, 2, 5, 8)
    torch.manual_seed(3)
    found = call(query, None, dropout=0.5)
    torch.manual_seed(3)
    expected = F.scaled_dot_product_attention(query, query, query, dropout_p=0.5)
    assert torch.equal(found, expected.transpose(1, 2))
    assert not torch.equal(found, call(query, None))
