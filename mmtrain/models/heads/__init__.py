"""Heads beside the language head: small modules that read hidden states, with targets and losses of their own.

Each has a spec, and a module that declares its losses (`mmtrain.auxiliary`) and records them in `learn`, which the
objective calls after the language model. One that `watches` reads what the towers made (`films.Towers`), others the
last states of the language model. They are saved and exported with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.auxiliary import heads_of
from mmtrain.components import aliases
from mmtrain.models.heads import films
from mmtrain.models.heads.actions import ActionsHead, ActionsSpec
from mmtrain.models.heads.events import EventsHead, EventsSpec
from mmtrain.models.heads.flow import FlowHead, FlowSpec
from mmtrain.models.heads.grounding import GroundingHead, GroundingSpec
from mmtrain.models.heads.offset import OffsetHead, OffsetSpec
from mmtrain.models.heads.quality import QualityHead, QualitySpec
from mmtrain.models.heads.two_stream import TwoStreamHead, TwoStreamSpec
from mmtrain.models.hearing import Hearing

__all__ = ["HEADS", "HeadsSpec", "check", "check_carried", "learn", "make", "read", "tell"]

HEADS: dict[str, Callable[..., nn.Module]] = {
    "events": EventsHead,
    "flow": FlowHead,
    "grounding": GroundingHead,
    "actions": ActionsHead,
    "quality": QualityHead,
    "two_stream": TwoStreamHead,
    "offset": OffsetHead,
}
"""The module of each key of `model.heads`."""


class HeadsSpec(Model):
    """Heads by name; null: there is none."""

    grounding: GroundingSpec | None = None
    """Boxes and masks of what answers locate."""
    events: EventsSpec | None = None
    """Which sounds there are in a clip, and when."""
    flow: FlowSpec | None = None
    """Pictures that answers draw, latent by latent."""
    actions: ActionsSpec | None = None
    """What happens in a video, and when."""
    quality: QualitySpec | None = None
    """How well something is done in a video."""
    two_stream: TwoStreamSpec | None = None
    """What happens in a video, by its pixels and how they move."""
    offset: OffsetSpec | None = None
    """By how much the sound of a video is late."""

    def given(self) -> dict[str, Any]:
        """By name, those that there are."""
        return {name: spec for name, spec in self if spec is not None}


def read(value: Any) -> HeadsSpec:
    """The spec that a model's `config.json` holds."""
    return HeadsSpec.model_validate(value or {})


def check(spec: HeadsSpec, *, grid: bool, hears: bool, latents: bool, filmed: bool, whole: bool, pixels: bool) -> None:
    """Raises SpecError for heads that the other parts give nothing to see; `grid`: pictures are grids of tokens;
    `latents`: a token is a latent, and has seen no later one; others as `films.check` has them."""
    watching = [name for name in spec.given() if name in films.UNITS]
    films.check(watching, filmed=filmed, whole=whole, pixels=pixels, hears=hears)
    if spec.flow is not None and not latents:
        raise SpecError(
            "model.heads.flow: it draws latents, one after the other; take vision: {kind: latent, path: FOLDER}, a "
            "connector that takes them one by one (linear or mlp), fusion early and no video, or leave the head out"
        )
    if spec.events is not None and not hears:
        raise SpecError("model.heads.events: the model hears nothing; give it `audio`, or leave the head out")
    if spec.grounding is not None and spec.grounding.masks and not grid:
        raise SpecError(
            "model.heads.grounding.masks: the connector's tokens are no grid of the picture; take a connector that "
            "merges blocks (mlp), fusion early and vision.drop 0, or set masks: false"
        )


def make(told: Any, width: int, tower: int = 0, heard: int = 0) -> nn.ModuleDict | None:
    """The modules that a model's `config.json` tells of, beside a language model, a vision tower and an audio tower of
    these widths; None without any."""
    given = read(told).given()
    sizes: dict[str, tuple[int, ...]] = {"flow": (width, tower), "actions": (tower,), "quality": (tower,)}
    sizes |= {"two_stream": (), "offset": (tower, heard)}
    made = {name: HEADS[name](each, *sizes.get(name, (width,))) for name, each in given.items()}
    return nn.ModuleDict(made) if made else None


def tell(model: Any, tokenizer: Any) -> None:
    """Let heads read tokens: they find their targets in what answers say."""
    known: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return known[token]

    for head in heads_of(model).values():
        if hasattr(head, "decode"):
            head.decode = decode


def check_carried(model: Any, carried: Collection[str], trained: Collection[str]) -> None:
    """Raises SpecError for what only fields of samples teach, where it is `trained` (aliases of parameters) and the
    stream brings none of them: it would learn nothing."""
    named = aliases(model)
    known = {id(parameter): named[name] for name, parameter in model.named_parameters()}
    taught = {f"heads.{name}": (head, getattr(head, "taught_by", ())) for name, head in heads_of(model).items()}
    hearing = getattr(getattr(model, "base_model", None), "hearing", None)
    if isinstance(hearing, Hearing) and hearing.spec.languages:
        taught["audio.languages"] = hearing.language, ("language",)
    for key, (module, fields) in taught.items():
        mine = [known[id(p)] for p in module.parameters() if known[id(p)] in trained]
        if fields and mine and not set(fields) & set(carried):
            held = ".".join(mine[0].split(".")[:2]) if key.startswith("heads.") else mine[0]
            raise SpecError(
                f"model.{key}: it learns from the samples' field {' or '.join(fields)}, which does not come with them; "
                f"set data.carry: [{fields[0]}], or hold it: parameters: [{{match: '{held}.*', train: false}}]"
            )


def learn(model: Any, batch: Any, hidden: torch.Tensor, towers: films.Towers | None) -> None:
    """Record the losses of all heads; `hidden` [T, width] are the last states of the language model, `towers` what the
    towers of a model with heads made."""
    for head in heads_of(model).values():
        head.learn(model, batch, towers if getattr(head, "watches", False) else hidden)
