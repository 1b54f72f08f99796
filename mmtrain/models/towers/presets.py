"""Other people's towers that take patches of pictures of any shape, as settings of ours: SigLIP 2 NaFlex, Pix2Struct,
Fuyu; how their pictures become patches, and their weights ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.families._family import MediaRule, bare
from mmdata.types import MediaPlan
from mmdata.views.fuyu import Fuyu
from mmdata.views.navit import NaFlex, Pix2Struct
from mmtrain.models import hf
from mmtrain.models.configs import NavitConfig

Weights = dict[str, torch.Tensor]
VIEWS: dict[str, Callable[..., Any]] = {"fuyu": Fuyu, "naflex": NaFlex, "pix2struct": Pix2Struct}
"""By `NavitConfig.view`, besides `native`, which is the family's own."""
KINDS = {"siglip2_vision_model": "naflex", "pix2struct_vision_model": "pix2struct"}
"""Towers of transformers that are taken so, by their `model_type`."""


def naflex(hidden: int, layers: int, heads: int, inner: int, *, patch: int, budget: int, side: int) -> NavitConfig:
    """SigLIP 2 NaFlex (Tschannen et al. 2025, arXiv 2502.14786; `Siglip2VisionModel`): pictures of `budget` patches at
    most, a table of `side` x `side` positions resized to each, LayerNorm, GELU by tanh, without its pooling head."""
    return NavitConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        patch_size=patch,
        positions="table",
        max_grid=side,
        activation="gelu_tanh",
        layer_norm_eps=1e-6,
        view="naflex",
        view_options={"patch": patch, "budget": budget},
    )


def pix2struct(
    hidden: int, layers: int, heads: int, inner: int, *, patch: int, budget: int, head_width: int, most: int
) -> NavitConfig:
    """Pix2Struct's encoder (Lee et al. 2023, arXiv 2210.03347, §2.2; `Pix2StructVisionModel`): pictures standardised by
    themselves, as many patches of their shape as `budget` holds, a learned vector for each of `most` rows and columns,
    T5's layers: root-mean-square norms, no biases, scores that are not scaled, a gated MLP. It has no dropout here."""
    return NavitConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        head_width=head_width,
        patch_size=patch,
        positions="factorised",
        max_grid=most,
        activation="gelu_tanh",
        gated=True,
        bias=False,
        norm="rms",
        layer_norm_eps=1e-6,
        attention_scale=1.0,
        view="pix2struct",
        view_options={"patch": patch, "budget": budget},
    )


def fuyu(*, patch: int, height: int, width: int) -> NavitConfig:
    """Fuyu (Bavishi et al. 2023; `FuyuModel`): no tower at all. Patches go to the connector as they are, whose `linear`
    is Fuyu's `vision_embed_tokens`; a line break follows each row of them among the tokens."""
    return NavitConfig(
        hidden_size=3 * patch**2,
        num_hidden_layers=0,
        num_attention_heads=1,
        patch_size=patch,
        positions="none",
        view="fuyu",
        view_options={"patch": patch, "height": height, "width": width},
    )


def of_hf(config: Any, folder: Path) -> NavitConfig:
    """Ours for a tower of transformers; how many patches pictures have is as the processor's files have it. Raises
    SpecError for an activation that ours does not have."""
    patch = int(config.patch_size)
    if KINDS[config.model_type] == "naflex":
        _activation(config.hidden_act)
        side = round(config.num_patches**0.5)
        sizes = config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size
        made = naflex(*sizes, patch=patch, budget=256, side=side)
    else:
        _activation(config.dense_act_fn)
        sizes = config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.d_ff
        # Rows and columns count from 1 there, and 0 is padding's.
        made = pix2struct(*sizes, patch=patch, budget=2048, head_width=config.d_kv, most=config.seq_len - 1)
    made.layer_norm_eps = config.layer_norm_eps
    made.view_options |= _of_processor(folder, made.view)
    return made


def _of_processor(folder: Path, view: str) -> dict[str, Any]:
    from mmdata.families._settings import pixels, read_checkpoint

    found = read_checkpoint(folder).media["image"]
    if view == "pix2struct":
        told = {"budget": found.get("max_patches")}
    else:
        told = {**pixels(found), "budget": found.get("max_num_patches")}
    return {name: value for name, value in told.items() if value is not None}


