"""`python -m mmdata.schemas`: JSON Schemas of everything that is written by hand or read by others."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from mmdata import specfile, unread
from mmdata.shards.index import PART, SCHEMA
from mmdata.shards.manifest import Manifest
from mmdata.types import Packets, Sample

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ARROW: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int64": {"type": "integer"},
    "int32": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "uint32": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "double": {"type": "number"},
    "bool": {"type": "boolean"},
    "binary": {"description": "bytes"},
}
# Models that live above this module are named, not imported: the layers point one way.
_NAMED = {
    "stream": "mmdata.stream.spec:StreamSpec",
    "state": "mmdata.stream.state:StreamState",
    "train": "mmtrain.spec:TrainSpec",
    "contrastive": "mmtrain.contrastive.spec:ContrastiveSpec",
}


def schemas() -> dict[str, dict[str, Any]]:
    """All schemas by name: build, stream, train, contrastive, sample, manifest, index, state."""
    found: dict[str, dict[str, Any]] = {
        "build": specfile.build_model().model_json_schema(),
        "sample": _sample(),
        "manifest": _manifest(),
        "index": _index(),
    }
    for name, dotted in _NAMED.items():
        module, _, attribute = dotted.partition(":")
        value = getattr(importlib.import_module(module), attribute)
        found[name] = value.model_json_schema() if issubclass(value, BaseModel) else TypeAdapter(value).json_schema()
    return {name: {"$schema": _DIALECT, **_clean(schema)} for name, schema in sorted(found.items())}


class _WithArrays(GenerateJsonSchema):
    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        """numpy arrays, the only values of `Sample` that are instances of classes unknown to pydantic."""
        return {"type": "array", "items": {"type": "integer"}}


def _sample() -> dict[str, Any]:
    import numpy as np  # noqa: F401 The name that the annotations of Packets are resolved by.

    Packets.__pydantic_config__ = {"arbitrary_types_allowed": True}  # type: ignore[attr-defined]
    return TypeAdapter(Sample).json_schema(schema_generator=_WithArrays)


def _clean(value: Any) -> Any:
    """Drop our own markers (`runtime`), which mean nothing to an editor."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items() if not (key == "runtime" and item is True)}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _manifest() -> dict[str, Any]:
    """The manifest as it is on disk: the model, and the digest that `manifest.to_bytes` puts at its end."""
    schema = TypeAdapter(Manifest).json_schema()
    for name in ("plugins", "files"):
        schema["properties"][name]["default"] = {}
    schema["properties"]["self_sha256"] = {
        "type": "string",
        "description": "sha256 of the canonical JSON of everything else.",
    }
    del schema["properties"]["shards"], schema["$defs"]["ShardEntry"]  # the rows of shards.arrow
    schema["required"] = [name for name in schema["required"] if name != "shards"] + ["self_sha256"]
    return schema


def _index() -> dict[str, Any]:
    """The index, from its Arrow schema: what one row means, field by field."""

    def fields(arrow: Any) -> dict[str, Any]:
        members = list(arrow)
        properties: dict[str, Any] = {}
        for member in members:
            kind = str(member.type)
            if member.name == "parts":
                properties[member.name] = {"type": "array", "items": fields(PART)}
            elif member.name == "signatures":
                properties[member.name] = {"type": "object", "additionalProperties": {"description": "bytes"}}
            elif member.name == "marks":
                frames = {"type": "array", "items": _ARROW["int32"]}
                marks = {"type": "object", "additionalProperties": frames}
                properties[member.name] = {"anyOf": [marks, {"type": "null"}]}
            else:
                properties[member.name] = (
                    _ARROW[kind] if not member.nullable else {"anyOf": [_ARROW[kind], {"type": "null"}]}
                )
        required = [member.name for member in members if not member.nullable]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    return {
        "title": "IndexRow",
        "description": "One row of index/NNNNNN.arrow (an Arrow IPC file): one sample of the shard beside it.",
        **fields(SCHEMA),
    }


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / f"{name}.schema.json").write_bytes(_bytes(schema))


def check(folder: Path) -> list[str]:
    """What differs between the folder and the code."""
    problems = []
    expected = {f"{name}.schema.json": _bytes(schema) for name, schema in schemas().items()}
    for name, data in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.read_bytes() != data:
            problems.append(f"{path}: not what the code generates")
    unknown = sorted({path.name for path in folder.glob("*.schema.json")} - set(expected))
    return problems + [f"{folder / name}: no such schema" for name in unknown]


def _bytes(schema: dict[str, Any]) -> bytes:
    return (json.dumps(schema, indent=2, sort_keys=True) + "\n").encode()


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.schemas",
        description="JSON Schemas of specs and files, generated from the code. Editors use them through the first "
        "line of each pipeline.",
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="DIR", type=Path, help="write all schemas into DIR")
    action.add_argument(
        "--check", metavar="DIR", type=Path, nargs="?", const=Path("schemas"), help="compare DIR (default schemas/)"
    )
    arguments = parser.parse_args(argv)
    if arguments.write:
        write(arguments.write)
        return 0
    problems = check(arguments.check)
    for problem in problems:
        print(f"{problem}; run `python -m mmdata.schemas --write {arguments.check}`", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
