"""Mixture of experts in the language model: its MLPs become several, chosen by routers or by modality."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from types import MethodType
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, TypeAdapter, model_validator
from torch import nn

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.auxiliary import Term, record
from mmtrain.models.beside import BESIDE, MODALITIES, Tokens, beside_of, decoder_layers

_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.")


class RoutedSpec(Model):
    """In every `every`-th layer each token [hidden] goes to the `top_k` of `count` MLPs that a router finds likeliest,
    and takes their sum by likelihood, normalised to 1 (Mixtral: Jiang et al. 2024, arXiv 2401.04088, §2.1); of a single
    one its likelihood itself is the weight, so that the router learns (Switch: Fedus et al. 2021, arXiv 2101.03961,
    §2.1). All begin as copies of the layer's own MLP (sparse upcycling: Komatsuzaki et al. 2022, arXiv 2212.05055)."""

    kind: Literal["routed"] = "routed"
    count: int = Field(4, ge=2)
    top_k: int = Field(2, ge=1)
    per: Literal["modality", "model"] = "modality"
    """A router for words, one for pictures and one for sounds, or one for all."""
    capacity: float | None = Field(None, gt=0)
    """In training an expert takes at most capacity * top_k * tokens / count of a sample's tokens, the earlier before
    the later; for the others it adds nothing (Switch, §2.2). It is counted by sample, not by pack, so that samples in a
    row are as alone. null: all that come."""
    balance: float = Field(0.01, ge=0)
    """Weight of the auxiliary loss `load_balance`: count * sum over experts of (share of a sample's tokens that chose
    it) * (its mean likelihood) (Switch, equations 4 to 6, by sample as in DeepSeek-V3, arXiv 2412.19437, §2.1.2, and so
    the same however samples are packed), of each modality for itself where each has a router."""
    every: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _has_as_many(self) -> Self:
        if self.top_k > self.count:
            raise ValueError(f"top_k {self.top_k} of {self.count} experts (count)")
        return self


class ModalitySpec(Model):
    """In every `every`-th layer an MLP for words, one for pictures and one for sounds, each token [hidden] to its own;
    all begin as the layer's own MLP, so that the model begins as it was, to the bit. (Modality experts of VLMo: Bao et
    al. 2021, arXiv 2111.02358, §3.1, in each layer, attention being shared.)"""

    kind: Literal["modality"]
    every: int = Field(1, ge=1)


ExpertsSpec = Annotated[RoutedSpec | ModalitySpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ExpertsSpec)


def read(value: Any) -> Any:
    """The spec that a model's `config.json` holds; None for none."""
    return None if value is None else _ADAPTER.validate_python(value)


