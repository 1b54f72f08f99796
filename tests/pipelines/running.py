"""Runs of shipped pipelines by the command's own door, on inputs that the tests make."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mmdata import build
from mmdata.ledger import LedgerRow
from mmdata.shards.dataset import open_dataset
from mmdata.types import Sample
from mmdata.verify import verify_dataset
from tests.building import ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a pipeline made."""

    rows: list[LedgerRow]
    samples: list[Sample]

    @property
    def reasons(self) -> list[str]:
        """Of each input record; empty for what was kept."""
        return [row.reason for row in self.rows]

    @property
    def tasks(self) -> Counter[str | None]:
        return Counter(sample.meta.get("task") for sample in self.samples)


def run(name: str, output: Path, *overrides: str) -> Run:
    """`python -m mmdata.build --spec NAME --set ... --output OUTPUT`, in this process; every byte is verified."""
    sets = [word for override in (*overrides, "engine.workers=1") for word in ("--set", override)]
    assert build.main(["--spec", name, "--quiet", *sets, "--output", str(output)]) == 0
    assert verify_dataset(output).problems == []
    dataset = open_dataset(output)
    return Run(rows=ledger(output), samples=list(dataset))


def conversation(sample: Sample) -> list[tuple[str, str, bool]]:
    """Role, text and whether it is trained, of each text."""
    return [(text.role, text.text, text.train) for text in sample.texts]
