"""The end of a build: the ledger summed, statistics, report and card, and last of all the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdata import __version__, settings
from mmdata.engine import commit
from mmdata.errors import RunError
from mmdata.outputs import card
from mmdata.shards import manifest as manifests
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import sha256_file, write_atomic

Report = Callable[..., tuple[dict[str, Any], bytes]]
"""What makes statistics and report: `report_page.ahead.make`, or a process that has made ready for it."""
FILES = ("stats.json", "report.html", "README.md")


def finish(folder: Path, bound: dict[str, Any], report: Report, *, generation: int, run: dict[str, Any]) -> Manifest:
    """Write what is told of the committed units of a folder, and its manifest; returns that.

    `bound` is what the folder is bound to (spec, inputs, plugins), `run` what the run cost. Raises RunError where the
    ledger does not add up.
    """
    values = list(commit.records(folder))
    counts, reasons = commit.sums(values)
    first, entries = 0, []
    for value in values:
        entry = replace(value.entry, first=first)
        first += entry.rows
        entries.append(entry)
    input_rows = sum(entry.input_rows for entry in entries)
    if sum(counts.values()) != input_rows or counts["ok"] != first:
        raise RunError(
            f"{folder}: the ledger does not add up: {counts} for {input_rows} input rows and "
            f"{first} samples; no manifest is written"
        )
    manifest = Manifest(
        generation=generation,
        created_by=f"mmdata {__version__}",
        spec=bound["spec"],
        spec_digest=settings.digest(bound["spec"]),
        inputs=bound["inputs"],
        plugins=bound["plugins"],
        input_rows=input_rows,
        samples=first,
        counts=counts,
        reasons=reasons,
        shards=entries,
        root_digest=manifests.root_digest(entries),
    )
    figures, page = report(folder, manifest, run, seed=int(bound["spec"]["output"]["seed"]))
    write_atomic(folder / "stats.json", (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())
    write_atomic(folder / "report.html", page)
    write_atomic(folder / "README.md", card.render(manifest, figures=figures).encode())
    files = {name: sha256_file(folder / name) for name in FILES}
    return manifests.write(folder, replace(manifest, files=files))
