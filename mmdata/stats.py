"""stats.json: what a build kept and lost, counted from its ledgers and indexes one file at a time.

Memory does not grow with the dataset: histograms have fixed bins, quantiles come from bins one percent wide,
text is read for a keyed sample, and of the domains only the heaviest are held.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmdata.errors import DataError
from mmdata.ledger import SCHEMA, STATES
from mmdata.rng import generator
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.stats_kept import TEXT_SAMPLE, Kept, origin_source
from mmdata.tally import FAILED, TOP, Heaviest, Tally, by_count, sample_keys

__all__ = ["EXAMPLES", "TEXT_SAMPLE", "compute", "domains", "read_ledger", "sample_keys", "stable"]

VERSION = 2
EXAMPLES = 4
"""Rows shown of each reason."""


def compute(folder: Path, manifest: Manifest, run: dict[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Everything the report shows, as JSON values; the same files and `run` give the same result.

    `folder` holds the ledgers, indexes and shards that `manifest` names (it need not be published yet);
    `run` says how the build went (`seconds`, `records`, `records_per_second`, `workers`, ...) and may be empty.
    `seed` draws what is shown and which texts are read (default: the seed of the spec).
    Raises DataError where a file is damaged, or where the ledgers do not sum to the manifest's numbers.
    """
    steps = [str(step.get("kind", "?")) for step in manifest.spec.get("steps") or ()]
    if seed is None:
        seed = int((manifest.spec.get("output") or {}).get("seed", 0))
    sources = mixed_sources(manifest.spec)
    fates, kept = _Fates(steps, seed, sources), Kept(manifest, seed, sources)
    for entry in manifest.shards:
        fates.add(entry, read_ledger(folder, entry, [name for name in SCHEMA.names if name not in ("key", "detail")]))
        if entry.rows:
            kept.add(folder, entry)
    states, reasons = fates.counts()
    said = {state: count for state, count in manifest.counts.items() if count}
    why = {state: by_reason for state, by_reason in manifest.reasons.items() if by_reason}
    if sum(states.values()) != manifest.input_rows or {s: n for s, n in states.items() if n} != said or reasons != why:
        raise DataError(
            "ledger_sum",
            f"{folder}: the ledgers hold {sum(states.values())} records {states}, "
            f"the manifest says {manifest.input_rows}: {manifest.counts}",
        )
    value = {
        "version": VERSION,
        "root_digest": manifest.root_digest,
        "spec_digest": manifest.spec_digest,
        "input_rows": manifest.input_rows,
        "samples": manifest.samples,
        "units": len(manifest.shards),
        "shards": sum(1 for entry in manifest.shards if entry.rows),
        "shard_bytes": sum(entry.shard_bytes for entry in manifest.shards),
        "states": states,
        "reasons": reasons,
        "funnel": fates.funnel(manifest.input_rows),
        "examples": fates.examples(),
        "fetch": fates.fetch(),
        "domains": fates.domains.to_json(),
        "origins": fates.origins.to_json(),
        "sources": [{**row, "kept": dict(kept.by_source[row["name"]])} for row in fates.by_source()],
        **kept.to_json(),
        "run": run,
    }
    rounded: dict[str, Any] = stable(value)
    return rounded


def mixed_sources(spec: dict[str, Any]) -> list[str]:
    """The names of the sources of a mixture; none where a build has one source.

    >>> mixed_sources({"source": {"kind": "mixture", "sources": [{"name": "a"}, {"name": "b"}]}})
    ['a', 'b']
    """
    source = spec.get("source") or {}
    return [str(part["name"]) for part in source.get("sources") or ()] if source.get("kind") == "mixture" else []


