"""Evaluation while a run goes on: losses over held-out data, and answers; the training is none the wiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, model_validator
from torch.distributed.fsdp import FSDPModule

from mmdata.boxes import BoxFormat
from mmdata.errors import DataError, SpecError
from mmdata.families import Family
from mmdata.spec import Model
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.loader import StreamLoader
from mmdata.stream.position import Position
from mmdata.stream.spec import StreamSpec
from mmdata.types import World
from mmtrain import auxiliary, ema, rows, sharding
from mmtrain.answers import Answer, answers, generating
from mmtrain.certificate import Strategy
from mmtrain.distributed import gather
from mmtrain.event_metrics import f1
from mmtrain.metrics import OF_BOXES, Metric
from mmtrain.objective import losses
from mmtrain.precision import autocast, device_of
from mmtrain.weighting import by_task, merged, step_weights

if TYPE_CHECKING:
    from mmtrain.spec import TrainSpec


class EvaluationSpec(Model):
    """What a run is measured by, and when."""

    data: dict[str, StreamSpec] = Field(default_factory=dict)
    """Streams of held-out samples by name; each is gone through once, or `batches` of it. How samples become tokens
    (`template`, `system`, `train_on`, weights, `carry`, `max_length`) is as in the training's `data` where a stream
    does not say it. By default `held_out`: what `data.hold_out` keeps out of the training."""
    every: int = Field(100, ge=1)
    """Steps between evaluations; there is always one after the last step."""
    batches: int | None = Field(None, ge=1)
    """Global batches of each; null: all there are."""
    generate: int = Field(0, ge=0)
    """Samples of each that are answered, word by word, and shown in a page; the first of its order."""
    max_new_tokens: int = Field(32, ge=1)
    """Of an answer."""
    metrics: tuple[Metric, ...] = ("exact_match",)
    """What answers are measured by, beside what the sample says (or `answers` in its meta)."""
    coordinates: BoxFormat | None = None
    """How answers write boxes, for `box_iou`, `box_accuracy` and `pointing`."""
    weights: ema.Choice = "auto"
    """Which weights are measured: averaged ones (`ema`), those that are trained (`raw`); `auto` takes averaged ones
    where the run keeps them, as export does. So `best` and early stopping are of these."""

    @model_validator(mode="after")
    def _reads_boxes(self) -> Self:
        mine = [metric for metric in self.metrics if metric in OF_BOXES]
        if mine and self.coordinates is None:
            raise ValueError(f"metrics: {mine[0]} reads boxes; say with `coordinates` how answers write them")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an evaluation found, the same on every rank."""

    values: dict[str, float]
    """`loss` over everything, and by data `NAME/loss`, `NAME/loss/TASK`, `NAME/exact_match` ..."""
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    """By data; those of all ranks."""


def kept_out(data: StreamSpec) -> StreamSpec:
    """What `hold_out` keeps out of a stream: once, in the order of its datasets, as it is."""
    once = {"schedule", "views", "weigh_by", "datasets", "epochs", "shuffle", "augment", "part"}
    told = data.model_dump(exclude_unset=True, exclude=once)
    told |= {"epochs": 1, "shuffle": "none", "part": "held_out", "pairs": False}
    if data.datasets:
        pooled = {"path", "name", "limit", "template"}
        told["datasets"] = [each.model_dump(exclude_unset=True, include=pooled) for each in data.datasets]
    return StreamSpec.model_validate(told)


TAUGHT = (
    *("template", "template_options", "system", "train_on", "token_weights", "weight_field", "task_field", "carry"),
    *("max_pixels", "max_length"),
)
"""What an evaluation's stream takes of the training's: what makes a sample the tokens that were taught."""


def as_taught(own: StreamSpec, data: StreamSpec) -> StreamSpec:
    """A stream with what it does not say of TAUGHT as the training's `data` have it; rows of their own need no
    `max_length`."""
    names = [name for name in TAUGHT if name != "max_length" or own.packing != "none"]
    given = {name for name in names if name in data.model_fields_set and name not in own.model_fields_set}
    if not given:
        return own
    taken = data.model_dump(exclude_unset=True, include=given)
    return StreamSpec.model_validate({**taken, **own.model_dump(exclude_unset=True)})


