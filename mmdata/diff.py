"""`python -m mmdata.diff A B`: what became of each record in two builds: added, gone, another fate, other bytes."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmdata import pointer, unread
from mmdata.checksum import crc32c
from mmdata.errors import DataError, RunError
from mmdata.folders import dataset_folder
from mmdata.shards import manifest as manifests
from mmdata.shards import tombstones

By = Literal["origin", "uri", "key"]
IDENTITY: dict[By, list[str]] = {"origin": ["origin", "origin_row"], "uri": ["uri"], "key": ["key"]}
AT_ONCE = 4_000_000
"""Records of both builds that are compared in one go, some hundred bytes each; more are compared in parts."""
REMOVED = "removed"
"""The state of a kept record that a tombstone has removed since."""
_TOLD = ["state", "reason", "key", "sha256"]
_CHANGES = ("added", "gone", "changed", "content")


@dataclass(slots=True, kw_only=True)
class Difference:
    """What differs between builds A and B. A fate is `state` or `state/reason`."""

    rows: tuple[int, int]
    """Input records of A and B."""
    kept: tuple[int, int]
    """Of them those that are in the dataset."""
    added: Counter[str] = field(default_factory=Counter)
    """Records that only B has, by their fate there."""
    gone: Counter[str] = field(default_factory=Counter)
    """Records that only A has, by their fate there."""
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records whose fate differs: (in A, in B)."""
    content: int = 0
    """Records kept in both whose media had other bytes when they were read (sha256)."""

    @property
    def equal(self) -> bool:
        return not (self.added or self.gone or self.changed or self.content)

    def lines(self) -> list[str]:
        """For a person."""
        told = [
            f"{name}: {rows:,} records, {kept:,} kept"
            for name, rows, kept in zip("AB", self.rows, self.kept, strict=True)
        ]
        for title, fates in (("only in A", self.gone), ("only in B", self.added)):
            told += [f"{title}: {fates.total():,}", *(f"  {count:>12,}  {fate}" for fate, count in _most(fates))]
        told += [f"another fate: {self.changed.total():,}"]
        told += [f"  {count:>12,}  {one} -> {other}" for (one, other), count in _most(self.changed)]
        return [*told, f"kept in both with other bytes: {self.content:,}"]

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "kept": self.kept,
            "only_in_a": dict(_most(self.gone)),
            "only_in_b": dict(_most(self.added)),
            "changed": [{"a": one, "b": other, "records": count} for (one, other), count in _most(self.changed)],
            "content": self.content,
        }


