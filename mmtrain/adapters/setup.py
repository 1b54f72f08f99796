"""From a config to a model with adapters, at the beginning of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mmdata.stream.loader import Batch
from mmdata.types import World
from mmtrain.adapters import ranks
from mmtrain.adapters.export import write
from mmtrain.adapters.install import install, parameter_names
from mmtrain.adapters.plan import plan, with_ranks
from mmtrain.adapters.spec import AdapterSpec, RanksSpec
from mmtrain.adapters.state import adapter_state
from mmtrain.adapters.targets import Target
from mmtrain.certificate import Strategy
from mmtrain.components import aliases
from mmtrain.distributed import first
from mmtrain.losses import Norm
from mmtrain.rules import Rule, Setting


class Told(Protocol):
    """What of a training spec says which adapters there are."""

    @property
    def adapters(self) -> tuple[AdapterSpec, ...]: ...
    @property
    def adapter_ranks(self) -> RanksSpec | None: ...
    @property
    def parameters(self) -> tuple[Rule, ...]: ...
    @property
    def loss_norm(self) -> Norm: ...
    @property
    def seed(self) -> int: ...


def equip(
    spec: Told,
    model: Any,
    *,
    world: World,
    folder: Path | None,
    start: Path | None,
    data: Callable[[int], tuple[Strategy, Iterable[Batch]]],
) -> str:
    """Put the adapters of a spec into the model; answers what was decided on the way, for the console.

    Ranks by importance are measured on what `data(batches)` answers, by rank 0, and kept in the run's `folder`; a run
    that goes on from the checkpoint `start` takes those. None of it happens without `adapter_ranks`; with `folder`
    None nothing is written. Raises SpecError.
    """
    targets = plan(model, spec.adapters, spec.parameters)
    told = ""
    if spec.adapter_ranks is not None:
        chosen, told = first(lambda: _ranks(spec, model, targets, folder, start, data), world)
        targets = with_ranks(targets, chosen)
    if targets:
        install(model, targets, seed=spec.seed)
    return told


FOLDER = "adapter"
"""In the run's folder: what `finish` writes."""


def finish(model: Any, settings: Mapping[str, Setting], run: Path, *, world: World) -> list[str]:
    """Write the adapters of a trained model to `run/adapter` (`export`), and what the rules trained of the model
    itself; every rank has to call it. Answers lines for the console, none without adapters."""
    ours = parameter_names(model)
    if not ours:
        return []
    also = [name for name, alias in aliases(model).items() if settings[alias].train and name not in ours]
    state = {name: tensor.cpu().contiguous() for name, tensor in adapter_state(model, also).items()}

    def put() -> list[str]:
        folder = run / FOLDER
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        refused = write(model, temporary, state)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return [f"wrote  {folder}: adapters, {size / 2**20:.1f} MiB", *(f"peft   {line}" for line in refused)]

    return first(put, world)


def _ranks(
    spec: Told,
    model: Any,
    targets: list[Target],
    folder: Path | None,
    start: Path | None,
    data: Callable[[int], tuple[Strategy, Iterable[Batch]]],
) -> tuple[dict[str, int], str]:
    assert spec.adapter_ranks is not None
    if start is not None and folder is not None:
        own = folder / ranks.FILE
        # A branch that begins at another run's checkpoint: RUN/checkpoints/step-N
        kept = ranks.read(own if own.exists() else start.resolve().parent.parent / ranks.FILE)
        if not own.exists():
            ranks.write(own, dict.fromkeys(kept, 0.0), kept)
        return kept, ""
    strategy, batches = data(spec.adapter_ranks.batches)
    mine = ranks.of_lora(targets)
    found = ranks.traces(model, mine, batches, norm=spec.loss_norm, strategy=strategy)
    chosen = ranks.measured(model, spec.adapter_ranks, mine, found)
    if folder is not None:
        ranks.write(folder / ranks.FILE, found, chosen)
    return chosen, ranks.lines(found, chosen)
