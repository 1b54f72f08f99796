"""What a run will take, before it begins: memory of each rank, operations of a step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mmdata.shards.storage import user_cache
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.device import each_tensor
from mmdata.stream.loader import StreamLoader
from mmdata.types import Packed
from mmtrain import auxiliary, blocks, certificate, optim, rows, sharding
from mmtrain.anchor import Anchor
from mmtrain.certificate import Strategy
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.flops import train_flops
from mmtrain.memory import CASTS, LOSS, StepMemory, measure
from mmtrain.objective import losses
from mmtrain.precision import autocast, device_of
from mmtrain.rules import Setting
from mmtrain.spec import TrainSpec
from mmtrain.weighting import step_weights, unmet

ERROR = 0.1
"""Relative error of the total, on a CPU; `tests/mmtrain/test_estimate.py` holds it over families and connectors."""
LOOKED_AT = 256
"""Batches of the first steps among which the largest is looked for."""
DENSE = ("gemma3", "paligemma")
"""Models that look both ways within a picture, which packed rows need dense masks for."""
PARTS = ("vision", "audio", "connector", "fusion", "language", LOSS, CASTS)
SMALL, BLOCK = 4096, 256
"""bitsandbytes' moments in 8 bits: tensors of fewer values keep float32, others a float32 scale for each block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one rank. What frameworks, allocators and kernels take for themselves is not in it."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    step: StepMemory
    passes: int = 1
    """Forward passes of a step."""
    anchor: int = 0
    """A frozen copy of the vision tower (`mmtrain.anchor`)."""
    whole: int = 0
    """Of the weights, gradients too, that a sharded model holds whole while it computes: those in no layer, the weights
    of two of its largest layers and the gradient of one."""

    @property
    def activations(self) -> int:
        """What is kept from forward to backward pass."""
        return sum(self.step.kept.values())

    @property
    def total(self) -> int:
        """The most at once in a step on a rank that holds a whole model."""
        held = self.weights + self.anchor + self.optimizer + self.average
        before = 0 if self.passes == 1 else self.gradients
        return held + max(before + self.step.peak, self.gradients + self.step.moving)

    def sharded(self, ranks: int) -> int:
        """About the same, with all but activations in shards over so many ranks."""
        state = self.weights + self.gradients + self.optimizer + self.average
        return -(-state // ranks) + self.anchor + self.whole + self.activations


def memory(
    spec: TrainSpec,
    model: Any,
    settings: Mapping[str, Setting],
    batch: Mapping[str, Any],
    strategy: Strategy = "varlen",
    *,
    passes: int = 1,
) -> Memory:
    """The estimate for steps of so many passes over batches like this one, all that is ever trained trained. The model
    is left as it was, but for what needs gradients. Raises RuntimeError for a model whose step hangs on values."""
    named = aliases(model)
    trained = [p for name, p in model.named_parameters() if settings[named[name]].train]
    model.train()
    optim.thaw(model, settings, 1.0)
    certificate.adopt(model, strategy)
    held = getattr(model.base_model, "anchor", None)
    eight = spec.optim.implementation == "paged_8bit"
    told = spec.optim.model_copy(update={"clip": None})
    with _again(model, spec):
        step = measure(
            model,
            batch,
            functools.partial(_loss, spec, model, dict(batch), strategy),
            None if eight else lambda: optim.optimizer(model, told, settings),
            passes=passes,
        )
    return Memory(
        weights=sum(p.nbytes for p in model.parameters()),
        gradients=sum(p.nbytes for p in trained),
        optimizer=sum(map(eight_bits, trained)) if eight else step.state,
        average=0 if spec.ema is None else 4 * sum(p.numel() for p in trained),
        step=step,
        passes=passes,
        anchor=held.size if isinstance(held, Anchor) else 0,
        whole=_whole(model),
    )


def eight_bits(parameter: torch.Tensor) -> int:
    """Bytes of AdamW's two moments of a parameter as bitsandbytes keeps them."""
    count = parameter.numel()
    return 2 * (4 * count if count < SMALL else count + 4 * -(-count // BLOCK))


def _loss(spec: TrainSpec, model: Any, batch: dict[str, Any], strategy: Strategy) -> torch.Tensor:
    """The loss of one pass as `mmtrain.step` has it, auxiliary ones with it."""
    weights = step_weights(batch, spec.loss_norm, phases=spec.token_weight_schedule, tasks=spec.task_weights)
    terms = auxiliary.declared(model, spec.auxiliary)
    with autocast(batch["input_ids"].device, spec.precision), auxiliary.recording() as said:
        summed, _ = losses(model, batch, weights, strategy)
    for name, value in auxiliary.summed(terms, said, auxiliary.units(model, batch, weights, terms)).items():
        summed = summed + terms[name].weight * value
    return summed


@contextmanager
def _again(model: Any, spec: TrainSpec) -> Iterator[None]:
    """Inside, the layers that `activation_checkpointing` names run again for their gradient."""
    own = [(module, vars(module).get("forward")) for module in model.modules()]
    blocks.recompute(model, spec.activation_checkpointing)
    try:
        yield
    finally:
        for module, forward in own:
            if forward is not None:
                module.forward = forward
            elif "forward" in vars(module):
                del module.forward


def _whole(model: Any) -> int:
    layers = [
        (sum(p.nbytes for p in layer.parameters()), sum(p.nbytes for p in layer.parameters() if p.requires_grad))
        for layer in sharding.layers(model)
    ]
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    rest = weights + gradients - sum(map(sum, layers))
    return rest + max((2 * weight + gradient for weight, gradient in layers), default=0)


def lines(
    spec: TrainSpec, model: Any, settings: Mapping[str, Setting], stream: StreamingDataset, pad_id: int
) -> Iterator[str]:
    """For `--dry-run`: memory for the largest of the first batches, operations of the first step."""
    flops = step_flops(model, stream)
    yield from memory_lines(spec, model, settings, stream, pad_id)
    if flops is not None:
        run = flops * spec.steps
        yield f"flops  {flops / 1e12:,.4g} TFLOP in the first step, {run / 1e18:,.4g} EFLOP in {spec.steps:,} steps"
    if spec.task_weights:
        met = {task for packed in _first_step(stream) for task in packed.tasks}
        if told := unmet(spec.task_weights, met, "of the first step"):
            yield f"{told}; a run says so again of its first epoch, and at its end"


def memory_lines(
    spec: TrainSpec, model: Any, settings: Mapping[str, Setting], stream: StreamingDataset, pad_id: int
) -> Iterator[str]:
    """What the largest batch takes, by kind and part, and what it would take with layers that run again."""
    strategy = _strategy(spec, model, stream)
    passes, batches = _largest(spec, stream, rows.collator(spec.collate, strategy, pad_id))

    try:
        found = [memory(spec, model, settings, batch, strategy, passes=passes) for batch in batches]
        here, batch = max(zip(found, batches, strict=True), key=lambda pair: pair[0].total)
        again = None
        if spec.activation_checkpointing == "none" and blocks.layers(model):
            every = spec.model_copy(update={"activation_checkpointing": "full"})
            again = memory(every, model, settings, batch, strategy, passes=passes)
    except RuntimeError as error:  # as torch says of shapes that hang on values
        yield f"memory is not told: a step of this model hangs on values ({str(error).splitlines()[0]})"
        return
    kinds = {
        "weights": here.weights,
        "gradients": here.gradients,
        f"optimizer ({optimizer_kind(spec)})": here.optimizer,
        "average (fp32)": here.average,
        "frozen copy of the tower (anchor)": here.anchor,
    }
    yield "memory " + ", ".join(f"{name} {_size(value)}" for name, value in kinds.items() if value)
    parts = ", ".join(f"{part} {_size(here.step.kept[part])}" for part in PARTS if part in here.step.kept)
    less = "" if again is None else f"; with activation_checkpointing: full {_size(again.activations)}"
    yield f"       activations {_size(here.activations)} ({parts}){less}"
    ranks = max(2, stream.world.ranks)
    yield (
        f"       {_size(here.total)} at the most on each rank, within {ERROR:.0%} of what torch allocates on a CPU; "
        f"about {_size(here.sharded(ranks))} sharded over {ranks}"
    )


def optimizer_kind(spec: TrainSpec) -> str:
    """What the moments are kept in.

    >>> optimizer_kind(TrainSpec.model_validate({"data": {"dataset": "x"}, "output": "y"}))
    'AdamW, two moments in fp32'
    """
    eight = spec.optim.implementation == "paged_8bit"
    return f"AdamW, two moments in {'8 bits' if eight else spec.params}"


def _strategy(spec: TrainSpec, model: Any, stream: StreamingDataset) -> Strategy:
    """How the model will be told of borders: as its certificate says, where one is kept; else as is likely."""
    if spec.collate == "padded":
        return "single"
    with autocast(device_of(spec.device), spec.precision):
        _, found = certificate.cached(model, user_cache("certificates"))
    if found is not None:
        return found.strategy
    return "masks" if str(model.config.model_type).startswith(DENSE) else "varlen"


def _largest(
    spec: TrainSpec, stream: StreamingDataset, collate: Callable[[Any], dict[str, Any]]
) -> tuple[int, list[dict[str, Any]]]:
    """Passes of the first step; of the first batches that with the most tokens and that with the most of media."""
    loader = StreamLoader(stream, collate, batch_size=spec.packs_per_forward, batch_tokens=spec.max_tokens_per_forward)
    groups = list(itertools.islice(loader.groups(), LOOKED_AT))
    passes = sum(group[0].step == groups[0][0].step for group in groups)
    costs = [[deal.pack.cost for deal in group if deal.pack is not None] for group in groups]
    tokens = [sum(cost.tokens for cost in each) for each in costs]
    media = [sum(cost.patches + cost.mel_frames for cost in each) for each in costs]
    chosen = {max(range(len(groups)), key=by.__getitem__) for by in (tokens, media)}
    device = device_of(spec.device)
    return passes, [
        dict(each_tensor(collate([stream.read(deal) for deal in groups[at]]), lambda x: x.to(device)))
        for at in sorted(chosen)
    ]


def step_flops(model: Any, stream: StreamingDataset) -> float | None:
    """Operations of this rank's share of the first step; None for a model whose towers are not known."""
    total = 0.0
    for packed in _first_step(stream):
        done = train_flops(model, PackedCollator()([packed]))
        if done is None:
            return None
        total += done
    return total


def _first_step(stream: StreamingDataset) -> Iterator[Packed]:
    """This rank's packs of it."""
    for deal in itertools.takewhile(lambda deal: deal.step == 0, stream.deals()):
        packed = stream.read(deal)
        assert isinstance(packed, Packed), packed
        yield packed


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} TiB"
