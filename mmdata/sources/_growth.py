"""Inputs that have grown: what is built comes first and is unchanged, and what is new follows it; or it is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from mmdata.errors import SpecError
from mmdata.sources import _tables
from mmdata.sources._tables import TableFile

LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
"""Files that new rows may be added to; other formats are written anew as a whole, so new rows take a new file."""
REMEDY = "put it back as it was, or build to another output.path"

Sizes = dict[str, int]
"""The files of a folder, by name: their sizes in bytes."""


def files_continue(
    files: Sequence[TableFile], before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> None:
    """Raises SpecError unless the files that `before` names (what `inputs` said then; `now` is what it says of `files`)
    come first and are unchanged. The last of them may have got more lines, if its lines are rows.

    The sizes are compared, and the SHA-256 of the first and last MiB that a file had.
    """
    names = [file.name for file in files]
    known = {told["name"] for told in before}
    for at, told in enumerate(before):
        name = told["name"]
        if name not in names:
            raise SpecError(f"source: {name}: gone, and its rows are built; {REMEDY}")
        if names[at] != name:
            early = next((each for each in names if each not in known), names[at])
            raise SpecError(
                f"source: {early}: new, and sorts before {name}, whose rows are built; give it a name that sorts last"
            )
        if now[at] != told:
            _grew(files[at], told, last=at + 1 == len(files))


def _grew(file: TableFile, told: Mapping[str, Any], *, last: bool) -> None:
    """Raises SpecError unless the file is as it was, but for lines behind its old end."""
    lines = file.name.lower().endswith(LINES)
    if not lines or file.size <= told["size"] or _tables.fingerprint(replace(file, size=told["size"])) != told:
        hint = "" if lines else " (new rows of such a file take a file of their own, whose name sorts last)"
        raise SpecError(f"source: {file.name}: changed since its rows were built{hint}; {REMEDY}")
    if not last:
        raise SpecError(f"source: {file.name}: has grown, but other files come after it; put new rows into a new file")
    with _tables.opened(file) as stream:
        stream.seek(max(0, told["size"] - 1))
        if b"\n" not in stream.read(2):
            raise SpecError(f"source: {file.name}: its last line was not ended when it was built, and is now; {REMEDY}")


def batches(sizes: Sizes, before: Sequence[Sizes], sidecars: Collection[str] = ()) -> list[Sizes]:
    """The files of a folder in the order of their rows: those of each earlier time, and then all that are new.

    Raises SpecError for one that is gone or has another size, and for a new one of the `sidecars` beside an old file (a
    caption that was not there when its picture was built).
    """
    old = {name: size for batch in before for name, size in batch.items()}
    for name, size in old.items():
        if name not in sizes:
            raise SpecError(f"source: {name}: gone, and it is built; {REMEDY}")
        if sizes[name] != size:
            raise SpecError(f"source: {name}: {sizes[name]:,} bytes, {size:,} when it was built; {REMEDY}")
    fresh = {name: size for name, size in sizes.items() if name not in old}
    stems = {str(PurePosixPath(name).with_suffix("")): name for name in old} if sidecars else {}
    for name in fresh.keys() & set(sidecars):
        beside = stems.get(str(PurePosixPath(name).with_suffix("")))
        if beside is not None:
            raise SpecError(
                f"source: {name}: new beside {beside}, which is built; take it away, or build to another output.path"
            )
    return [*before, *([fresh] if fresh or not before else [])]


def listing(batch: Sizes) -> dict[str, Any]:
    """What binds a build to a batch of files: their size together, and a digest of names and sizes."""
    text = "".join(f"{name}\t{batch[name]}\n" for name in sorted(batch))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {"size": sum(batch.values()), "sha256_listing": digest}


def listings_continue(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Raises SpecError unless the batches that a build is bound to come first. `batches` has compared the files; what
    is left is a build that kept no list of them."""
    if list(now[: len(before)]) != list(before):
        raise SpecError(
            f"source: the files are others than those that are built, and no list of those is kept; {REMEDY}"
        )
