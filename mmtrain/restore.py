"""A run opened again from its folder: its spec, its tokenizer, its model with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mmdata import specfile
from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmdata.types import World
from mmtrain import adapters, certificate, checkpoint, export, models, quantise, run, sft
from mmtrain.certificate import Strategy
from mmtrain.components import aliases
from mmtrain.initialise import initialise
from mmtrain.precision import device_of, place
from mmtrain.rules import Setting, resolve
from mmtrain.spec import TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a run was, at one of its checkpoints."""

    spec: TrainSpec
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    model: Any
    settings: Mapping[str, Setting]
    checkpoint: Path | None
    """Where the weights come from; None where they are those that the run began with."""

    @property
    def step(self) -> int:
        """Steps that the weights have taken."""
        return 0 if self.checkpoint is None else checkpoint.step_of(self.checkpoint)


def restore(
    folder: Path, overrides: Sequence[str] = (), *, step: int | None = None, start: Path | None = None
) -> Restored:
    """Open a run with the weights of the checkpoint `start`, by default the newest, or the newest that is not after
    `step`; where there is none yet, with those it began with. `overrides` (KEY=VALUE) say where data lie now, for
    example.

    Raises SpecError for a folder that holds no run, and as opening its parts does."""
    spec, tokenizer = opened(folder, overrides)
    saved = (
        [start]
        if start is not None
        else [each for each in checkpoint.found(folder) if step is None or checkpoint.step_of(each) <= step]
    )
    return at(spec, tokenizer, folder, saved[-1] if saved else None)


def at(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, folder: Path, start: Path | None) -> Restored:
    """The model of a run with the weights of a checkpoint, or (None) with those that it began with."""
    trained = spec.checkpoint.weights == "trained"
    if start is None or trained:  # all or some of the weights that the run began with
        begun = export.beginning(folder, spec, start, None)
    else:
        begun = models.build(spec.model, tokenizer, seed=spec.seed)
    model = place(begun, device_of(spec.device), spec.params)
    adapters.equip(
        spec,
        model,
        world=World(),
        folder=folder,
        start=start,
        data=lambda count: sft.measured_on(spec, model, tokenizer, count),
    )
    quantise.install(model, spec.quantise_aware)
    settings = resolve(spec.parameters, list(aliases(model).values()), adapters.defaults(model))
    if start is None or trained:
        initialise(model, spec.initialise, seed=spec.seed)
    if start is not None:
        checkpoint.load_weights(start, model, base=checkpoint.base_digest(model, settings) if trained else None)
    return Restored(spec=spec, folder=folder, tokenizer=tokenizer, model=model, settings=settings, checkpoint=start)


def opened(folder: Path, overrides: Sequence[str] = ()) -> tuple[TrainSpec, PreTrainedTokenizerBase]:
    """The spec and the tokenizer of a run. Raises SpecError for a folder that holds none."""
    if not (folder / run.SPEC).is_file():
        raise SpecError(f"{folder} holds no run: {run.SPEC} is missing; give the folder that is the config's `output`")
    spec, _ = specfile.load(TrainSpec, str(folder / run.SPEC), overrides)
    return spec, AutoTokenizer.from_pretrained(
        str(folder / run.TOKENIZER), local_files_only=True, trust_remote_code=False
    )


def adopted(restored: Restored, stream: StreamingDataset) -> Strategy:
    """Tell the model of borders as its certificate has it for the samples of a stream."""
    strategy = sft.certified(restored.spec, restored.model, stream)
    certificate.adopt(restored.model, strategy)
    return strategy
