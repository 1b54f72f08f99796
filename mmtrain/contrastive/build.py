"""Building a dual encoder: from numbers, or from the folder of a Hugging Face `Siglip2Model`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmdata.errors import SpecError
from mmtrain.contrastive.objective import BIAS, SCALES
from mmtrain.contrastive.towers import DualEncoder, DualEncoderSpec, DualSpec, Siglip2Spec, TextSpec, VisionSpec
from mmtrain.models.source import folder_of
from mmtrain.models.spec import SourceSpec

if TYPE_CHECKING:
    from mmtrain.contrastive.spec import ContrastiveSpec


def build(spec: ContrastiveSpec, tokenizer: Any) -> DualEncoder:
    """The model of a spec, its random weights keyed by the seed. Raises SpecError for a folder that holds no
    SigLIP 2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        told = spec.model
        if isinstance(told, DualSpec):
            model = DualEncoder(
                told.vision,
                told.text,
                projection=told.projection,
                vocabulary=len(tokenizer),
                pad_id=tokenizer.pad_token_id,
            )
            begin(model, spec, loaded=False)
            return model
        model, loaded = siglip2(told)
    rows = model.text.embedding.num_embeddings
    if len(tokenizer) > rows:
        model.text.widen(len(tokenizer))
    begin(model, spec, loaded=loaded)
    return model


@torch.no_grad()
def begin(model: DualEncoder, spec: ContrastiveSpec, *, loaded: bool) -> None:
    """Set what logits are multiplied by at first, and what is added to them."""
    kind = spec.loss.kind
    if not loaded or spec.loss.scale is not None:
        model.scale.fill_(math.log(spec.loss.scale or SCALES[kind]))
    if kind == "softmax":
        model.bias.zero_().requires_grad_(False)  # the same for all candidates: the softmax does not see it
    elif not loaded:
        model.bias.fill_(BIAS)


def tokenizer_source(spec: DualEncoderSpec) -> Path | None:
    """The folder that a tokenizer would come from."""
    return None if isinstance(spec, DualSpec) else folder_of(_source(spec), "model")


def siglip2(spec: Siglip2Spec) -> tuple[DualEncoder, bool]:
    """The towers of a folder, and whether they have its weights. Raises SpecError for a folder of something else."""
    from transformers import AutoConfig, Siglip2Config, Siglip2Model

    folder = folder_of(_source(spec), "model")
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not isinstance(config, Siglip2Config):
        raise SpecError(f"model.path: {folder} holds a {config.model_type}; a siglip2 (NaFlex) is wanted")
    model = towers(config, max_patches=spec.max_patches)
    if spec.random:
        return model, False
    loaded = Siglip2Model.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32)
    model.load_state_dict(renamed(loaded.state_dict()))
    return model, True


def towers(config: Any, *, max_patches: int) -> DualEncoder:
    """A dual encoder of the sizes of a `Siglip2Config`. Raises SpecError for activations and norms of another kind."""
    vision, text = config.vision_config, config.text_config
    for part, told in (("vision", vision), ("text", text)):
        if told.hidden_act != "gelu_pytorch_tanh" or told.layer_norm_eps != 1e-6:
            raise SpecError(f"model.path: its {part} tower has {told.hidden_act} and norms of {told.layer_norm_eps}")
    if getattr(text, "projection_size", vision.hidden_size) != vision.hidden_size:
        raise SpecError("model.path: its texts are mapped to another width than pictures have")
    return DualEncoder(
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
        projection=None,
        vocabulary=text.vocab_size,
        pad_id=text.pad_token_id or 0,
    )


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a `Siglip2Model` by our names; its three maps of queries, keys and values are one of ours."""
    found: dict[str, torch.Tensor] = {"scale": state["logit_scale"], "bias": state["logit_bias"]}
    fixed = {
        "vision_model.embeddings.patch_embedding": "vision.patch_embedding",
        "vision_model.embeddings.position_embedding": "vision.positions",
        "vision_model.post_layernorm": "vision.norm",
        "vision_model.head.layernorm": "vision.pool.norm",
        "vision_model.head.mlp.fc1": "vision.pool.up",
        "vision_model.head.mlp.fc2": "vision.pool.down",
        "vision_model.head.attention.out_proj": "vision.pool.attention.out",
        "text_model.embeddings.token_embedding": "text.embedding",
        "text_model.embeddings.position_embedding": "text.positions",
        "text_model.final_layer_norm": "text.norm",
        "text_model.head": "of_text",
    }
    inside = {
        "layer_norm1": "attention_norm",
        "layer_norm2": "mlp_norm",
        "self_attn.out_proj": "attention.out",
        "mlp.fc1": "up",
        "mlp.fc2": "down",
    }
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in fixed:
            found[f"{fixed[stem]}.{kind}"] = value
            continue
        tower, _, rest = name.partition("_model.encoder.layers.")
        number, _, stem = rest.rpartition(".")[0].partition(".")
        if stem in inside:
            found[f"{tower}.layers.{number}.{inside[stem]}.{kind}"] = value
        elif stem == "self_attn.q_proj":
            maps = [state[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            found[f"{tower}.layers.{number}.attention.qkv.{kind}"] = torch.cat(maps)
    found["vision.pool.query"] = state["vision_model.head.probe"][0]
    for kind in ("weight", "bias"):
        parts = state[f"vision_model.head.attention.in_proj_{kind}"].chunk(3)
        for each, part in zip("qkv", parts, strict=True):
            found[f"vision.pool.attention.{each}.{kind}"] = part
    return found


def _source(spec: Siglip2Spec) -> SourceSpec:
    return SourceSpec(
        path=spec.path, revision=spec.revision, local_files_only=spec.local_files_only, random=spec.random
    )
