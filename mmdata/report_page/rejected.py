"""Records that were left out, by reason, with a few examples; a duplicate beside the kept sample that it repeats."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mmdata.errors import DataError
from mmdata.report_page import examples
from mmdata.report_page.examples import Budget
from mmdata.shards.dataset import Dataset
from mmdata.shards.manifest import Manifest
from mmdata.stats import read_ledger

EXAMPLE_SIDE = 128
REASONS = 60
"""Reasons shown with examples; the table names them all up to `ROWS`."""
ROWS = 200
_STAGES = {"input": "Input", "source": "Source", "fetch": "Fetch", "decode": "Decode"}


def reasons(dataset: Dataset, stats: dict[str, Any], budget: Budget) -> list[dict[str, Any]]:
    """Reasons by weight, with the stages that gave them and, for the first `REASONS`, example rows."""
    stages, settings = defaultdict(list), {}
    for stage in funnel(dataset.manifest, stats):
        for reason in stage["reasons"]:
            stages[reason["state"], reason["reason"]].append(stage["label"])
            settings[reason["state"], reason["reason"]] = stage["settings"]
    shown = stats["examples"][:REASONS]
    rows = ledger_rows(dataset, {(row["unit"], row["at"]) for entry in shown for row in entry["rows"]})
    twins = examples.find(dataset, {row["of"] for row in rows.values() if row["of"]})
    told = []
    for number, entry in enumerate(stats["examples"][:ROWS]):
        places = entry["rows"] if number < REASONS else []
        found = [_example(dataset, rows[place["unit"], place["at"]], twins, budget) for place in places]
        name = entry["state"], entry["reason"]
        told.append({**entry, "stages": stages[name], "settings": settings.get(name, ""), "rows": found})
    return told


def ledger_rows(dataset: Dataset, places: set[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The ledger rows at some (unit, row in the unit), each ledger read once. Raises DataError `stats_stale` for rows
    that are not there."""
    columns = ["key", "origin", "origin_row", "uri", "detail", "of", "status", "attempts", "thumbnail"]
    entries = {entry.unit: entry for entry in dataset.manifest.shards}
    rows = {}
    for unit in sorted({unit for unit, _ in places}):
        wanted = sorted(at for number, at in places if number == unit)
        if unit not in entries or wanted[-1] >= entries[unit].input_rows:
            raise DataError("stats_stale", f"{dataset.path}: the stats name rows of unit {unit} that are not there")
        found = read_ledger(dataset.path, entries[unit], columns).take(wanted).to_pylist()
        rows.update({(unit, at): row for at, row in zip(wanted, found, strict=True)})
    return rows


def _example(dataset: Dataset, row: dict[str, Any], twins: dict[str, int], budget: Budget) -> dict[str, Any]:
    picture = budget.picture(row["thumbnail"], EXAMPLE_SIDE) if row["thumbnail"] else None
    twin = examples.seen(dataset, twins[row["of"]], budget, EXAMPLE_SIDE) if row["of"] in twins else None
    return {**row, "origin": row["origin"].rsplit("/", 1)[-1], "picture": picture, "twin": twin}


def funnel(manifest: Manifest, stats: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages with names for people; a step carries the settings it was bound with."""
    steps = manifest.spec.get("steps") or []
    rows = []
    for row in stats["funnel"]:
        label, settings = _STAGES.get(row["stage"], row["kind"]), ""
        if row["step"] is not None:
            bound = {k: v for k, v in steps[row["step"]].items() if k != "kind" and v is not None}
            settings = ", ".join(f"{k} {v}" for k, v in bound.items() if isinstance(v, str | int | float))
        rows.append({**row, "label": label, "settings": settings})
    return rows
