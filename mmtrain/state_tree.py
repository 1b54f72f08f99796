"""The state of a run's parts in two: its tensors by the path of their keys, and JSON with paths in their places.

>>> tree, tensors = split({"ema": {"updates": 3, "values": {"a.weight": torch.ones(2)}}})
>>> tree["ema"], list(tensors)
({'updates': 3, 'values': {'a.weight': {'tensor': 'ema/values/a.weight'}}}, ['ema/values/a.weight'])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mmtrain.tensor_files import TensorFiles


def split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tensors = dict(leaves(state))

    def tree(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            return {"tensor": path}
        if isinstance(value, dict):
            return {key: tree(each, f"{path}/{key}" if path else key) for key, each in value.items()}
        return value

    return tree(state, ""), tensors


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}/{key}" if path else key)


def joined(value: Any, files: TensorFiles | None, own: dict[str, torch.Tensor]) -> Any:
    """A saved tree with its tensors, in shards where this rank has shards of them."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"} and isinstance(value["tensor"], str):
        if files is None:
            raise ValueError("its parts have no tensors")
        path = value["tensor"]
        mine = own.get(path)
        if mine is None or mine.shape != files.described[path][0]:
            return files.whole(path)
        target = torch.zeros_like(mine, dtype=files.described[path][1], requires_grad=False)
        files.fill({path: target})
        return target
    return {key: joined(each, files, own) for key, each in value.items()}
