"""Publishing a folder: to any place that fsspec knows, whole files only, and last the file by which readers know it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec

from mmdata.errors import RunError, SpecError
from mmdata.shards import manifest as manifests

MARK = ".push.json"
"""Lies at the target while a push is under way, and says what of."""
PRIVATE = (".build", ".lock")
"""Parts of a dataset's folder that only this machine needs."""
OURS = re.compile(
    r"(?:(?:shards|index|ledger|tombstones|lengths/[0-9a-f]+)/(?:g\d{4}-)?\d+\.(?:tar|tar\.idx|arrow|parquet)"
    r"|data/\w+-\d{5}-of-\d{5}\.parquet|shard\.\d{5}\.mds|\.nv-meta/.*)"
)
"""Files of a dataset, in any of its forms, of which another one may have fewer."""


def push(folder: Path, url: str, *, digest: str, last: str, told: Callable[[int], None], replace: bool = False) -> int:
    """Copy every file of `folder` to `url`; returns how many were sent.

    `last` is the file without which the target is no dataset: it goes last, and is removed first where another one is
    replaced, whose other shards, tombstones and the like go then too, so that no reader ever sees a mixture. `digest`
    is of the content: a push that was broken off goes on where it stopped, with the same digest only. `told` hears of
    each number of bytes sent.

    Raises SpecError for a target that cannot be written or that holds something else (unless `replace`), RunError where
    sending fails.
    """
    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SpecError(f"--push {url}: {error}") from error
    root = root.rstrip("/")
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in PRIVATE
    )
    names = [path.relative_to(folder).as_posix() for path in files]
    if last not in names:
        raise SpecError(f"--push: {folder} has no {last}; it is not finished")
    try:
        resumed, there = _begin(system, root, digest, last, (folder / last).read_bytes(), replace, url, names)
        sent = 0
        for name, path in sorted(zip(names, files, strict=True), key=lambda item: item[0] == last):
            size = path.stat().st_size
            target = f"{root}/{name}"
            if resumed and (name != last or there) and system.exists(target) and system.size(target) == size:
                told(size)
                continue
            _put(system, path, target)
            sent += 1
            told(size)
        if not there:
            system.rm_file(f"{root}/{MARK}")
    except (OSError, NotImplementedError) as error:
        raise RunError(f"--push {url}: {error}; run it again to go on") from error
    return sent


def push_dataset(folder: Path, url: str, *, replace: bool = False) -> int:
    """Push a finished dataset as it is, tombstones and counted lengths too; see `push`."""
    digest = manifests.read(folder).root_digest
    return push(folder, url, digest=digest, last="manifest.json", told=lambda size: None, replace=replace)


def _begin(
    system: Any, root: str, digest: str, last: str, content: bytes, replace: bool, url: str, names: Sequence[str]
) -> tuple[bool, bool]:
    """Mark the target, and take away what is of another dataset where that is replaced. Whether some, and whether all
    of the same content lies there already: then what was added since, tombstones say, is sent."""
    mark = f"{root}/{MARK}"
    before = json.loads(system.cat_file(mark)) if system.exists(mark) else None
    there = system.exists(f"{root}/{last}")
    if before is None and there:
        if system.cat_file(f"{root}/{last}") == content:
            return True, True
        if not replace:
            raise SpecError(f"--push {url}: another dataset lies there; remove it or give --push-replace")
    if before is not None and before.get("digest") != digest and not replace:
        raise SpecError(f"--push {url}: a push of another dataset was broken off there; give --push-replace")
    replaces = (replace and (there or before is not None)) or bool(before and before.get("replaces"))
    system.makedirs(root, exist_ok=True)
    system.pipe_file(mark, json.dumps({"digest": digest, "replaces": replaces}).encode())
    if there:
        system.rm_file(f"{root}/{last}")
    if replaces:  # Tombstones, or parts of a table, of one dataset would count for the other.
        for path in system.find(root):
            name = path.removeprefix(root).removeprefix(system.root_marker).lstrip("/")
            if OURS.fullmatch(name) and name not in names:
                system.rm_file(path)
    return before is not None and bool(before.get("digest") == digest), False


def _put(system: Any, path: Path, target: str) -> None:
    """A whole file or none. Object stores publish a file when it is complete; folders need a second name for that."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if not protocols & {"file", "local", "sftp", "ssh", "smb", "ftp", "hdfs"}:
        system.put_file(str(path), target)
        return
    parent, _, name = target.rpartition("/")
    system.makedirs(parent, exist_ok=True)
    writing = f"{parent}/.{name}.writing"
    system.put_file(str(path), writing)
    system.mv(writing, target)
