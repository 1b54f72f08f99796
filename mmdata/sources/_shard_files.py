"""The tars and tables that a path means: a file, a pattern, a folder, or what Energon has prepared."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmdata.errors import SpecError
from mmdata.shards.access import TABLES, local_path
from mmdata.sources import _energon
from mmdata.sources._energon import FieldMap, braces


class ShardFile(NamedTuple):
    """A tar, the numbers of its samples to leave out, and which member is what; or a table."""

    uri: str
    excluded: frozenset[int] = frozenset()
    fields: FieldMap | None = None


def shard_files(path: str, split: str = "train") -> Iterator[ShardFile]:
    """The tars or tables that a path means, in order: an Energon folder's split, a folder's, a pattern's, or one.
    Raises SpecError where there is none."""
    local = local_path(path)
    if local is not None and (Path(local) / ".nv-meta").is_dir():
        fields = _energon.field_map(Path(local))
        yield from (ShardFile(uri, excluded, fields) for uri, excluded in _energon.split_shards(Path(local), split))
        return
    found = [uri for pattern in braces(path) for uri in _matching(pattern)]
    if not found:
        raise SpecError(f"{path}: no tar or table there")
    yield from map(ShardFile, found)


def _matching(pattern: str) -> list[str]:
    local = local_path(pattern)
    if local is not None:
        if os.path.isdir(local):
            files = sorted(path for path in Path(local).rglob("*") if path.suffix in (".tar", *TABLES))
            tars = [path for path in files if path.suffix == ".tar"]
            return [str(path) for path in tars or files]  # tables beside tars tell of them, as img2dataset's do
        return sorted(glob.glob(local, recursive=True))
    if not any(sign in pattern.partition("?")[0] for sign in "*["):
        return [pattern]
    import fsspec  # when it is needed: it takes a tenth of a second

    filesystem, path = fsspec.core.url_to_fs(pattern)
    return sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(path))
