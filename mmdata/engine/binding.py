"""What a dataset is bound to, so that two builds never mix in one folder, and how it is bound to more by an append.

`.build/build.json` holds the spec, the inputs and the plugins, `.build/inputs/000.json` the files of a source that are
found by looking (and 001.json what an append found new), and `.build/append.json` says that an append to a finished
dataset has begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmdata import settings, specfile
from mmdata.engine import commit, mapped
from mmdata.errors import RunError, SpecError
from mmdata.shards import manifest as manifests
from mmdata.shards.access import local_path
from mmdata.shards.storage import fsync_folder, sha256_file, write_atomic
from mmdata.sources import _growth
from mmdata.sources._energon import braces
from mmdata.spec import BuildSpec, Growing, Listed, Source

INPUTS = ".build/inputs"
_FILES = ("shards/000000.tar", "index/000000.parquet", "ledger/000000.parquet", "manifest.json", "report.html")
"""Files of every kind that lie in a dataset."""


@contextlib.contextmanager
def locked(folder: Path, name: str = "lock", *, shared: bool = False) -> Iterator[None]:
    """One build at a time per dataset, or workers of one. The kernel drops the lock with the process, however it
    ends. Raises RunError where another has it."""
    with open(folder / ".build" / name, "w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another build is writing to this dataset") from None
        yield


def bound_spec(spec: BuildSpec, source: Source) -> dict[str, Any]:
    """What a dataset is bound to: the spec without its run-time fields, the input files, the plugins' code."""
    plugins = {}
    for name in spec.plugins:
        file = name if name.endswith(".py") else getattr(importlib.import_module(name), "__file__", None)
        plugins[Path(name).name] = sha256_file(Path(file)) if file else ""
    return {"spec": specfile.bound(spec), "inputs": source.inputs(), "plugins": plugins}


def refuse_others(folder: Path) -> None:
    """Raise SpecError for a folder in which files lie that are no build's: a dataset would mix with them."""
    if not folder.is_dir() or any((folder / name).exists() for name in (".build", "manifest.json")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.name[0] != "." and path.name != "lost+found")
    if others:
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        raise SpecError(f"output: {folder} holds other files ({shown}); give a new folder", reason="output_not_empty")


def refuse_files(folder: Path) -> None:
    """Raise RunError where the output, or what it is to lie in, is no folder: nothing can be made there."""
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if os.path.lexists(place) and not place.is_dir():
        what = "a link to nothing" if place.is_symlink() and not place.exists() else "a file, not a folder"
        raise RunError(f"output.path: {folder}: {'it' if place == folder else place} is {what}; give a new folder")


def refuse_inside(spec: BuildSpec, folder: Path) -> None:
    """Raise SpecError for an output where the source looks for its files: the next run would read it as input."""
    output = os.path.realpath(folder)
    for path in spec.source.searched():
        local = local_path(path)
        for name in braces(local) if local else ():
            fixed, pattern = _split(name)
            if not (Path(output).is_relative_to(fixed) if pattern else fixed in map(str, Path(output).parents)):
                continue
            if not pattern or any(_matches(os.path.relpath(f"{output}/{file}", fixed), pattern) for file in _FILES):
                raise SpecError(
                    f"output.path: {folder} lies in what the source reads ({path}), and would be read as input by the "
                    "next run; give a folder outside of it",
                    reason="output_in_source",
                )


