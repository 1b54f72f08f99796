"""Evaluation of a dual encoder: loss, retrieval and zero-shot classification over held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, field_validator

from mmdata.errors import DataError, SpecError
from mmdata.spec import Model
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.loader import StreamLoader
from mmdata.stream.spec import StreamSpec
from mmdata.types import World
from mmtrain import ema
from mmtrain.collate import PackedCollator
from mmtrain.contrastive import objective
from mmtrain.contrastive.labels import LabelSpec, same
from mmtrain.contrastive.objective import Known, Whole
from mmtrain.contrastive.pairs import read
from mmtrain.contrastive.retrieval import accuracy, class_vectors, recalls
from mmtrain.distributed import gather
from mmtrain.held_out import Found, undisturbed
from mmtrain.precision import autocast, device_of

if TYPE_CHECKING:
    from mmtrain.contrastive.spec import ContrastiveSpec


class ZeroShotSpec(Model):
    """Classification of pictures by what their classes are called."""

    classes: tuple[str, ...] = Field(..., min_length=2)
    """Their names."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Texts with a place `{}` for a name; the vector of a class is the mean over them."""
    field: str | None = None
    """Field of samples' meta that has the name of the class. By default it is the longest name that stands in the
    sample's text; samples without one are left out."""
    k: tuple[int, ...] = (1, 5)

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            if template.count("{}") != 1:
                raise ValueError(f"zero_shot.templates: {template!r} has not one place {{}} for the name")
        if not value:
            raise ValueError("zero_shot.templates: one at least")
        return value


