"""Adapters as files: in a format of our own that holds all kinds, and in peft's where peft knows the kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmdata.errors import SpecError
from mmtrain.adapters import to_peft
from mmtrain.adapters.install import adapters, install
from mmtrain.adapters.spec import AdapterSpec
from mmtrain.adapters.state import adapter_state, load_adapter_state
from mmtrain.adapters.targets import Target

TARGETS, TENSORS = "adapters.json", "adapters.safetensors"
ENTRY: TypeAdapter[Any] = TypeAdapter(AdapterSpec)


def export(model: Any, folder: Path, *, trained: Iterable[str] = ()) -> list[str]:
    """Write the adapters of a model into `folder`, with the parameters of the model that were `trained` besides (by
    name); every rank has to call it where parameters are spread over ranks, and each writes the same.

    `adapters.json` and `adapters.safetensors` hold all of them, for `attach`. Besides, for
    `peft.PeftModel.from_pretrained`: `adapter_config.json` and `adapter_model.safetensors` beside them where there is
    one kind, or in a folder for each of several; LoRA and DoRA are then loaded one after the other and set active both.
    Answers what peft cannot be given, one line each.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in adapter_state(model, trained).items()}
    return write(model, folder, state)


def write(model: Any, folder: Path, state: Mapping[str, torch.Tensor]) -> list[str]:
    """`export`, of what `adapter_state` took already."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = [adapter.target for _, _, adapter in adapters(model)]
    save_file(dict(state), folder / TENSORS)
    body = [{**asdict(target), "entry": target.entry.model_dump(mode="json")} for target in targets]
    (folder / TARGETS).write_text(json.dumps(body, indent=1) + "\n")
    groups, refused = to_peft.groups(model, state)
    for name, (config, tensors) in groups.items():
        place = folder if len(groups) == 1 else folder / name
        place.mkdir(exist_ok=True)
        (place / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
    return refused


def attach(model: Any, folder: Path) -> None:
    """Put the adapters that `export` wrote into the model they were made for. Raises SpecError for a folder without
    them, or for another model."""
    try:
        body = json.loads((folder / TARGETS).read_text())
        targets = [Target(**{**entry, "entry": ENTRY.validate_python(entry["entry"])}) for entry in body]
        state = load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise SpecError(f"{folder} holds no adapters: {error.filename} is missing") from error
    except (ValueError, ValidationError, TypeError, KeyError, SafetensorError) as error:
        raise SpecError(f"{folder}: damaged: {str(error).splitlines()[0]}") from error
    try:
        install(model, targets, seed=0)
    except AttributeError as error:
        raise SpecError(f"{folder}: the adapters of another model: {error}") from error
    load_adapter_state(model, state)
