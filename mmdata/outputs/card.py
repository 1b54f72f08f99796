"""The dataset card: a Markdown page with the numbers, which hubs and people read first."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import yaml

from mmdata.shards.manifest import Manifest


def render(
    manifest: Manifest, *, samples: int | None = None, splits: Sequence[str] = (), figures: dict[str, Any] | None = None
) -> str:
    """README.md of a dataset. `samples` are those in this form of it, if some have been removed; `splits` those of
    Parquet files in `data/`; `figures` the contents of stats.json."""
    kept = manifest.samples if samples is None else samples
    lines = ["---"]
    if splits:
        files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
        head: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": files}]}
        lines += yaml.safe_dump(head, sort_keys=False).splitlines()
    lines += ["tags:", "- mmdata", "---", "", "# Dataset", ""]
    lines += [f"{kept:,} samples of {manifest.input_rows:,} input records, built by {manifest.created_by}.", ""]
    if samples is not None and samples != manifest.samples:
        lines += [f"{manifest.samples - samples:,} samples have been removed since the build.", ""]
    lines += ["## Where the records went", "", "| state | reason | records |", "| --- | --- | ---: |"]
    for state, count in manifest.counts.items():
        if count:
            lines.append(f"| {state} | | {count:,} |")
            reasons = manifest.reasons.get(state, {}) if state != "ok" else {}
            ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
            lines += [f"| | {_cell(reason)} | {number:,} |" for reason, number in ordered]
    lines += ["", "## What is in it", ""]
    lines += _contents(figures or {})
    lines += ["| digest | of |", "| --- | --- |", f"| `{manifest.root_digest}` | every byte of shards and indexes |"]
    lines += [f"| `{manifest.spec_digest}` | the spec below |", "", "## How it was made", "", "```yaml"]
    lines += yaml.safe_dump(manifest.spec, sort_keys=False, allow_unicode=True).splitlines()
    return "\n".join([*lines, "```", ""])


def _cell(text: str) -> str:
    """A text in a table: a reason is whatever a user's step gives.

    >>> _cell("a|b <c>")
    'a\\\\|b &lt;c&gt;'
    """
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _contents(figures: dict[str, Any]) -> list[str]:
    if "shards" not in figures:
        return []
    return [f"{figures['shards']:,} shards, {figures['shard_bytes'] / 1e6:,.1f} MB.", ""]
