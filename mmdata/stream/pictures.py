"""The pictures of a pack, decoded and resized together by DALI."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from mmdata.decode import dali
from mmdata.errors import DataError, SpecError
from mmdata.families._family import View
from mmdata.stream.realize import bytes_size, whole_plan
from mmdata.stream.spec import StreamSpec
from mmdata.types import Media, MediaPlan

log = logging.getLogger(__name__)

T = TypeVar("T")
_counting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Pending:
    """A picture that awaits the others of its pack."""

    picture: dali.Picture
    plan: MediaPlan
    dtype: torch.dtype


def settled(spec: StreamSpec) -> StreamSpec:
    """The spec with the decoder of pictures that this machine has, where it leaves that open. Raises SpecError where
    a stream asks for what its decoder cannot do, here or at all."""
    if spec.image_decoder == "auto":
        both = spec.decode == "exact" and torch.cuda.is_available() and dali.installed()
        name, device = ("dali", "gpu") if both else ("cpu", "cpu")
        log.info("image_decoder: auto is %s here", name)
        spec = spec.model_copy(update={"image_decoder": name, "image_device": device})
    if spec.image_decoder == "dali":
        if spec.decode != "exact":
            raise SpecError(f"decode: {spec.decode} is for image_decoder cpu; dali knows `exact` only")
        dali.require(spec.image_device)
    elif spec.image_device != "cpu":
        raise SpecError(f"image_device: {spec.image_device} needs image_decoder: dali")
    return spec


def pending(medium: Media, plan: MediaPlan, view: View, spec: StreamSpec) -> Pending:
    """A medium with its bytes. What the build has verified in full, and its checksum has proved unchanged, is not
    checked for damage once more."""
    assert medium.data is not None, medium
    whole = whole_plan(medium, plan)
    picture = dali.Picture(
        data=medium.data,
        ops=whole.ops,
        on_cpu=functools.partial(view.realize, plan=whole),
        size=bytes_size(medium),
        whole=medium.verified == "full" and spec.integrity == "crc32c",
    )
    return Pending(picture, plan, getattr(torch, getattr(view, "dtype", "float32")))


def together(
    read: Sequence[tuple[T, list[np.ndarray | Pending]] | DataError], spec: StreamSpec, fallbacks: Counter[str]
) -> list[tuple[T, list[np.ndarray]] | DataError]:
    """What was read of each sample with all its arrays; the DataError of a picture is that of its sample.

    `fallbacks` counts the pictures that DALI left to the CPU, by reason."""
    waiting = [
        one for sample in read if not isinstance(sample, DataError) for one in sample[1] if isinstance(one, Pending)
    ]
    counted = Counter[str]()
    made = iter(_realized(waiting, spec, counted))
    with _counting:
        fallbacks.update(counted)
    return [sample if isinstance(sample, DataError) else _complete(*sample, made) for sample in read]


def _complete(
    segment: T, media: list[np.ndarray | Pending], made: Iterator[np.ndarray | DataError]
) -> tuple[T, list[np.ndarray]] | DataError:
    arrays = [next(made) if isinstance(one, Pending) else one for one in media]
    for array in arrays:
        if isinstance(array, DataError):
            return array
    return segment, arrays  # type: ignore[return-value]


def _realized(waiting: Sequence[Pending], spec: StreamSpec, fallbacks: Counter[str]) -> list[np.ndarray | DataError]:
    results: dict[int, np.ndarray | DataError] = {}
    for dtype in {one.dtype for one in waiting}:
        alike = [index for index, one in enumerate(waiting) if one.dtype == dtype]
        tensors = dali.realize_images(
            [waiting[index].picture for index in alike],
            device=spec.image_device,
            dtype=dtype,
            max_pixels=spec.max_pixels,
            threads=torch.get_num_threads(),  # 1 in a thread or process that reads beside others
            fallbacks=fallbacks,
        )
        for index, tensor in zip(alike, tensors, strict=True):
            if isinstance(tensor, DataError):
                results[index] = tensor
                continue
            plan = waiting[index].plan
            if tuple(tensor.shape) != plan.shape:
                raise AssertionError(f"DALI made {tuple(tensor.shape)} of what was planned as {plan}")
            results[index] = tensor.cpu().numpy()
    return [results[index] for index in range(len(waiting))]
