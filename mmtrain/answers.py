"""Answers of a model: greedy continuations of held-out prompts with their media, and the likeliest of given choices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from mmdata.collate import model_inputs
from mmdata.labels import IGNORE
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Deal
from mmdata.stream.device import each_tensor
from mmdata.types import Item, Packed, World
from mmtrain import attention
from mmtrain.adapters.small import Prefix
from mmtrain.certificate import BORDERS, Strategy, prepared
from mmtrain.collate import PackedCollator
from mmtrain.distributed import gather
from mmtrain.metrics import score
from mmtrain.models import ends, hearing
from mmtrain.objective import losses
from mmtrain.precision import compute_dtype
from mmtrain.sharding import within

if TYPE_CHECKING:
    from mmtrain.held_out import EvaluationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says to one prompt."""

    key: str
    number: int
    """Of the sample in the order of the stream."""
    prompt: str
    references: tuple[str, ...]
    text: str
    tokens: int
    """Of the answer, its end included."""
    scores: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def generating(model: Any) -> Iterator[None]:
    """Inside, the model attends by torch's SDPA and keeps what it has seen in a cache."""
    before = model.config._attn_implementation
    if before == attention.NAME:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if before == attention.NAME:
            model.set_attn_implementation(before)


def answers(
    model: Any,
    tokenizer: Any,
    stream: StreamingDataset,
    told: EvaluationSpec,
    strategy: Strategy,
    device: torch.device,
    world: World,
) -> list[Answer]:
    """Answers to the first `told.generate` samples of a stream that have something to answer. Ranks share them out,
    unless the model is sharded: then all do all, as shards wait for each other."""
    shared, stops = isinstance(model, FSDPModule), ends(model, stream)
    mine = []
    for number, (packed, _, meta) in enumerate(prompts(stream, told.generate)):
        if shared or number % world.ranks == world.rank:
            mine.append(_answer(model, tokenizer, packed, meta, number, told, strategy, device, stops))
    if shared:
        return mine
    return sorted((each for part in gather(mine, world) for each in part), key=lambda each: each.number)


def prompts(stream: StreamingDataset, count: int) -> Iterator[tuple[Packed, Item, Mapping[str, Any]]]:
    """The first samples of a stream, each a Packed of its own, with its plan and meta. Samples that cannot be read,
    that have nothing trained, or a medium within or behind their answer are passed over."""
    alone = StreamingDataset(stream.spec, family=stream.family, yields="encoded", world=World(), global_batch=1)
    for deal in alone.deals():
        if count <= 0:
            return
        packed = read(alone, deal)
        if packed is None:
            continue
        assert deal.pack is not None, deal
        item = deal.pack.items[0]
        count -= 1
        yield packed, item, alone.datasets[item.dataset].sample(item.position, media=False).meta


def read(stream: StreamingDataset, deal: Deal) -> Packed | None:
    """The sample of a deal where it can be answered."""
    packed = stream.read(deal)
    assert isinstance(packed, Packed), packed
    trained = np.flatnonzero(packed.labels != IGNORE)
    if packed.masked or not packed.keys or not len(trained):
        return None
    return None if any(slot.start + slot.length > trained[0] for slot in packed.slots) else packed


def prompt_of(packed: Packed) -> Packed:
    """A sample up to its first trained token, all its media before it."""
    return _cut(packed, int(np.flatnonzero(packed.labels != IGNORE)[0]))


def reference_of(packed: Packed) -> list[int]:
    """The ids of the first answer of a sample."""
    trained = packed.labels != IGNORE
    start = int(np.flatnonzero(trained)[0])
    after = np.flatnonzero(~trained[start:])
    stop = start + int(after[0]) if len(after) else len(trained)
    return [int(each) for each in packed.input_ids[start:stop]]


def inputs_of(packed: Packed, device: torch.device, model: Any = None) -> dict[str, Any]:
    """What `generate` takes of a sample's prompt: ids, a mask, token types and media, and what `model` is told besides.
    Positions are the model's own to make, as it has to go on with them."""
    batch = PackedCollator()([prompt_of(packed)])
    left_out = {*BORDERS, "labels", "position_ids", "use_cache"}
    inputs = {name: value for name, value in model_inputs(batch).items() if name not in left_out}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs |= hearing.told(model, batch)
    return dict(each_tensor(inputs, lambda tensor: tensor.to(device)))


def prefixed(model: torch.nn.Module) -> bool:
    """Whether adapters put keys and values before those of its own."""
    return any(isinstance(module, Prefix) for module in model.modules())


def continued(
    model: Any,
    packed: Packed,
    max_new_tokens: int,
    device: torch.device,
    strategy: Strategy = "varlen",
    *,
    stops: Sequence[int] = (),
) -> list[int]:
    """The ids with which a model answers a sample's prompt up to one of `stops`, inside `generating`: by `generate`;
    of one with prefixes, of which only our attention knows, by its forward pass once more for each."""
    if not prefixed(model):
        return generated(model, inputs_of(packed, device, model), max_new_tokens, stops)
    before = model.config._attn_implementation
    model.set_attn_implementation(attention.NAME)
    try:
        return _one_by_one(model, packed, max_new_tokens, device, strategy, stops)
    finally:
        model.set_attn_implementation(before)


def _one_by_one(
    model: Any, packed: Packed, most: int, device: torch.device, strategy: Strategy, stops: Sequence[int]
) -> list[int]:
    ids: list[int] = []
    while len(ids) < most and not set(stops).intersection(ids[-1:]):
        batch = dict(each_tensor(PackedCollator()([followed(packed, ids)]), lambda tensor: tensor.to(device)))
        ids.append(within(model, _next, batch, strategy))
    return ids


