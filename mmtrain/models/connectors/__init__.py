"""Connectors: from the vectors of a vision tower to the tokens of a language model; one registry of all kinds.

`model.connector.kind` names one. Each has a spec (pydantic, with its shapes and source) and a module of the same name
beside it, made of the spec, the tower's width, the language model's, and how many patches by how many are a block;
called with `Patches`, it answers [tokens, out], pictures after each other. How many tokens a picture has is a promise
of the spec alone (`tokens_of`), by which the stream plans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter
from torch import nn

from mmdata.errors import SpecError
from mmtrain.models.connectors.compressed import Clusters, ClustersSpec, TokenMerge, TokenMergeSpec
from mmtrain.models.connectors.hierarchical import HierarchicalPool, HierarchicalPoolSpec
from mmtrain.models.connectors.merged import (
    Linear,
    LinearSpec,
    Mlp,
    MlpSpec,
    PatchMerger,
    PatchMergerSpec,
    PixelShuffle,
    PixelShuffleSpec,
)
from mmtrain.models.connectors.patches import Patches, in_blocks
from mmtrain.models.connectors.pooled import AdaptivePool, AdaptivePoolSpec, CAbstractor, CAbstractorSpec
from mmtrain.models.connectors.qformer import QFormer, QFormerSpec
from mmtrain.models.connectors.queries import CrossAttention, CrossAttentionSpec, Perceiver, PerceiverSpec

__all__ = ["CONNECTORS", "AudioConnector", "Connector", "Patches", "check", "in_blocks", "make", "read", "tokens_of"]

CONNECTORS: dict[str, Callable[..., nn.Module]] = {
    "adaptive_pool": AdaptivePool,
    "c_abstractor": CAbstractor,
    "clusters": Clusters,
    "cross_attention": CrossAttention,
    "hierarchical_pool": HierarchicalPool,
    "linear": Linear,
    "mlp": Mlp,
    "patch_merger": PatchMerger,
    "perceiver": Perceiver,
    "pixel_shuffle": PixelShuffle,
    "qformer": QFormer,
    "token_merge": TokenMerge,
}
"""Modules by the name in `model.connector.kind`."""
BLOCKS = ("patch_merger", "pixel_shuffle")
"""Kinds that are nothing without blocks."""
GRIDS = ("adaptive_pool", "c_abstractor", "cross_attention", "hierarchical_pool")
"""Kinds that want whole grids of patches."""
AT_MOST = ("token_merge",)
"""Kinds whose pictures of fewer patches have fewer tokens."""


def _kind(value: Any) -> Any:
    return value.get("kind", "mlp") if isinstance(value, dict) else getattr(value, "kind", "mlp")


Connector = Annotated[
    Annotated[AdaptivePoolSpec, Tag("adaptive_pool")]
    | Annotated[CAbstractorSpec, Tag("c_abstractor")]
    | Annotated[ClustersSpec, Tag("clusters")]
    | Annotated[CrossAttentionSpec, Tag("cross_attention")]
    | Annotated[HierarchicalPoolSpec, Tag("hierarchical_pool")]
    | Annotated[LinearSpec, Tag("linear")]
    | Annotated[MlpSpec, Tag("mlp")]
    | Annotated[PatchMergerSpec, Tag("patch_merger")]
    | Annotated[PerceiverSpec, Tag("perceiver")]
    | Annotated[PixelShuffleSpec, Tag("pixel_shuffle")]
    | Annotated[QFormerSpec, Tag("qformer")]
    | Annotated[TokenMergeSpec, Tag("token_merge")],
    Discriminator(_kind),
]
AudioConnector = Annotated[Annotated[LinearSpec, Tag("linear")] | Annotated[MlpSpec, Tag("mlp")], Discriminator(_kind)]
"""Kinds that make a token of each vector."""
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Connector)


def read(value: Any) -> Any:
    """The spec that a model's `config.json` holds: a dictionary, or the name alone, as the first models had it."""
    return _ADAPTER.validate_python({"kind": value} if isinstance(value, str) else value)


def make(spec: Any, width: int, out: int, merge: int) -> nn.Module:
    """The module of a spec."""
    return CONNECTORS[spec.kind](spec, width, out, merge)


def tokens_of(spec: Any, merge: int, patches: int) -> int:
    """How many tokens a picture of so many patches has.

    >>> tokens_of(MlpSpec(), 2, 64), tokens_of(PerceiverSpec(kind="perceiver", tokens=9), 1, 64)
    (16, 9)
    """
    if spec.merges:
        return patches // merge**2
    fixed: int = spec.tokens
    return min(fixed, patches) if spec.kind in AT_MOST else fixed


def check(spec: Any, merge: int, width: int, out: int, *, dropping: bool) -> None:
    """Raises SpecError for what cannot be made of a tower and a language model of these widths."""
    kind, key = spec.kind, "model.connector"
    if merge != 1 and not spec.merges:
        raise SpecError(f"model.vision.merge: {merge} is for connectors that merge blocks; {kind} takes merge: 1")
    if merge == 1 and kind in BLOCKS:
        raise SpecError(
            f"{key}.kind: {kind} merges blocks of patches, and with model.vision.merge: 1 there are none; 2"
        )
    if dropping and kind in GRIDS:
        raise SpecError(f"{key}.kind: {kind} wants whole grids, and model.vision.drop leaves none; set drop: 0")
    if kind == "hierarchical_pool" and width % spec.heads:
        raise SpecError(f"{key}.heads: {spec.heads} heads do not divide the tower's width of {width}")
    if kind == "cross_attention":
        hidden = spec.hidden or out
        if hidden % spec.heads:
            raise SpecError(f"{key}.heads: {spec.heads} heads do not divide a width of {hidden} (hidden)")
        if spec.positions == "sincos" and hidden % 4:
            raise SpecError(f"{key}.positions: sincos needs a width that 4 divides, not {hidden} (hidden)")
