"""What a run keeps of its model besides weights: config and processor files, enough to build it again and export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from mmdata.errors import SpecError
from mmtrain.models import hf
from mmtrain.models.configs import NativeConfig
from mmtrain.models.families import folder_of_vision, tokenizer_source
from mmtrain.models.native import NativeForConditionalGeneration
from mmtrain.models.source import copy_processor
from mmtrain.models.spec import ModelSpec, NativeSpec

GENERATION = "generation_config.json"


def keep(folder: Path, spec: ModelSpec, model: Any) -> None:
    """Write `config.json`, `generation_config.json` and the processor's files, where the source has any."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    # Not by `save_pretrained`: once changed, it refuses what many published ones say (`top_p` without `do_sample`).
    (folder / GENERATION).write_text(model.generation_config.to_json_string())
    source = folder_of_vision(spec) if isinstance(spec, NativeSpec) else tokenizer_source(spec)
    if source is not None:
        copy_processor(source, folder)


def rebuild(folder: Path) -> Any:
    """A model of the config in `folder`, with whatever weights; they are to be loaded. Raises SpecError where there is
    none."""
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SpecError(f"{folder}: no model was kept here: {str(error).splitlines()[0]}") from error
    with torch.random.fork_rng(devices=[]):
        if isinstance(config, NativeConfig):
            return NativeForConditionalGeneration(config)
        return hf.model_class(config, "model")(config)
