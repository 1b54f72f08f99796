"""Fusion: where what a picture shows meets the words; one registry of all kinds.

`model.fusion.kind` names one. Each has a spec (pydantic, with its shapes and source) and a module beside it. `early` is
no module: a picture's tokens stand among the words. For all others a picture is one marker among the words, whatever
the connector makes of it: layers of the fusion stand before layers of the language model, or (`late`) a head compares
what both towers come to. Sound stays early.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag, TypeAdapter
from torch import nn

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.models.beside import beside_of, decoder_layers
from mmtrain.models.fusion.bidirectional import BidirectionalLayer, BidirectionalSpec
from mmtrain.models.fusion.gated import GatedLayer, GatedSpec, ProgressiveSpec
from mmtrain.models.fusion.late import LateHead, LateSpec
from mmtrain.models.fusion.sight import Sight, sight

__all__ = ["FUSIONS", "Fusion", "FusionLayers", "Sight", "check", "make", "read", "sight"]


class EarlySpec(Model):
    """Token concatenation: the connector's vectors of a picture stand in place of its placeholders among the words, and
    the language model sees them as it sees words. (LLaVA: Liu et al. 2023, arXiv 2304.08485, §4.1.)"""

    kind: Literal["early"] = "early"
    marks: ClassVar[bool] = False


FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "bidirectional": BidirectionalLayer,
    "gated": GatedLayer,
    "late": LateHead,
    "progressive": GatedLayer,
}
"""Layers by the name in `model.fusion.kind`, or the head of `late`; `early` has none."""


def _kind(value: Any) -> Any:
    return value.get("kind", "early") if isinstance(value, dict) else getattr(value, "kind", "early")


Fusion = Annotated[
    Annotated[BidirectionalSpec, Tag("bidirectional")]
    | Annotated[EarlySpec, Tag("early")]
    | Annotated[GatedSpec, Tag("gated")]
    | Annotated[LateSpec, Tag("late")]
    | Annotated[ProgressiveSpec, Tag("progressive")],
    Discriminator(_kind),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Fusion)


def read(value: Any) -> Any:
    """The spec that a model's `config.json` holds."""
    return _ADAPTER.validate_python(value)


def places_of(spec: Any, layers: int) -> list[int]:
    """The layers of the language model, of so many, before which a layer of the fusion stands.

    >>> places_of(GatedSpec(kind="gated", every=4), 6)
    [0, 4]
    """
    if spec.kind in ("early", "late"):
        return []
    return list(spec.layers) if spec.kind == "progressive" else list(range(0, layers, spec.every))


def check(spec: Any, layers: int, hidden: int, heads: int) -> None:
    """Raises SpecError for what cannot be made beside a language model of so many layers, width and heads."""
    if spec.kind == "late" and spec.pool == "attention" and hidden % spec.heads:
        raise SpecError(f"model.fusion.heads: {spec.heads} do not divide the width of {hidden}")
    if spec.kind in ("early", "late"):
        return
    if (far := max(places_of(spec, layers))) >= layers:
        raise SpecError(f"model.fusion.layers: {far}, and the language model has {layers} layers, numbered from 0")
    if spec.head_width is None and hidden % (spec.heads or heads):
        raise SpecError(
            f"model.fusion.heads: {spec.heads or heads} do not divide the width of {hidden}; set head_width"
        )


class FusionLayers(nn.Module):
    """The layers of a fusion, each before one of the language model's."""

    def __init__(self, spec: Any, layers: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.at = places_of(spec, layers)
        more = [{"refine": True} if spec.kind == "progressive" and number else {} for number in range(len(self.at))]
        self.layers = nn.ModuleList(FUSIONS[spec.kind](spec, hidden, heads, **each) for each in more)


def make(spec: Any, language_model: nn.Module, config: Any) -> nn.Module | None:
    """The module of a fusion beside a language model of this config, attached to its layers; None for `early`."""
    if spec.kind == "early":
        return None
    if spec.kind == "late":
        return LateHead(spec, int(config.hidden_size))
    layers = int(config.num_hidden_layers)
    found = FusionLayers(spec, layers, int(config.hidden_size), int(config.num_attention_heads))
    attach(found, language_model, layers)
    return found


def attach(fusion: FusionLayers, language_model: nn.Module, count: int) -> None:
    """Let each layer of the fusion run before its layer of the language model, whose parts stay as they are called."""
    decoder = decoder_layers(language_model, count, "fusion")
    for number, at in enumerate(fusion.at):
        decoder[at].register_forward_pre_hook(functools.partial(_before, fusion, number), with_kwargs=True)


def _before(
    fusion: FusionLayers, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    told, beside = dict(kwargs), beside_of(layer, kwargs)
    hidden = args[0] if args else told.pop("hidden_states")
    rows, media = fusion.layers[number](hidden.flatten(0, 1), beside.seen, number)
    if beside.seen is not None and media is not None:
        beside.seen = replace(beside.seen, rows=media)
    return (rows.view(hidden.shape), *args[1:]), told
