"""Several processes as one: who is who, sums over all of them, gradients added up. Under `torchrun`, or alone.

Ranks take different packs of the same step, and every rank takes equally many (the stream sees to that), so sums are
all that is needed: the loss of a step is divided by the weights of the whole step before it is differentiated, and the
gradients of all ranks added up are those of one process that had done all of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from mmdata.errors import DataError, RunError, SpecError
from mmdata.spec import Model, runtime
from mmdata.types import World

T = TypeVar("T")
Mode = Literal["auto", "ddp", "fsdp", "hsdp"]
BUCKET = 25 << 20
"""Bytes of gradients that are added up in one call: many small calls cost more than they carry."""
_SIGNS = re.compile(r"gloo|nccl|process ?group|connection (closed|reset|refused)|timed? ?out|broken pipe", re.I)
"""What torch says of a lost rank; its backends have no error of their own for it."""


class DistributedSpec(Model):
    """How several processes share a model. None of it changes what is learned, but for `mixed_precision`, and for what
    dropout drops: rows of a sharded model have dummies of the media that they lack, on any number of ranks alike."""

    mode: Mode = runtime("auto")
    """`ddp`: a whole model on each rank. `fsdp`: weights, gradients and the optimiser's state in shards, one of each
    per rank; a layer is whole only while it works. `hsdp`: shards inside a node, whole copies of them on each node.
    `auto` is `fsdp` where a whole model's state would fill more than half of the device, else `ddp`."""
    mixed_precision: bool = False
    """Of sharded weights: gather them in the type that the run computes in (`precision`), which halves what travels;
    the weights themselves and sums of gradients keep theirs."""
    cpu_offload: bool = runtime(False)
    """Of sharded weights: keep them, and the optimiser's state, in the host's memory, and step there."""
    reshard_after_forward: bool = runtime(True)
    """Of sharded weights: give a layer's weights back between its forward and its backward pass."""
    timeout_seconds: float = runtime(1800.0, gt=0)
    """How long a rank waits for the others before it gives up."""


def join(spec: DistributedSpec | None = None) -> World:
    """This process's place among those that `torchrun` started; alone without it. Call it once, first of all. On a
    machine with GPUs, each process works on that of its local rank, and values of the host are exchanged by the host.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not distributed.is_initialized():
        timeout = timedelta(seconds=(spec or DistributedSpec()).timeout_seconds)
        distributed.init_process_group(backend(), timeout=timeout)
    return World(rank=distributed.get_rank(), ranks=distributed.get_world_size())


def backend() -> str:
    """Of process groups here: tensors of either kind of memory can be exchanged."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def leave() -> None:
    """End the group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def connected(world: World) -> Iterator[None]:
    """Raises RunError in place of whatever a collective raises when another rank is gone or does not answer."""
    try:
        yield
    except (RunError, SpecError, DataError):
        raise
    except RuntimeError as error:
        if world.ranks > 1 and (isinstance(error, distributed.DistError) or _SIGNS.search(str(error))):
            told = str(error).strip().splitlines()[0][:200]
            raise RunError(
                f"rank {world.rank} of {world.ranks} lost the others: {told}; see what the rank that ended first says. "
                "The same command goes on from the last checkpoint"
            ) from error
        raise


def sums(values: Sequence[float], world: World) -> list[float]:
    """Each value added up over all ranks, in float64."""
    if world.ranks == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def agree(flag: bool, world: World) -> bool:
    """Whether any rank says so: all go by it together (skip a step, stop a run)."""
    return sums([float(flag)], world)[0] > 0


def gather(value: T, world: World) -> list[T]:
    """The value of every rank, on every rank, in order."""
    if world.ranks == 1:
        return [value]
    values: list[Any] = [None] * world.ranks
    distributed.all_gather_object(values, value)
    return values


def full(value: torch.Tensor) -> torch.Tensor:
    """A value that lies in shards or parts, whole on every rank; any other as it is. All ranks call it together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def add_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Put the sum over all ranks in place of each gradient; sharded ones (DTensor) were added up as they were made. A
    parameter that had no part in this rank's packs counts as zero, on one rank too: so the same step is taken whatever
    media a rank had, and whether or not another had some."""
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        if world.ranks == 1 or isinstance(gradient, DTensor):
            continue
        if bucket and (size + gradient.nbytes > BUCKET or gradient.dtype != bucket[0].dtype):
            _add(bucket)
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        _add(bucket)


def _add(bucket: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in bucket])
    for gradient, part in zip(bucket, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def first(make: Callable[[], T], world: World) -> T:
    """What rank 0 makes, on every rank; the others wait. An error there is raised on every rank."""
    if world.ranks == 1:
        return make()
    outcome: list[Any] = [None, None]
    if world.rank == 0:
        try:
            outcome[0] = make()
        except Exception as error:  # the others would wait for ever
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result
