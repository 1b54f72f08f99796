"""Several processes as one: who is who, sums over all of them, gradients added up. Under `torchrun`, or alone.

Ranks take different packs of the same step, and every rank takes equally many (the stream sees to that), so sums are
all that is needed: the loss of a step is divided by the weights of the whole step before it is differentiated, and the
gradients of all ranks added up are those of one process that had done all of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

from mmdata.types import World

T = TypeVar("T")
BUCKET = 25 << 20
"""Bytes of gradients that are added up in one call: many small calls cost more than they carry."""


def join() -> World:
    """This process's place among those that `torchrun` started; alone without it. Call it once, first of all."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return World(rank=distributed.get_rank(), ranks=distributed.get_world_size())


def leave() -> None:
    """End the group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def sums(values: Sequence[float], world: World) -> list[float]:
    """Each value added up over all ranks, in float64."""
    if world.ranks == 1:
        return list(values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def add_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Put the sum over all ranks in place of each gradient. A parameter that had no part in this rank's packs counts
    as zero; so all ranks add up the same, whatever media they had."""
    if world.ranks == 1:
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
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
