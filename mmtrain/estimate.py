"""What a run will take, before it begins: memory of each rank, operations of a step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.position import Position
from mmdata.types import Packed
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.flops import train_flops
from mmtrain.models.fusion.gated import GatedLayer
from mmtrain.rules import Setting
from mmtrain.spec import TrainSpec

MOMENTS = 2
"""AdamW keeps two values for each that it trains."""
COMPUTE = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of what layers keep for the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one rank that holds a whole model. What frameworks and kernels take besides is not in it."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    def total(self, shards: int = 1) -> int:
        """All together; with everything but activations in shards over so many ranks."""
        state = self.weights + self.gradients + self.optimizer + self.average
        return -(-state // shards) + self.activations


def memory(
    spec: TrainSpec, model: Any, settings: Mapping[str, Setting], *, tokens: int, patches: int = 0, targets: int = 0
) -> Memory:
    """The estimate for rows of so many tokens, of which `targets` are trained, with so many patches."""
    named = aliases(model)
    sizes = [(settings[named[name]].train, p.numel(), p.element_size()) for name, p in model.named_parameters()]
    trained = sum(count * each for train, count, each in sizes if train)
    moments = trained * MOMENTS
    if spec.optim.implementation == "paged_8bit":
        moments = sum(count for train, count, _ in sizes if train) * MOMENTS
    return Memory(
        weights=sum(count * each for _, count, each in sizes),
        gradients=trained,
        optimizer=moments,
        average=0 if spec.ema is None else trained,
        activations=activations(spec, model, tokens=tokens, patches=patches, targets=targets),
    )


def activations(spec: TrainSpec, model: Any, *, tokens: int, patches: int = 0, targets: int = 0) -> int:
    """Bytes that a forward pass keeps for the backward pass.

    A layer of a Llama-like decoder keeps 9 h + 2 k + 4 f values per token (h: width, k: width of the keys, f: width of
    the MLP): the inputs of both norms and what they scale, queries, keys, values, the output of attention, the gate,
    the other half, and their products; with routed experts, the last four for each of them that a token meets. A layer
    of a fusion keeps 6 h + 2 k + 4 f per token, and keys and values of the media, of which there are as many as patches
    at most. A layer of a tower keeps 8 h + 4 f per patch. Around them are 3 h, and the
    logits of the targets, as float32, twice. With layers that run again, each keeps its input alone, and one is whole.
    """
    width = COMPUTE[spec.precision]
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * head
    hidden = text.hidden_size
    routed = getattr(model.config, "experts", None) or {}
    layer = 9 * hidden + 2 * keys + 4 * text.intermediate_size * int(routed.get("top_k", 1))
    total = width * tokens * (_kept(spec, layer, hidden, text.num_hidden_layers) + 3 * hidden)
    total += 2 * 4 * min(targets, 1024) * text.vocab_size
    for module in model.modules():
        if isinstance(module, GatedLayer):
            inside, across = module.mlp.up.out_features, module.across
            total += width * (tokens * (6 * hidden + 2 * across + 4 * inside) + patches * 2 * across)
    own = getattr(model.config, "vision_config", None)
    if own is not None and patches:
        inside = getattr(own, "embed_dim", None) or own.hidden_size
        wide = getattr(own, "intermediate_size", None) or int(inside * getattr(own, "mlp_ratio", 4))
        depth = getattr(own, "num_hidden_layers", None) or getattr(own, "depth", None) or own.layers
        total += width * patches * _kept(spec, 8 * inside + 4 * wide, inside, int(depth))
    return int(total)


def _kept(spec: TrainSpec, layer: int, hidden: int, layers: int) -> int:
    """Values per token of all layers of a part."""
    again = spec.activation_checkpointing
    if again == "none":
        return layer * layers
    some = layers if again == "full" else layers // int(again)
    return hidden * some + layer * (layers - some) + layer


def lines(spec: TrainSpec, model: Any, settings: Mapping[str, Setting], stream: StreamingDataset) -> Iterator[str]:
    """For `--dry-run`: memory for the largest pack of the first block, operations of the first step."""
    block = stream.planner.block(Position())
    at_once = spec.packs_per_forward
    longest = stream.spec.row_tokens or int(block.tokens.max())
    tokens = max(longest, min(at_once * longest, spec.max_tokens_per_forward or at_once * longest))
    patches = at_once * max(int(cost[2]) for cost in block.costs)
    found = memory(spec, model, settings, tokens=tokens, patches=patches, targets=tokens)
    parts = ("weights", "gradients", "optimizer", "average", "activations")
    told = ", ".join(f"{name} {_size(getattr(found, name))}" for name in parts if getattr(found, name))
    ranks = stream.world.ranks
    shards = max(2, ranks)
    yield f"memory {told} = {_size(found.total())} on each rank; {_size(found.total(shards))} sharded over {shards}"
    flops = step_flops(model, stream)
    if flops is not None:
        run = flops * spec.steps
        yield f"flops  {flops / 1e12:,.4g} TFLOP in the first step, {run / 1e18:,.4g} EFLOP in {spec.steps:,} steps"


def step_flops(model: Any, stream: StreamingDataset) -> float | None:
    """Operations of this rank's share of the first step; None for a model whose towers are not known."""
    deals = itertools.takewhile(lambda deal: deal.step == 0, stream.deals())
    total = 0.0
    for deal in deals:
        packed = stream.read(deal)
        assert isinstance(packed, Packed), packed
        done = train_flops(model, PackedCollator()([packed]))
        if done is None:
            return None
        total += done
    return total


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} TiB"
