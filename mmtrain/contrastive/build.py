"""Building a dual encoder: from numbers, or from the folder of a Hugging Face `Siglip2Model`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmdata.errors import SpecError
from mmtrain.contrastive.objective import BIAS, SCALES
from mmtrain.contrastive.siglip2 import renamed, sizes
from mmtrain.contrastive.towers import DualEncoder, DualEncoderSpec, DualSpec, Siglip2Spec
from mmtrain.models import hf
from mmtrain.models.source import folder_of
from mmtrain.models.spec import SourceSpec

TOKENIZER = "tokenizer"
"""Of an exported folder; beside `config.json`, transformers would take any tokenizer of a siglip2 for Gemma's."""

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
        # SigLIP 2's own config.json says 1, which is the end of a text; it was trained with its tokenizer's padding.
        model.text.pad_id = tokenizer.pad_token_id
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
    """The folder that a tokenizer would come from: that of the model, or `tokenizer` in it, where an export has it."""
    if isinstance(spec, DualSpec):
        return None
    folder = folder_of(_source(spec), "model")
    return folder / TOKENIZER if (folder / TOKENIZER).is_dir() else folder


def siglip2(spec: Siglip2Spec) -> tuple[DualEncoder, bool]:
    """The towers of a folder, and whether they have its weights. Raises SpecError for a folder of something else."""
    from transformers import Siglip2Config, Siglip2Model

    folder = folder_of(_source(spec), "model")
    config = hf.read_config(folder, "model")
    if not isinstance(config, Siglip2Config):
        raise SpecError(f"model.path: {folder} holds a {config.model_type}; a siglip2 (NaFlex) is wanted")
    vision, text, vocabulary, pad_id = sizes(config, max_patches=spec.max_patches)
    model = DualEncoder(vision, text, projection=None, vocabulary=vocabulary, pad_id=pad_id)
    if spec.random:
        return model, False
    loaded = hf.pretrained(Siglip2Model, folder, config, "model")
    model.load_state_dict(renamed(loaded.state_dict()))
    return model, True


def _source(spec: Siglip2Spec) -> SourceSpec:
    return SourceSpec(
        path=spec.path, revision=spec.revision, local_files_only=spec.local_files_only, random=spec.random
    )
