"""Late fusion: two towers that meet in the likeness of one vector of each, learned from pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.models.layers import Attention, Borders, Context
from mmtrain.models.pairs import pairs_of
from mmtrain.rows import borders

SCALES = {"softmax": math.log(1 / 0.07), "sigmoid": math.log(10.0)}
"""Where the logarithm of the scale begins (CLIP; SigLIP)."""
BIAS = -10.0
MOST = math.log(100.0)
"""What the logarithm of CLIP's scale is held to (§2.5)."""


class LateSpec(Model):
    """A dual encoder: a picture is one vector of its connector's tokens, a text is one vector of the language model's,
    which has not seen the picture; both mapped to `projection`, and compared by their cosine: [P, hidden] and
    [P, hidden] -> [P, P]. It is learned with `objective: contrastive`; a picture is one marker among the tokens, which
    shows nothing. (CLIP: Radford et al. 2021, arXiv 2103.00020, §2.3; SigLIP: Zhai et al. 2023, arXiv 2303.15343.)"""

    kind: Literal["late"]
    projection: int = Field(512, ge=1)
    pool: Literal["mean", "attention"] = "mean"
    """How a picture's tokens become one vector: their mean, or what one learned query sees of them (SigLIP's head)."""
    heads: int = Field(4, ge=1)
    """Of that query."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Which of the pack's texts a picture belongs to and which picture a text (CLIP, whose scale is held to 100), or of
    each two whether they are a pair (SigLIP)."""
    marks: ClassVar[bool] = True


class LateHead(nn.Module):
    """`LateSpec`."""

    def __init__(self, spec: LateSpec, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        self.of_picture = nn.Linear(hidden, spec.projection, bias=False)
        self.of_text = nn.Linear(hidden, spec.projection, bias=False)
        self.scale = nn.Parameter(torch.tensor([SCALES[spec.loss]]))
        if spec.loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor([BIAS]))
        if spec.pool == "attention":
            self.query = nn.Parameter(nn.init.normal_(torch.empty(1, hidden), std=0.02))
            self.attention = Attention(hidden, spec.heads, context=hidden)

    def forward(self, pictures: Context, texts: torch.Tensor) -> torch.Tensor:
        """Tokens of P pictures and a vector of each text [P, hidden] -> logits [P, P], float32: row i is picture i."""
        seen = F.normalize(self.of_picture(self._pooled(pictures)).float(), dim=-1)
        said = F.normalize(self.of_text(texts).float(), dim=-1)
        with torch.autocast(seen.device.type, enabled=False):  # in bf16 logits near 100 are half a nat apart
            likeness, scale = seen @ said.T, self.scale.float()
            if self.spec.loss == "sigmoid":
                return likeness * scale.exp() + self.bias.float()
            # Its gradient goes on beyond the limit, or it would not come back from there.
            held = scale + (scale.clamp(max=MOST) - scale).detach()
            return likeness * held.exp()

    def _pooled(self, pictures: Context) -> torch.Tensor:
        lengths = pictures.borders.lengths
        if self.spec.pool == "attention":
            mine = Borders.of([1] * len(lengths), pictures.rows.device)
            found: torch.Tensor = self.attention(self.query.expand(len(lengths), -1), mine, pictures)
            return found
        return torch.stack([tokens.mean(0) for tokens in pictures.rows.split(lengths)])


def each_loss(logits: torch.Tensor, loss: Literal["softmax", "sigmoid"]) -> torch.Tensor:
    """The loss of each pair [P] of logits [P, P]: the mean of its picture's and its text's cross-entropy, or the sum of
    the logistic losses of its text with all pictures."""
    own = torch.arange(len(logits), device=logits.device)
    if loss == "softmax":
        return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum(0)


def contrastive_losses(
    model: Any, batch: Mapping[str, Any], inputs: Mapping[str, Any], weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`mmtrain.objective.losses` of a dual encoder: each sample with something trained is a pair of its only picture
    and its text, whose vector is the language model's at its last trained token; the pack's pairs are told from each
    other. A pair's loss counts as each of its trained tokens'; with `loss_norm: sample` pairs weigh the same. Raises
    RunError for a sample without exactly one picture."""
    body = model.base_model
    head: LateHead = body.fusion
    total = torch.zeros(len(weights), dtype=torch.float32, device=weights.device)
    output = body(**inputs)
    hidden = output.last_hidden_state.flatten(0, 1)
    pairs = pairs_of(borders(batch), body.first_tokens(batch), weights, "contrastive")
    if not pairs:
        return hidden.sum() * 0 + head.scale.sum() * 0, total
    pieces = output.pictures.rows.split(output.pictures.borders.lengths)
    rows = [pieces[pair.picture] for pair in pairs]
    pictures = Context(rows=torch.cat(rows), borders=Borders.of([len(each) for each in rows], hidden.device))
    lasts = torch.stack([pair.places[-1] for pair in pairs])
    found = each_loss(head(pictures, hidden[lasts]), head.spec.loss)
    for pair, value in zip(pairs, found.detach(), strict=True):
        total[pair.places] = value
    heavy = torch.stack([weights[pair.places].sum() for pair in pairs])
    return (found * heavy).sum(), total
