"""One door for all kinds of models: a spec and a tokenizer to a model that knows its tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mmtrain.initialise import mean_embeddings
from mmtrain.models import heads, hf, tiny
from mmtrain.models.families import family_of, tell_tokens, tokenizer_source
from mmtrain.models.native_build import build_native, native_config, tell_vocabulary
from mmtrain.models.source import folder_of, has_tokenizer
from mmtrain.models.spec import ModelSpec, NativeSpec, TinySpec


def build(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Any:
    """The model of a spec: weights from its folder where there are any, else random ones, the same for the same spec,
    vocabulary and seed. Tokens that its tables do not have yet begin as the mean of the others.

    Raises SpecError for what cannot be loaded, naming the key."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(spec, TinySpec):
            return tiny.build(spec, tokenizer)
        family = family_of(spec, tokenizer)
        if isinstance(spec, NativeSpec):
            config = native_config(spec)
            tell_vocabulary(config, len(tokenizer))
            if spec.path is None and spec.language.kind == "tiny":
                config.text_config.vocab_size = len(tokenizer)
                for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
                    setattr(config.text_config, name, getattr(tokenizer, name))
            tell_tokens(config, family, tokenizer)
            model: Any = build_native(spec, config)
        else:
            folder = folder_of(spec, "model")
            config = hf.read_config(folder, "model")
            tell_tokens(config, family, tokenizer)
            model = hf.load(folder, config, random=spec.random, key="model")
        mean_embeddings(model, _new_tokens(spec, tokenizer, model))
    heads.tell(model, tokenizer)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _new_tokens(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, model: Any) -> list[int]:
    """Ids of the tokenizer that the model was not made with: beyond its tables, or added to its own tokenizer."""
    known = model.get_input_embeddings().num_embeddings
    source = tokenizer_source(spec)
    if source is not None and has_tokenizer(source):
        known = min(
            known, len(AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False))
        )
    return list(range(known, len(tokenizer)))
