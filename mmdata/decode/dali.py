"""Whole packs of pictures through NVIDIA DALI: the pixel operations of views, over batches, on a CPU or GPU.

The same graph runs on both devices. It is `mmdata.views.pixels` but for one thing: DALI resizes in float32 and rounds
once, where the CPU path rounds after each of the two passes (what comes of that is in the tests and the benchmark).
Only this file, `dali_pixels.py` and `dali_steps.py` know DALI.

Pictures whose operations are of the same kinds run together, each with its own numbers as arguments of one call per
operation; DALI keeps an operator for each kind, so nothing is built again from pack to pack.

Audio stays with `decode.audio` and `views.mel`: DALI has no operator that reproduces them (see `benchmarks/dali.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdata.decode.dali_pixels import Device, Examined, Picture, decoded, dynamic, examine, installed, require, running
from mmdata.decode.dali_steps import Step, interpret, kinds, program
from mmdata.decode.image import decode
from mmdata.errors import DataError
from mmdata.types import Crop, Fork, Op, Pad, Resize

if TYPE_CHECKING:
    import torch

__all__ = ["Device", "Picture", "installed", "realize_images", "require"]

BATCH_PIXELS = 1 << 27
"""Pixels that are decoded at once: 384 MiB of RGB. A larger picture runs alone."""
MAX_RESIZED = 1 << 26
"""Pixels of a picture on its way through a resize; what needs more is left to the CPU path, which has its ways."""


def realize_images(
    pictures: Sequence[Picture],
    *,
    device: Device = "cpu",
    dtype: torch.dtype | None = None,
    max_pixels: int,
    threads: int = 2,
    fallbacks: Counter[str] | None = None,
) -> list[torch.Tensor | DataError]:
    """What each picture's operations leave, as `mmdata.views.pixels.apply` has it, contiguous and on `device`; or the
    DataError that decoding it on the CPU raises. Values are float32, or uint8 as long as nothing normalises them;
    `dtype=torch.uint8` leaves `Normalise` out.

    The tensors are DALI's own memory, shared with torch without a copy. A picture that DALI cannot decode right (CMYK,
    palette, alpha, 16 bits, animations, other formats) is decoded by the CPU and goes on with the others; one that a
    resize would make too large on its way is left to its `on_cpu`. `fallbacks` counts both by reason.

    Headers are read first, so that bombs, wrong sizes and what is no picture never reach DALI; damage is looked for
    too, unless a picture is known to be `whole`. `device="gpu"` decodes JPEG by nvJPEG with the chroma upsampling of
    libjpeg. Raises SpecError as `require` does, and ValueError or DALI's RuntimeError for operations that do not fit
    each other or the picture: a view that plans such is wrong.
    """
    import torch

    require(device)
    if dtype not in (None, torch.float32, torch.uint8):
        raise ValueError(f"pixels become float32 or uint8, not {dtype}")
    counted = Counter[str]() if fallbacks is None else fallbacks
    seen = examine(pictures, max_pixels=max_pixels, threads=threads)
    results: dict[int, torch.Tensor | DataError] = {}
    runs: list[_Run] = []
    for index, (picture, one) in enumerate(zip(pictures, seen, strict=True)):
        if isinstance(one, DataError):
            results[index] = one
        elif _largest((one.header.height, one.header.width), picture.ops) > MAX_RESIZED:
            counted["resized through too many pixels"] += 1
            results[index] = _on_cpu(picture, one, device, max_pixels)
        else:
            runs.append(_Run(index, picture, one))
    with running(device, threads):
        for chunk in _chunks(runs):
            results.update(_realized(chunk, device, dtype, max_pixels, counted))
    return [results[index] for index in range(len(pictures))]


@dataclass(frozen=True, slots=True)
class _Run:
    """A picture that DALI is to work on, and where it stands among all."""

    index: int
    picture: Picture
    seen: Examined


def _on_cpu(picture: Picture, seen: Examined, device: Device, max_pixels: int) -> torch.Tensor | DataError:
    try:
        pixels = decode(picture.data, max_pixels=max_pixels, header=seen.header) if seen.pixels is None else seen.pixels
    except DataError as error:
        return error
    array = picture.on_cpu(pixels)
    return array.cuda() if device == "gpu" else array


def _largest(size: tuple[int, int], ops: Sequence[Op]) -> int:
    """Pixels of the largest picture that a resize reads, writes or goes through, whichever side it takes first."""
    (height, width), largest = size, 0
    for op in ops:
        match op:
            case Resize():
                largest = max(largest, max(height, op.height) * max(width, op.width) if height != op.height else 0)
                height, width = op.height, op.width
            case Pad():
                height, width = height + op.top + op.bottom, width + op.left + op.right
            case Crop():
                height, width = op.height, op.width
            case Fork():
                largest = max(largest, *(_largest((height, width), branch) for branch in op.branches))
    return largest


def _chunks(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Runs in order, as many at a time as BATCH_PIXELS holds."""
    chunk: list[_Run] = []
    pixels = 0
    for run in runs:
        size = run.seen.header.height * run.seen.header.width
        if chunk and pixels + size > BATCH_PIXELS:
            yield chunk
            chunk, pixels = [], 0
        chunk.append(run)
        pixels += size
    if chunk:
        yield chunk


def _realized(
    runs: Sequence[_Run], device: Device, dtype: torch.dtype | None, max_pixels: int, fallbacks: Counter[str]
) -> Iterator[tuple[int, torch.Tensor | DataError]]:
    """Decode all at once; then run those together whose steps are of the same kinds."""
    import torch

    alike: dict[Hashable, list[tuple[int, Any, tuple[Step, ...]]]] = {}
    results = decoded([(run.picture.data, run.seen) for run in runs], device, max_pixels, fallbacks)
    for run, result in zip(runs, results, strict=True):
        if isinstance(result, DataError):
            yield run.index, result
            continue
        pixels, orientation = result
        steps = program(run.picture.ops, orientation, normalised=dtype != torch.uint8)
        alike.setdefault(kinds(steps), []).append((run.index, pixels, steps))
    for group in alike.values():
        batch = interpret(dynamic().as_batch([pixels for _, pixels, _ in group]), [steps for _, _, steps in group])
        for (index, _, _), tensor in zip(group, batch.evaluate().tensors.tolist(), strict=True):
            yield index, tensor.torch()
