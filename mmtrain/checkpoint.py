"""Checkpoints: a folder that is whole or not there, written aside and renamed; nothing in it can run code.

checkpoints/step-00000400/checkpoint.json            step, stream, random states, config, versions; sizes and
                                                     checksums of all other files
                          model.safetensors          or model/rank-*.safetensors, of a run with a sharded model
                          optimizer.safetensors      its state by the names of parameters
                          parts.safetensors          tensors of what else the run keeps (averaged weights)
            latest -> step-00000400    best -> step-00000300    best.json
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import crc32c
import torch
from torch.distributed.fsdp import FSDPModule

import mmdata
from mmdata.errors import RunError, SpecError
from mmdata.shards.storage import fsync_folder, write_atomic
from mmdata.spec import Model, runtime
from mmtrain.adapters import nf4
from mmtrain.adapters.install import parameter_names
from mmtrain.checkpoint_folder import (
    BEST,
    FOLDER,
    LATEST,
    PREFIX,
    best_so_far,
    checksum,
    point,
    retain,
    write_info,
)
from mmtrain.checkpoint_folder import damage as damage
from mmtrain.checkpoint_folder import found as found
from mmtrain.checkpoint_folder import newest as newest
from mmtrain.checkpoint_folder import read_info as read_info
from mmtrain.checkpoint_folder import step_of as step_of
from mmtrain.components import aliases
from mmtrain.distributed import agree, first, gather
from mmtrain.random_state import random_state, set_random_state
from mmtrain.rules import Setting
from mmtrain.state_tree import joined, leaves, split
from mmtrain.tensor_files import TensorFiles, write

if TYPE_CHECKING:
    from mmtrain.job import Job


class CheckpointSpec(Model):
    """When a run is saved, and what stays."""

    every: int = runtime(20, ge=1)
    """Steps between checkpoints; there is always one at the end."""
    keep: int = runtime(2, ge=1)
    """Checkpoints kept, the newest; besides the best one."""
    keep_every: int | None = runtime(None, ge=1)
    """Checkpoints at multiples of so many steps are kept too."""
    weights: Literal["all", "trained"] = runtime("all")
    """`trained` leaves out what the rules never train: it is built or loaded again, and has to be the same."""


def save(job: Job) -> Path:
    """Write the checkpoint of `job.step` if there is none, point `latest` to it and remove what is not to be kept. All
    ranks call it together. Raises RunError, on every rank, where it cannot be written; those before are left as they
    were."""
    parent = job.folder / FOLDER
    final = parent / f"{PREFIX}{job.step:08d}"
    temporary = parent / f".{final.name}.tmp"
    if first(final.is_dir, job.world):
        return final
    first(lambda: _prepare(parent, temporary), job.world)
    sharded = isinstance(job.model, FSDPModule)
    tree, tensors = split(job.state())
    wrote: dict[str, list[int]] = {}
    problem = None
    try:
        for name, content in (("model", weights(job)), ("optimizer", _moments(job)), ("parts", tensors)):
            path = write(temporary, name, content, rank=job.world.rank, sharded=sharded)
            if path is not None:
                wrote[path.relative_to(temporary).as_posix()] = checksum(path)
    except OSError as error:
        problem = f"{type(error).__name__}: {error}"
    told = gather((wrote, problem), job.world)
    problems = [f"rank {rank}: {each}" for rank, (_, each) in enumerate(told) if each is not None]

    def finish() -> None:
        if problems:
            raise _failed(temporary, final, "; ".join(problems))
        files = {name: each for files, _ in told for name, each in files.items()}
        info = {
            "step": job.step,
            "stream": job.loader.state_dict(),
            "parts": tree,
            "random": random_state(),
            "config": dict(job.config),
            "weights": job.spec.checkpoint.weights,
            "base": job.base,
            "versions": {
                "mmdata": mmdata.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "ranks": job.world.ranks,
            "files": dict(sorted(files.items())),
        }
        try:
            write_info(temporary, info)
            for folder in (path for path in temporary.iterdir() if path.is_dir()):
                fsync_folder(folder)
            temporary.rename(final)
            fsync_folder(parent)
            point(parent / LATEST, final.name)
            retain(job.folder, job.spec.checkpoint.keep, job.spec.checkpoint.keep_every)
        except OSError as error:
            raise _failed(temporary, final, f"{type(error).__name__}: {error}") from error

    first(finish, job.world)
    return final


def _prepare(parent: Path, temporary: Path) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(".*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    temporary.mkdir()


def _failed(temporary: Path, final: Path, why: str) -> RunError:
    shutil.rmtree(temporary, ignore_errors=True)
    left = found(final.parent.parent)
    older = f"{left[-1].name} is whole and is what the same command goes on from" if left else "there is none before it"
    return RunError(f"checkpoint {final.name} could not be written: {why}; {older}")


def weights(job: Job) -> dict[str, torch.Tensor]:
    """What is saved of the model: its parameters, each once, and persistent buffers; of parameters only those that are
    trained at some time where `checkpoint.weights` says so."""
    left_out = () if job.spec.checkpoint.weights == "all" else _untrained(job.model, job.settings)
    return {name: tensor for name, tensor in _tensors(job.model).items() if name not in left_out}


def _untrained(model: Any, settings: Mapping[str, Setting]) -> set[str]:
    return {name for name, alias in aliases(model).items() if not settings[alias].train}


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {**dict(model.named_parameters()), **buffers}


def base_digest(model: Any, settings: Mapping[str, Setting]) -> str:
    """Digest of what a whole model has and the rules never train: what it was built or loaded as."""
    return _digest(model, _untrained(model, settings))


def model_digest(model: Any, *, adapters: bool = True) -> str:
    """Digest of all that a whole model has, its adapters among it or not."""
    left_out = set() if adapters else parameter_names(model)
    return _digest(model, _tensors(model).keys() - left_out)


def _digest(model: torch.nn.Module, names: Iterable[str]) -> str:
    """CRC-32C over the names of some of a whole model's tensors and those of their bytes; of weights in 4 bits, of what
    they were made from."""
    tensors = _tensors(model)
    total = 0
    for name in sorted(names):
        total = crc32c.crc32c(f"{name} {nf4.crc(tensors[name]):08x}".encode(), total)
    return f"{total:08x}"


def _moments(job: Job) -> dict[str, torch.Tensor]:
    """The optimiser's state as tensors: `<parameter>/<name>`, numbers as float64 scalars."""
    names: dict[Any, str] = {parameter: name for name, parameter in job.optimised().items()}
    return {
        f"{names[parameter]}/{key}": value
        if isinstance(value, torch.Tensor)
        else torch.tensor(value, dtype=torch.float64)
        for parameter, state in job.optim.state.items()
        for key, value in state.items()
    }