def diff(a: Path, b: Path, *, by: By = "origin", output: Path | None = None) -> Difference:
    """Compare two finished builds record by record.

    A record is the same in both when its file and row are (`by="origin"`), or its address, or its key; of several with
    one address the n-th is compared with the n-th. Samples removed by tombstones count as `removed`. With `output`,
    each record that differs becomes a row of that Parquet file: `change` (added, gone, changed, content), identity, and
    state, reason, key and sha256 in both.

    Raises DataError for a folder that holds no finished build or a ledger that is damaged, RunError where `output`
    cannot be written.
    """
    sides = [_Side.of(folder, by) for folder in (a, b)]
    found = Difference(rows=_pair([side.rows for side in sides]), kept=_pair([side.kept for side in sides]))
    parts = 1 + sum(found.rows) // AT_ONCE
    writer: pq.ParquetWriter | None = None
    try:
        for part in range(parts):
            one, other = (side.table(part, parts) for side in sides)
            changes = _compare(one, other, [*IDENTITY[by], "nth"])
            _count(found, changes)
            if output is not None:
                writer = writer or pq.ParquetWriter(output, changes.schema)
                writer.write_table(changes)
    except OSError as error:
        raise RunError(f"cannot write {output}: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One build: its ledger's files, and what has been removed since."""

    files: list[Path]
    by: By
    rows: int
    kept: int
    removed: dict[str, str]

    @classmethod
    def of(cls, folder: Path, by: By) -> _Side:
        manifest = manifests.read(folder)
        removed = {stone.key: stone.reason for removal in tombstones.read(folder) for stone in removal.stones}
        files = sorted((folder / "ledger").glob("*.parquet"))
        return cls(files=files, by=by, rows=manifest.input_rows, kept=manifest.samples - len(removed), removed=removed)

    def table(self, part: int, parts: int) -> pa.Table:
        """The records whose identity falls into this part; `nth` counts those of one identity."""
        identity = IDENTITY[self.by]
        columns = list(dict.fromkeys([*identity, *_TOLD]))
        pieces = [self._file(path, columns, part, parts) for path in self.files]
        if not pieces:
            raise DataError("ledger_missing", "a build without a ledger cannot be compared")
        table = pa.concat_tables(pieces)
        return table.append_column("nth", pa.array(_nth(table.select(identity))))

    def _file(self, path: Path, columns: list[str], part: int, parts: int) -> pa.Table:
        try:
            table = pq.read_table(path, columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("ledger_unreadable", f"{path}: {' '.join(str(error).split())}") from error
        if parts > 1:
            table = table.filter(pa.array(_parts(table, self.by, parts) == part))
        for name in IDENTITY[self.by]:  # a join takes no null for equal
            table = (
                table.set_column(
                    table.schema.get_field_index(name), name, pc.fill_null(table[name], "" if name == "uri" else 0)
                )
                if table[name].null_count
                else table
            )
        if self.removed:
            keys, states = table["key"].to_pylist(), table["state"].to_pylist()
            gone = [state == "ok" and key in self.removed for key, state in zip(keys, states, strict=True)]
            reasons = [
                self.removed[key] if out else reason
                for out, key, reason in zip(gone, keys, table["reason"].to_pylist(), strict=True)
            ]
            table = table.set_column(
                table.schema.get_field_index("state"), "state", pc.if_else(pa.array(gone), REMOVED, table["state"])
            )
            table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
        return table


def _parts(table: pa.Table, by: By, parts: int) -> npt.NDArray[np.int64]:
    if by == "origin":
        return np.asarray(table["origin_row"].to_numpy() % parts, np.int64)
    return np.array([crc32c((value or "").encode()) % parts for value in table[by].to_pylist()], np.int64)


def _nth(identity: pa.Table) -> npt.NDArray[np.int64]:
    """How many records of the same identity come before each."""
    codes = np.zeros(identity.num_rows, np.int64)
    for column in identity.columns:
        values = pc.dictionary_encode(column).combine_chunks()
        values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
        _, codes = np.unique(codes * (len(values.dictionary) + 1) + values.indices.to_numpy(), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    runs = np.diff(np.r_[firsts, len(ordered)])
    nth = np.empty(len(ordered), np.int64)
    nth[order] = np.arange(len(ordered)) - np.repeat(firsts, runs)
    return nth


def _compare(a: pa.Table, b: pa.Table, identity: list[str]) -> pa.Table:
    """The records that differ, in the order of their identity."""
    told = [name for name in _TOLD if name not in identity]

    def side(table: pa.Table, mark: str) -> pa.Table:
        return table.rename_columns([f"{name}_{mark}" if name in told else name for name in table.column_names])

    joined = side(a, "a").join(side(b, "b"), identity, join_type="full outer")
    only_b, only_a = pc.is_null(joined["state_a"]), pc.is_null(joined["state_b"])
    fate = pc.or_(
        pc.not_equal(joined["state_a"], joined["state_b"]), pc.not_equal(joined["reason_a"], joined["reason_b"])
    )
    both_kept = pc.and_(pc.equal(joined["state_a"], "ok"), pc.equal(joined["state_b"], "ok"))
    content = pc.and_(both_kept, pc.fill_null(pc.not_equal(joined["sha256_a"], joined["sha256_b"]), False))
    change = pc.case_when(
        pc.make_struct(only_b, only_a, pc.fill_null(fate, False), pc.fill_null(content, False)), *_CHANGES
    )
    joined = joined.append_column("change", change)
    joined = joined.filter(pc.is_valid(joined["change"])).sort_by([(name, "ascending") for name in identity])
    return joined.select(["change", *identity, *(f"{name}_{mark}" for name in told for mark in "ab")])


def _count(found: Difference, changes: pa.Table) -> None:
    grouped = changes.group_by(["change", "state_a", "reason_a", "state_b", "reason_b"]).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        count = row["count_all"]
        a, b = (_fate(row[f"state_{mark}"], row[f"reason_{mark}"]) for mark in "ab")
        if row["change"] == "added":
            found.added[b] += count
        elif row["change"] == "gone":
            found.gone[a] += count
        elif row["change"] == "changed":
            found.changed[a, b] += count
        else:
            found.content += count


def _fate(state: str | None, reason: str | None) -> str:
    return f"{state}/{reason}" if reason else str(state)


def _most(counts: Counter[Any]) -> Iterator[tuple[Any, int]]:
    yield from sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    one, other = values
    return one, other


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code, as diff(1) does: 0 where nothing differs, 1 where something does, 2 for
    trouble with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.diff",
        description=(__doc__ or "").split(": ", 1)[1],
        epilog="exit codes: 0 nothing differs; 1 something does; 2 trouble.",
    )
    parser.add_argument("a", type=dataset_folder, metavar="A", help="folder of a finished dataset")
    parser.add_argument("b", type=dataset_folder, metavar="B", help="folder of another")
    parser.add_argument(
        "--by",
        choices=get_args(By),
        default="origin",
        help="what makes a record the same in both (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write each record that differs to this Parquet file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        found = diff(options.a, options.b, by=options.by, output=options.output)
    except (DataError, RunError, OSError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    print(json.dumps(found.as_json(), indent=2) if options.json else "\n".join(found.lines()))
    return 0 if found.equal else 1


if __name__ == "__main__":
    sys.exit(main())
