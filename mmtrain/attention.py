"""Attention over packed rows: one signature, a varlen kernel on CUDA and its exact twin everywhere else.

`cu_seqlens` is the mask: token i sees token j only if both lie in the same segment. Hugging Face models reach it by the
name NAME once `register()` has run: `model.set_attn_implementation(NAME)`.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

NAME = "varlen"
"""Without "flash" in it: transformers would go and look for a kernel of that name."""

FULL = (-1, -1)
CAUSAL = (-1, 0)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one attention, what its scores are made of: query and key [T, heads, D] of segments that see themselves, and
    what their products are multiplied by."""

    query: torch.Tensor
    key: torch.Tensor
    cu_seqlens: torch.Tensor
    scale: float


_watched: ContextVar[list[Scores] | None] = ContextVar("watched", default=None)


@contextmanager
def watched() -> Iterator[list[Scores]]:
    """Every attention that runs inside, in order: of packed rows, and of batches without a mask (`hf_attention`)."""
    found: list[Scores] = []
    token = _watched.set(found)
    try:
        yield found
    finally:
        _watched.reset(token)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    *,
    window: tuple[int, int] = FULL,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention inside segments: query [Tq, Hq, D], key and value [Tk, Hkv, D] -> [Tq, Hq, D].

    `cu_seqlens_*` are int32 [S + 1]. `window` is (left, right), how many keys before and after its own place a query
    sees besides its own, -1 for all: FULL, CAUSAL, or (W - 1, 0) for what Hugging Face calls a sliding window of W.
    Where a segment has more keys than queries, the last query stands at the last key (as in FlashAttention 2.1).
    Hq is a multiple of Hkv: query head h uses key head h // (Hq / Hkv). `scale` defaults to D ** -0.5. `softcap` c
    bends scores to c * tanh(score / c); `sinks` [Hq] are scores that take their share of the softmax and give nothing.

    On CUDA this is torch's `varlen_attn` (2.10 and later), or flash-attn where there is none or a softcap asks for it.
    Kernels take bfloat16 and float16 only: float32 is the twin's there too, exact and slow.
    Raises NotImplementedError for sinks (torch's kernel has no gradient for the softmax's denominator, which they
    need) and where neither kernel can do what is asked, ValueError for heads that do not divide.
    """
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads are no multiple of {key.shape[1]} key heads")
    if (seen := _watched.get()) is not None:
        seen.append(Scores(query, key, cu_seqlens_q, query.shape[-1] ** -0.5 if scale is None else scale))
    if not query.is_cuda or query.dtype == torch.float32:
        return _twin(query, key, value, cu_seqlens_q, cu_seqlens_k, window, scale, softcap, sinks)
    if sinks is not None:
        raise NotImplementedError("attention sinks: no varlen kernel here gives their gradient; train unpacked")
    if softcap is not None or _torch_kernel() is None:
        return _flash_attn(
            query, key, value, cu_seqlens_q, cu_seqlens_k, max_length_q, max_length_k, window, scale, softcap
        )
    return _torch_varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, max_length_q, max_length_k, window, scale)


@functools.cache
def _torch_kernel() -> tuple[Any, frozenset[str]] | None:
    """torch's varlen kernel and the names of its arguments, which grew: 2.10 has `is_causal`, later ones `window_size`,
    then `enable_gqa`. None for a torch that has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _torch_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    window: tuple[int, int],
    scale: float | None,
) -> torch.Tensor:
    found = _torch_kernel()
    assert found is not None, "asked for where there is none"
    kernel, takes = found
    more: dict[str, Any] = {}
    if "window_size" in takes:
        more["window_size"] = window
    elif window in (FULL, CAUSAL):
        more["is_causal"] = window == CAUSAL
    else:
        raise NotImplementedError(f"torch {torch.__version__} has no varlen attention in a window; take a newer one")
    if "enable_gqa" in takes:
        more["enable_gqa"] = query.shape[1] != key.shape[1]
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if "scale" in takes:
        more["scale"] = scale
    elif scale is not None:  # the kernel's own is D ** -0.5
        query = query * (scale * query.shape[-1] ** 0.5)
    result = kernel(query, key, value, cu_q, cu_k, longest_q, longest_k, **more)
    assert isinstance(result, torch.Tensor), "asked for no auxiliary output"
    return result


def _flash_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    window: tuple[int, int],
    scale: float | None,
    softcap: float | None,
) -> torch.Tensor:
    if importlib.util.find_spec("flash_attn") is None:
        what = "softcap" if softcap is not None else f"varlen attention with torch {torch.__version__}"
        raise NotImplementedError(f"{what} on CUDA needs flash-attn: pip install flash-attn")
    from flash_attn import flash_attn_varlen_func

    result: torch.Tensor = flash_attn_varlen_func(
        query,
        key,
        value,
        cu_q,
        cu_k,
        longest_q,
        longest_k,
        softmax_scale=scale,
        causal=window[1] == 0,
        window_size=window,
        softcap=softcap or 0.0,
    )
    return result


