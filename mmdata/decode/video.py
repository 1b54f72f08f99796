"""Video: encoded bytes to frames by their number, exactly, whichever library decodes; facts; proof that all decodes.

Frame i is the i-th shown, from 0, in the order of presentation times. `decode_frames` gives the same bytes with every
backend; `auto` is the one that was measured to be fastest of those installed (`python -m benchmarks.video_decode`).
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.decode import packets as tables
from mmdata.decode import video_peers, video_pyav
from mmdata.decode.demux import LIMITS, Limits, Source
from mmdata.decode.packets import keyframes, read_packets
from mmdata.decode.video_facts import prove, read_facts
from mmdata.errors import DataError, SpecError
from mmdata.native import resizing
from mmdata.types import Media, Packets

if TYPE_CHECKING:
    import torch

__all__ = [
    "BACKENDS",
    "Frames",
    "Limits",
    "decode_frames",
    "iter_frames",
    "keyframes",
    "pictures",
    "prove",
    "read_audio_track",
    "read_facts",
    "read_packets",
]

Backend = Literal["auto", "pyav", "torchcodec", "decord"]
BACKENDS = {"pyav": "av", "torchcodec": "torchcodec", "decord": "decord"}
"""Backends and the modules that they need, the fastest first."""
Pixels = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]


class Frames(NamedTuple):
    """Frames in the order asked for, and when each is shown."""

    pixels: torch.Tensor
    """uint8 [T, 3, H, W], RGB, upright; channels last in memory, as decoders write and resizing reads fastest"""
    seconds: Times
    """float64 [T]: presentation times as the file has them, which need not begin at 0"""


def decode_frames(
    source: Source,
    indices: Iterable[int],
    *,
    packets: Packets | None = None,
    backend: Backend = "auto",
    size: tuple[int, int] | None = None,
    max_pixels: int = LIMITS.max_pixels,
    threads: int = 1,
) -> Frames:
    """The frames `indices` of a video, in that order, repeats allowed.

    `packets` (or those of a Media source) spare a scan of the file. `size` (height, width) resizes each frame as it
    comes, as torchvision does with antialiased bicubic, so that no more than the result is held. `threads` are the
    decoder's own; with several videos at once, one each is best.

    Raises SpecError for a backend that is not there; DataError: what `read_packets` raises, `frame_out_of_range`,
    `corrupt_video`, `missing_frames`, `frame_size_changes`, and `backend_differs` or `backend_unsupported` where
    torchcodec or decord would not give these frames.
    """
    wanted = [int(index) for index in indices]
    limits = Limits(max_pixels=max_pixels)
    table = packets if packets is not None else source.packets if isinstance(source, Media) else None
    name = pick_backend(backend)
    if name != "pyav":
        pixels, seconds = video_peers.decode(name, source, wanted, table, limits=limits, threads=threads)
        return Frames(_tensor(pixels if size is None else _resize_all(pixels, size)), seconds)
    with closing(video_pyav.Reader(source, table, threads=threads, limits=limits)) as reader:
        return _gather(reader, wanted, size)


def pick_backend(backend: Backend) -> str:
    """The backend that a name means here. Raises SpecError for one that is unknown or not installed."""
    if backend != "auto":
        if backend not in BACKENDS:
            raise SpecError(f"no video backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
        if not _installed(BACKENDS[backend]):
            raise SpecError(f"video backend {backend!r}: the package {BACKENDS[backend]!r} is not installed")
        return backend
    for name, module in BACKENDS.items():
        if _installed(module):
            return name
    raise SpecError(f"no video decoder is installed; install one of {', '.join(BACKENDS.values())}")


@functools.cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


LARGE = 1 << 22
"""Bytes of a batch that no core's own cache holds until it is read."""


def _bytes(reader: video_pyav.Reader, count: int) -> int:
    """Of so many frames."""
    context = reader.stream.codec_context
    return count * context.height * context.width * 3


