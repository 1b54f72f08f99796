"""Held-out pairs: how often, and by how much, the model prefers the chosen answer more than its reference does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.stream.dataset import StreamingDataset
from mmdata.types import World
from mmtrain.distributed import sums
from mmtrain.held_out import EvaluationSpec, Found, evaluate, undisturbed
from mmtrain.precision import autocast
from mmtrain.preference.reference import Reference
from mmtrain.preference.step import MEASURES, compare, pairs_of

if TYPE_CHECKING:
    from mmtrain.spec import TrainSpec

LOSS = "preference_loss"
"""Of an evaluation: the mean loss of its pairs, beside MEASURES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Pairs that are not trained on, what the reference says of them, and how batches are made of them."""

    stream: StreamingDataset
    reference: Reference
    make_loader: Any


def streams(spec: TrainSpec, family: Family, world: World) -> dict[str, StreamingDataset]:
    """The streams of a run's evaluation, by name, with both answers of each sample. Raises SpecError for a stream that
    shortens answers, of which both would not see the same."""
    told: EvaluationSpec | None = spec.evaluation
    found = {}
    for name, data in {} if told is None else told.data.items():
        if data.overlong in ("truncate_text", "shrink_media"):
            raise SpecError(
                f"evaluation.data.{name}.overlong: {data.overlong}: both answers have to see the same; set drop"
            )
        both = data.model_copy(update={"pairs": True})
        found[name] = StreamingDataset(both, family=family, global_batch=spec.global_batch, world=world)
    return found


def evaluated(
    told: EvaluationSpec, plain: Mapping[str, StreamingDataset], *, pairs: Mapping[str, HeldOut], **how: Any
) -> Found:
    """As `mmtrain.held_out.evaluate`, and of each data the means of MEASURES and of the loss over its pairs:
    `NAME/rewards/accuracies`, `NAME/rewards/margins`, `NAME/preference_loss` ..."""
    found = evaluate(told, plain, **how)
    values = dict(found.values)
    for name, each in pairs.items():
        values |= {f"{name}/{measure}": value for measure, value in measured(told, each, **how).items()}
    return replace(found, values=values)


def measured(
    told: EvaluationSpec, held: HeldOut, *, spec: TrainSpec, model: Any, strategy: Any, world: World, **_: Any
) -> dict[str, float]:
    """The means over the pairs of a stream, once through it or `told.batches` of it; nothing of one without pairs. A
    call of all ranks."""
    preference = spec.preference
    assert preference is not None
    held.stream.set_epoch(0)
    count, total = 0, Counter[str]()
    with undisturbed(model):
        for number, batches in enumerate(held.make_loader(held.stream).steps()):
            if number == told.batches:
                break
            for batch in batches:
                mine = pairs_of(batch)
                with autocast(batch["input_ids"].device, spec.precision):
                    compared = compare(model, batch, mine, strategy, preference, held.reference)
                total.update({**compared.measures, LOSS: float(compared.losses.double().sum())})
                count += len(mine.chosen)
    names = (*MEASURES, LOSS)
    pairs, *values = sums([float(count), *(total[name] for name in names)], world)
    return {name: value / pairs for name, value in zip(names, values, strict=True)} if pairs else {}
