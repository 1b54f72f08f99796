"""BLIP-2's Q-Former: learned queries that look at a picture, beside a text that may see them and be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.attention import CAUSAL, FULL
from mmtrain.auxiliary import Term
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.layers import Attention, Borders, Context, Mlp, joined

Mode = Literal["apart", "match", "generate"]
"""Who sees whom (BLIP-2, figure 2): queries and text each themselves alone (ITC); all see all (ITM); queries
themselves, text all queries and itself up to each word (ITG)."""
EPS = 1e-12
TEMPERATURE = 0.07


class TextSpec(Model):
    """The Q-Former's side for text, which its objectives need (`objective: {kind: qformer}`)."""

    vocabulary: int | None = Field(None, ge=1)
    """Tokens; by default those of the run's tokenizer."""
    longest: int = Field(512, ge=2)
    """Tokens of a text at most, one that begins it among them."""
    projection: int = Field(256, ge=1)
    """Width of the space in which pictures and texts are compared."""


class QFormerSpec(Model):
    """`tokens` queries pass through BERT's post-norm layers, and in every `cross_every`-th one see the picture:
    [P, width] -> [N * tokens, hidden] -> linear -> [N * tokens, out]. (BLIP-2: Li et al. 2023, arXiv 2301.12597, §3.1;
    `Blip2QFormerModel`. There is no dropout: varlen kernels have none.)"""

    kind: Literal["qformer"]
    tokens: int = Field(32, ge=1)
    """Of each picture: the queries."""
    hidden: int = Field(768, ge=8)
    layers: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    inner: int = Field(3072, ge=1)
    """Width inside the MLPs."""
    cross_every: int = Field(2, ge=1)
    """The picture is seen by layers 0, 2, 4, ..."""
    text: TextSpec | None = None
    """null: pictures only. With text, what is for text alone is called `text_...` and takes no part where only the
    language model is trained: freeze it there, by a rule for `connector\\..*\\.text_.*`."""
    merges: ClassVar[bool] = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.hidden} (hidden)")
        return self


class QFormerLayer(nn.Module):
    """Attention, attention across (where there is any) and MLP, each norm(x + f(x)); queries and text share the first,
    queries alone have the second, each has its own third: [Tq, hidden] and [Tt, hidden] -> the same."""

    def __init__(self, spec: QFormerSpec, width: int, *, across: bool) -> None:
        super().__init__()
        hidden = spec.hidden
        self.attention = Attention(hidden, spec.heads, context=hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=EPS)
        if across:
            self.cross_attention = Attention(hidden, spec.heads, context=width)
            self.cross_attention_norm = nn.LayerNorm(hidden, eps=EPS)
        self.mlp = Mlp(hidden, spec.inner)
        self.mlp_norm = nn.LayerNorm(hidden, eps=EPS)
        if spec.text is not None:
            self.text_mlp = Mlp(hidden, spec.inner)
            self.text_mlp_norm = nn.LayerNorm(hidden, eps=EPS)

    def forward(
        self, queries: Context | None, text: Context | None, pictures: Context | None, mode: Mode
    ) -> tuple[Context | None, Context | None]:
        """Segment s of the queries sees picture s, and text s as `mode` has it; either may be missing (`apart`)."""
        both = joined(queries, text) if queries is not None and text is not None and mode != "apart" else None
        words = text
        if text is not None:
            seen = text if both is None else both
            x = self._attended(text, seen, CAUSAL if mode == "generate" else FULL)
            words = Context(rows=self.text_mlp_norm(x + self.text_mlp(x)), borders=text.borders)
        if queries is not None:
            x = self._attended(queries, both if both is not None and mode == "match" else queries, FULL)
            if hasattr(self, "cross_attention"):
                x = self.cross_attention_norm(x + self.cross_attention(x, queries.borders, pictures))
            queries = Context(rows=self.mlp_norm(x + self.mlp(x)), borders=queries.borders)
        return queries, words

    def _attended(self, x: Context, seen: Context, window: tuple[int, int]) -> torch.Tensor:
        found: torch.Tensor = self.attention_norm(x.rows + self.attention(x.rows, x.borders, seen, window=window))
        return found


