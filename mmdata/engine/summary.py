"""What a build says at its end: how the numbers add up, and an example of everything that was left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mmdata.ledger import LedgerRow, first_of_each
from mmdata.shards.manifest import Manifest

REASONS, LEDGERS = 8, 32
"""Reasons that are named, and shards' ledgers that are looked through for an example of each."""
DETAIL = 200
"""Characters of an example that are shown."""


def summary(folder: Path, manifest: Manifest) -> str:
    """States that sum to the input, each reason with the row that it struck first, and where the rest can be read."""
    lost: Counter[str] = Counter()
    for state, reasons in manifest.reasons.items():
        if state != "ok":
            lost.update(reasons)
    named = lost.most_common(REASONS)
    firsts = first_of_each(sorted((folder / "ledger").glob("*.parquet"))[:LEDGERS], [reason for reason, _ in named])
    states = " + ".join(f"{count:,} {state}" for state, count in manifest.counts.items() if count)
    lines = [f"{manifest.input_rows:,} input rows = {states}"]
    for reason, count in named:
        lines.append(f"  {count:,} {reason}{_example(firsts.get(reason))}")
    if len(lost) > len(named):
        lines.append(f"  {sum(lost.values()) - sum(count for _, count in named):,} for other reasons")
    shards = manifest.table.shards if manifest.table else 0
    lines.append(
        f"{manifest.samples:,} samples in {shards} shard{'s' * (shards != 1)}, "
        f"root digest {manifest.root_digest[:16]}, generation {manifest.generation}"
    )
    lines.append(f"report: {folder / 'report.html'}")
    if manifest.samples:
        lines.append(f"next:   python -m mmtrain.sft --config FILE, with `data: {{dataset: {folder}}}` in it")
    else:
        lines.append("next:   nothing was kept; put right what the rows above say, and give another --output")
    return "\n".join(lines)


def _example(row: LedgerRow | None) -> str:
    if row is None:
        return ""
    place = f"{row.origin} row {row.origin_row}"
    told = _printable(row.detail.removeprefix(f"{place}: "))[:DETAIL]
    name = _printable((row.uri or "").rpartition("/")[2])
    told += f" ({name})" * bool(name and name not in told)
    return f": {place}: {told}" + f" as {row.of}" * bool(row.of)


def _printable(text: str) -> str:
    """Without control characters: what the web or a file name says must not steer the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
