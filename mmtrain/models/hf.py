"""Hugging Face models from a folder: which class, which family, and which of them cannot be trained here, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from mmdata.errors import SpecError

FAMILIES = {
    "gemma3": "gemma3",
    "idefics3": "idefics3",
    "internvl": "internvl",
    "lfm2_vl": "lfm2_vl",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "mistral3": "pixtral",
    "paligemma": "paligemma",
    "qwen2_5_omni_thinker": "qwen2_5_omni",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_audio": "qwen2_audio",
    "qwen2_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "smolvlm": "smolvlm",
}
"""The family of a `model_type`. A causal language model of any type is `text`."""
BENDS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What bends logits after the head (Gemma 2, Granite, Cohere); of no effect where it is 1 or None."""
AUTO = (
    ("IMAGE_TEXT_TO_TEXT", modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    ("MULTIMODAL_LM", modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES),
    ("CAUSAL_LM", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
)


def read_config(folder: Path, key: str) -> Any:
    """The configuration in `folder`; of Qwen2.5-Omni, its thinker's. Raises SpecError, naming `key`, for one that
    transformers does not know."""
    try:  # without `trust_remote_code` transformers asks the person at the terminal
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise SpecError(
                f"{key}.path: {folder} brings code of its own (`auto_map` in its config.json), which is not run; take "
                "the version of the model that transformers has a class for, often named -hf"
            ) from error
        raise SpecError(f"{key}.path: {folder}/config.json: {_first_line(error)}") from error
    return config.thinker_config if config.model_type == "qwen2_5_omni" else config


def family_name(config: Any, key: str) -> str:
    """Which family's views, placeholders and positions a model takes. Raises SpecError for one we do not know."""
    kind = config.model_type
    if kind == "llava" and config.vision_config.model_type == "pixtral":
        return "pixtral"
    if kind in FAMILIES:
        return FAMILIES[kind]
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder:
        return "text"
    raise SpecError(
        f"{key}.path: models of type {kind!r} are not known; known are {', '.join(sorted(FAMILIES))} and causal "
        f"language models; name the family whose media it takes in `{key}.family` if it is alike"
    )


def model_class(config: Any, key: str) -> type[Any]:
    """The class with a language head for a configuration. Raises SpecError where there is none."""
    kind = config.model_type
    for _, names in AUTO:
        if kind in names:
            name = names[kind]
            found: type[Any] = getattr(transformers, name if isinstance(name, str) else name[0])
            return found
    raise SpecError(f"{key}.path: transformers {transformers.__version__} has no {kind!r} with a language head")


def load(folder: Path, config: Any, *, random: bool, key: str) -> Any:
    """The float32 model in `folder`: its weights, or random ones for `config`. Raises SpecError for weights that are
    missing or do not fit, and for a head that is more than a linear map of the hidden states."""
    cls = model_class(config, key)
    if random:
        try:
            model = cls(config)
        except (ValueError, TypeError, AssertionError, RuntimeError, ImportError, StrictDataclassError) as error:
            raise SpecError(f"{key}.path: {folder}/config.json: {_first_line(error)}") from error
    else:
        model = pretrained(cls, folder, config, key)
    _plain_head(model, key)
    return model


def pretrained(cls: type[Any], folder: Path, config: Any, key: str, renamed: Mapping[str, str] | None = None) -> Any:
    """A float32 model of class `cls` with the weights in `folder`, whose names are changed by these regular
    expressions. Raises SpecError for weights that are missing or do not fit."""
    more: dict[str, Any] = {} if renamed is None else {"key_mapping": dict(renamed)}
    try:
        model, told = cls.from_pretrained(
            str(folder), config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True, **more
        )
    except ImportError as error:  # parts of some models are other libraries'
        raise SpecError(f"{key}.path: {folder}: {_first_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SpecError(
            f"{key}.path: {folder}: {_first_line(error)}; `random: true` builds it without weights"
        ) from error
    # A tower's pooler is not used, and many checkpoints have none.
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
    wrong = sorted(str(each[0]) for each in told["mismatched_keys"])
    if missing or wrong:
        what = f"lack {len(missing)} tensors ({missing[0]}, ...)" if missing else f"do not fit at {wrong[0]}"
        raise SpecError(f"{key}.path: the weights in {folder} {what}")
    return model


@torch.no_grad()
def _plain_head(model: Any, key: str) -> None:
    """The loss is made of hidden states and head, so a model that does more to its logits would be trained on others
    than its own. Raises SpecError for one."""
    text = model.config.get_text_config()
    told = [name for name in BENDS if getattr(text, name, None) not in (None, 1, 1.0)]
    was_training = model.training
    model.eval()
    try:
        ids = torch.arange(4, device=model.device)[None] % model.get_input_embeddings().num_embeddings
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
        head = model.get_output_embeddings()
        if hidden is None or head is None or hidden.shape[-1] != head.weight.shape[-1]:
            raise SpecError(
                f"{key}.path: {type(model).__name__} has no hidden states that its head alone makes logits of, which "
                "the trainer's loss is made from"
            )
        again = head(hidden)
        if told or not torch.allclose(again, logits, atol=1e-4, rtol=1e-4):
            raise SpecError(
                f"{key}.path: {type(model).__name__} does more to its logits than its head "
                f"({told[0] if told else 'a softcap or a scale'}), which the trainer's loss does not"
            )
    finally:
        model.train(was_training)


def _first_line(error: BaseException) -> str:
    if isinstance(error, StrictDataclassError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # its own first line names a validator
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
