"""Hugging Face's `Siglip2Model` and our dual encoder: each other's sizes and weights, both ways."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mmdata.errors import SpecError
from mmtrain.contrastive.towers import EPS, DualEncoder, TextSpec, VisionSpec

ACTIVATION = "gelu_pytorch_tanh"
FIXED = {
    "vision_model.embeddings.patch_embedding": "vision.patch_embedding",
    "vision_model.embeddings.position_embedding": "vision.table",
    "vision_model.post_layernorm": "vision.norm",
    "vision_model.head.layernorm": "vision.pool.norm",
    "vision_model.head.mlp.fc1": "vision.pool.mlp.up",
    "vision_model.head.mlp.fc2": "vision.pool.mlp.down",
    "vision_model.head.attention.out_proj": "vision.pool.attention.out",
    "text_model.embeddings.token_embedding": "text.embedding",
    "text_model.embeddings.position_embedding": "text.positions",
    "text_model.final_layer_norm": "text.norm",
    "text_model.head": "of_text",
}
"""Modules outside layers: theirs and ours."""
INSIDE = {
    "layer_norm1": "attention_norm",
    "layer_norm2": "mlp_norm",
    "self_attn.out_proj": "attention.out",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}
"""Modules of a layer."""
ALONE = {"logit_scale": "scale", "logit_bias": "bias"}
MAPS = "qkv"
"""Queries, keys and values: three modules of theirs are one of ours, and of the head one of theirs is three of ours."""


def sizes(config: Any, *, max_patches: int) -> tuple[VisionSpec, TextSpec, int, int]:
    """The towers of a `Siglip2Config`, its vocabulary and padding. Raises SpecError for activations and norms of
    another kind."""
    vision, text = config.vision_config, config.text_config
    for part, told in (("vision", vision), ("text", text)):
        if told.hidden_act != ACTIVATION or told.layer_norm_eps != EPS:
            raise SpecError(f"model.path: its {part} tower has {told.hidden_act} and norms of {told.layer_norm_eps}")
    if getattr(text, "projection_size", vision.hidden_size) != vision.hidden_size:
        raise SpecError("model.path: its texts are mapped to another width than pictures have")
    return (
        VisionSpec(
            hidden=vision.hidden_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            inner=vision.intermediate_size,
            patch=vision.patch_size,
            table=math.isqrt(vision.num_patches),
            max_patches=max_patches,
        ),
        TextSpec(
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            inner=text.intermediate_size,
            context=text.max_position_embeddings,
            pad=True,
        ),
        text.vocab_size,
        text.pad_token_id or 0,
    )


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a `Siglip2Model` by our names."""
    found = {ours: state[theirs] for theirs, ours in ALONE.items()}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in FIXED:
            found[f"{FIXED[stem]}.{kind}"] = value
            continue
        tower, _, rest = name.partition("_model.encoder.layers.")
        number, _, inner = rest.rpartition(".")[0].partition(".")
        if inner in INSIDE:
            found[f"{tower}.layers.{number}.{INSIDE[inner]}.{kind}"] = value
        elif inner == "self_attn.q_proj":
            maps = [state[name.replace("q_proj", f"{each}_proj")] for each in MAPS]
            found[f"{tower}.layers.{number}.attention.qkv.{kind}"] = torch.cat(maps)
    found["vision.pool.query"] = state["vision_model.head.probe"][0]
    for kind in ("weight", "bias"):
        parts = state[f"vision_model.head.attention.in_proj_{kind}"].chunk(3)
        for each, part in zip(MAPS, parts, strict=True):
            found[f"vision.pool.attention.{each}.{kind}"] = part
    return found


def original(model: DualEncoder) -> Any:
    """The `Siglip2Model` of a dual encoder, with its weights. Raises SpecError, naming each key, for one that none
    is."""
    from transformers import Siglip2Config, Siglip2Model

    vision, text = model.vision.spec, model.text.spec
    wrong = {
        "model.projection: null": isinstance(model.of_picture, nn.Identity),
        "model.vision.pool: attention": model.vision.pool is not None,
        "model.text.pool: last": text.pool == "last",
        "model.text.causal: false": not text.causal,
        "model.text.pad: true": text.pad,
    }
    if left := [key for key, fits in wrong.items() if not fits]:
        raise SpecError(f"--export: a Siglip2Model has {', '.join(left)}; train so, or take the checkpoint as it is")
    config = Siglip2Config(
        vision_config=_sizes(vision) | {"patch_size": vision.patch, "num_patches": vision.table**2},
        text_config=_sizes(text)
        | {
            "vocab_size": model.text.embedding.num_embeddings,
            "max_position_embeddings": text.context,
            "projection_size": vision.hidden,
            "pad_token_id": model.text.pad_id,
        },
    )
    made = Siglip2Model(config)
    made.load_state_dict(_theirs(model.state_dict(), set(made.state_dict())))
    return made


def _sizes(spec: VisionSpec | TextSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden,
        "intermediate_size": spec.inner or 4 * spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPS,
    }


def _theirs(state: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """Our weights by their names."""
    found = {theirs: state[ours] for theirs, ours in ALONE.items()}
    for name in names - found.keys():
        stem, _, kind = name.rpartition(".")
        tower, _, rest = name.partition("_model.encoder.layers.")
        number, _, inner = rest.rpartition(".")[0].partition(".")
        if stem in FIXED:
            found[name] = state[f"{FIXED[stem]}.{kind}"]
        elif inner in INSIDE:
            found[name] = state[f"{tower}.layers.{number}.{INSIDE[inner]}.{kind}"]
        elif inner.startswith("self_attn."):
            which = MAPS.index(inner.removeprefix("self_attn.")[0])
            found[name] = state[f"{tower}.layers.{number}.attention.qkv.{kind}"].chunk(3)[which]
        elif name.endswith("head.probe"):
            found[name] = state["vision.pool.query"][None]
        elif "head.attention.in_proj_" in name:
            kind = name.rpartition("in_proj_")[2]
            found[name] = torch.cat([state[f"vision.pool.attention.{each}.{kind}"] for each in MAPS])
    return found
