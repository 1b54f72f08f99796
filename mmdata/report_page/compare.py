"""Gathers what the page of two builds shows: counts beside each other, what moved, distributions over each other."""

from __future__ import annotations

import difflib
import heapq
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mmdata.diff import By, diff
from mmdata.errors import DataError
from mmdata.report_page import charts, examples, text
from mmdata.report_page.examples import Budget
from mmdata.report_page.page import HISTOGRAMS, template
from mmdata.rng import generator
from mmdata.shards.dataset import Dataset
from mmdata.stats import read_ledger

MOVES = 24
"""Ways to move that are listed and have examples."""
EXAMPLES = 4
SIDE = 128
SPEC_LINES = 400
_TOKENS = tuple(4.0**k for k in range(11))
Way = tuple[str, str, str]
"""A change (`added`, `gone`, `changed`, `content`) and the fates in A and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the builds: its dataset and its stats."""

    dataset: Dataset
    stats: dict[str, Any]

    @property
    def name(self) -> str:
        return self.dataset.path.resolve().name


def render(a: Side, b: Side, *, by: By = "origin") -> bytes:
    """Two finished builds on one self-contained page, as `report_page.page.render` makes them: no script, no request.

    Records are the same in both as `mmdata.diff` says. Examples are drawn with the seed of B's spec; the same builds
    give the same bytes. Raises DataError for damage, and as `mmdata.diff.diff` does.
    """
    budget = Budget()
    with tempfile.TemporaryDirectory() as folder:
        changes = Path(folder) / "changes.parquet"
        found = diff(a.dataset.path, b.dataset.path, by=by, output=changes)
        seed = int((b.dataset.manifest.spec.get("output") or {}).get("seed", 0))
        counts, drawn = _ways(changes, seed)
    shown = heapq.nsmallest(MOVES, counts, key=lambda way: (-counts[way], way))
    examples_of = _examples(a.dataset, b.dataset, {way: drawn[way] for way in shown}, budget)
    moves = [
        {"change": way[0], "a": way[1], "b": way[2], "records": counts[way], "rows": examples_of[way]} for way in shown
    ]
    context = {
        "sides": (a, b),
        "found": found,
        "by": by,
        "states": [(state, a.stats["states"][state], b.stats["states"][state]) for state in text.STATE_NAMES],
        "reasons": _reasons(a.stats, b.stats),
        "moves": moves,
        "moves_left_out": len(counts) - len(shown),
        "histograms": _histograms(a.stats, b.stats),
        "spec": _spec(a.dataset, b.dataset),
    }
    return template("compare").render(context).encode("utf-8", "xmlcharrefreplace")