def mark_best(job: Job, metric: str, value: float, *, lower: bool = True) -> bool:
    """Tell what an evaluation after `job.step` steps found; whether it is the best of the run so far. Then `best`
    points to the checkpoint of this step, which is written if there is none, and `best.json` says what it is. All
    ranks call it together, with the same value; one that is not finite is never the best."""
    parent = job.folder / FOLDER
    folder = parent / f"{PREFIX}{job.step:08d}"

    def better() -> bool:
        known = best_so_far(job.folder)
        if not math.isfinite(value) or (known is not None and known["metric"] != metric):
            return math.isfinite(value)
        return known is None or (value < known["value"] if lower else value > known["value"])

    if not first(better, job.world):
        return False
    if not first(folder.is_dir, job.world):
        save(job)

    def mark() -> None:
        told = {"step": job.step, "metric": metric, "value": value, "checkpoint": folder.name}
        write_atomic(parent / f"{BEST}.json", (json.dumps(told) + "\n").encode())
        point(parent / BEST, folder.name)
        retain(job.folder, job.spec.checkpoint.keep, job.spec.checkpoint.keep_every)

    first(mark, job.world)
    return True


def load(folder: Path, job: Job, *, check: bool = True) -> None:
    """Put a checkpoint into a job: weights, optimiser, parts, stream, random states, step; for any number of ranks and
    either way of sharing a model. All ranks call it together. Raises SpecError, on every rank, for a folder that holds
    none, another model's, or (with `check`, which reads it once more) one that is damaged."""
    problem = first(lambda: damage(folder), job.world) if check else None
    if problem is not None:
        raise SpecError(f"{folder}: {problem}")
    try:
        _load(folder, job)
    except SpecError as error:
        problem = str(error)
    if agree(problem is not None, job.world):
        raise SpecError(problem or f"{folder} could not be loaded by another rank")


