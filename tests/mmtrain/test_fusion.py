"""Layers of fusion: who sees which medium, against published or independent dense computations of equal weights."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids_pt

from mmdata.errors import SpecError
from mmtrain.models import fusion
from mmtrain.models.fusion import Sight, read, sight
from mmtrain.models.fusion.gated import Gate
from mmtrain.models.fusion.sparse import BlockSparseSpec
from mmtrain.models.layers import Attention, Context

HIDDEN, HEADS = 16, 2
CU = (0, 3, 10, 14, 17)
"""Four samples: of words alone, of two pictures, of a video of two frames, of a picture that comes first."""
PLACES, TOKENS, FRAMES = (4, 7, 11, 12, 14), (3, 2, 2, 2, 5), (False, False, True, True, False)
SEEN_BY = ((4, 5, 6), (7, 8, 9), (11, 12, 13), (14, 15, 16))
OWN = ((0, 1, 2), (3, 4), (5, 6, 7, 8), (9, 10, 11, 12, 13))


def words(seed: int = 0) -> torch.Tensor:
    return torch.randn(CU[-1], HIDDEN, generator=torch.Generator().manual_seed(seed))


def media(seed: int = 1) -> torch.Tensor:
    return torch.randn(sum(TOKENS), HIDDEN, generator=torch.Generator().manual_seed(seed))


def told(rows: torch.Tensor) -> Sight:
    return sight(rows, torch.tensor(PLACES), TOKENS, torch.tensor(FRAMES), torch.tensor(CU))


def sees() -> torch.Tensor:
    """bool [T, M], written out from the table above."""
    mask = torch.zeros(CU[-1], sum(TOKENS), dtype=torch.bool)
    for tokens, own in zip(SEEN_BY, OWN, strict=True):
        for token in tokens:
            mask[token, list(own)] = True
    return mask


def made(**more: Any) -> nn.Module:
    """A layer whose weights, gates too, are none of them zero."""
    spec = read({"kind": "gated", "inner": 24, **more})
    torch.manual_seed(3)
    layer = fusion.FUSIONS[spec.kind](spec, HIDDEN, HEADS)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer


def test_tokens_see_the_medium_that_came_last_in_their_sample() -> None:
    found = told(media())
    assert found.places.tolist() == [token for tokens in SEEN_BY for token in tokens]
    assert found.queries.lengths == tuple(map(len, SEEN_BY))
    assert found.media.lengths == tuple(map(len, OWN))
    places, borders = found.before()
    before = places.split(borders.lengths)
    assert [part.tolist() for part in before] == [[3, 4], [3, 4, 5, 6, 7], [10, 11, 12], [14]]


def test_pictures_may_come_in_another_order_than_their_markers() -> None:
    """Of towers of fixed size all images come before all frames."""
    order = [2, 4, 0, 1, 3]
    pieces = media().split(TOKENS)
    found = sight(
        torch.cat([pieces[at] for at in order]),
        torch.tensor([PLACES[at] for at in order]),
        [TOKENS[at] for at in order],
        torch.tensor([FRAMES[at] for at in order]),
        torch.tensor(CU),
    )
    assert torch.equal(found.rows, media())
    assert found.media.lengths == told(media()).media.lengths


def test_who_sees_what_is_idefics_mask() -> None:
    """Of one sample after the other, images only (IDEFICS knows no frames): its count of images so far is the number of
    the medium that a token sees."""

    class Tokenizer:
        eos_token_id = 2

        def convert_tokens_to_ids(self, token: str) -> int:
            return 1

    ids = torch.tensor([5, 1, 6, 7, 1, 8, 1, 1, 9])
    counts, _ = image_attention_mask_for_packed_input_ids_pt(ids[None], Tokenizer())
    places = torch.nonzero(ids == 1)[:, 0]
    found = sight(torch.zeros(4, 1), places, [1] * 4, torch.zeros(4, dtype=torch.bool), torch.tensor([0, 9]))
    number = torch.full((9,), -1)
    for medium, tokens in enumerate(found.places.split(found.queries.lengths)):
        number[tokens] = medium
    assert torch.equal(number, counts[0])


@torch.no_grad()
def test_gated_is_idefics() -> None:
    """A packed row is IDEFICS' layer with its dense mask and its gate for tokens that see nothing."""
    mine: Any = made()
    config = hf.IdeficsConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        intermediate_size=24,
        vision_config={"embed_dim": HIDDEN},
        alpha_initializer="ones",
        alpha_type="float",
    )
    config._attn_implementation = "eager"
    theirs: Any = IdeficsGatedCrossAttentionLayer(config, 0).eval()
    names = {"attention.q": "cross_attn.q_proj", "attention.k": "cross_attn.k_proj", "attention.v": "cross_attn.v_proj"}
    names |= {"attention.out": "cross_attn.o_proj", "attention_norm": "input_layernorm"}
    names |= {"mlp_norm": "post_attention_layernorm", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
    names |= {"mlp.gate_proj": "mlp.gate_proj"}
    state = {f"{other}.weight": mine.state_dict()[f"{ours}.weight"] for ours, other in names.items()}
    state |= {"alpha_cross_attn": mine.attention_gate.alpha, "alpha_dense": mine.mlp_gate.alpha}
    theirs.load_state_dict(state)
    mask = torch.zeros(sees().shape).masked_fill(~sees(), torch.finfo(torch.float32).min)
    expected = theirs(
        words()[None],
        image_hidden_states=media()[None],
        image_attention_mask=mask[None, None],
        cross_attention_gate=sees().any(1).float()[None],
    )
    found, rows = mine(words(), told(media()), 0)
    assert (found - expected[0]).abs().max() < 1e-5
    assert torch.equal(rows, media())


KINDS: list[dict[str, Any]] = [
    {"kind": "gated"},
    {"kind": "gated", "gate": "sigmoid"},
    {"kind": "gated", "rank": 3, "head_width": 5},
    {"kind": "gated", "sparse": {"block": 2, "count": 1}},
    {"kind": "progressive", "layers": [0]},
    {"kind": "bidirectional"},
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_a_sample_in_a_row_is_a_sample_alone(spec: dict[str, Any]) -> None:
    """Tokens, media and gradients; nothing flows from a sample to what another one shows, nor to a medium that came
    later; later words change nothing before them."""
    layer: Any = made(**spec)
    x, rows = words().requires_grad_(), media().requires_grad_()
    found, after = layer(x, told(rows), 0)
    target = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    ((found * target).sum() + after.square().sum()).backward()
    together = {name: p.grad.clone() for name, p in layer.named_parameters()}
    of_words, of_media = x.grad.clone(), rows.grad.clone()
    layer.zero_grad()
    x.grad = rows.grad = None
    start = 0
    for a, b in itertools.pairwise(CU):
        mine = [at for at, place in enumerate(PLACES) if a <= place < b]
        stop = start + sum(TOKENS[at] for at in mine)
        alone = None
        if mine:
            alone = sight(
                rows[start:stop],
                torch.tensor([PLACES[at] - a for at in mine]),
                [TOKENS[at] for at in mine],
                torch.tensor([FRAMES[at] for at in mine]),
                torch.tensor([0, b - a]),
            )
        one, shown = layer(x[a:b], alone, 0)
        assert (one - found[a:b]).abs().max() < 1e-5
        loss = (one * target[a:b]).sum()
        if mine:
            assert (shown - after[start:stop]).abs().max() < 1e-5
            loss = loss + shown.square().sum()
        loss.backward()
        start = stop
    largest = max(float(gradient.abs().max()) for gradient in together.values())
    for name, parameter in layer.named_parameters():
        assert together[name].any(), name
        assert (parameter.grad - together[name]).abs().max() < 1e-5 * largest, name
    assert (x.grad - of_words).abs().max() < 1e-3
    assert (rows.grad - of_media).abs().max() < 1e-3
    for at in range(CU[-1]):  # each token by itself
        x.grad = rows.grad = None
        layer(x, told(rows), 0)[0][at].sum().backward()
        reached = rows.grad.any(1) if rows.grad is not None else torch.zeros(len(rows), dtype=torch.bool)
        assert not reached[~sees()[at]].any()
        assert reached.any() == sees()[at].any()
        assert not x.grad[at + 1 :].any()
        assert not x.grad[: max(start for start in CU if start <= at)].any()


@torch.no_grad()
def test_shut_gates_leave_words_as_they_are() -> None:
    spec = read({"kind": "gated"})
    layer = fusion.FUSIONS["gated"](spec, HIDDEN, HEADS)
    assert torch.equal(layer(words(), told(media()), 0)[0], words())
    gate = Gate("sigmoid", HIDDEN)
    assert (gate(words(), words(7)) / words() - torch.sigmoid(torch.tensor(-3.0))).abs().max() < 1e-6


@torch.no_grad()
def test_a_sigmoid_gate_is_each_tokens_own() -> None:
    layer: Any = made(gate="sigmoid")
    x, gate = words(), layer.attention_gate
    seen = layer.attention_norm(x)
    keys, values = layer.attention.k(media()), layer.attention.v(media())
    heads = [slice(start, start + 8) for start in (0, 8)]
    scores = [layer.attention.q(seen)[:, h] @ keys[:, h].T / 8**0.5 for h in heads]
    shares = [score.masked_fill(~sees(), -torch.inf).softmax(-1).nan_to_num() for score in scores]
    across = layer.attention.out(torch.cat([share @ values[:, h] for share, h in zip(shares, heads, strict=True)], 1))
    x = x + torch.sigmoid(x @ gate.weight.T + gate.bias) * across
    inner = layer.mlp_norm(x)
    inner = layer.mlp.down(F.silu(layer.mlp.gate_proj(inner)) * layer.mlp.up(inner))
    expected = x + torch.sigmoid(x @ layer.mlp_gate.weight.T + layer.mlp_gate.bias) * inner
    assert (layer(words(), told(media()), 0)[0] - expected).abs().max() < 1e-5


@torch.no_grad()
def test_low_rank_is_the_product_of_two() -> None:
    torch.manual_seed(0)
    low = Attention(HIDDEN, HEADS, context=HIDDEN, rank=3, bias=True)
    dense = Attention(HIDDEN, HEADS, context=HIDDEN)
    for name in ("q", "k", "v", "out"):
        first, second = getattr(low, name)
        whole = getattr(dense, name)
        whole.weight.copy_(second.weight @ first.weight)
        whole.bias.copy_(second.bias)
        assert torch.linalg.matrix_rank(whole.weight) == 3
    seen = told(media())
    context = Context(rows=seen.rows, borders=seen.media)
    x = words()[seen.places]
    assert (low(x, seen.queries, context) - dense(x, seen.queries, context)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("block", "count"), [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_block_sparse_is_a_mask_of_the_best_blocks(block: int, count: int) -> None:
    attention = Attention(HIDDEN, HEADS, context=HIDDEN, bias=False)
    nn.init.normal_(attention.q.weight)
    seen = told(media())
    x = words()[seen.places]
    choose = BlockSparseSpec(block=block, count=count).choose
    found = attention(x, seen.queries, Context(rows=seen.rows, borders=seen.media), choose=choose)
    q, k, v = (part.view(-1, HEADS, 8) for part in (attention.q(x), attention.k(media()), attention.v(media())))
    expected = []
    for query, allowed in zip(q, sees()[seen.places], strict=True):
        own = torch.nonzero(allowed)[:, 0].tolist()
        blocks = [own[start : start + block] for start in range(0, len(own), block)]
        blocks.sort(key=lambda each: -float(sum((query[h] * k[each][:, h].mean(0)).sum() for h in range(HEADS))))
        kept = sorted(key for each in blocks[:count] for key in each)
        heads = [(query[h] @ k[kept][:, h].T / 8**0.5).softmax(-1) @ v[kept][:, h] for h in range(HEADS)]
        expected.append(attention.out(torch.cat(heads)))
    assert (found - torch.stack(expected)).abs().max() < 1e-5
    everything = attention(
        x, seen.queries, Context(rows=seen.rows, borders=seen.media), choose=BlockSparseSpec(block=2, count=9).choose
    )
    whole = attention(x, seen.queries, Context(rows=seen.rows, borders=seen.media))
    assert (everything - whole).abs().max() < 1e-6


@torch.no_grad()
def test_bidirectional_media_see_what_was_said_before_them() -> None:
    """Both streams as they entered; with a dense mask and torch's attention for the media's."""
    layer: Any = made(kind="bidirectional")
    found, shown = layer(words(), told(media()), 0)
    plain: Any = made(kind="gated")
    state = {name: value for name, value in layer.state_dict().items() if not name.startswith("media_layer")}
    plain.load_state_dict(state)
    assert torch.equal(found, plain(words(), told(media()), 0)[0])
    mask = torch.zeros(sum(TOKENS), CU[-1], dtype=torch.bool)
    for own, before in zip(OWN, ([3, 4], [3, 4, 5, 6, 7], [10, 11, 12], [14]), strict=True):
        for key in before:
            mask[list(own), key] = True
    inner = layer.media_layer
    q, k, v = (
        getattr(inner.attention, name)(norm(x)).view(-1, HEADS, 8).transpose(0, 1)
        for name, norm, x in (
            ("q", inner.attention_norm, media()),
            ("k", inner.context_norm, words()),
            ("v", inner.context_norm, words()),
        )
    )
    across = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)
    x = media() + inner.attention.out(across)
    expected = x + inner.mlp(inner.mlp_norm(x))
    assert (shown - expected).abs().max() < 1e-5


@torch.no_grad()
def test_progressive_media_pass_a_layer_before_they_are_seen_again() -> None:
    spec = read({"kind": "progressive", "layers": [1, 2], "inner": 24})
    first, second = fusion.FusionLayers(spec, 4, HIDDEN, HEADS).layers
    for layer in (first, second):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.4)
    assert first.refine is None
    found, shown = second(words(), told(media()), 1)
    assert torch.equal(shown, second.refine(media(), told(media()).media))
    refine, second.refine = second.refine, None
    assert torch.equal(second(words(), told(refine(media(), told(media()).media)), 1)[0], found)


def test_specs_read_back_and_say_what_does_not_fit() -> None:
    assert {spec["kind"] for spec in KINDS} == set(fusion.FUSIONS) - {"late"}
    for spec in KINDS:
        assert read(read(spec).model_dump()) == read(spec)
    assert fusion.places_of(read({"kind": "early"}), 4) == []
    assert fusion.places_of(read({"kind": "gated", "every": 3}), 7) == [0, 3, 6]
    with pytest.raises(ValidationError, match="ascending"):
        read({"kind": "progressive", "layers": [3, 1]})
    with pytest.raises(SpecError, match=r"model\.fusion\.layers: 4, and the language model has 4 layers"):
        fusion.check(read({"kind": "progressive", "layers": [0, 4]}), 4, HIDDEN, HEADS)
    with pytest.raises(SpecError, match=r"heads: 3 do not divide"):
        fusion.check(read({"kind": "gated", "heads": 3}), 4, HIDDEN, HEADS)


@torch.no_grad()
def test_what_was_kept_of_media_is_what_a_rows_next_tokens_see() -> None:
    """The last medium's keys and values, without its vectors, as if it were seen anew."""
    layer: Any = made()
    seen = replace(told(media()), kept={})
    layer(words(), seen, 0)
    after = seen.after(1, CU[-1])
    assert after is not None
    assert len(after.rows) == 0
    assert after.media.lengths == (TOKENS[-1],)
    found, _ = layer(words()[:2], after.stretched(2), 0)
    anew = sight(media()[9:], torch.tensor([0]), TOKENS[-1:], torch.tensor([False]), torch.tensor([0, 2]))
    assert torch.equal(found, layer(words()[:2], anew, 0)[0])
    assert told(media()).after(1, CU[-1]) is None, "nothing was kept"