def _split(path: str) -> tuple[str, str]:
    """The real folder (or file) that a path begins with, and the pattern below it, if it is one."""
    parts = os.path.abspath(path).split("/")
    at = next((at for at, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return os.path.realpath("/".join(parts[:at]) or "/"), "/".join(parts[at:])


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern takes a file: `*` stays within a folder, `**` does not."""
    deep = "**" in pattern or name.count("/") == pattern.count("/")
    return deep and fnmatch.fnmatchcase(name, pattern)


def bind(
    folder: Path, spec: BuildSpec, source: Source, *, append: bool = False, shared: bool = False
) -> dict[str, Any]:
    """Bind a build's folder; returns what it is bound to now. With `append`, also where the source has got more rows
    behind those that the folder is bound to. A folder in which nothing was made yet takes any spec, unless it is
    `shared` by workers, who may be at it: a first attempt that failed need not be tidied up.

    Raises SpecError where it was begun with another spec or input, or holds a dataset that nobody can go on with.
    """
    with open(folder / ".build" / "binding", "w") as lock:  # workers of one build come at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / ".build" / "build.json"
        if not path.exists():
            if (folder / "manifest.json").exists():
                raise SpecError(f"{folder} holds a dataset without its build state; build to another output.path")
            if append:
                raise SpecError(f"--append: {folder} holds no build; build it first, without --append")
            bound = bound_spec(spec, source)
            _keep_listings(folder, source, 0)
            write_atomic(path, commit.canonical(bound))
            return bound
        before = manifests.read_json(path)
        try:
            arrange(source, listings(folder, before))
            bound = bound_spec(spec, source)
            changed = bound != before and _grown(before, bound, source)
        except SpecError as error:
            if append:
                raise
            told = list(settings.difference(before, bound_spec(spec, source)))
            raise SpecError(_refused(folder, [*told, str(error)])) from None
        if not changed:
            if bound != before:
                if told := list(settings.difference(before, bound)):
                    if shared or _begun(folder):
                        raise SpecError(_refused(folder, told))
                    changed = True
                else:
                    bound = before
        elif not append:
            raise SpecError(
                f"{folder}: the source has grown since it was begun; add --append to build what is new behind what is "
                "there, or build to another output.path"
            )
        else:
            _begin_append(folder)
        _keep_listings(folder, source, 0 if changed and not append else len(before["inputs"]))
        if changed:
            write_atomic(path, commit.canonical(bound))
        return bound


def _begun(folder: Path) -> bool:
    """Whether anything was made of the source: a unit, or a part of one."""
    made = (".build/units", ".build/staging", mapped.FOLDER, "shards")
    return any(any((folder / name).glob("*")) for name in made) or (folder / "manifest.json").exists()


def _refused(folder: Path, changes: list[str]) -> str:
    head = f"{folder} was begun with another spec or input; build to another output.path, or take these changes back:"
    return "\n".join([head, *(f"  {change}" for change in changes)])


def _grown(before: dict[str, Any], now: dict[str, Any], source: Source) -> bool:
    """Whether only the source has changed, by rows behind those that it had, or a higher `limit`; raises SpecError
    where it has changed in another way."""
    limit, higher = before["spec"].get("limit"), now["spec"].get("limit")
    raised = limit is not None and (higher is None or higher > limit)
    spec = {**before["spec"], "limit": higher} if raised else before["spec"]
    if (spec, before["plugins"]) != (now["spec"], now["plugins"]):
        return False
    if before["inputs"] == now["inputs"]:
        return raised
    if not isinstance(source, Growing):
        raise SpecError(
            "source: this kind cannot be appended to, since new input may change what its old rows are; build what is "
            "new to an output.path of its own, and stream or merge both"
        )
    source.continues(before["inputs"])
    return True


def _begin_append(folder: Path) -> None:
    """Say that a finished dataset is being added to, and forget that workers had done all there was."""
    if (folder / "manifest.json").exists():
        generation = manifests.read(folder).generation + 1
        write_atomic(folder / ".build" / "append.json", json.dumps({"generation": generation}).encode())
    for mark in (folder / mapped.FOLDER).glob("worker-*.json"):
        mark.unlink()


def appending(folder: Path) -> int | None:
    """The generation that an append has begun to make of a finished dataset, or None."""
    path = folder / ".build" / "append.json"
    return int(manifests.read_json(path)["generation"]) if path.exists() else None


def end_append(folder: Path) -> None:
    """Once the manifest of that generation is there."""
    (folder / ".build" / "append.json").unlink(missing_ok=True)
    fsync_folder(folder / ".build")


def arrange(source: Source, before: list[dict[str, int]]) -> None:
    """Let a source give first what it gave when these lists of files were kept. Raises SpecError where it cannot."""
    if before and isinstance(source, Listed):
        source.arrange(before)


def listings(folder: Path, bound: dict[str, Any]) -> list[dict[str, int]]:
    """The lists of files that were kept of a build's inputs."""
    return list(_listings(folder, len(bound["inputs"])))


def _listings(folder: Path, count: int) -> Iterator[dict[str, int]]:
    for number in range(count):
        path = folder / INPUTS / f"{number:03d}.json"
        if not path.exists():
            return
        yield manifests.read_json(path)


def listed(path: Path, told: Mapping[str, Any]) -> bool:
    """Whether a kept list of files is, to the byte, the one that the inputs of a build tell of."""
    try:
        data = path.read_bytes()
        batch: dict[str, int] = json.loads(data)
        return _kept(batch) == data and _growth.listing(batch).items() <= told.items()
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _kept(batch: dict[str, int]) -> bytes:
    return json.dumps(batch).encode()


def _keep_listings(folder: Path, source: Source, first: int) -> None:
    """Keep the lists of files from the `first` on, and those before it that are not kept yet."""
    if not isinstance(source, Listed):
        return
    (folder / INPUTS).mkdir(exist_ok=True)
    for number, batch in enumerate(source.listings()):
        path = folder / INPUTS / f"{number:03d}.json"
        if number >= first or not path.exists():
            write_atomic(path, _kept(batch))