class QFormer(nn.Module):
    """`QFormerSpec`."""

    def __init__(self, spec: QFormerSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        hidden = spec.hidden
        self.tokens = spec.tokens
        self.queries = nn.Parameter(torch.nn.init.normal_(torch.empty(spec.tokens, hidden), std=0.02))
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.layers = nn.ModuleList(
            QFormerLayer(spec, width, across=at % spec.cross_every == 0) for at in range(spec.layers)
        )
        self.out = nn.Linear(hidden, out)
        if spec.text is not None:
            self.text_side = TextSide(spec, spec.text)
            self.auxiliary = {"itc": Term(weight=1.0, per="sample"), "itm": Term(weight=1.0, per="sample")}

    def forward(self, patches: Patches) -> torch.Tensor:
        queries, _ = self.read(patches.context, None, "apart")
        assert queries is not None, "asked for"
        made: torch.Tensor = self.out(queries.rows)
        return made

    def read(
        self, pictures: Context | None, texts: Context | None, mode: Mode
    ) -> tuple[Context | None, Context | None]:
        """What queries and texts come to: pictures [P, width] and texts [T, hidden] (`TextSide.embedded`), one of each
        to a pair, -> [N * tokens, hidden] and [T, hidden]."""
        queries = None
        if pictures is not None:
            count, device = len(pictures.borders.lengths), pictures.rows.device
            rows = self.norm(self.queries).repeat(count, 1)
            queries = Context(rows=rows, borders=Borders.of([self.tokens] * count, device))
        if texts is not None:
            texts = Context(rows=self.norm(texts.rows), borders=texts.borders)
        for layer in self.layers:
            queries, texts = layer(queries, texts, pictures, mode)
        return queries, texts


class TextSide(nn.Module):
    """What of a Q-Former is for text alone: embeddings, the head that says the next word (BERT's, tied to them), the
    space in which pictures and texts are compared, and whether they match."""

    def __init__(self, spec: QFormerSpec, told: TextSpec) -> None:
        super().__init__()
        assert told.vocabulary is not None, "the tokenizer says it before the model is made"
        hidden = spec.hidden
        self.vocabulary, self.longest = told.vocabulary, told.longest
        self.words = nn.Embedding(told.vocabulary + 2, hidden)
        """Two more: what begins a text that is read, and one that is written."""
        self.positions = nn.Embedding(told.longest, hidden)
        self.transform = nn.Linear(hidden, hidden)
        self.transform_norm = nn.LayerNorm(hidden, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(told.vocabulary))
        self.of_picture = nn.Linear(hidden, told.projection)
        self.of_text = nn.Linear(hidden, told.projection)
        self.match = nn.Linear(hidden, 2)
        self.temperature = nn.Parameter(torch.tensor([TEMPERATURE]))  # one value: shards take no scalar

    def embedded(self, texts: Sequence[torch.Tensor], mode: Mode) -> Context:
        """Texts int64 [n] each -> [sum of n + 1, hidden], each begun by a token for the mode, before the norm."""
        device = self.words.weight.device
        first = torch.tensor([self.vocabulary + (mode == "generate")], device=device)
        ids = torch.cat([torch.cat([first, text]) for text in texts])
        places = torch.cat([torch.arange(len(text) + 1, device=device) for text in texts])
        rows = self.words(ids) + self.positions(places)
        return Context(rows=rows, borders=Borders.of([len(text) + 1 for text in texts], device))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] -> logits [n, vocabulary]."""
        inner = self.transform_norm(F.gelu(self.transform(hidden)))
        return F.linear(inner, self.words.weight[: self.vocabulary], self.bias)
