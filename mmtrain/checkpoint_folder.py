"""The folder of a run's checkpoints: which there are, which are whole, which stay, and where its links point."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import crc32c

from mmdata.errors import RunError, SpecError
from mmdata.shards.storage import fsync_folder, write_atomic

VERSION = 2
FOLDER, PREFIX, INFO = "checkpoints", "step-", "checkpoint.json"
LATEST, BEST = "latest", "best"
_NAME = re.compile(rf"{PREFIX}\d{{8,}}")
OTHER_VERSION = "checkpoint_version"
_PIECE = 8 << 20


def best_so_far(run: Path) -> dict[str, Any] | None:
    """What `best.json` says, if the checkpoint that it names is there."""
    try:
        told = json.loads((run / FOLDER / f"{BEST}.json").read_text())
        return told if (run / FOLDER / told["checkpoint"]).is_dir() else None
    except (OSError, ValueError, KeyError):
        return None


def found(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    folders = (path for path in (run / FOLDER).glob(f"{PREFIX}*") if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(folders, key=step_of)


def step_of(folder: Path) -> int:
    """Optimiser steps done at a checkpoint of this name."""
    return int(folder.name.removeprefix(PREFIX))


def damage(folder: Path, of: tuple[str, ...] = ("",)) -> str | None:
    """What is wrong with the bytes of a checkpoint, compared with the sums that it was written with; None: nothing.
    With `of`, only files whose names begin so are looked at.

    Raises SpecError for one of another version of this format: it is whole, and nobody's to put aside."""
    try:
        info = read_info(folder)
        for name, expected in info["files"].items():
            if not name.startswith(of):
                continue
            if not (folder / name).exists():
                return f"{name} is missing"
            if checksum(folder / name) != list(expected):
                return f"{name} is damaged: its bytes are not those that were written"
    except (SpecError, OSError, KeyError, AttributeError) as error:
        if isinstance(error, SpecError) and error.reason == OTHER_VERSION:
            raise
        return str(error)
    return None


def newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole. One that is not is said on the console and put aside as `….damaged`. Raises
    RunError where there were checkpoints and all are damaged, SpecError where one is of another version."""
    saved = found(run)
    for folder in reversed(saved):
        why = damage(folder)
        if why is None:
            point(run / FOLDER / LATEST, folder.name)
            return folder
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        print(f"checkpoint {folder}: {why}; it is put aside as {aside.name}, and the one before is taken", flush=True)
    if saved or any(
        (run / FOLDER).glob(f"{PREFIX}*.damaged")
    ):  # those of a call before too: nothing starts over unasked
        raise RunError(f"{run / FOLDER}: every checkpoint is damaged; start over with --resume never")
    return None


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `checkpoint.json`, with a checksum of itself."""
    body = {"version": VERSION, **info}
    write_atomic(folder / INFO, json.dumps({**body, "crc32c": _own_sum(body)}, indent=1).encode())


def read_info(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says. Raises SpecError for a folder that has none, a damaged one, or another version."""
    try:
        info = dict(json.loads((folder / INFO).read_text()))
    except FileNotFoundError as error:
        raise SpecError(f"{folder} is not a checkpoint: {INFO} is missing") from error
    except (ValueError, TypeError) as error:
        raise SpecError(f"{folder}: {INFO} is damaged: {error}") from error
    if (version := info.get("version")) != VERSION:
        saved_by = (info.get("versions") or {}).get("mmdata", "another")
        newer = isinstance(version, int) and version > VERSION
        remedy = "update mmdata" if newer else f"go on with mmdata {saved_by}, or start over with --resume never"
        raise SpecError(
            f"{folder} is a checkpoint of version {version}, saved by mmdata {saved_by}; this mmtrain reads {VERSION}: "
            f"{remedy}",
            reason=OTHER_VERSION,
        )
    if info.pop("crc32c", None) != _own_sum(info):
        raise SpecError(f"{folder}: {INFO} is damaged: its checksum does not fit")
    return info


def _own_sum(info: dict[str, Any]) -> int:
    return crc32c.crc32c(json.dumps(info, sort_keys=True).encode())


def checksum(path: Path) -> list[int]:
    """Bytes and CRC-32C of a file."""
    total = size = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            total, size = crc32c.crc32c(piece, total), size + len(piece)
    return [size, total]


def point(link: Path, name: str) -> None:
    """Make a link in the folder of checkpoints point to one of them, whole or not at all."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, link)
    fsync_folder(link.parent)


def retain(run: Path, keep: int, keep_every: int | None) -> None:
    """Remove all checkpoints but the `keep` newest, the best, and those at multiples of `keep_every` steps."""
    saved = found(run)
    best = (run / FOLDER / BEST).resolve()
    for old in saved[:-keep]:
        if old.resolve() != best and not (keep_every and step_of(old) % keep_every == 0):
            shutil.rmtree(old)
