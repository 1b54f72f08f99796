"""Gathers what the page shows from stats, ledgers and a few kept samples, and renders it."""

from __future__ import annotations

import bisect
import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import jinja2

from mmdata.errors import DataError
from mmdata.report_page import charts, text
from mmdata.report_page.pictures import thumbnail
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Index
from mmdata.shards.manifest import Manifest
from mmdata.stats import read_ledger, sample_keys
from mmdata.types import Media, Sample

GRID = 24
GRID_SIDE = 160
EXAMPLE_SIDE = 128
REASONS = 60
"""Reasons shown with examples; the table names them all up to `ROWS`."""
ROWS = 200
DOMAINS = 12
PICTURE_BYTES = 1_800_000
"""Characters of data URIs on one page; beyond them examples are shown without their picture."""

_STAGES = {"input": "Input", "source": "Source", "fetch": "Fetch", "decode": "Decode"}
_POWERS = tuple(2.0**k for k in range(0, 17, 2))
_HISTOGRAMS: tuple[tuple[str, str, str, Any, tuple[float, ...]], ...] = (
    ("resolution", "Resolution", "square root of the area, in pixels", text.count, tuple(2.0**k for k in range(4, 15))),
    ("aspect", "Aspect ratio", "width to height", text.ratio, (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)),
    ("media_bytes", "Bytes", "per image, video or audio as stored", text.size, tuple(4.0**k for k in range(3, 14))),
    ("text_characters_sampled", "Caption length", "characters, all text of a sample", text.count, _POWERS),
    ("text_words_sampled", "Caption words", "split at blanks, all text of a sample", text.count, _POWERS),
    ("media_seconds", "Duration", "of video and audio", text.seconds, (0.125, 1, 4, 16, 60, 600, 3600)),
)
_LATENCY = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


def render(folder: Path, manifest: Manifest, stats: dict[str, Any], *, seed: int = 0) -> bytes:
    """The report as one self-contained HTML page in UTF-8: no script, no request, pictures as data URIs.

    `stats` is what `mmdata.stats.compute` gave for the same folder and manifest, which need not be published yet.
    `seed` draws the kept samples that are shown. The same arguments give the same bytes.
    Raises DataError where a ledger, index or shard is damaged.
    """
    budget = _Budget(PICTURE_BYTES)
    dataset = Dataset(folder, manifest=manifest)
    samples = [_sample(dataset[position], budget) for position in sample_keys(len(dataset), GRID, seed)]
    context = {
        "name": folder.resolve().name,
        "manifest": manifest,
        "stats": stats,
        "samples": samples,
        "reasons": _reasons(dataset, stats, budget),
        "reasons_left_out": max(0, len(stats["examples"]) - REASONS),
        "funnel": _funnel(manifest, stats),
        "histograms": _histograms(stats),
        "latency": charts.histogram(stats["fetch"]["seconds"], text.seconds, marks=_LATENCY, name="fetch time"),
        "domains_shown": DOMAINS,
        "rows_shown": ROWS,
        "spec": json.dumps(manifest.spec, indent=2, ensure_ascii=False),
        "state_names": text.STATE_NAMES,
    }
    return template().render(context).encode("utf-8", "xmlcharrefreplace")


