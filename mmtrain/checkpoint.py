"""Checkpoints: a folder that is whole or not there, written aside and renamed; nothing in it can run code."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from mmdata.errors import SpecError
from mmdata.shards.storage import fsync_folder

PREFIX = "step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands: optimiser steps done, and the state of its stream."""

    step: int
    stream: dict[str, Any]


def save(run: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, *, keep: int) -> Path:
    """Write `run/checkpoints/step-NNNNNNNN` and remove all but the `keep` newest."""
    parent = run / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(".*.tmp"):
        shutil.rmtree(leftover)
    final = parent / f"{PREFIX}{progress.step:08d}"
    temporary = parent / f".{final.name}.tmp"
    temporary.mkdir()
    save_model(model, str(temporary / "model.safetensors"))
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    (temporary / "progress.json").write_text(json.dumps({"step": progress.step, "stream": progress.stream}, indent=1))
    for file in temporary.iterdir():
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())
    fsync_folder(temporary)
    temporary.rename(final)
    fsync_folder(parent)
    for old in found(run)[:-keep]:
        shutil.rmtree(old)
    return final


def found(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob(f"{PREFIX}[0-9]*") if path.is_dir())


def step_of(folder: Path) -> int:
    """Optimiser steps done at a checkpoint of this name."""
    return int(folder.name.removeprefix(PREFIX))


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint into model and optimiser. Raises SpecError for a folder that holds none, or another model's."""
    try:
        saved = json.loads((folder / "progress.json").read_text())
        load_model(model, folder / "model.safetensors")
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        return Progress(step=saved["step"], stream=saved["stream"])
    except FileNotFoundError as error:
        raise SpecError(f"{folder} is not a checkpoint: {error.filename} is missing") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise SpecError(f"{folder} does not fit this model: {str(error).splitlines()[0]}") from error