def held_out(
    told: EvaluationSpec, spec: TrainSpec, family: Family, world: World | None = None
) -> dict[str, StreamingDataset]:
    """The streams of an evaluation. Raises SpecError for one without an end."""
    for name, data in told.data.items():
        if data.epochs is None and told.batches is None:
            raise SpecError(f"evaluation.data.{name}.epochs: null never ends; say how many, or evaluation.batches")
    streams = {
        name: StreamingDataset(data, family=family, global_batch=spec.global_batch, world=world or World())
        for name, data in told.data.items()
    }
    for name, stream in streams.items():
        if stream.spec.part == "held_out":  # few, perhaps none: better said now than at the first evaluation
            try:
                next(stream.planner.reached(Position(), 1))
            except DataError as error:
                share = f"hold_out: {stream.spec.hold_out:g}"
                raise SpecError(
                    f"evaluation.data.{name}: {share} holds nothing out that fits; raise it ({error})"
                ) from error
    return streams


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model is in `eval()` and makes no gradients; after, its modules' modes and all random states are what
    they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        sharding.reshard(model)
        for module, mode in modes:
            module.training = mode


def evaluate(
    told: EvaluationSpec,
    streams: Mapping[str, StreamingDataset],
    *,
    spec: TrainSpec,
    model: Any,
    tokenizer: Any,
    strategy: Strategy,
    world: World,
) -> Found:
    """Go through the streams from their beginnings; a call of all ranks, which share the packs and the answers. Losses
    are means over target tokens, each weighted as the stream says and no schedule changes."""
    values: dict[str, float] = {}
    given: dict[str, Sequence[Answer]] = {}
    whole = (0.0, 0.0)
    with undisturbed(model):
        for name, stream in streams.items():
            sums, terms = _sums(told, stream, spec, model, tokenizer, strategy, world)
            loss, weight = (sum(each[at] for each in sums.values()) for at in (0, 1))
            whole = whole[0] + loss, whole[1] + weight
            values[f"{name}/loss"] = loss / weight if weight else 0.0
            values |= {f"{name}/loss/{task}": part / of for task, (part, of) in sums.items() if task and of}
            values |= {f"{name}/aux/{term}": part / of for term, (part, of) in terms.items() if of}
            for kind in ("event", "action"):
                if f"{kind}_hits" in terms:
                    counts = (terms[f"{kind}_{each}"][0] for each in ("hits", "false", "missed"))
                    values[f"{name}/{kind}_f1"] = f1(*counts)
            if told.generate:
                with generating(model), autocast(device_of(spec.device), spec.precision):
                    found = answers(model, tokenizer, stream, told, strategy, device_of(spec.device), world)
                given[name] = found
                values |= {f"{name}/{metric}": value for metric, value in mean_scores(found).items()}
    return Found(values={"loss": whole[0] / whole[1] if whole[1] else 0.0, **values}, answers=given)


def mean_scores(found: Sequence[Answer]) -> dict[str, float]:
    """The mean of each metric over the answers that have it."""
    result = {}
    for metric in dict.fromkeys(metric for answer in found for metric in answer.scores):
        mine = [answer.scores[metric] for answer in found if metric in answer.scores]
        result[metric] = sum(mine) / len(mine)
    return result


def _sums(
    told: EvaluationSpec,
    stream: StreamingDataset,
    spec: TrainSpec,
    model: Any,
    tokenizer: Any,
    strategy: Strategy,
    world: World,
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """By task, the sum of weight * loss and that of the weights, all ranks together; and of each loss of a head the sum
    of its values and the number of its units."""
    collate: Any = rows.collator(spec.collate, strategy, tokenizer.pad_token_id)
    if isinstance(model, FSDPModule) and stream.family is not None:
        collate = sharding.EveryMedium.of(collate, stream.family)
    stream.set_epoch(0)
    loader = StreamLoader(stream, collate, threads=spec.threads, device=device_of(spec.device))
    sums: dict[str, tuple[float, float]] = {}
    each_term: dict[str, tuple[float, float]] = {}
    declared = {name: term for head in auxiliary.heads_of(model).values() for name, term in head.auxiliary.items()}
    for number, batches in enumerate(loader.steps()):
        if number == told.batches:
            break
        for batch in batches:
            weights = step_weights(batch, "token")
            units = auxiliary.units(model, batch, weights, declared)
            with autocast(batch["input_ids"].device, spec.precision), auxiliary.recording() as said:
                _, each = losses(model, batch, weights, strategy)
            mine = {name: values for name, values in said.items() if name in declared}
            found = auxiliary.summed(declared, mine, units)
            counts = {name: (float(value), float(units[declared[name].per].sum())) for name, value in found.items()}
            each_term = merged([each_term, counts])
            sums = merged([sums, by_task(batch, each, weights)])
    return merged(gather(sums, world)), merged(gather(each_term, world))
