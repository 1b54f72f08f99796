"""Encoded pictures to DALI tensors of their pixels: what is checked before DALI sees any bytes, what DALI decodes, and
what the CPU decodes in its stead."""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmdata.decode import jpeg, structure
from mmdata.decode.image import ImageHeader, Pixels, decode, decode_scaled, read_header
from mmdata.errors import DataError, SpecError
from mmdata.types import Op

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "gpu"]
FORMATS = ("jpeg", "png", "webp")
"""Formats that DALI decodes to the bits of `decode.image` on the CPU. (It reads BMP, TIFF and JPEG 2000 as well; these
have too many kinds to be trusted, and it gains nothing on them.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An encoded picture and what is to become of it.

    `on_cpu` makes the same of its upright pixels, uint8 [H, W, 3], for the rare operations that DALI had better not
    run. `size` is the upright (height, width) that the index knows. `whole` says that these bytes are known to decode
    from end to end (verified in full, and not changed since), so that they are not checked for damage again."""

    data: bytes
    ops: tuple[Op, ...]
    on_cpu: Callable[[Pixels], torch.Tensor]
    size: tuple[int, int] | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A picture that may be decoded: its header, and its pixels where DALI is not to do it, for `reason`."""

    header: ImageHeader
    pixels: Pixels | None = None
    reason: str = ""


@functools.cache
def dynamic() -> Any:
    """DALI's dynamic mode. Raises SpecError where it is not installed."""
    try:
        import nvidia.dali.experimental.dynamic as nd
    except ImportError as error:
        raise SpecError("image_decoder dali: NVIDIA DALI >= 2.4 is missing; pip install mmdata[dali]") from error
    return nd


def installed() -> bool:
    """Whether DALI is here, which is not imported for it."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def require(device: Device) -> None:
    """Raises SpecError where DALI is not installed, or `device` is "gpu" and there is none."""
    dynamic()
    if device == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise SpecError('image_device gpu: no CUDA device here; use "cpu"')


@contextmanager
def running(device: Device, threads: int) -> Iterator[None]:
    """DALI's operators, and with them their buffers, threads and stream, as this thread used them last."""
    nd = dynamic()
    if device == "gpu":
        import torch

        place = nd.Device("gpu", torch.cuda.current_device())
    else:
        place = nd.Device("cpu")
    # A child of fork inherits objects whose threads it has not: it makes its own.
    contexts = _local.__dict__.setdefault("contexts", {})
    key = (os.getpid(), place.device_id, threads)
    with place:
        if key not in contexts:
            contexts[key] = nd.EvalContext(thread_pool=_pool(*key))
        # Failures of an operator are raised where it is called; a GPU is not waited for.
        with contexts[key], nd.EvalMode.sync_cpu:
            yield


_local = threading.local()
_making = threading.Lock()


def _pool(process: int, device_id: int | None, threads: int) -> Any:
    with _making:
        return _made_pool(process, device_id, threads)


@functools.cache
def _made_pool(process: int, device_id: int | None, threads: int) -> Any:
    return dynamic().ThreadPool(threads, device_id=device_id)


@functools.cache
def _checkers(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mmdata-examine")


def examine(pictures: Sequence[Picture], *, max_pixels: int, threads: int) -> list[Examined | DataError]:
    """Look at each picture's header and wholeness, and decode those that are not for DALI; `threads` at a time."""
    look = functools.partial(_examine, max_pixels=max_pixels)
    return list(_checkers(os.getpid(), threads).map(look, pictures))


def _examine(picture: Picture, max_pixels: int) -> Examined | DataError:
    data = picture.data
    try:
        header = read_header(data, max_pixels=max_pixels)
        found = header.height, header.width
        if picture.size is not None and picture.size != found:
            raise DataError("facts_mismatch", f"is {found}, the index says {picture.size}")
        if reason := unsuited(data, header):
            pixels = decode(data, max_pixels=max_pixels, header=header)
            return Examined(header=header, pixels=pixels, reason=reason)
        if not picture.whole:
            _prove(data, header, max_pixels)
    except DataError as error:
        return error
    return Examined(header=header)


def unsuited(data: bytes, header: ImageHeader) -> str:
    """Why DALI would not give the pixels that `decode.image` gives, or nothing."""
    if header.format not in FORMATS:
        return header.format
    if header.frames > 1:
        return f"animated {header.format}"
    if header.alpha:
        return f"{header.format} with alpha"
    if header.bits > 8:
        return f"{header.bits}-bit {header.format}"
    if header.mode not in ("L", "RGB"):
        return f"{header.mode} {header.format}"
    if header.format == "webp" and data[12:16] == b"VP8X":
        return "extended webp"
    return ""


def _prove(data: bytes, header: ImageHeader, max_pixels: int) -> None:
    """Raise DataError for a damaged file. DALI's decoders go on after much damage (nvJPEG even after a cut), so every
    coefficient of a JPEG is read here; WebP has no more to check than its decoder does."""
    if header.format == "jpeg":
        if not jpeg.check(data):
            decode_scaled(data, min_height=1, min_width=1, max_pixels=max_pixels, guard=1.0, header=header)
    else:
        structure.check(data, header.format)


def decoded(
    pictures: Sequence[tuple[bytes, Examined]], device: Device, max_pixels: int, fallbacks: Counter[str]
) -> list[tuple[Any, int] | DataError]:
    """In order, DALI's tensors uint8 [H, W, 3] on `device` and the EXIF orientation (1..8) that is still to be undone.

    Must be called while `running`. What DALI refuses is decoded by the CPU, whose word is final: its pixels, or its
    DataError. `fallbacks` counts by reason.
    """
    results: list[tuple[Any, int] | DataError] = []
    tensors = iter(_batch([data for data, seen in pictures if seen.pixels is None], device))
    for data, seen in pictures:
        pixels, reason, header = seen.pixels, seen.reason, seen.header
        if pixels is None:
            tensor = next(tensors)
            upright = header.orientation < 5
            stored = (header.height, header.width) if upright else (header.width, header.height)
            if tensor is not None and tuple(tensor.shape[:2]) == stored:
                results.append((tensor, header.orientation))
                continue
            reason = f"{header.format} that DALI refuses"
            try:
                pixels = decode(data, max_pixels=max_pixels, header=header)
            except DataError as error:
                results.append(error)
                continue
        fallbacks[reason] += 1
        tensor = dynamic().as_tensor(pixels, layout="HWC")
        results.append((tensor.gpu() if device == "gpu" else tensor, 1))
    return results


def _batch(encoded: list[bytes], device: Device) -> list[Any]:
    """Tensors [H, W, 3] of whole files, None for each that DALI refuses. One refusal fails the whole batch, so halves
    are tried until it stands alone."""
    if not encoded:
        return []
    nd = dynamic()
    # The orientation is left to the operations that follow: ours is read by the same code as everywhere else. (Only
    # nvJPEG heeds the upsampling; libjpeg-turbo is told nothing and does the same.)
    try:
        batch = nd.decoders.image(
            nd.as_batch([np.frombuffer(data, np.uint8) for data in encoded]),
            device=device,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
        ).evaluate()
    except RuntimeError:
        if len(encoded) == 1:
            return [None]
        half = len(encoded) // 2
        return _batch(encoded[:half], device) + _batch(encoded[half:], device)
    return list(batch.tensors.tolist())
