"""How a run on pairs begins: the reference is asked, once for each stream of pairs; and what takes its steps then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmdata.stream.dataset import StreamingDataset
from mmtrain import checkpoint
from mmtrain.held_out import Found
from mmtrain.preference import held_out, reference, step
from mmtrain.step import Step

if TYPE_CHECKING:
    from mmtrain.job import Job
    from mmtrain.spec import TrainSpec

TRAINED = "data"
"""The name of the stream that is trained on; others are those of the evaluation."""


def streams(spec: TrainSpec, stream: StreamingDataset) -> dict[str, StreamingDataset]:
    """The streams whose pairs the reference is asked about: that which is trained on, and those of the evaluation.
    Raises SpecError as `held_out.streams` does."""
    assert stream.family is not None
    others = held_out.streams(spec, stream.family, stream.world)
    return {TRAINED: stream, **{f"evaluation.data.{name}": each for name, each in others.items()}}


def identities(spec: TrainSpec, model: Any, compared: Mapping[str, StreamingDataset]) -> dict[str, str]:
    """Of each of them, the digest of what the reference says of it. `model` is whole, and as the run begins. Raises
    SpecError as `reference.identity` does."""
    if spec.preference is None:
        return {}
    weights = checkpoint.model_digest(model, adapters=spec.preference.reference == "start")
    return {key: reference.identity(spec, model, weights, each, key) for key, each in compared.items()}


def begin(
    job: Job, compared: Mapping[str, StreamingDataset], known: Mapping[str, str], make_loader: Any
) -> tuple[Callable[..., Step], Callable[..., Found], list[str]]:
    """What takes the run's steps, what evaluates it, and lines for the console. `make_loader(stream)` makes batches as
    the run's model takes them; that model has the weights that the run begins with. Raises SpecError where nothing
    that is trained on is a pair."""
    trained, line = reference.referenced(job, known[TRAINED], make_loader)
    lines, pairs = [line], dict[str, held_out.HeldOut]()
    for key, stream in compared.items():
        if key == TRAINED:
            continue
        found, line = reference.referenced(job, known[key], make_loader, stream)
        lines.append(f"{line} ({key})")
        if found.pairs:
            name = key.removeprefix("evaluation.data.")
            pairs[name] = held_out.HeldOut(stream=stream, reference=found, make_loader=make_loader)
    take = functools.partial(step.take, reference=trained)
    return take, functools.partial(held_out.evaluated, pairs=pairs), lines