def read_ledger(folder: Path, entry: ShardEntry, columns: list[str]) -> pa.Table:
    """Columns of one unit's ledger, its bytes checked against the manifest. Raises DataError for damage."""
    path = folder / entry.ledger
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("ledger_missing", f"{path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != entry.ledger_sha256:
        raise DataError("ledger_sha256", f"{path}: its bytes are not those that the manifest names")
    try:
        # Not `read_table`, which loads Arrow's dataset and query engines: a quarter of a second, for one file.
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError("ledger_unreadable", f"{path}: {error}") from error
    if table.schema.names != columns:
        raise DataError("ledger_schema", f"{path}: columns are {table.schema.names}, expected {columns}")
    if table.num_rows != entry.input_rows:
        raise DataError("ledger_rows", f"{path}: {table.num_rows} rows, the manifest has {entry.input_rows}")
    return table


class _Fates:
    """Tallies over the ledgers: which stage ended each record, how fetching went, where the records came from."""

    def __init__(self, steps: list[str], seed: int, sources: list[str]) -> None:
        self.steps, self.seed, self.sources = steps, seed, sources
        self._sources: Counter[tuple[str | None, str, str]] = Counter()  # (source, state, reason)
        self.ends: Counter[tuple[str, str, int]] = Counter()  # (state, reason, stage)
        self.domains, self.origins = Heaviest(), Heaviest()
        self.seconds = Tally("s", [round(10 ** (step / 8), 6) for step in range(-24, 25)], whole=False)
        self.status: Counter[int] = Counter()
        self.attempts = self.attempted = self.retried = self.received = 0
        self._examples: dict[tuple[str, str], list[tuple[float, int, int]]] = {}

    SOURCE, FETCH, DECODE, KEPT = -3, -2, -1, 1 << 30

    def _stage(self, state: str, reason: str, step: int | None, fetched: bool, has_uri: bool) -> int:
        """Which stage ended a record: the source, the fetch, the decoder, a step (its index), or none: kept.

        Media that cannot be decoded are counted at the decoder whichever step first asked for their pixels,
        and so are those whose decoder hung or crashed (`decoder_*`; nobody knows the step then).
        """
        if state == "ok":
            return self.KEPT
        if step is not None:
            if not 0 <= step < len(self.steps):
                raise DataError("ledger_step", f"the ledger names step {step}, the spec has {len(self.steps)}")
            return self.DECODE if state in FAILED else step
        if state in FAILED and (fetched or reason.startswith("decoder_")):
            return self.DECODE
        return self.FETCH if has_uri and (state == "opted_out" or state in FAILED) else self.SOURCE

    def add(self, entry: ShardEntry, table: pa.Table) -> None:
        state, uri = table["state"], table["uri"]
        fetched = pc.is_valid(table["sha256"])
        has_uri = pc.greater(pc.fill_null(pc.binary_length(uri), 0), 0)
        for group, count in _groups(state, table["reason"], table["step"], fetched, has_uri).items():
            if group[0] not in STATES:
                raise DataError("ledger_state", f"{entry.ledger}: unknown state {group[0]!r}")
            self.ends[group[0], group[1], self._stage(*group)] += count
        self._add_names(self.domains, domains(uri), state)
        self._add_names(self.origins, table["origin"], state)
        if self.sources:
            told = origin_source(table["origin"], self.sources)
            self._sources.update(zip(told, state.to_pylist(), table["reason"].to_pylist(), strict=True))
        self.seconds.add(table["seconds"].drop_null().to_numpy())
        for row in table["status"].drop_null().value_counts().to_pylist():
            self.status[row["values"]] += row["counts"]
        attempts = table["attempts"].to_numpy()
        self.attempts += int(attempts.sum())
        self.attempted += int((attempts > 0).sum())
        self.retried += int((attempts > 1).sum())
        self.received += pc.sum(table["size"]).as_py() or 0
        self._add_examples(entry.unit, table)

    def _add_names(self, into: Heaviest, names: pa.ChunkedArray, state: pa.ChunkedArray) -> None:
        for (name, ended), count in _groups(names, state).items():
            if name is not None:
                into.add(name[:255], ended, count)
        into.prune()

    def _add_examples(self, unit: int, table: pa.Table) -> None:
        """Keep the `EXAMPLES` rows of each reason with the least keyed draw; those with a picture come first."""
        lost = np.flatnonzero(pc.not_equal(table["state"], "ok").to_numpy())
        if not len(lost):
            return
        joined = pc.binary_join_element_wise(table["state"], table["reason"], "\t").take(pa.array(lost))
        names, codes = np.unique(np.asarray(joined.to_pylist(), dtype=object), return_inverse=True)
        draw = generator(self.seed, "examples", unit).random(table.num_rows)[lost]
        draw += pc.is_null(table["thumbnail"]).to_numpy()[lost]
        order = np.lexsort((draw, codes))
        starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for at, name in enumerate(names):
            state, _, reason = name.partition("\t")
            rows = order[starts[at] : starts[at + 1]][:EXAMPLES]
            known = self._examples.setdefault((state, reason), [])
            known += [(float(draw[row]), unit, int(lost[row])) for row in rows]
            self._examples[state, reason] = heapq.nsmallest(EXAMPLES, known)

    def counts(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """Records by state, and by reason for every state but `ok`, in the manifest's form."""
        states: dict[str, int] = dict.fromkeys(STATES, 0)
        reasons: dict[str, dict[str, int]] = {}
        for (state, reason, _), count in self.ends.items():
            states[state] += count
            if state != "ok":
                by_reason = reasons.setdefault(state, {})
                by_reason[reason] = by_reason.get(reason, 0) + count
        return states, reasons

    def funnel(self, input_rows: int) -> list[dict[str, Any]]:
        """Stages in order: how many records each removed, by reason, and how many were left after it."""
        stages = [(self.SOURCE, "source", None), (self.FETCH, "fetch", None), (self.DECODE, "decode", None)]
        left = input_rows
        rows: list[dict[str, Any]] = [
            {"stage": "input", "step": None, "kind": None, "removed": 0, "left": input_rows, "reasons": []}
        ]
        for number, stage, step in [*stages, *((at, "step", at) for at in range(len(self.steps)))]:
            removed = {(s, r): count for (s, r, at), count in self.ends.items() if at == number}
            left -= sum(removed.values())
            by_reason = [{"state": s, "reason": r, "records": n} for (s, r), n in by_count(removed)]
            kind = None if step is None else self.steps[step]
            rows.append(
                {"stage": stage, "step": step, "kind": kind, "removed": sum(removed.values()), "left": left}
                | {"reasons": by_reason}
            )
        return rows

    def examples(self) -> list[dict[str, Any]]:
        """Reasons by number of records, each with the places (unit, row in its ledger) of a few examples."""
        totals: Counter[tuple[str, str]] = Counter()
        for (state, reason, _), count in self.ends.items():
            if state != "ok":
                totals[state, reason] += count
        return [
            {
                "state": state,
                "reason": reason,
                "records": count,
                "rows": [{"unit": unit, "at": at} for _, unit, at in self._examples[state, reason]],
            }
            for (state, reason), count in by_count(totals)
        ]

    def by_source(self) -> list[dict[str, Any]]:
        """The sources of a mixture in the order of the spec: their records by state, and why they were left out."""
        rows = []
        for name in self.sources:
            own = {(state, reason): n for (source, state, reason), n in self._sources.items() if source == name}
            states: dict[str, int] = dict.fromkeys(STATES, 0)
            for (state, _), count in own.items():
                states[state] += count
            why = [
                {"state": state, "reason": reason, "records": n}
                for (state, reason), n in by_count(own)
                if state != "ok"
            ]
            rows.append({"name": name, "records": sum(own.values()), **states, "reasons": why[:TOP]})
        return rows

    def fetch(self) -> dict[str, Any]:
        return {
            "attempted": self.attempted,
            "attempts": self.attempts,
            "retried": self.retried,
            "received_bytes": self.received,
            "status": {str(code): count for code, count in sorted(self.status.items())},
            "seconds": self.seconds.to_json(),
        }


def _groups(*columns: pa.ChunkedArray) -> Counter[Any]:
    """How often each combination of values occurs."""
    return Counter(zip(*(column.to_pylist() for column in columns), strict=True))


def domains(uri: pa.ChunkedArray) -> pa.ChunkedArray:
    """The host of each http(s) URL, `scheme://bucket` of others; null for local files and where there is no address.

    >>> uris = ["https://u:p@Ex.org:8080/a?b", "s3://bucket/key", "cat.jpg", "file:///a", None]
    >>> domains(pa.chunked_array([uris])).to_pylist()
    ['ex.org', 's3://bucket', '(not a URL)', None, None]
    """
    found = pc.extract_regex(
        uri, r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#@\\]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:\\]*)"
    )
    scheme = pc.utf8_lower(pc.struct_field(found, "scheme"))
    host = pc.utf8_lower(pc.struct_field(found, "host"))
    web = pc.is_in(scheme, pa.array(["http", "https"]))
    name = pc.if_else(web, host, pc.binary_join_element_wise(scheme, host, "://"))
    remote = pc.and_(pc.is_valid(uri), pc.fill_null(pc.not_equal(scheme, "file"), True))
    return pc.if_else(remote, pc.coalesce(name, pa.scalar("(not a URL)")), pa.scalar(None, pa.string()))


def stable(value: Any) -> Any:
    """A JSON value with its floats rounded; floats that JSON does not know become None.

    >>> stable({"a": [1.23456789, float("inf"), 3]})
    {'a': [1.234568, None, 3]}
    """
    if isinstance(value, dict):
        return {str(key): stable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [stable(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
