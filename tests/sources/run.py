"""Builds of a source within the test's own process: what was kept, what became of the rest, and that it resumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdata.build import build_dataset
from mmdata.ledger import LedgerRow
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.spec import BuildSpec, Record
from mmdata.specfile import build_model
from tests.building import content, ledger

PROBE = ({"kind": "probe", "verify": "header"},)


def spec(output: Path, source: dict[str, Any], steps: Sequence[dict[str, Any]] = PROBE, **more: Any) -> BuildSpec:
    value = {
        "source": source,
        "steps": list(steps),
        "output": {"path": str(output), "unit_rows": 3},
        "engine": {"workers": 1},
        **more,
    }
    return build_model(value).model_validate(value)


def built(
    output: Path, source: dict[str, Any], steps: Sequence[dict[str, Any]] = PROBE, **more: Any
) -> tuple[Dataset, list[LedgerRow]]:
    """Build, and build the last unit again as after a kill: the bytes must be the same."""
    wanted = spec(output, source, steps, **more)
    build_dataset(wanted, quiet=True)
    before = content(output)
    last = sorted((output / ".build" / "units").glob("*.json"))[-1]
    for path in (output / "manifest.json", last, *output.glob(f"*/{last.stem}.*")):
        path.unlink()
    build_dataset(wanted, quiet=True)
    assert content(output) == before
    return open_dataset(output), ledger(output)


def records(source: dict[str, Any]) -> list[Record]:
    """All records of a source, after each way to begin later was seen to give the same."""
    opened = spec(Path("unused"), source).source.open()
    full = list(opened.records())
    assert [record.row for record in full] == list(range(len(full)))
    assert opened.count() in (None, len(full))
    again = spec(Path("unused"), source).source.open()
    for start, stop in ((0, 2), (1, None), (len(full) - 1, None), (2, 3), (len(full), None)):
        assert list(again.records(start, stop)) == full[start:stop]
    assert again.inputs() == opened.inputs()
    return full


def states(rows: Sequence[LedgerRow]) -> list[str]:
    """`ok`, or state and reason, row by row."""
    return [f"{row.state}:{row.reason}".removesuffix(":") for row in rows]