def _gather(reader: video_pyav.Reader, wanted: list[int], size: tuple[int, int] | None) -> Frames:
    order = tables.shown(reader.table)
    seconds = tables.seconds(reader.table)
    video_pyav.check_range(wanted, len(order))
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(wanted):
        rows.setdefault(int(order[index]), []).append(row)
    batch: Pixels | None = None

    def room(position: int, shape: tuple[int, ...]) -> Pixels:
        nonlocal batch
        if batch is None:
            batch = memory.empty((len(wanted), *shape), np.uint8)
        if batch.shape[1:] != shape:  # which is told of
            return np.empty(shape, np.uint8)
        row: Pixels = batch[rows[position][0]]
        return row

    for position, pixels in _pictures(reader, sorted(rows), size, room, read_late=_bytes(reader, len(wanted)) > LARGE):
        if len(wanted) == 1 and batch is None:
            batch = pixels[None]
            continue
        if batch is None:
            batch = memory.empty((len(wanted), *pixels.shape), np.uint8)
        for row in rows[position]:
            if not np.may_share_memory(batch[row], pixels):
                batch[row] = pixels
        del pixels
    if batch is None:
        height, width = size or (reader.stream.codec_context.height, reader.stream.codec_context.width)
        batch = np.empty((0, height, width, 3), np.uint8)
    return Frames(_tensor(batch), seconds[wanted])


def iter_frames(
    source: Source,
    indices: Iterable[int] | None = None,
    *,
    chunk: int = 64,
    overlap: int = 0,
    packets: Packets | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = LIMITS.max_pixels,
    threads: int = 1,
) -> Iterator[tuple[list[int], Frames]]:
    """A long video in pieces of at most `chunk` frames, each with its frame numbers, in one pass and the memory of one
    piece; each begins with the last `overlap` frames of the one before.

    `indices` must ascend; None means all. Raises as `decode_frames` does, and SpecError for indices out of order or
    an overlap that is not smaller than the chunk.
    """
    if not 0 <= overlap < chunk:
        raise SpecError(f"overlap {overlap} of a chunk of {chunk}: it must be smaller, and not negative")
    limits = Limits(max_pixels=max_pixels)
    table = packets if packets is not None else source.packets if isinstance(source, Media) else None
    with closing(video_pyav.Reader(source, table, threads=threads, limits=limits)) as reader:
        order, seconds = tables.shown(reader.table), tables.seconds(reader.table)
        wanted = list(range(len(order))) if indices is None else [int(index) for index in indices]
        if any(later <= earlier for earlier, later in itertools.pairwise(wanted)):
            raise SpecError("iter_frames takes indices that ascend; decode_frames takes any")
        video_pyav.check_range(wanted, len(order))
        times = seconds[wanted]
        piece: Pixels | None = None
        start = filled = 0

        def room(shape: tuple[int, ...]) -> Pixels:
            """Where the next frame is to lie."""
            nonlocal piece
            if piece is None:
                piece = memory.empty((chunk, *shape), np.uint8)
            return piece[filled] if piece.shape[1:] == shape else np.empty(shape, np.uint8)

        late = _bytes(reader, chunk) > LARGE
        positions = [int(order[index]) for index in wanted]
        for pixels in _in_order(reader, positions, size, room if chunk > 1 else None, read_late=late):
            if piece is None:
                # One frame at a time needs no copy: each is the decoder's own, fresh array.
                piece = pixels[None] if chunk == 1 else memory.empty((chunk, *pixels.shape), np.uint8)
            if chunk > 1 and not np.may_share_memory(piece[filled], pixels):
                piece[filled] = pixels
            del pixels
            filled += 1
            if filled == chunk:
                yield wanted[start : start + chunk], Frames(_tensor(piece), times[start : start + chunk])
                start += chunk - overlap
                full, piece, filled = piece, None, overlap
                if overlap:
                    piece = memory.empty(full.shape, np.uint8)
                    piece[:overlap] = full[chunk - overlap :]
                del full
        if piece is not None and filled > (overlap if start else 0):
            yield wanted[start:], Frames(_tensor(piece[:filled]), times[start:])


def pictures(
    source: Source, indices: Iterable[int], *, packets: Packets | None = None, max_pixels: int = LIMITS.max_pixels
) -> Iterator[tuple[float, Pixels]]:
    """(seconds, upright RGB uint8 [H, W, 3]) of the frames `indices`, which must ascend, one at a time and without
    torch. Raises DataError as `decode_frames` does."""
    limits = Limits(max_pixels=max_pixels)
    table = packets if packets is not None else source.packets if isinstance(source, Media) else None
    with closing(video_pyav.Reader(source, table, threads=1, limits=limits)) as reader:
        order, seconds = tables.shown(reader.table), tables.seconds(reader.table)
        wanted = [int(index) for index in indices]
        video_pyav.check_range(wanted, len(order))
        found = _in_order(reader, [int(order[index]) for index in wanted], None)
        for index, pixels in zip(wanted, found, strict=True):
            yield float(seconds[index]), pixels