def _load(folder: Path, job: Job) -> None:
    info = read_info(folder)
    with _fits(folder):
        _load_weights(folder, info, job.model, job.base)
        _load_moments(folder, job)
        tensors = TensorFiles(folder, "parts") if _has(folder, "parts") else None
        own = dict(leaves(job.state()))
        for name, state in info["parts"].items():
            if name in job.parts:
                job.parts[name].load_state_dict(joined(state, tensors, own))
        missing = sorted(job.parts.keys() - info["parts"].keys())
        if missing:
            raise ValueError(f"it has no state of {', '.join(missing)}")
    job.loader.load_state_dict(info["stream"])
    set_random_state(info["random"])
    job.step = info["step"]


def load_weights(folder: Path, model: torch.nn.Module, *, base: str | None = None) -> None:
    """Put the weights of a checkpoint into a model, whole or sharded whichever way it was saved. A checkpoint of
    trained weights only wants them put into the model as it was built or loaded. Raises SpecError for a folder that
    holds none or another model's, and for weights that are damaged."""
    if (why := damage(folder, ("model",))) is not None:
        raise SpecError(f"{folder}: {why}")
    with _fits(folder):
        _load_weights(folder, read_info(folder), model, base)


def _load_weights(folder: Path, info: dict[str, Any], model: torch.nn.Module, base: str | None) -> None:
    files, tensors = TensorFiles(folder, "model"), _tensors(model)
    if strange := sorted(files.described.keys() - tensors.keys()):
        raise ValueError(f"the model has no {strange[0]} (and {len(strange) - 1} more)")
    missing = sorted(tensors.keys() - files.described.keys())
    if missing and info["weights"] == "all":
        raise ValueError(f"it has no {missing[0]} (and {len(missing) - 1} more)")
    if missing:
        now = base if base is not None else _digest(model, missing)
        if now != info["base"]:
            raise ValueError(
                f"it holds trained weights only, beside others (digest {info['base']}) than the model has now ({now})"
            )
    with torch.no_grad():
        files.fill({name: tensors[name] for name in files.described})


def _load_moments(folder: Path, job: Job) -> None:
    job.optim.state.clear()
    if not _has(folder, "optimizer"):
        return
    files = TensorFiles(folder, "optimizer")
    parameters = job.optimised()
    groups = {parameter: group for group in job.optim.param_groups for parameter in group["params"]}
    read: dict[str, torch.Tensor] = {}
    for full, (shape, dtype) in files.described.items():
        name, _, key = full.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or parameter not in groups:
            raise ValueError(f"the optimiser has no {name}")
        if shape == parameter.shape and shape:
            read[full] = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        else:
            fused = groups[parameter].get("fused") or groups[parameter].get("capturable")
            device = "cpu" if key == "step" and not fused else parameter.device
            read[full] = torch.zeros(shape, dtype=dtype, device=device)
    files.fill(read)
    for full, value in read.items():
        name, _, key = full.rpartition("/")
        # A number of the optimiser's own, not a tensor, was written as float64.
        own = value.item() if value.dtype == torch.float64 and not value.ndim else value
        job.optim.state[parameters[name]][key] = own


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.safetensors").exists()


class _fits:
    """Raises SpecError in place of what reading a checkpoint into something else raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        match error:
            case FileNotFoundError():
                raise SpecError(f"{self.folder} is not a checkpoint: {error.filename} is missing") from error
            case OSError() | RuntimeError() | ValueError() | KeyError():
                told = str(error.args[0] if error.args else error).splitlines()[0]
                raise SpecError(f"{self.folder} does not fit this model: {told}") from error
