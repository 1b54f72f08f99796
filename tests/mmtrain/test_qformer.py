"""The Q-Former beside BLIP-2's, with the same weights and dense masks; its three objectives beside plain formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mmtrain.models.connectors import Patches, make, read
from mmtrain.models.connectors.objectives import itc, itg, itm
from mmtrain.models.connectors.qformer import Mode, QFormer

WIDTH, OUT, HIDDEN, QUERIES, WORDS = 12, 10, 16, 3, 30
LENGTHS = (6, 4, 9)
TEXTS = tuple(torch.tensor(ids) for ids in ([4, 5, 6, 7], [8, 9], [10, 11, 12]))
MODES: tuple[Mode, ...] = ("apart", "match", "generate")


@pytest.fixture(scope="module")
def both() -> tuple[QFormer, Blip2QFormerModel]:
    """Ours and theirs, of the same random weights."""
    told = {"hidden": HIDDEN, "layers": 3, "heads": 2, "inner": 20, "tokens": QUERIES}
    text = {"vocabulary": WORDS, "longest": 8, "projection": 6}
    mine: Any = make(read({"kind": "qformer", **told, "text": text}), WIDTH, OUT, 1)
    torch.manual_seed(2)
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.4)
    mine.text_side.temperature.data.fill_(0.3)
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=20,
            encoder_hidden_size=WIDTH,
            use_qformer_text_input=True,
            attn_implementation="eager",
        )
    ).eval()
    names = {"attention.q": "attention.attention.query", "attention.k": "attention.attention.key"}
    names |= {"attention.v": "attention.attention.value", "attention.out": "attention.output.dense"}
    names |= {"attention_norm": "attention.output.LayerNorm"}
    names |= {f"cross_{ours}": f"cross{other}" for ours, other in list(names.items())}
    for ours, other in (("mlp", "_query"), ("text_mlp", "")):
        names |= {f"{ours}.up": f"intermediate{other}.dense", f"{ours}.down": f"output{other}.dense"}
        names |= {f"{ours}_norm": f"output{other}.LayerNorm"}
    state = {"layernorm.weight": mine.norm.weight, "layernorm.bias": mine.norm.bias}
    for name, value in mine.layers.state_dict().items():
        number, rest = name.split(".", 1)
        module, kind = rest.rsplit(".", 1)
        state[f"encoder.layer.{number}.{names[module]}.{kind}"] = value
    assert state.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(state)
    return mine, theirs


def pictures(seed: int = 3) -> Patches:
    rows = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))
    return Patches(rows=rows, lengths=LENGTHS)


def dense(
    both: tuple[QFormer, Blip2QFormerModel], picture: torch.Tensor, text: torch.Tensor, mode: Mode
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair through BLIP-2's own module, who sees whom told by a dense mask: queries [Q, H] and words [n + 1, H]."""
    mine, theirs = both
    side = mine.text_side
    ids = torch.cat([torch.tensor([WORDS + (mode == "generate")]), text])
    words = side.words.weight[ids] + side.positions.weight[: len(ids)]
    q, n = QUERIES, len(ids)
    seen = torch.zeros(q + n, q + n, dtype=torch.bool)
    seen[:q, :q] = True
    seen[q:, q:] = torch.ones(n, n).tril().bool() if mode == "generate" else True
    seen[q:, :q] = mode != "apart"
    seen[:q, q:] = mode == "match"
    found = theirs(
        query_embeds=torch.cat([mine.queries, words])[None],
        query_length=q,
        attention_mask=torch.zeros(1, 1, q + n, q + n).masked_fill(~seen, torch.finfo(torch.float32).min),
        encoder_hidden_states=picture[None],
    ).last_hidden_state[0]
    return found[:q], found[q:]


def test_it_is_blip2s(both: tuple[QFormer, Blip2QFormerModel]) -> None:
    mine, theirs = both
    row = pictures()
    for picture, found in zip(row.rows.split(LENGTHS), mine(row).split(QUERIES), strict=True):
        expected = theirs(query_embeds=mine.queries[None], encoder_hidden_states=picture[None]).last_hidden_state
        assert (found - mine.out(expected[0])).abs().max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_who_sees_whom(both: tuple[QFormer, Blip2QFormerModel], mode: Mode) -> None:
    """In a row of pairs what each objective's dense mask gives pair by pair."""
    mine, _ = both
    row = pictures()
    queries, words = mine.read(row.context, mine.text_side.embedded(TEXTS, mode), mode)
    assert queries is not None
    assert words is not None
    ends = [len(text) + 1 for text in TEXTS]
    for picture, text, q, w in zip(
        row.rows.split(LENGTHS), TEXTS, queries.rows.split(QUERIES), words.rows.split(ends), strict=True
    ):
        expected = dense(both, picture, text, mode)
        assert (q - expected[0]).abs().max() < 1e-5
        assert (w - expected[1]).abs().max() < 1e-5


def alike(both: tuple[QFormer, Blip2QFormerModel], row: Patches) -> torch.Tensor:
    """Likeness of every picture and every text, one by one."""
    side = both[0].text_side
    result = torch.empty(len(TEXTS), len(TEXTS))
    for i, picture in enumerate(row.rows.split(LENGTHS)):
        for j, text in enumerate(TEXTS):
            q = dense(both, picture, text, "apart")[0]
            first = dense(both, picture, text, "apart")[1][0]
            cosines = [F.cosine_similarity(side.of_picture(each), side.of_text(first), dim=0) for each in q]
            result[i, j] = torch.stack(cosines).max() / side.temperature
    return result