@functools.cache
def template() -> jinja2.Template:
    """The page, compiled: half of the time that the first report takes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmdata.report_page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "share", "size", "seconds", "rate", "visible", "link", "moment"):
        environment.globals[name] = getattr(text, name)
    return environment.get_template("page.html.jinja")


class _Budget:
    """How many characters of pictures the page may still take."""

    def __init__(self, left: int) -> None:
        self.left = left

    def picture(self, data: bytes, side: int) -> dict[str, Any]:
        if self.left <= 0:
            return {"uri": "", "why": "no preview: the page is full"}
        made = thumbnail(data, side)
        self.left -= len(made.uri)
        return {"uri": made.uri, "width": made.width, "height": made.height, "why": made.why}


def _sample(sample: Sample, budget: _Budget) -> dict[str, Any]:
    caption = "\n".join(part.text for part in sample.texts)
    media = sample.media[0] if sample.media else None
    picture: dict[str, Any] = {"uri": "", "why": "text only"}
    if media is not None:
        picture = {"uri": "", "why": media.kind}
        if media.kind == "image" and media.data is not None:
            picture = budget.picture(media.data, GRID_SIDE)
    return {
        "key": sample.key,
        "caption": caption,
        "characters": len(caption),
        "facts": _facts(media),
        "more": len(sample.media) - 1,
        "picture": picture,
    }


def _facts(media: Media | None) -> list[str]:
    if media is None:
        return []
    facts = []
    if media.width and media.height:
        facts.append(f"{media.width}×{media.height}")
    if media.seconds:
        facts.append(text.seconds(media.seconds))
    if media.format:
        facts.append(media.format)
    if media.data is not None:
        facts.append(text.size(len(media.data)))
    return facts


def _reasons(dataset: Dataset, stats: dict[str, Any], budget: _Budget) -> list[dict[str, Any]]:
    """Reasons by weight, with the stages that gave them and, for the first `REASONS`, example rows."""
    stages = defaultdict(list)
    for stage in _funnel(dataset.manifest, stats):
        for reason in stage["reasons"]:
            stages[reason["state"], reason["reason"]].append(stage["label"])
    shown = stats["examples"][:REASONS]
    rows = _ledger_rows(dataset, {(row["unit"], row["at"]) for entry in shown for row in entry["rows"]})
    reasons = []
    for number, entry in enumerate(stats["examples"][:ROWS]):
        places = entry["rows"] if number < REASONS else []
        examples = [_example(dataset, rows[place["unit"], place["at"]], budget) for place in places]
        reasons.append({**entry, "stages": stages[entry["state"], entry["reason"]], "rows": examples})
    return reasons


def _ledger_rows(dataset: Dataset, places: set[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The ledger rows at some (unit, row in the unit), each ledger read once."""
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


def _example(dataset: Dataset, row: dict[str, Any], budget: _Budget) -> dict[str, Any]:
    """One rejected record; a duplicate comes with the kept picture that it repeats, for a person to compare."""
    picture = budget.picture(row["thumbnail"], EXAMPLE_SIDE) if row["thumbnail"] else None
    twin = _kept(dataset, row["of"]) if row["of"] and picture else None
    data = twin.media[0].data if twin and twin.media and twin.media[0].kind == "image" else None
    return {
        **row,
        "origin": row["origin"].rsplit("/", 1)[-1],
        "picture": picture,
        "twin": budget.picture(data, EXAMPLE_SIDE) if data else None,
    }


def _kept(dataset: Dataset, key: str) -> Sample | None:
    """The kept sample under a key that a source made from its input row; other keys are not searched for."""
    entries = dataset.manifest.shards
    at = bisect.bisect_right(entries, int(key), key=lambda entry: entry.input_first) - 1 if key.isdecimal() else -1
    entry = entries[at] if at >= 0 else None
    if entry is None or entry.index is None:
        return None
    keys = Index(dataset.path / entry.index, crc32c=entry.index_crc32c).keys()
    return dataset[entry.first + keys.index(key)] if key in keys else None


def _funnel(manifest: Manifest, stats: dict[str, Any]) -> list[dict[str, Any]]:
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


def _histograms(stats: dict[str, Any]) -> list[dict[str, Any]]:
    """The distributions that hold anything, drawn."""
    drawn = []
    for key, title, unit, form, marks in _HISTOGRAMS:
        value = stats["histograms"][key]
        chart = charts.histogram(value, form, marks=marks, name=f"{title.lower()}, {unit}")
        if chart is not None:
            sampled = key.endswith("_sampled") and stats["text_sampled"] < stats["samples"]
            quantiles = [(name, form(value["quantiles"][name])) for name in ("p5", "p50", "p95")]
            drawn.append({"title": title, "unit": unit, "chart": chart, "sampled": sampled, "quantiles": quantiles})
    return drawn