class Experts(nn.Module):
    """What stands in place of a layer's MLP: [..., hidden] -> the same. Its layer tells it of its tokens."""

    tokens: Tokens | None = None

    def __init__(self, spec: RoutedSpec | ModalitySpec, mlp: nn.Module, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        count = len(MODALITIES)
        if isinstance(spec, RoutedSpec):
            count = spec.count
            routers = len(MODALITIES) if spec.per == "modality" else 1
            self.router = nn.Linear(hidden, routers * count, bias=False)
            self.auxiliary = {"load_balance": Term(weight=spec.balance, per="sample")}
        self.experts = nn.ModuleList(copy.deepcopy(mlp) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens = x.reshape(-1, x.shape[-1]), self.tokens
        assert tokens is not None, "the layer tells"
        if isinstance(self.spec, RoutedSpec):
            chosen, shares = self._routed(self.spec, rows, tokens)
        else:
            chosen, shares = tokens.modality[:, None], torch.ones_like(rows[:, :1])
        made = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            places, ranks = torch.nonzero((chosen == number) & (shares != 0), as_tuple=True)
            # One that nobody chose runs on nothing: shards add up the gradients of every rank's experts, zeros too.
            found = torch.cat([expert(rows[mine]) for mine in self._apart(places, tokens) or [places]])
            made = made.index_add(0, places, (found * shares[places, ranks, None]).to(made.dtype))
        return made.view(x.shape)

    def _apart(self, places: torch.Tensor, tokens: Tokens) -> list[torch.Tensor]:
        """The places of an expert's tokens, those of each sample by themselves where a router chose: kernels round
        differently for other numbers of rows, and not by a bit shall what others chose move a sample."""
        if not isinstance(self.spec, RoutedSpec):
            return [places]
        found = torch.bucketize(places, tokens.cu_seqlens[1:].to(places.device), right=True)
        counts = torch.bincount(found, minlength=len(tokens.cu_seqlens) - 1).tolist()
        return [mine for mine in places.split(counts) if len(mine)]

    def _routed(self, spec: RoutedSpec, rows: torch.Tensor, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts int64 [T, top_k] of each token, the likeliest first, and what each weighs, of the type of `rows`: 0
        for padding and where an expert is full."""
        logits = self.router(rows).float().unflatten(1, (-1, spec.count))
        asked = tokens.modality.clamp(min=0) if spec.per == "modality" else torch.zeros_like(tokens.modality)
        likely = logits[torch.arange(len(rows), device=rows.device), asked].softmax(-1)
        shares, chosen = likely.topk(spec.top_k, dim=-1)
        if spec.top_k > 1:
            shares = shares / shares.sum(-1, keepdim=True)
        real = tokens.modality >= 0
        picked = torch.zeros_like(likely).scatter_(1, chosen, 1.0) * real[:, None]
        record("load_balance", balance(likely, picked, asked, tokens.cu_seqlens))
        kept = real[:, None]
        if self.training and spec.capacity is not None:
            kept = kept & fits(picked, spec.capacity, real, tokens.cu_seqlens).gather(1, chosen)
        return chosen, torch.where(kept, shares, 0).to(rows.dtype)


def balance(likely: torch.Tensor, picked: torch.Tensor, asked: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """The load-balance loss of each sample, float32 [S], of likelihoods [T, E] and choices (1 or 0, a row of zeros for
    padding) [T, E]: E * sum over e of share_e * mean likelihood_e, over the tokens that asked one router (int64 [T])
    each; routers count by their tokens.

    >>> even = torch.full((4, 2), 0.5)
    >>> picked = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    >>> balance(even, picked, torch.zeros(4, dtype=torch.long), torch.tensor([0, 4])).tolist()
    [1.0]
    """
    lengths = cu_seqlens.diff().long()
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=likely.device), lengths.to(likely.device))
    real = picked.any(1).to(likely.dtype)
    routers = len(MODALITIES)
    group = sample * routers + asked
    counts = likely.new_zeros(len(lengths) * routers).index_add(0, group, real)
    sums = [
        likely.new_zeros(len(counts), likely.shape[1]).index_add(0, group, each)
        for each in (
            picked,
            likely * real[:, None],
        )
    ]
    share, mean = (each / counts.clamp(min=1)[:, None] for each in sums)
    each = likely.shape[1] * (share * mean).sum(1) * counts
    return each.view(-1, routers).sum(1) / counts.view(-1, routers).sum(1).clamp(min=1)


def fits(picked: torch.Tensor, capacity: float, real: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """bool [T, E]: whether fewer of a token's sample have chosen an expert before it than this takes, which is
    ceil(capacity * choices of the sample / E).

    >>> picked = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    >>> fits(picked, 1.0, torch.ones(4, dtype=torch.bool), torch.tensor([0, 4]))[:, 0].tolist()
    [True, True, False, False]
    """
    lengths = cu_seqlens.diff().long().to(picked.device)
    before = picked.cumsum(0) - picked
    begun = before[cu_seqlens[:-1].long().clamp(max=len(picked) - 1)]
    choices = torch.zeros(len(lengths), device=picked.device)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=picked.device), lengths)
    choices = choices.index_add(0, sample, picked.sum(1).float())
    most = torch.ceil(capacity * choices / picked.shape[1])
    return (before - begun[sample]) < most[sample][:, None]


def install(spec: RoutedSpec | ModalitySpec, language_model: nn.Module, config: Any) -> None:
    """Put experts in place of the MLPs of every `every`-th layer, the first among them. Raises SpecError for a language
    model whose layers have no `mlp`, or whose MLPs are experts already."""
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise SpecError(f"model.experts: a {config.model_type} has experts already; leave it out")
    for layer in decoder_layers(language_model, int(config.num_hidden_layers), "experts")[:: spec.every]:
        mlp = getattr(layer, "mlp", None)
        if not isinstance(mlp, nn.Module):
            raise SpecError(f"model.experts: the layers of a {config.model_type} have no mlp to replace; leave it out")
        layer.mlp = Experts(spec, mlp, int(config.hidden_size))
        setattr(layer, "forward", MethodType(_told, layer))  # noqa: B010 a method, which copies of the model get anew


def _told(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward pass of a layer that has experts. They are told here, so that they are again when it runs again."""
    layer.mlp.tokens = beside_of(layer, kwargs).tokens
    return type(layer).forward(layer, *args, **{name: each for name, each in kwargs.items() if name != BESIDE})


def upcycled(state: Mapping[str, torch.Tensor], language_model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a language model without experts, for one that has some: each has its layer's MLP, routers stay
    as they are."""
    mine = language_model.state_dict()
    return {
        name: value if name.endswith(".mlp.router.weight") else state[_EXPERT.sub(".mlp.", name)]
        for name, value in mine.items()
    }