def _reasons(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """(state, reason, records in A, in B), those that differ most first."""
    names = {(state, reason) for side in (a, b) for state, by in side["reasons"].items() for reason in by}
    rows = [(s, r, *(side["reasons"].get(s, {}).get(r, 0) for side in (a, b))) for s, r in sorted(names)]
    return sorted(rows, key=lambda row: (-abs(row[2] - row[3]), -max(row[2:]), row[:2]))  # type: ignore[arg-type]


def _ways(changes: Path, seed: int) -> tuple[dict[Way, int], dict[Way, list[dict[str, Any]]]]:
    """How many records moved each way, and a few of each, by keyed draws."""
    counts: dict[Way, int] = {}
    drawn: dict[Way, list[tuple[float, int, dict[str, Any]]]] = {}
    for number, table in enumerate(_tables(changes)):
        draw = generator(seed, "compare", number).random(table.num_rows)
        named = ("change", "state_a", "reason_a", "state_b", "reason_b")
        columns = [np.asarray([value or "" for value in table[name].to_pylist()], dtype=object) for name in named]
        joined = np.array(["\t".join(each) for each in zip(*columns, strict=True)], dtype=object)
        ways, codes = np.unique(joined, return_inverse=True) if len(joined) else (joined, joined)
        for code, joint in enumerate(ways):
            change, *fates = joint.split("\t")
            way = (change, _fate(*fates[:2]), _fate(*fates[2:]))
            rows = np.flatnonzero(codes == code)
            counts[way] = counts.get(way, 0) + len(rows)
            least = rows[np.argsort(draw[rows])[:EXAMPLES]]
            fresh = [(float(draw[row]), number, table.slice(int(row), 1).to_pylist()[0]) for row in least]
            drawn[way] = heapq.nsmallest(EXAMPLES, [*drawn.get(way, ()), *fresh], key=lambda each: each[:2])
    return counts, {way: [row for *_, row in rows] for way, rows in drawn.items()}


def _tables(changes: Path) -> Iterator[Any]:
    if changes.exists():
        yield from pq.ParquetFile(changes).iter_batches(batch_size=100_000)


def _fate(state: str, reason: str) -> str:
    return f"{state}/{reason}" if reason else state


def _examples(
    a: Dataset, b: Dataset, drawn: dict[Way, list[dict[str, Any]]], budget: Budget
) -> dict[Way, list[dict[str, Any]]]:
    """The rows with what they look like: the kept sample's picture where either build kept it, else the ledger's."""
    rows = [row for some in drawn.values() for row in some]
    told = {}
    for mark, dataset in (("a", a), ("b", b)):
        keys = {_key(row, mark) for row in rows} - {""}
        kept = {_key(row, mark) for row in rows if row[f"state_{mark}"] == "ok"}
        told[mark] = dataset, examples.find(dataset, kept), _ledger(dataset, keys)
    return {way: [_example(row, told, budget) for row in some] for way, some in drawn.items()}


def _key(row: dict[str, Any], mark: str) -> str:
    """The key of a record in one build; with `by="key"` it is the same in both."""
    return str(row["key"] if "key" in row else row[f"key_{mark}"] or "")


def _example(row: dict[str, Any], told: dict[str, Any], budget: Budget) -> dict[str, Any]:
    picture: dict[str, Any] | None = None
    facts: dict[str, Any] = {}
    details = {}
    for mark in "ba":
        dataset, kept, ledger = told[mark]
        key = _key(row, mark)
        if (found := ledger.get(key)) is not None:
            details[mark] = found["detail"]
            facts = found
        if picture is None and key in kept:
            picture = examples.seen(dataset, kept[key], budget, SIDE)
    if picture is None and facts.get("thumbnail"):
        picture = budget.picture(facts["thumbnail"], SIDE)
    return {
        "key": _key(row, "b") or _key(row, "a"),
        "picture": picture,
        "words": (picture or {}).get("text", ""),
        "origin": str(facts.get("origin", "")).rsplit("/", 1)[-1],
        "origin_row": facts.get("origin_row"),
        "uri": facts.get("uri"),
        "details": [(mark.upper(), details[mark]) for mark in "ab" if details.get(mark)],
    }


def _ledger(dataset: Dataset, keys: set[str], most: int = 1_000_000) -> dict[str, dict[str, Any]]:
    """What the ledger says of records under these keys, among the first `most`: one pass over the keys alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = ["key", "origin", "origin_row", "uri", "detail", "thumbnail"]
    wanted = pa.array(sorted(keys), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for entry in dataset.manifest.shards:
        if len(found) == len(keys) or entry.input_first >= most:
            break
        held = pc.is_in(read_ledger(dataset.path, entry, ["key"])["key"], wanted)
        if pc.any(held).as_py():
            rows = read_ledger(dataset.path, entry, columns).filter(held).to_pylist()
            found |= {row["key"]: row for row in rows}
    return found


def _histograms(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Distributions that both builds have, and tokens of media by family."""
    told = []
    pairs = [(*shown, a["histograms"][shown[0]], b["histograms"][shown[0]]) for shown in HISTOGRAMS]
    for name in sorted(a["media_tokens"].keys() & b["media_tokens"].keys()):
        values = (side["media_tokens"][name]["histogram"] for side in (a, b))
        pairs.append((name, f"Tokens of {name}", "media alone", text.count, _TOKENS, *values))
    for key, title, unit, form, marks, one, other in pairs:
        if _same_as_whole(key, a) and _same_as_whole(key, b):
            continue
        chart = charts.overlay(one, other, form, marks=marks, name=f"{title.lower()}, {unit}")
        if chart is not None and max(one["max"], other["max"]) > min(one["min"], other["min"]):
            medians = [form(each["quantiles"]["p50"]) for each in (one, other)]
            told.append({"title": title, "unit": unit, "chart": chart, "medians": medians})
    return told


def _same_as_whole(key: str, stats: dict[str, Any]) -> bool:
    """Whether a distribution of one kind of media repeats that of all media."""
    whole = {"image_resolution": "resolution", "video_resolution": "resolution"}.get(key)
    whole = whole or {"video_seconds": "media_seconds", "audio_seconds": "media_seconds"}.get(key)
    histograms = stats["histograms"]
    return whole is not None and histograms[key]["n"] in (0, histograms[whole]["n"])


def _spec(a: Dataset, b: Dataset) -> list[tuple[str, str]]:
    """Lines of the bound specs that differ, with some around them: (sign, line)."""
    one, other = (json.dumps(d.manifest.spec, indent=2, ensure_ascii=False).splitlines() for d in (a, b))
    lines = list(difflib.unified_diff(one, other, lineterm="", n=2))[2:]
    told = [(line[:1].strip(), line[1:] if line[:2] != "@@" else "…") for line in lines]
    return [("…" if line == "…" else sign, "" if line == "…" else line) for sign, line in told][:SPEC_LINES]


def side(folder: Path, stats: dict[str, Any]) -> Side:
    """A finished build with the stats that were computed of it. Raises DataError `stats_stale` for another's."""
    dataset = Dataset(folder)
    if stats["root_digest"] != dataset.manifest.root_digest:
        raise DataError("stats_stale", f"{folder}: the stats are those of another dataset")
    return Side(dataset=dataset, stats=stats)
