"""The dual encoder: NaFlex patches of many pictures in one row, texts in another, a vector of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmdata.views.patches import patch_coordinates
from mmtrain.attention import CAUSAL, FULL
from mmtrain.contrastive.pairs import Pairs
from mmtrain.models.layers import Attention, Borders, Context, Layer, Mlp
from mmtrain.models.spec import SourcePath, TowerSpec
from mmtrain.models.towers import presets
from mmtrain.models.towers.navit import Navit

EPS = 1e-6
"""Of norms, as SigLIP has it."""


class VisionSpec(TowerSpec):
    """A pre-norm ViT over packed patches (SigLIP 2's NaFlex tower: Tschannen et al. 2025, arXiv 2502.14786, §2.4.2)."""

    hidden: int = Field(64, ge=8)
    inner: int | None = Field(None, ge=1)
    """Width of the MLPs; 4 * hidden by default."""
    patch: int = Field(16, ge=2)
    """Side of a patch in pixels."""
    table: int = Field(16, ge=1)
    """Rows and columns of the learned table of positions, which is resized to each picture's grid."""
    max_patches: int = Field(256, ge=1)
    """Patches of a picture at most: it is resized, at its own shape, to the most that fit."""
    pool: Literal["attention", "mean"] = "attention"
    """How patches become one vector: by what a learned query sees of them (SigLIP's head), or as their mean."""


class TextSpec(TowerSpec):
    """A pre-norm transformer over packed texts."""

    hidden: int = Field(64, ge=8)
    inner: int | None = Field(None, ge=1)
    """Width of the MLPs; 4 * hidden by default."""
    context: int = Field(64, ge=2)
    """Tokens of a text at most; of longer ones the first are kept, and the last (the end)."""
    causal: bool = False
    """Whether a token sees only those before it (CLIP), or all of its text (SigLIP)."""
    pad: bool = False
    """Whether texts are filled up to `context`, and the padding is seen and pooled, as SigLIP was trained."""
    pool: Literal["last", "mean"] = "last"


class DualSpec(Model):
    """Two towers from numbers, with random weights."""

    kind: Literal["dual"] = "dual"
    vision: VisionSpec = VisionSpec()
    text: TextSpec = TextSpec()
    projection: int | None = Field(64, ge=2)
    """Width of the vectors that are compared; null: that of `vision`, whose vectors stay as they are, and texts alone
    are mapped (SigLIP)."""


class Siglip2Spec(Model):
    """The towers and weights of a Hugging Face `Siglip2Model`."""

    kind: Literal["siglip2"]
    path: SourcePath
    """A local folder, or the id of a repository on the hub."""
    revision: str | None = None
    local_files_only: bool = False
    random: bool = False
    """Random weights of its sizes."""
    max_patches: int = Field(256, ge=1)
    """Patches of a picture at most."""


def _kind(value: Any) -> Any:
    return value.get("kind", "dual") if isinstance(value, dict) else getattr(value, "kind", "dual")


DualEncoderSpec = Annotated[
    Annotated[DualSpec, Tag("dual")] | Annotated[Siglip2Spec, Tag("siglip2")], Discriminator(_kind)
]
"""Told apart by `kind`; without one it is `dual`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What the towers make of N pairs: vectors of length 1, float32. Pieces are those of one pair after each other."""

    pictures: torch.Tensor
    """[N, D]"""
    texts: torch.Tensor
    """[N, D]"""
    regions: torch.Tensor | None = None
    """[N, R, D], where cells of pictures are compared too."""
    patches: Sequence[torch.Tensor] = ()
    """Of each pair [P, D], where patches are compared with words; not normalised."""
    words: Sequence[torch.Tensor] = ()
    """Of each pair [W, D]; not normalised."""


class Pool(nn.Module):
    """SigLIP's head: what one learned query sees of each picture's patches, and an MLP beside it: [T, hidden] -> [N,
    hidden]. (Zhai et al. 2022, arXiv 2106.04560, §3: multihead attention pooling.)"""

    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.normal_(torch.empty(1, hidden), std=hidden**-0.5))
        self.attention = Attention(hidden, heads, context=hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.mlp = Mlp(hidden, inner, activation="gelu_tanh")

    def forward(self, x: torch.Tensor, borders: Borders) -> torch.Tensor:
        count = len(borders.lengths)
        mine = Borders.of([1] * count, x.device)
        seen = self.attention(self.query.expand(count, -1), mine, Context(rows=x, borders=borders))
        made: torch.Tensor = seen + self.mlp(self.norm(seen))
        return made


class VisionTower(Navit):
    """`VisionSpec`: whole pictures to features, by the tower of native models; and a vector of each picture."""

    def __init__(self, spec: VisionSpec) -> None:
        inner = spec.inner or 4 * spec.hidden
        sizes = spec.hidden, spec.layers, spec.heads, inner
        super().__init__(presets.naflex(*sizes, patch=spec.patch, budget=spec.max_patches, side=spec.table))
        self.spec = spec
        self.pool = Pool(spec.hidden, spec.heads, inner) if spec.pool == "attention" else None

    def forward(  # type: ignore[override]  # which tells where patches lie
        self, patches: torch.Tensor, grids: Sequence[tuple[int, int]], kept: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, Borders]:
        """Patches [P, 3 * patch^2] in raster order of pictures of so many rows and columns -> features [P', hidden]
        and their borders. `kept` are, of each picture, the patches that are looked at, int64 ascending."""
        places = [torch.from_numpy(patch_coordinates((1, *grid), 1)) for grid in grids]
        pieces = list(patches.split([len(place) for place in places]))
        if kept is not None:
            places = [place[mine] for place, mine in zip(places, kept, strict=True)]
            pieces = [piece[mine.to(piece.device)] for piece, mine in zip(pieces, kept, strict=True)]
        lengths = [len(place) for place in places]
        rows = super().forward(torch.cat(pieces), torch.cat(places).to(patches.device), lengths, grids)
        return rows, Borders.of(lengths, rows.device)

    def pooled(self, features: torch.Tensor, borders: Borders) -> torch.Tensor:
        """[N, hidden]"""
        if self.pool is not None:
            made: torch.Tensor = self.pool(features, borders)
            return made
        return torch.stack([each.mean(0) for each in features.split(borders.lengths)])


class TextTower(nn.Module):
    """`TextSpec`: token ids to features."""

    def __init__(self, spec: TextSpec, vocabulary: int, pad_id: int) -> None:
        super().__init__()
        self.spec = spec
        self.pad_id = pad_id
        self.embedding = nn.Embedding(vocabulary, spec.hidden)
        self.positions = nn.Embedding(spec.context, spec.hidden)
        told: dict[str, Any] = {"inner": spec.inner, "activation": "gelu_tanh", "eps": EPS}
        self.layers = nn.ModuleList(Layer(spec.hidden, spec.heads, **told) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.hidden, eps=EPS)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)

    def forward(self, texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Borders]:
        """Ids int64 [W] of each text -> features [T, hidden] and their borders."""
        device = self.embedding.weight.device
        cut = [self._fitted(text) for text in texts]
        ids = torch.cat(cut).to(device)
        at = torch.cat([torch.arange(len(each)) for each in cut]).to(device)
        borders = Borders.of([len(each) for each in cut], device)
        x = self.embedding(ids) + self.positions(at)
        for layer in self.layers:
            x = layer(x, borders, window=CAUSAL if self.spec.causal else FULL)
        return self.norm(x), borders

    def pooled(self, features: torch.Tensor, borders: Borders) -> torch.Tensor:
        """[N, hidden]"""
        if self.spec.pool == "last":
            return features[borders.cu_seqlens[1:].long() - 1]
        return torch.stack([each.mean(0) for each in features.split(borders.lengths)])

    def widen(self, vocabulary: int) -> None:
        """Take so many tokens: new ones begin as the mean of those that there are."""
        old = self.embedding.weight.data
        more = old.mean(0).expand(vocabulary - len(old), -1)
        self.embedding = nn.Embedding(vocabulary, old.shape[1], _weight=torch.cat([old, more]))

    def _fitted(self, text: torch.Tensor) -> torch.Tensor:
        most = self.spec.context
        if len(text) > most:
            return torch.cat([text[: most - 1], text[-1:]])
        if self.spec.pad:
            return F.pad(text, (0, most - len(text)), value=self.pad_id)
        return text