def _twin(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    window: tuple[int, int],
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """SDPA segment by segment, or all together where all are as long: no mask of T x T is ever made."""
    sizes_q, sizes_k = (cu.diff().tolist() for cu in (cu_q, cu_k))
    if len(sizes_q) > 1 and len({*sizes_q}) == len({*sizes_k}) == 1 and softcap is None and sinks is None:
        q = query.unflatten(0, (len(sizes_q), sizes_q[0])).transpose(1, 2)  # [S, H, L, D]
        k, v = (x.unflatten(0, (len(sizes_k), sizes_k[0])).transpose(1, 2) for x in (key, value))
        return _sdpa(q, k, v, window=window, scale=scale).transpose(1, 2).flatten(0, 1)
    pieces = []
    for q, k, v in zip(query.split(sizes_q), key.split(sizes_k), value.split(sizes_k), strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, L, D]
        if softcap is None and sinks is None:
            out = _sdpa(q, k, v, window=window, scale=scale)
        else:
            out = _eager(q, k, v, window, scale, softcap, sinks)
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces) if pieces else torch.empty_like(query)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: tuple[int, int],
    scale: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    whole = window == CAUSAL and q.shape[2] == k.shape[2]
    mask = None if whole else window_mask(q.shape[2], k.shape[2], window, q.device)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=whole, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _eager(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: tuple[int, int],
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    mask = window_mask(q.shape[2], k.shape[2], window, q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], -1)
    shares = scores.softmax(-1)[..., : k.shape[2]]
    return shares @ v


def window_mask(queries: int, keys: int, window: tuple[int, int], device: torch.device) -> torch.Tensor | None:
    """bool [queries, keys]: which keys each query of one segment sees; None for all.

    >>> window_mask(3, 3, (1, 0), torch.device("cpu")).int().tolist()      # Hugging Face's sliding window of 2
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    left, right = window
    if left < 0 and right < 0:
        return None
    place = torch.arange(queries, device=device)[:, None] + (keys - queries)
    distance = torch.arange(keys, device=device)[None, :] - place
    seen = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        seen &= distance >= -left
    if right >= 0:
        seen &= distance <= right
    return seen


def hf_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query [B, Hq, T, D], key and value [B, Hkv, T, D] -> [B, T, Hq, D].

    With `cu_seq_lens_q` the row is packed (B = 1, no mask). Without, it is a tower or a model that does not pass them
    on: a mask of two axes [B, Tk] hides keys, one of four is used as it is, and none leaves all to be seen (or the
    past, of a causal module). Raises ValueError for what would leak or lose something: packed rows with B > 1 or with
    a mask of two axes, and dropout in them, which varlen kernels do not have.
    """
    if dropout and cu_seq_lens_q is not None:
        raise ValueError(
            f"varlen kernels have no dropout; {_dropout_field(module, dropout)} in config.json allows them"
        )
    if (
        prefix := getattr(module, "prefix", None)
    ) is not None:  # mmtrain.adapters: more keys, before each segment's own
        borders = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
        more = prefix(key, value, attention_mask, borders, max_length_k or max_length_q)
        key, value, attention_mask, cu_seq_lens_k, max_length_k = more
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    window = (-1 if sliding_window is None else sliding_window - 1, 0) if causal else FULL
    if not causal and sliding_window is not None:
        window = (sliding_window - 1, sliding_window - 1)
    if attention_mask is not None and attention_mask.ndim == 4:
        return _masked(query, key, value, attention_mask, scaling, softcap, s_aux, dropout), None
    if cu_seq_lens_q is not None:
        if query.shape[0] != 1 or attention_mask is not None:
            raise ValueError("a packed row is a batch of one without attention_mask; anything else would leak")
        borders = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
        longest = max_length_q or int(cu_seq_lens_q.diff().max())
        q, k, v = (_for_kernel(x[0].transpose(0, 1)) for x in (query, key, value))
        out = varlen_attention(
            q,
            k,
            v,
            cu_seq_lens_q,
            borders,
            longest,
            max_length_k or longest,
            window=window,
            scale=scaling,
            softcap=softcap,
            sinks=s_aux,
        )
        return out[None], None
    mask = window_mask(query.shape[2], key.shape[2], window, query.device)
    if attention_mask is not None:
        keys = attention_mask.bool()[:, None, None, :]
        mask = keys if mask is None else mask[None, None] & keys
    elif softcap is None and s_aux is None:
        if (seen := _watched.get()) is not None:
            mine, theirs = (x.transpose(1, 2).flatten(0, 1) for x in (query, key))
            borders = torch.arange(0, len(mine) + 1, query.shape[2], device=query.device)
            seen.append(Scores(mine, theirs, borders, query.shape[-1] ** -0.5 if scaling is None else scaling))
        return _sdpa(query, key, value, window=window, scale=scaling, dropout=dropout).transpose(1, 2), None
    return _masked(query, key, value, mask, scaling, softcap, s_aux, dropout), None


def _dropout_field(module: torch.nn.Module, dropout: float) -> str:
    """The field of a module's config that says its attention's dropout, set to 0."""
    fields = vars(module.config).items() if hasattr(module, "config") else ()
    own = sorted((n for n, v in fields if "drop" in n and v == dropout), key=lambda name: "att" not in name)
    return f"`{own[0]}: 0`" if own else "no dropout"


def _for_kernel(x: torch.Tensor) -> torch.Tensor:
    """Under autocast a norm or a rotation may have made float32 of what a linear layer gave in half precision, and
    there is no kernel for that."""
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    if softcap is not None or sinks is not None:
        raise NotImplementedError("softcap and sinks with a dense mask: use attn_implementation='eager'")
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


def needed(model: torch.nn.Module) -> bool:
    """Whether a module asks for this attention, by keys and values of its own (`mmtrain.adapters`, prefix tuning)."""
    return any("prefix" in module._modules for module in model.modules())


def register() -> None:
    """Make NAME an attention implementation of transformers. Its masks are those of flash attention: none at all for
    packed rows, so that no mask of T x T is ever made."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, hf_attention)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
