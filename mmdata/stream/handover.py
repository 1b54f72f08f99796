"""Objects from one process to another: what is small through a socket, arrays through a file in memory without a name.

A batch is pickled with its arrays left out (protocol 5); these are written into a memfd whose descriptor goes along.
The receiver maps it: no copy there, and the memory is free when the last array of the batch is. Nothing has a name, so
nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import struct
from typing import Any

import torch

from mmdata.stream.shared import unnamed_file

_HEAD = struct.Struct("<QQ")
"""Bytes of the pickle, bytes of the arrays."""
_ALIGNED = 64


def send(channel: socket.socket, value: Any) -> None:
    """Send a picklable object; one thread at a time may. Raises OSError (EPIPE) where nobody receives any more."""
    arrays: list[pickle.PickleBuffer] = []
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=arrays.append).dump(value)
    sizes = [array.raw().nbytes for array in arrays]
    places, total = _places(sizes)
    body = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes) + pickled.getbuffer()
    head = _HEAD.pack(len(body), total)
    if not total:
        channel.sendall(head + body)
        return
    file = unnamed_file()
    try:
        os.ftruncate(file, total)
        for array, place in zip(arrays, places, strict=True):
            _write(file, array.raw(), place)
        sent = socket.send_fds(channel, [head], [file])
        channel.sendall(head[sent:] + body)
    finally:
        os.close(file)


def receive(channel: socket.socket) -> Any:
    """The next object that was sent. Raises EOFError where the sender is gone. Arrays may be written to."""
    head, files, _, _ = socket.recv_fds(channel, _HEAD.size, 1)
    try:
        if not head:
            raise EOFError
        if len(head) < _HEAD.size:
            head += _exactly(channel, _HEAD.size - len(head))
        size, total = _HEAD.unpack(head)
        body = _exactly(channel, size)
        (count,) = struct.unpack_from("<I", body)
        sizes = struct.unpack_from(f"<{count}Q", body, 4)
        memory = memoryview(mmap.mmap(files[0], total)) if total else memoryview(b"")
        places, _ = _places(sizes)
        buffers = [
            memory[place : place + length] if length else bytearray()
            for place, length in zip(places, sizes, strict=True)
        ]
        return pickle.loads(body[4 + 8 * count :], buffers=buffers)
    finally:
        for file in files:
            os.close(file)


class _Pickler(pickle.Pickler):
    """Tensors as the numpy arrays that they share their memory with."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and type(value) is torch.Tensor and value.device.type == "cpu":
            if value.dtype == torch.bfloat16:
                return _bfloat16, (value.detach().contiguous().view(torch.uint16).numpy(),)
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented


def _bfloat16(array: Any) -> torch.Tensor:
    return torch.from_numpy(array).view(torch.bfloat16)


def _places(sizes: Any) -> tuple[list[int], int]:
    places, at = [], 0
    for size in sizes:
        places.append(at)
        at += -(-size // _ALIGNED) * _ALIGNED
    return places, at


def _write(file: int, data: memoryview, place: int) -> None:
    done = 0
    while done < data.nbytes:  # the kernel takes at most 2 GiB at once
        done += os.pwrite(file, data[done:], place + done)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = channel.recv_into(view[done:])
        if not count:
            raise EOFError
        done += count
    return bytes(data)
