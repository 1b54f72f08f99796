"""A model in shards: FSDP2 over its layers, what no layer holds, and the model as one that is called by its parts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.stream.reader import dummy
from mmdata.types import Packed, World
from mmtrain.distributed import DistributedSpec, backend
from mmtrain.precision import DTYPES, Precision

T = TypeVar("T")
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|layer|h)\.\d+$")
STATE_BYTES = {"trained": 4 + 4 + 8, "frozen": 4}
"""Of a parameter: its weight, and where it is trained its gradient and AdamW's two moments, in float32."""
ROOM = 0.5
"""Share of a device's memory that a whole model's state may fill; the rest is for activations."""


def resolve(spec: DistributedSpec, model: torch.nn.Module, world: World) -> Literal["ddp", "fsdp", "hsdp"]:
    """The mode that `auto` comes to for this model, on the GPU that this process works on; others are as they are."""
    if spec.mode != "auto":
        return spec.mode
    if world.ranks == 1 or not torch.cuda.is_available():
        return "ddp"
    state = sum(p.numel() * STATE_BYTES["trained" if p.requires_grad else "frozen"] for p in model.parameters())
    _, memory = torch.cuda.mem_get_info()
    return "fsdp" if state > ROOM * memory else "ddp"


def casts(spec: DistributedSpec, model: torch.nn.Module, world: World, precision: Precision) -> bool:
    """Whether layers are to see weights in another type than they are kept in."""
    return spec.mixed_precision and precision != "fp32" and resolve(spec, model, world) != "ddp"


def shard(model: torch.nn.Module, spec: DistributedSpec, world: World, precision: Precision = "fp32") -> bool:
    """Shard a model in place if its mode says so, and answer whether it does; every rank has the same whole weights
    before.

    Each layer of a tower or decoder (`….layers.0`, `….blocks.0`) is gathered for itself; all that lies in no layer
    (embeddings, connector, head) with the model. Gradients are added up over ranks, not averaged, as `add_gradients`
    does. Parameters that are no floating point numbers (quantised, and never trained) stay whole. From then on the
    model is called by `within`. Raises SpecError for a node whose processes do not divide the world (`hsdp`).
    """
    mode = resolve(spec, model, world)
    if mode == "ddp":
        return False
    if not distributed.is_initialized():  # a world of one, that sharded checkpoints and tests may ask for
        distributed.init_process_group(backend(), rank=0, world_size=1, store=HashStore())
    policy: dict[str, Any] = {
        "mesh": _mesh(model, mode, world),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=DTYPES[precision] if spec.mixed_precision else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # loss weights and positions keep their types; layers are fed what they make
        ),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        if spec.cpu_offload
        else OffloadPolicy(),
        "ignored_params": {p for p in model.parameters() if not p.is_floating_point()},
    }
    for layer in layers(model):
        fully_shard(layer, reshard_after_forward=spec.reshard_after_forward, **policy)
    fully_shard(model, reshard_after_forward=False, **policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sums that are scaled on the way
    setattr(model, "_call", MethodType(_call, model))  # noqa: B010 it is no module
    register_fsdp_forward_method(model, "_call")
    return True


def layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of all towers and decoders, none inside another, in the model's order."""
    found: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        outer = any(name.startswith(f"{other}.") for other in found)
        if _LAYER.search(name) and not outer and next(module.parameters(), None) is not None:
            found[name] = module
    return list(found.values())


def within(model: Any, function: Callable[..., T], *args: Any) -> T:
    """`function(model, *args)`. In a sharded model this is its forward pass: the weights that lie in no layer are whole
    inside, and what is differentiated later has to come from here. Every rank calls it equally often."""
    if not isinstance(model, FSDPModule):
        return function(model, *args)
    call: Callable[[Callable[[], T]], T] = getattr(model, "_call")  # noqa: B009
    return call(lambda: function(model, *args))


def reshard(model: torch.nn.Module) -> None:
    """Give back what a forward pass that no backward pass follows leaves whole, so that parameters are shards again:
    those that are saved, averaged and moved."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _call(model: torch.nn.Module, function: Callable[[], Any]) -> Any:
    return function()


def _mesh(model: torch.nn.Module, mode: str, world: World) -> DeviceMesh:
    device = "cuda" if next(model.parameters()).is_cuda else "cpu"
    if mode == "fsdp":
        return init_device_mesh(device, (world.ranks,))
    inside = int(os.environ.get("LOCAL_WORLD_SIZE", world.ranks))
    if world.ranks % inside:
        raise SpecError(f"distributed.mode: hsdp: {inside} processes on this node do not divide {world.ranks} in all")
    return init_device_mesh(device, (world.ranks // inside, inside), mesh_dim_names=("replicate", "shard"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryMedium:
    """A collator that gives every batch one of each medium that the family takes: a pack that lacks one gets a last
    segment of dummies that trains nothing. So all ranks run the same modules, which shards wait for."""

    collate: Callable[[list[Packed]], dict[str, Any]]
    dummy: Packed

    @classmethod
    def of(cls, collate: Callable[..., dict[str, Any]], family: Family) -> EveryMedium:
        return cls(collate=collate, dummy=dummy(family))

    def __call__(self, packs: Packed | list[Packed]) -> dict[str, Any]:
        packs = [packs] if isinstance(packs, Packed) else list(packs)
        present = {name for pack in packs for name in pack.media}
        return self.collate(packs if present.issuperset(self.dummy.media) else [*packs, self.dummy])