def _in_order(
    reader: video_pyav.Reader,
    positions: list[int],
    size: tuple[int, int] | None,
    room: video_pyav.Room | None = None,
    *,
    read_late: bool = False,
) -> Iterator[Pixels]:
    """The frames of ascending numbers one by one, in what `room` gives for the next. The decoder gives them so; those
    of odd files wait their turn."""
    early: dict[int, Pixels] = {}
    expected = iter(positions)
    following = next(expected, None)

    def turn(position: int, shape: tuple[int, ...]) -> Pixels:
        return room(shape) if room is not None and position == following else np.empty(shape, np.uint8)

    found = _pictures(reader, sorted(positions), size, turn if room is not None else None, read_late=read_late)
    for position, pixels in found:
        if position == following and not early:
            yield pixels
            del pixels
            following = next(expected, None)
            continue
        early[position] = pixels
        del pixels
        while following is not None and following in early:
            yield early.pop(following)
            following = next(expected, None)


def _pictures(
    reader: video_pyav.Reader,
    positions: list[int],
    size: tuple[int, int] | None,
    room: Callable[[int, tuple[int, ...]], Pixels] | None = None,
    *,
    read_late: bool = False,
) -> Iterator[tuple[int, Pixels]]:
    """(position, upright RGB uint8 [H, W, 3]) of packets in the decoder's order; perhaps in the memory that `room`
    gives for the frame of a position, which may be `read_late`. Raises `frame_size_changes`."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    signs = shape = None
    kept: Pixels = np.empty((0, 0, 3), np.uint8)

    def scratch(shape: tuple[int, ...]) -> Pixels:
        """For a frame that is resized: what comes after it is converted into the same memory, in the cache."""
        nonlocal kept
        if kept.shape != shape:
            kept = np.empty(shape, np.uint8)
        return kept

    for position, frame in video_pyav.frames(reader, np.array(positions, np.int64)):
        signs = signs or video_pyav.turn(frame)
        place: video_pyav.Room | None = None
        late = False
        upright = (frame.height, frame.width) if signs[0] else (frame.width, frame.height)
        if size not in (None, upright):
            place = scratch
        elif room is not None and signs == (1, 0, 0, 1):
            place, late = functools.partial(room, position), read_late
        pixels = video_pyav.rgb(frame, signs, reformatter, place, read_late=late)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise DataError("frame_size_changes", f"from {shape[1]}x{shape[0]} to {pixels.shape[1]}x{pixels.shape[0]}")
        yield position, pixels if size is None else _resize(pixels, size)
        del pixels  # Here and wherever it goes: the next frame is then converted into the same memory, in the cache.


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    import torch
    from torch.nn import functional

    if pixels.shape[:2] != size and resizing.can_resize(pixels[None]):
        (made,) = resizing.resize(pixels[None], *size, "bicubic")
        return cast(Pixels, made)
    picture = torch.from_numpy(np.ascontiguousarray(_forwards(pixels))).permute(2, 0, 1)[None]
    if tuple(picture.shape[2:]) != size:
        picture = functional.interpolate(picture, size, mode="bicubic", antialias=True)
    resized: Pixels = picture[0].permute(1, 2, 0).numpy()
    return resized


def _resize_all(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    resized = memory.empty((len(pixels), *size, 3), np.uint8)
    for row, picture in enumerate(pixels):
        resized[row] = _resize(picture, size)
    return resized


def _tensor(pixels: Pixels) -> torch.Tensor:
    import torch

    return torch.from_numpy(_forwards(pixels).transpose(0, 3, 1, 2))


def _forwards(pixels: Pixels) -> Pixels:
    """What torch takes: no view of a frame that was mirrored or turned. A single row or column that goes backwards
    numpy takes for contiguous."""
    return pixels.copy() if min(pixels.strides) < 0 else pixels


def read_audio_track(source: Source, **options: Any) -> torch.Tensor:
    """The sound of a video, as `mmdata.decode.audio.decode` gives it; `options` are its own (`sample_rate`, `mono`,
    `start`, `stop`, `max_seconds`). Raises DataError as it does: `no_audio` where there is none."""
    from mmdata.decode import audio
    from mmdata.decode.demux import payload

    data = payload(source)
    return audio.decode(data if isinstance(data, bytes) else data.read_bytes(), **options)
