"""Batches to a device: page-locked memory, and copies on a stream of their own beside the model's work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


class Copier:
    """Copies the tensors of batches to `device`, in dicts, lists and tuples however nested; all else passes through.

    On an accelerator the copy of a batch runs on a side stream while the model works on the one before: `start` begins
    it, `finish` lets the current stream wait for it. For the CPU both answer the batch itself.
    """

    def __init__(self, device: str | torch.device | None) -> None:
        self.device = torch.device("cpu" if device is None else device)
        self.active = self.device.type != "cpu"
        self._stream = torch.Stream(self.device) if self.active else None

    def pin(self, batch: Any) -> Any:
        """Tensors in page-locked memory, from which the copy does not hold up the thread that starts it."""
        return each_tensor(batch, lambda tensor: tensor.pin_memory()) if self.active else batch

    def start(self, batch: Any) -> tuple[Any, Any]:
        """Begin the copy of a batch: what `finish` wants."""
        if self._stream is None:
            return batch, None
        with self._stream:
            there = each_tensor(batch, lambda tensor: tensor.to(self.device, non_blocking=True))
        return there, self._stream.record_event()

    def finish(self, copying: tuple[Any, Any]) -> Any:
        """The batch on the device, for use on the current stream."""
        there, event = copying
        if event is not None:
            current = torch.accelerator.current_stream(self.device)
            current.wait_event(event)
            # The allocator must not give the memory to another tensor while the model's stream still reads it.
            each_tensor(there, lambda tensor: _in_use(tensor, current))
        return there


def _in_use(tensor: torch.Tensor, stream: torch.Stream) -> torch.Tensor:
    tensor.record_stream(stream)
    return tensor


def each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nesting of dicts, lists and tuples with every tensor changed; a tensor that is there twice stays one."""
    seen: dict[int, torch.Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in seen:
                seen[id(value)] = change(value)
            return seen[id(value)]
        if isinstance(value, Mapping):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(walk(inner) for inner in value)
        return value

    return walk(value)