def _activation(name: str) -> None:
    if name not in ("gelu_pytorch_tanh", "gelu_new"):
        raise SpecError(f"model.vision.path: a tower with the activation {name}; gelu_pytorch_tanh is known")


def rule_of(config: NavitConfig, rule: MediaRule, views: Mapping[str, Any]) -> MediaRule:
    """The rule of pictures for a tower that has a view of its own. Raises SpecError for parameters that it has not."""
    options = {**config.view_options, **views}
    if config.view != "fuyu":
        options["pad"] = False
    try:
        view = VIEWS[config.view](**{n: tuple(v) if isinstance(v, list) else v for n, v in options.items()})
    except TypeError as error:
        raise SpecError(f"model.views.image: {error}") from error
    return replace(rule, view=view, layout=_with_breaks if config.view == "fuyu" else bare)


def _with_breaks(plan: MediaPlan) -> tuple[str | int, ...]:
    assert plan.grid is not None, plan
    _, rows, columns = plan.grid
    return (columns, "\n") * rows if plan.tokens == rows * columns else (plan.tokens,)


def weights_of(config: Any, folder: Path, key: str) -> Weights:
    """The weights of a tower of transformers in a folder, beside a text tower or not, under our names. Raises SpecError
    as `hf.pretrained` does."""
    if KINDS[config.model_type] == "naflex":
        from transformers import Siglip2VisionModel

        return of_siglip2(hf.pretrained(Siglip2VisionModel, folder, config, key).state_dict())
    from transformers import Pix2StructForConditionalGeneration, Pix2StructVisionModel

    whole = hf.read_config(folder, key)
    if whole.model_type == "pix2struct":
        model = hf.pretrained(Pix2StructForConditionalGeneration, folder, whole, key).encoder
    else:
        model = hf.pretrained(Pix2StructVisionModel, folder, config, key)
    return of_pix2struct(model.state_dict())


def of_siglip2(theirs: Mapping[str, torch.Tensor]) -> Weights:
    """`Siglip2VisionModel`'s weights as ours; those of its pooling head are left out."""
    found = {f"patch_embedding.{kind}": theirs[f"embeddings.patch_embedding.{kind}"] for kind in ("weight", "bias")}
    found["table.weight"] = theirs["embeddings.position_embedding.weight"]
    found |= {f"norm.{kind}": theirs[f"post_layernorm.{kind}"] for kind in ("weight", "bias")}
    names = {"layer_norm1": "attention_norm", "layer_norm2": "mlp_norm", "self_attn.out_proj": "attention.out"}
    names |= {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    for at in range(_count(theirs, "encoder.layers.")):
        layer, mine = f"encoder.layers.{at}", f"layers.{at}"
        for kind in ("weight", "bias"):
            found |= {f"{mine}.{new}.{kind}": theirs[f"{layer}.{old}.{kind}"] for old, new in names.items()}
            parts = [theirs[f"{layer}.self_attn.{name}_proj.{kind}"] for name in ("q", "k", "v")]
            found[f"{mine}.attention.qkv.{kind}"] = torch.cat(parts)
    return found


def of_pix2struct(theirs: Mapping[str, torch.Tensor]) -> Weights:
    """`Pix2StructVisionModel`'s weights as ours, whose rows and columns count from 0."""
    found = {f"patch_embedding.{kind}": theirs[f"embeddings.patch_projection.{kind}"] for kind in ("weight", "bias")}
    found["rows.weight"] = theirs["embeddings.row_embedder.weight"][1:]
    found["columns.weight"] = theirs["embeddings.column_embedder.weight"][1:]
    found["norm.weight"] = theirs["layernorm.weight"]
    names = {"pre_attention_layer_norm": "attention_norm", "pre_mlp_layer_norm": "mlp_norm"}
    names |= {
        "attention.output": "attention.out",
        "mlp.wi_0": "mlp.gate_proj",
        "mlp.wi_1": "mlp.up",
        "mlp.wo": "mlp.down",
    }
    for at in range(_count(theirs, "encoder.layer.")):
        layer, mine = f"encoder.layer.{at}", f"layers.{at}"
        found |= {f"{mine}.{new}.weight": theirs[f"{layer}.{old}.weight"] for old, new in names.items()}
        parts = [theirs[f"{layer}.attention.{name}.weight"] for name in ("query", "key", "value")]
        found[f"{mine}.attention.qkv.weight"] = torch.cat(parts)
    return found


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