@torch.no_grad()
def _next(model: Any, batch: dict[str, Any], strategy: Strategy) -> int:
    """The likeliest token after a row."""
    dtype = compute_dtype(batch["input_ids"].device, model.dtype)
    inputs = prepared(batch, strategy, model.config, dtype) | hearing.told(model, batch)
    inputs.pop("labels")
    hidden = model.base_model(**inputs).last_hidden_state[0, -1:]
    return int(model.get_output_embeddings()(hidden).argmax(-1))


@torch.no_grad()
def generated(model: Any, inputs: Mapping[str, Any], max_new_tokens: int, stops: Sequence[int] = ()) -> list[int]:
    """The likeliest next token, again and again, until an answer ends: with one of `stops`, or of the model's own."""
    length = inputs["input_ids"].shape[1]
    more = {"eos_token_id": list(stops)} if stops else {}
    told = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens, "use_cache": True}
    ids = model.generate(**inputs, **told, **more)
    return [int(each) for each in ids[0, length:]]


def _answer(
    model: Any,
    tokenizer: Any,
    packed: Packed,
    meta: Mapping[str, Any],
    number: int,
    told: EvaluationSpec,
    strategy: Strategy,
    device: torch.device,
    stops: Sequence[int],
) -> Answer:
    wanted = tokenizer.decode(reference_of(packed), skip_special_tokens=True).strip()
    references = tuple(str(each) for each in meta.get("answers") or ()) or (wanted,)
    ids = continued(model, packed, told.max_new_tokens, device, strategy, stops=stops)
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    scores: dict[str, float] = {metric: score(metric, text, references, told.coordinates) for metric in told.metrics}
    choices = [str(each) for each in meta.get("choices") or ()]
    if choices:
        right = choice_of(meta, choices, references)
        found = likeliest(model, tokenizer, packed, choices, strategy, device)
        scores |= {} if right is None else {"choice": float(found == right)}
    prompt = tokenizer.decode(prompt_of(packed).input_ids.tolist(), skip_special_tokens=True).strip()
    return Answer(
        key=packed.keys[0],
        number=number,
        prompt=prompt,
        references=references,
        text=text,
        tokens=len(ids),
        scores=scores,
    )


def choice_of(meta: Mapping[str, Any], choices: Sequence[str], references: Sequence[str]) -> int | None:
    """Which of the choices is right: the number in `meta.answer`, or the choice that the reference is."""
    told = meta.get("answer")
    if isinstance(told, int) and 0 <= told < len(choices):
        return told
    return next((at for at, choice in enumerate(choices) if choice.strip() in references), None)


def likeliest(
    model: Any, tokenizer: Any, packed: Packed, choices: Sequence[str], strategy: Strategy, device: torch.device
) -> int:
    """Which choice has the greatest mean log-probability per token after the prompt, so that long ones are not worse
    for being long (as lm-evaluation-harness' `acc_norm` has it per byte)."""
    return int(np.argmax(choice_scores(model, tokenizer, packed, choices, strategy, device)))


@torch.no_grad()
def choice_scores(
    model: Any, tokenizer: Any, packed: Packed, choices: Sequence[str], strategy: Strategy, device: torch.device
) -> list[float]:
    """The mean log-probability per token of each choice in place of the answer, in nats; of one that says nothing,
    less than that of any other."""
    result = []
    for choice in choices:
        ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
        if not ids:
            result.append(-math.inf)
            continue
        asked = followed(packed, ids)
        batch = dict(each_tensor(PackedCollator()([asked]), lambda tensor: tensor.to(device)))
        weights = (batch["labels"].flatten() != IGNORE).float()
        # One sample a row: borders say nothing that a mask would not, so the plain way holds for every model.
        summed, _ = losses(model, batch, weights, "single" if strategy == "varlen" else strategy)
        result.append(-float(summed) / len(ids))
    return result


def followed(packed: Packed, ids: Sequence[int]) -> Packed:
    """A sample's prompt with other tokens in place of its answer, which alone are trained."""
    first = int(np.flatnonzero(packed.labels != IGNORE)[0])
    prompt = _cut(packed, first)
    more = np.arange(1, len(ids) + 1)
    last = prompt.position_ids[..., -1:]
    if prompt.position_ids.ndim == 2:  # M-RoPE: time, height and width go on together from the largest of them
        last = np.concatenate([last[:1], np.full((3, 1), last[1:].max())])
    types = {name: packed.token_arrays[name][first] for name in packed.token_arrays}
    return replace(
        prompt,
        input_ids=np.concatenate([prompt.input_ids, np.asarray(ids, np.int32)]),
        labels=np.concatenate([np.full(first, IGNORE), np.asarray(ids)]).astype(np.int64),
        loss_weights=np.concatenate([np.zeros(first), np.ones(len(ids))]).astype(np.float32),
        position_ids=np.concatenate([prompt.position_ids, last + more], axis=-1),
        cu_seqlens=np.array([0, first + len(ids)], np.int32),
        token_arrays={
            name: np.concatenate([prompt.token_arrays[name], np.full(len(ids), value)]) for name, value in types.items()
        },
        token_classes=None,
    )


def _cut(packed: Packed, stop: int) -> Packed:
    """Tokens before `stop` of a sample of one segment."""
    return replace(
        packed,
        input_ids=packed.input_ids[:stop],
        labels=np.full(stop, IGNORE, np.int64),
        loss_weights=np.zeros(stop, np.float32),
        position_ids=packed.position_ids[..., :stop],
        cu_seqlens=np.array([0, stop], np.int32),
        token_arrays={name: values[:stop] for name, values in packed.token_arrays.items()},
        token_classes=None,
    )