def smoothed(logits: torch.Tensor, label: int) -> torch.Tensor:
    logs = logits.log_softmax(-1)
    return -0.9 * logs[label] - 0.1 * logs.mean()


@torch.no_grad()
def test_itc(both: tuple[QFormer, Blip2QFormerModel]) -> None:
    row = pictures()
    losses, likeness = itc(both[0], row.context, TEXTS)
    expected = alike(both, row)
    assert (likeness - expected).abs().max() < 1e-4
    for at, loss in enumerate(losses):
        wanted = (smoothed(expected[at], at) + smoothed(expected[:, at], at)) / 2
        assert abs(float(loss - wanted)) < 1e-4


@torch.no_grad()
def test_itm(both: tuple[QFormer, Blip2QFormerModel]) -> None:
    """Negatives are drawn by likeness, never the pair itself: here by so much that there is no other choice."""
    mine, _ = both
    row = pictures()
    chosen_text, chosen_picture = [2, 0, 1], [1, 2, 0]  # of each picture, of each text
    likeness = torch.zeros(3, 3)
    for at in range(3):
        likeness[at, chosen_text[at]] += 500.0
        likeness[chosen_picture[at], at] += 500.0
        likeness[at, at] = 5000.0  # likest of all, and not to be drawn
    likeness = torch.where(torch.eye(3, dtype=torch.bool), torch.tensor(400.0), likeness)
    assert [int(at) for at in (likeness - 1e4 * torch.eye(3)).argmax(1)] == chosen_text
    losses = itm(mine, row.context, TEXTS, likeness)
    split = row.rows.split(LENGTHS)

    def loss(picture: int, text: int, right: int) -> torch.Tensor:
        says = mine.text_side.match(dense(both, split[picture], TEXTS[text], "match")[0]).mean(0)
        return -says.log_softmax(-1)[right]

    for at in range(3):
        mean = (loss(at, at, 1) + loss(chosen_picture[at], at, 0) + loss(at, chosen_text[at], 0)) / 3
        assert abs(float(losses[at] - mean)) < 1e-4
    (alone,) = itm(mine, Patches(rows=split[0], lengths=LENGTHS[:1]).context, TEXTS[:1], likeness[:1, :1])
    assert abs(float(alone - loss(0, 0, 1))) < 1e-4


@torch.no_grad()
def test_itg(both: tuple[QFormer, Blip2QFormerModel]) -> None:
    mine, _ = both
    row = pictures()
    weights = [torch.rand(len(text), generator=torch.Generator().manual_seed(1)) for text in TEXTS]
    summed, each = itg(mine, row.context, TEXTS, weights)
    expected = [
        F.cross_entropy(mine.text_side.head(dense(both, picture, text, "generate")[1][:-1]), text, reduction="none")
        for picture, text in zip(row.rows.split(LENGTHS), TEXTS, strict=True)
    ]
    assert (each - torch.cat(expected)).abs().max() < 1e-4
    assert abs(float(summed - (torch.cat(expected) * torch.cat(weights)).sum())) < 1e-3


def test_all_three_are_learned() -> None:
    """Three pairs by heart: whose text is whose is known, and what it says."""
    torch.manual_seed(4)
    text = {"vocabulary": WORDS, "longest": 8, "projection": 8}
    told = {"hidden": 16, "layers": 2, "heads": 2, "inner": 16, "tokens": QUERIES, "text": text}
    mine: Any = make(read({"kind": "qformer", **told}), WIDTH, OUT, 1)
    row, weights = pictures(), [torch.ones(len(text)) for text in TEXTS]
    moves = torch.optim.AdamW(mine.parameters(), lr=1e-2)
    lost = []
    for _ in range(100):
        contrast, likeness = itc(mine, row.context, TEXTS)
        matching = itm(mine, row.context, TEXTS, likeness.detach())
        written, _ = itg(mine, row.context, TEXTS, weights)
        lost.append([float(contrast.mean().detach()), float(matching.mean().detach()), float(written.detach()) / 9])
        moves.zero_grad()
        (contrast.mean() + matching.mean() + written / 9).backward()
        moves.step()
    (itc_first, itm_first, itg_first), (itc_last, itm_last, itg_last) = lost[0], lost[-1]
    assert itc_last < 0.6 < itc_first  # labels smoothed by 0.1 leave some of it
    assert itm_last < 0.3 < itm_first
    assert itg_last < 0.3 < itg_first


def test_gradients_flow_where_they_should(both: tuple[QFormer, Blip2QFormerModel]) -> None:
    """Of ITG: from a text to its own picture, to no other; a word's loss not to the words behind it."""
    mine, _ = both
    row = pictures()
    rows = row.rows.requires_grad_()
    weights: Sequence[torch.Tensor] = [torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(2), torch.zeros(3)]
    mine.zero_grad()
    itg(mine, Patches(rows=rows, lengths=LENGTHS).context, TEXTS, weights)[0].backward()
    assert rows.grad is not None
    assert rows.grad[: LENGTHS[0]].any()
    assert not rows.grad[LENGTHS[0] :].any()
    positions = mine.text_side.positions.weight.grad
    assert positions is not None
    assert positions[:2].any(1).all()
    assert not positions[2:].any()
    mine.zero_grad()