class ContrastiveEvaluationSpec(Model):
    """What a run is measured by, and when."""

    data: dict[str, StreamSpec] = Field(default_factory=dict)
    """Streams of held-out pairs by name; each is gone through once, or `batches` of it. By default `held_out`: what
    `data.hold_out` keeps out of the training."""
    every: int = Field(100, ge=1)
    """Steps between evaluations; there is always one after the last step."""
    batches: int | None = Field(None, ge=1)
    """Global batches of each; null: all there are."""
    k: tuple[int, ...] = (1, 5, 10)
    """Of recall at k."""
    same_text: bool = True
    """Whether equal texts are one in retrieval, and all their pictures its own."""
    zero_shot: ZeroShotSpec | None = None
    weights: ema.Choice = "auto"
    """Which weights are measured: averaged ones (`ema`), those that are trained (`raw`); `auto` takes averaged ones
    where the run keeps them."""

    @field_validator("data", mode="before")
    @classmethod
    def _a_pair_is_a_pack(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {"packing": "none", "epochs": 1, "shuffle": "none"}
        return {name: {**given, **each} if isinstance(each, dict) else each for name, each in value.items()}


def evaluate(
    told: ContrastiveEvaluationSpec,
    streams: Mapping[str, StreamingDataset],
    *,
    spec: ContrastiveSpec,
    model: Any,
    tokenizer: Any,
    strategy: Any = None,
    world: World,
) -> Found:
    """Go through the streams from their beginnings; a call of all ranks, which share the pairs. `NAME/loss` is that of
    all pairs of a stream as one batch, with the run's labels and nothing queued; `loss` is the mean over pairs."""
    values: dict[str, float] = {}
    whole, pairs = 0.0, 0
    with undisturbed(model):
        for name, stream in streams.items():
            pictures, texts, digests, labels = _vectors(told, stream, spec, model, tokenizer, world)
            if len(pictures) < 2:
                raise DataError("no_packs", f"evaluation.data.{name}: {len(pictures)} pairs, and two are compared")
            mine = Whole(pictures=pictures, texts=texts, scale=model.scale.cpu(), bias=model.bias.cpu())
            plain = spec.loss.model_copy(
                update={"negatives": None, "regions": None, "labels": _plain(spec.loss.labels)}
            )
            found = objective.losses(plain, mine, Known(digests=digests), each=[len(pictures)], world=World())
            values[f"{name}/loss"] = float(found["main"])
            sought = _different(digests) if told.same_text else torch.arange(len(digests))
            together = same(digests, digests, 0, LabelSpec(same_text=told.same_text))[:, sought]
            values |= {
                f"{name}/{metric}": v for metric, v in recalls(pictures, texts[sought], together, told.k).items()
            }
            if told.zero_shot is not None:
                known = labels >= 0
                if not known.any():
                    raise SpecError(f"evaluation.zero_shot.classes: no sample of {name} is of any of them")
                classes = _classes(told.zero_shot, spec, model, tokenizer)
                scores = accuracy(pictures[known], classes, labels[known], told.zero_shot.k)
                values |= {f"{name}/zero_shot/{metric}": value for metric, value in scores.items()}
            whole, pairs = whole + values[f"{name}/loss"] * len(pictures), pairs + len(pictures)
    return Found(values={"loss": whole / pairs, **values})


def _different(digests: torch.Tensor) -> torch.Tensor:
    """The first place of each text."""
    first: dict[int, int] = {}
    for at, digest in enumerate(digests.tolist()):
        first.setdefault(digest, at)
    return torch.tensor(list(first.values()))


def _plain(labels: LabelSpec) -> LabelSpec:
    return labels.model_copy(update={"teacher": 0.0})


def _vectors(
    told: ContrastiveEvaluationSpec,
    stream: StreamingDataset,
    spec: ContrastiveSpec,
    model: Any,
    tokenizer: Any,
    world: World,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of all pairs of a stream, on the host, in an order that does not depend on ranks: vectors of pictures and texts,
    digests of texts, numbers of classes (-1: none)."""
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    stream.set_epoch(0)
    loader = StreamLoader(
        stream, PackedCollator(), batch_size=spec.pairs_per_forward, threads=spec.threads, device=device_of(spec.device)
    )
    rows: list[tuple[Any, ...]] = []
    for number, batches in enumerate(loader.steps()):
        if number == told.batches:
            break
        metas = dict(_metas(told, stream, loader))
        for batch in batches:
            pairs = read(batch, image_id)
            with autocast(model.scale.device, spec.precision):
                made = model(pairs)
            kinds = [
                _kind(told.zero_shot, metas.get(key), _said(tokenizer, text))
                for key, text in zip(pairs.keys, pairs.texts, strict=True)
            ]
            rows += zip(pairs.keys, made.pictures.cpu(), made.texts.cpu(), pairs.digests.tolist(), kinds, strict=True)
    every = sorted((row for part in gather(rows, world) for row in part), key=lambda row: row[0])
    if not every:
        nothing = torch.zeros(0, model.width)
        return nothing, nothing, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    pictures, texts = (torch.stack([row[at] for row in every]) for at in (1, 2))
    return pictures, texts, torch.tensor([row[3] for row in every]), torch.tensor([row[4] for row in every])


def _metas(
    told: ContrastiveEvaluationSpec, stream: StreamingDataset, loader: StreamLoader
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The meta of the step's samples, by key, where a field of it has their class."""
    if told.zero_shot is None or told.zero_shot.field is None:
        return
    for deal in loader.dealt:
        for item in deal.pack.items if deal.pack is not None else ():
            sample = stream.datasets[item.dataset].sample(item.position, media=False)
            yield sample.key, sample.meta


def _said(tokenizer: Any, text: torch.Tensor) -> str:
    return str(tokenizer.decode(text, skip_special_tokens=True))


def _kind(told: ZeroShotSpec | None, meta: Mapping[str, Any] | None, text: str) -> int:
    """The number of a sample's class; -1 for one that has none."""
    if told is None:
        return -1
    if told.field is not None:
        name = None if meta is None else meta.get(told.field)
        return told.classes.index(name) if name in told.classes else -1
    found = [name for name in told.classes if name in text]
    return told.classes.index(max(found, key=len)) if found else -1


def _classes(told: ZeroShotSpec, spec: ContrastiveSpec, model: Any, tokenizer: Any) -> torch.Tensor:
    """The vector of each class, on the host: [C, D]."""
    said: Sequence[str] = [template.replace("{}", name) for name in told.classes for template in told.templates]
    end = [tokenizer.eos_token_id]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"] + end) for text in said]
    found = []
    for at in range(0, len(ids), spec.pairs_per_forward):
        with autocast(model.scale.device, spec.precision):
            found.append(model.texts(ids[at : at + spec.pairs_per_forward])[0].cpu())
    return class_vectors(torch.cat(found), len(told.templates))
