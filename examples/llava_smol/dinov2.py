"""ONNX files: the weights of a graph under the names they had in PyTorch; DINOv2's become a Hugging Face folder.

Read from the bytes by protobuf's wire format, of which a model's weights and nodes take two kinds only (onnx.proto:
ModelProto.graph = 7, GraphProto.node = 1 and .initializer = 5). `tests/mmtrain/test_pretrained.py` holds the tower to
the graph as onnxruntime runs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from transformers import Dinov2Config

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FLOAT = 1
"""TensorProto.DataType"""
HEAD = 64
"""Width of a head in every DINOv2."""


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """A message's fields in order: their numbers, and an int for a varint, else the bytes.

    >>> [(number, bytes(value) if isinstance(value, memoryview) else value)
    ...  for number, value in fields(memoryview(b"\\x08\\x96\\x01\\x12\\x02hi"))]
    [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        else:
            length = {FIXED64: 8, FIXED32: 4}[kind]
        if at + length > len(data):
            raise ValueError(f"field {number} ends {at + length - len(data)} bytes behind the end")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def weights(data: bytes) -> dict[str, np.ndarray]:
    """The float32 weights of a graph that PyTorch exported. Weights of linear layers have lost their names to the
    exporter, which transposed them; a node's name (`/a/b/MatMul`) gives them back: `a.b.weight`. Raises ValueError for
    what is no such file."""
    try:
        (graph,) = (value for number, value in fields(memoryview(data)) if number == 7)
        found = dict(_tensor(value) for number, value in fields(graph) if number == 5)
        nodes = [_node(value) for number, value in fields(graph) if number == 1]
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"no ONNX file: {type(error).__name__}: {error}") from error
    for name, kind, inputs in nodes:
        if kind == "MatMul" and len(inputs) == 2 and inputs[1] in found:
            linear = name.strip("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{linear}.weight"] = found.pop(inputs[1]).T
    return found


def _tensor(data: memoryview) -> tuple[str, np.ndarray]:
    """TensorProto: dims = 1, data_type = 2, name = 8, raw_data = 9."""
    shape, told = [], {}
    for number, value in fields(data):
        if number == 1:
            shape.append(value)
        told[number] = value
    name = bytes(told[8]).decode()
    if told[2] != FLOAT or 9 not in told:
        raise ValueError(f"{name} is of type {told[2]}; float32 (1) in raw bytes is known")
    return name, np.frombuffer(told[9], "<f4").reshape(shape)


def _node(data: memoryview) -> tuple[str, str, list[str]]:
    """NodeProto: input = 1, name = 3, op_type = 4."""
    inputs, told = [], {3: "", 4: ""}
    for number, value in fields(data):
        if number == 1:
            inputs.append(bytes(value).decode())
        elif number in told:
            told[number] = bytes(value).decode()
    return told[3], told[4], inputs


def tower(found: Mapping[str, np.ndarray], prefix: str = "backbone.") -> tuple[Dinov2Config, dict[str, np.ndarray]]:
    """DINOv2 among the weights of a graph: its config, and its weights under the names of its published checkpoints,
    which stand behind `prefix`. The table of positions is in two nameless parts, the class's row and those of the
    patches. Raises ValueError where it is not there."""
    mine = {name.removeprefix(prefix): values for name, values in found.items() if name.startswith(prefix)}
    projection = mine.get("embeddings.patch_embeddings.projection.weight")
    if projection is None:
        raise ValueError(f"the graph has no {prefix}embeddings")
    width, _, patch, _ = projection.shape
    tables = [values for name, values in found.items() if name.startswith("onnx::") and values.ndim == 3]
    tables.sort(key=lambda values: values.shape[1])
    if [each.shape[1] for each in tables[:1]] != [1] or len(tables) != 2:
        raise ValueError(f"the table of positions is not in two parts but {[each.shape for each in tables]}")
    mine["embeddings.position_embeddings"] = np.concatenate(tables, axis=1)
    config = Dinov2Config(
        architectures=["Dinov2Model"],
        hidden_size=width,
        num_hidden_layers=len([name for name in mine if name.endswith(".norm1.weight")]),
        num_attention_heads=width // HEAD,
        image_size=round(tables[1].shape[1] ** 0.5) * patch,
        patch_size=patch,
        use_mask_token=False,
    )
    return config, mine


PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""How DINOv2's pictures are made, as its own `preprocessor_config.json` says."""


def to_folder(data: bytes, folder: Path) -> None:
    """A graph's tower as a Hugging Face folder with its processor. Raises ValueError for what is no file of the
    kind."""
    config, found = tower(weights(data))
    config.save_pretrained(folder)
    contiguous = {name: np.ascontiguousarray(values) for name, values in found.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")
