"""The control log: weights that are set while a run goes on, each from a later block on, so that replaying it is exact.

`control.jsonl` in the run's folder, one line per entry, only ever added to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mmdata.errors import RunError, SpecError
from mmdata.spec import Model
from mmdata.stream.schedule import exact

NAME = "control.jsonl"


class Entry(Model):
    """Weights that hold from a block on."""

    block: int = Field(ge=1)
    weights: dict[str, float] = Field(min_length=1)
    """Of datasets, by name. Those that it does not name keep theirs."""
    losses: dict[str, float] | None = None
    """The losses that they follow from,"""
    temperature: float | None = None
    """and how boldly (`from_losses`)."""
    note: str = ""


def from_losses(
    block: int, losses: Mapping[str, float], base: Mapping[str, float], *, temperature: float, note: str = ""
) -> Entry:
    """The entry that draws more from what is learnt less: base weight times exp(loss / temperature), together what the
    base weights are together. The weights are recorded, so that no machine works them out anew.

    Raises SpecError for losses that are no numbers, or of datasets without a base weight.

    >>> from_losses(3, {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, temperature=1.0).weights
    {'a': 1.462117, 'b': 0.537883}
    """
    if not 0 < temperature < math.inf:
        raise SpecError(f"temperature: {temperature}; give a number above 0")
    for name, loss in losses.items():
        if name not in base:
            raise SpecError(f"losses: no dataset is called {name}; there are {', '.join(base)}")
        if not math.isfinite(loss):
            raise SpecError(f"losses: that of {name} is {loss}; report numbers only")
    if not losses or not sum(base[name] for name in losses):
        raise SpecError("losses: none of a dataset that has a weight; report one")
    highest = max(losses.values())
    raised = {name: base[name] * math.exp((loss - highest) / temperature) for name, loss in losses.items()}
    scale = sum(base[name] for name in losses) / sum(raised.values())
    weights = {name: round(weight * scale, 6) for name, weight in raised.items()}
    return Entry(block=block, weights=weights, losses=dict(losses), temperature=temperature, note=note)


class ControlLog:
    """The entries of a run, in the order of their blocks.

    Every rank reads the file whenever it plans a block. One process adds entries; each must take effect at a block that
    no rank has planned yet. A rank that has planned further stops with RunError rather than go on with another order.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / NAME
        self._entries: list[Entry] = []
        self._lines: list[bytes] = []
        self._seen = -1
        self._size = 0
        self._lock = threading.Lock()
        self._read()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, as the file has them now."""
        with self._lock:
            self._read()
            return tuple(self._entries)

    def weights(self, block: int) -> dict[str, Fraction]:
        """What entries say of a block, by name; raises RunError for one that came too late for this process."""
        with self._lock:
            self._read()
            self._seen = max(self._seen, block)
            found: dict[str, Fraction] = {}
            for entry in self._entries:
                if entry.block <= block:
                    found |= {name: exact(weight) for name, weight in entry.weights.items()}
            return found

    def append(self, entry: Entry) -> None:
        """Add an entry, on disk before this returns. Raises SpecError for one that takes effect before the last one
        does or at a block that this process has planned."""
        with self._lock:
            self._read()
            if entry.block <= self._seen:
                raise SpecError(f"control: block {entry.block} is planned already; give effect from {self._seen + 1}")
            if self._entries and entry.block < (last := self._entries[-1].block):
                raise SpecError(f"control: block {entry.block} comes before that of the last entry, {last}")
            line = json.dumps(entry.model_dump(mode="json", exclude_defaults=True), sort_keys=True).encode() + b"\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._size)  # half a line that a killed process left
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._read()

    def digest(self, count: int | None = None) -> str:
        """Of the first `count` entries (all), for a state: 64 hex digits."""
        return hashlib.sha256(b"".join(self._lines[:count])).hexdigest()

    def check(self, count: int, digest: str) -> None:
        """Raises SpecError unless the log still begins with the entries of a state."""
        if len(self._entries) < count:
            raise SpecError(f"{self.path}: {len(self._entries)} entries, {count} when the state was saved; restore it")
        if self.digest(count) != digest:
            raise SpecError(f"{self.path}: its first {count} entries are not those of the state; restore the file")

    def _read(self) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._size:
            raise RunError(f"{self.path}: has become shorter; it is only ever added to")
        if size == self._size:
            return
        with self.path.open("rb") as file:
            file.seek(self._size)
            data = file.read()
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            entry = self._parsed(line)
            if entry.block <= self._seen:
                raise RunError(
                    f"{self.path}: entry {len(self._entries) + 1} takes effect at block {entry.block}, and this "
                    f"process has planned block {self._seen}; give effect further ahead"
                )
            self._entries.append(entry)
            self._lines.append(line)
            self._size += len(line)

    def _parsed(self, line: bytes) -> Entry:
        number = len(self._entries) + 1
        try:
            values: Any = json.loads(line)
            entry = Entry.model_validate(values)
        except (ValueError, ValidationError) as error:
            raise RunError(f"{self.path}: line {number} is no entry: {str(error).splitlines()[0]}") from error
        if self._entries and entry.block < self._entries[-1].block:
            raise RunError(f"{self.path}: line {number} takes effect before the line above it")
        return entry