class DualEncoder(nn.Module):
    """Both towers, what makes their features comparable, and the scale (and bias) of logits.

    logits = exp(scale) * pictures @ texts.T + bias. Parts are called `vision`, `language` and (the rest) `connector`
    in rules.
    """

    config: None = None
    """It is built from its specs alone."""

    def __init__(
        self, vision: VisionSpec, text: TextSpec, *, projection: int | None, vocabulary: int, pad_id: int
    ) -> None:
        super().__init__()
        self.vision = VisionTower(vision)
        self.text = TextTower(text, vocabulary, pad_id)
        width = projection or vision.hidden
        # SigLIP maps texts to the width of pictures and leaves these as they are.
        self.of_picture = nn.Identity() if projection is None else nn.Linear(vision.hidden, width, bias=False)
        self.of_text = nn.Linear(text.hidden, width, bias=projection is None)
        self.scale = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.width = width

    def get_encoder(self, modality: str) -> nn.Module:
        """The vision tower; there is none for sounds."""
        return self.vision if modality == "image" else self

    def get_decoder(self) -> nn.Module:
        """The text tower."""
        return self.text

    def get_output_embeddings(self) -> None:
        """None: no token is predicted."""

    def forward(self, pairs: Pairs, *, cells: int = 0, words: bool = False) -> Vectors:
        """Vectors of pairs; with `cells`, of so many by so many regions of each picture; with `words`, of all patches
        and words."""
        pictures, regions, patches = self.pictures(pairs, cells=cells, patches=words)
        texts, each = self.texts(pairs.texts, words=words)
        return Vectors(pictures=pictures, texts=texts, regions=regions, patches=patches, words=each)

    def pictures(
        self, pairs: Pairs, *, cells: int = 0, patches: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None, Sequence[torch.Tensor]]:
        """Of N pairs: vectors of pictures [N, D], of their regions [N, cells^2, D], of their patches."""
        if not pairs.grids:
            none = self._map(self.vision.norm(self._nothing(self.vision.spec.hidden)))
            return none, none[:, None].expand(0, cells**2, self.width) if cells else None, ()
        features, borders = self.vision(pairs.patches, pairs.grids, pairs.kept)
        whole = _unit(self._map(self.vision.pooled(features, borders)))
        if not cells and not patches:
            return whole, None, ()
        mapped = self._map(features).float()
        each = mapped.split(borders.lengths)
        regions = torch.stack([_regions(*told, cells) for told in zip(each, _cells(pairs, cells), strict=True)])
        return whole, F.normalize(regions, dim=-1) if cells else None, each if patches else ()

    def texts(
        self, texts: Sequence[torch.Tensor], *, words: bool = False
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Of N texts: their vectors [N, D], those of their words."""
        if not texts:
            return self.of_text(self.text.norm(self._nothing(self.text.spec.hidden))).float(), ()
        features, borders = self.text(texts)
        whole = _unit(self.of_text(self.text.pooled(features, borders)))
        if not words:
            return whole, ()
        each = self.of_text(features).float().split(borders.lengths)
        return whole, [rows[: len(text)] for rows, text in zip(each, texts, strict=True)]  # without padding

    def _map(self, features: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.of_picture(features)
        return made.float()

    def _nothing(self, hidden: int) -> torch.Tensor:
        """Of no pair at all: a rank that has none takes part all the same."""
        return self.scale.new_zeros(0, hidden)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1)


def _cells(pairs: Pairs, cells: int) -> list[torch.Tensor]:
    """The cell of each patch that is looked at, of each picture: row by row, int64 [P]."""
    found = []
    for number, (rows, columns) in enumerate(pairs.grids):
        row = torch.arange(rows) * cells // rows
        column = torch.arange(columns) * cells // columns
        whole = (row[:, None] * cells + column).flatten()
        found.append(whole if pairs.kept is None else whole[pairs.kept[number]])
    return found


def _regions(patches: torch.Tensor, cell: torch.Tensor, cells: int) -> torch.Tensor:
    """The mean of each cell's patches [cells^2, D]; of all where a cell has none."""
    if not cells:
        return patches.mean(0, keepdim=True)
    cell = cell.to(patches.device)
    total = patches.new_zeros(cells**2, patches.shape[-1]).index_add(0, cell, patches)
    count = torch.bincount(cell, minlength=cells**2)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), patches.mean(0))
