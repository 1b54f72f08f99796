"""Named tensors in files of safetensors: whole in one file, or each rank's shards in one of its own.

    model.safetensors                                    whole
    model/rank-00000.safetensors ...                     shards; where each lies in its tensor is said in its header, as
                                                         torch.distributed.checkpoint says it

Nothing in them can run code. Folders of shards are read, and put together anew for any number of ranks, by
`torch.distributed.checkpoint` with its `HuggingFaceStorageReader`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

SUFFIX = ".safetensors"
OFFSETS = "DCP_SHARDING_INFO"
"""Of a file's header: `{name: {"saved_offsets": [...]}}` as JSON."""


def write(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], *, rank: int, sharded: bool) -> Path | None:
    """This rank's file of `tensors`, synced to the disk; None where it has nothing to write. All ranks name the same
    tensors. Without `sharded`, rank 0 writes all of them, which are whole; with it, each rank writes its shards, and
    rank 0 also what is whole. Answers the file. Raises OSError for a disk that does not take it."""
    if not sharded and rank:
        return None
    mine = dict(_shards(tensors, rank))
    if sharded and not mine:
        return None
    path = folder / name / f"rank-{rank:05d}{SUFFIX}" if sharded else folder / f"{name}{SUFFIX}"
    path.parent.mkdir(exist_ok=True)
    where = {key: {"saved_offsets": list(offset)} for key, (_, offset) in mine.items()}
    header = {"format": "pt", **({OFFSETS: json.dumps(where)} if sharded else {})}
    with _as_os_error(path):
        save_file({key: tensor for key, (tensor, _) in mine.items()}, str(path), metadata=header)
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())
    return path


def _shards(tensors: Mapping[str, torch.Tensor], rank: int) -> Iterator[tuple[str, tuple[torch.Tensor, list[int]]]]:
    """What this rank writes of each tensor, and where in it that begins. Of copies (a mesh that replicates, a tensor
    that is whole) the first rank of them writes."""
    for name, tensor in tensors.items():
        value = tensor.detach()
        if not isinstance(value, DTensor):
            if not rank:
                yield name, (_plain(value), [0] * value.ndim)
            continue
        coordinate = tuple(value.device_mesh.get_coordinate() or ())
        copy = any(at and placement.is_replicate() for at, placement in zip(coordinate, value.placements, strict=True))
        local = value.to_local()
        if not copy and (local.numel() or not rank):
            _, offset = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
            yield name, (_plain(local), list(offset))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("cpu", copy=False).contiguous()


class TensorFiles:
    """The tensors that `write` left under a name, whichever way. Raises FileNotFoundError where there are none."""

    def __init__(self, folder: Path, name: str) -> None:
        whole, shards = folder / f"{name}{SUFFIX}", folder / name
        self.folder = shards if shards.is_dir() else None
        self.files = sorted(shards.glob(f"*{SUFFIX}")) if self.folder else [whole]
        self.described: dict[str, tuple[torch.Size, torch.dtype]] = {}
        """Shape and dtype of each whole tensor, by name."""
        if self.folder is not None:
            self._reader = HuggingFaceStorageReader(str(self.folder))
            found: Any = self._reader.read_metadata().state_dict_metadata
            self.described = {key: (each.size, each.properties.dtype) for key, each in found.items()}
            return
        if not whole.exists():
            raise FileNotFoundError(2, "no such file", str(whole))
        with _as_os_error(whole), safe_open(str(whole), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 it is no mapping
                piece = file.get_slice(key)
                self.described[key] = torch.Size(piece.get_shape()), _dtype(piece.get_dtype())

    def fill(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Read into `targets`, of the tensors' shapes, whole or sharded over ranks in any way. No rank waits for
        another. Raises KeyError for a name that is not there, ValueError for another shape."""
        for name, target in targets.items():
            if name not in self.described:
                raise KeyError(f"{name} is not in it")
            if self.described[name][0] != target.shape:
                raise ValueError(f"{name} is {list(self.described[name][0])} in it, not {list(target.shape)}")
        if not targets:
            return
        plain = {name: target.detach() for name, target in targets.items()}
        if self.folder is not None:
            load_shards(plain, storage_reader=HuggingFaceStorageReader(str(self.folder)), no_dist=True)
            return
        with safe_open(str(self.files[0]), framework="pt") as file:
            for name, target in plain.items():
                _copy(target, file, name)

    def whole(self, name: str) -> torch.Tensor:
        """One tensor in the host's memory."""
        shape, dtype = self.described[name]
        target = torch.empty(shape, dtype=dtype)
        self.fill({name: target})
        return target


def _copy(target: torch.Tensor, file: Any, name: str) -> None:
    if not isinstance(target, DTensor):
        target.copy_(file.get_tensor(name))
        return
    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    local = target.to_local()
    if local.numel():
        ranges = tuple(slice(first, first + size) for first, size in zip(offset, shape, strict=True))
        local.copy_(file.get_slice(name)[ranges] if ranges else file.get_tensor(name))


def _dtype(name: str) -> torch.dtype:
    from safetensors.torch import _getdtype

    return _getdtype(name)


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """safetensors tells of a full disk and of a damaged file by an error of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise OSError(f"{path}: {error}") from error
