"""How a Q-Former learns before any language model: BLIP-2's three objectives on pairs of a picture and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mmdata.errors import RunError
from mmtrain.auxiliary import record
from mmtrain.losses import weighted_cross_entropy
from mmtrain.models.connectors.qformer import QFormer
from mmtrain.models.layers import Borders, Context
from mmtrain.models.pairs import Pair, pairs_of
from mmtrain.rows import borders

SMOOTHING = 0.1
"""Of the labels of ITC (LAVIS, `blip2_qformer.py`)."""
LEAST = 1e-4
"""What a negative is drawn with besides its likeness (LAVIS)."""


def qformer_losses(model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`mmtrain.objective.losses` of stage one of BLIP-2 (Li et al. 2023, arXiv 2301.12597, §3.1), where the language
    model has no part: the text of a sample are its trained tokens, its picture is its only one.

    - ITG, the main loss: the text is written word by word, seeing the queries, which see themselves and the picture.
    - ITC, auxiliary: picture and text apart, compared with all others of the batch by the cosine of the text's first
      token and the nearest query, over a learned temperature, with labels smoothed by 0.1.
    - ITM, auxiliary: queries and text see each other, and say whether they are a pair; beside each pair, the picture
      with another text and the text with another picture, drawn by likeness, where there are others.
    `itc` and `itm` are means over samples. Raises RunError for a sample without exactly one picture, or with a text
    that is longer than `text.longest`.
    """
    body = model.base_model
    former: QFormer = body.vision_connector
    ids, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    total = torch.zeros(len(labels), dtype=torch.float32, device=labels.device)
    patches = body.patches(batch)
    segments = len(borders(batch)) - 1
    pairs = _pairs(former, borders(batch), body.first_tokens(batch), weights)
    nothing = weights.new_zeros(segments)
    if patches is None:
        record("itc", nothing)
        record("itm", nothing)
        return former.queries.sum() * 0, total
    real = bool(pairs)
    if not real:  # the modules run all the same: shards wait for each other in them
        pairs = [Pair(segment=0, picture=0, places=torch.zeros(1, dtype=torch.long, device=ids.device))]
    texts = [ids[pair.places] for pair in pairs]
    pictures = _chosen(patches.context, [pair.picture for pair in pairs])
    contrast, likeness = itc(former, pictures, texts)
    matching = itm(former, pictures, texts, likeness.detach())
    written, each = itg(former, pictures, texts, [weights[pair.places] for pair in pairs])
    at = torch.tensor([pair.segment for pair in pairs], device=labels.device)
    record("itc", nothing.index_add(0, at, contrast.to(nothing.dtype) * real))
    record("itm", nothing.index_add(0, at, matching.to(nothing.dtype) * real))
    if real:
        total[torch.cat([pair.places for pair in pairs])] = each
    return written * real, total


def itc(former: QFormer, pictures: Context, texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The contrastive loss of each pair, float32 [S], and how alike picture i and text j are, over the temperature,
    [S, S]; texts are int64 [n] each."""
    side = former.text_side
    queries, words = former.read(pictures, side.embedded(texts, "apart"), "apart")
    assert queries is not None, "given"
    assert words is not None, "given"
    firsts = words.borders.cu_seqlens[:-1].long()
    seen = F.normalize(side.of_picture(queries.rows), dim=-1).unflatten(0, (-1, former.tokens))
    said = F.normalize(side.of_text(words.rows[firsts]), dim=-1)
    likeness = torch.einsum("iqd,jd->ijq", seen, said).amax(-1).float() / side.temperature
    own = torch.arange(len(texts), device=likeness.device)
    told = {"label_smoothing": SMOOTHING, "reduction": "none"}
    both = F.cross_entropy(likeness, own, **told) + F.cross_entropy(likeness.T, own, **told)  # type: ignore[arg-type]
    return both / 2, likeness


def itm(former: QFormer, pictures: Context, texts: Sequence[torch.Tensor], likeness: torch.Tensor) -> torch.Tensor:
    """The loss of matching for each pair, float32 [S]: the mean over the pair itself and its two negatives, which are
    drawn from torch's generator."""
    count, negatives = len(texts), list[tuple[list[int], list[int]]]()
    own = list(range(count))
    if count > 1:
        off = ~torch.eye(count, dtype=torch.bool, device=likeness.device)
        others = torch.multinomial((likeness.T.softmax(-1) + LEAST) * off, 1)[:, 0].tolist()
        texts_of = torch.multinomial((likeness.softmax(-1) + LEAST) * off, 1)[:, 0].tolist()
        negatives = [(others, own), (own, texts_of)]
    both = [(own, own), *negatives]
    shown = _chosen(pictures, [at for which, _ in both for at in which])
    told = former.text_side.embedded([texts[at] for _, which in both for at in which], "match")
    queries, _ = former.read(shown, told, "match")
    assert queries is not None, "given"
    says = former.text_side.match(queries.rows).unflatten(0, (-1, former.tokens)).mean(1).float()
    right = torch.tensor([1] * count + [0] * (len(says) - count), device=says.device)
    return F.cross_entropy(says, right, reduction="none").view(len(both), count).mean(0)


def itg(
    former: QFormer, pictures: Context, texts: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over all words of weight * cross-entropy, and the cross-entropy of each word without a gradient, texts
    after each other."""
    _, words = former.read(pictures, former.text_side.embedded(texts, "generate"), "generate")
    assert words is not None, "given"
    none = texts[0].new_full((1,), -100)
    labels = torch.cat([torch.cat([none, text]) for text in texts])
    row = torch.cat([torch.cat([weight.new_zeros(1), weight]) for weight in weights])
    summed, each = weighted_cross_entropy(words.rows, former.text_side.head, labels, row)
    return summed, each[labels != -100]


def _pairs(former: QFormer, cu: torch.Tensor, firsts: torch.Tensor, weights: torch.Tensor) -> list[Pair]:
    """`pairs_of`, of texts that are not too long."""
    found, longest = pairs_of(cu, firsts, weights, "qformer"), former.text_side.longest - 1
    for pair in found:
        if len(pair.places) > longest:
            raise RunError(
                f"objective qformer: a text of {len(pair.places)} tokens; model.connector.text.longest allows {longest}"
            )
    return found


def _chosen(context: Context, which: Sequence[int]) -> Context:
    """Segments of a context by number, in that order."""
    pieces = context.rows.split(context.borders.lengths)
    rows = torch.cat([pieces[at] for at in which])
    return Context(rows=rows, borders=Borders.of([len(pieces[at]) for at in which], rows.device))
