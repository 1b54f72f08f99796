"""Gathers what the page shows from stats, ledgers and a few kept samples, and renders it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from mmdata.report_page import charts, examples, sounds, text
from mmdata.report_page.examples import Budget
from mmdata.report_page.rejected import REASONS, ROWS, funnel, reasons
from mmdata.shards.dataset import Dataset
from mmdata.shards.manifest import Manifest

DOMAINS = 12
FORMS = {
    "image": ("Pictures", "Pictures are shown whole, at most 160 pixels wide or high."),
    "conversation": ("Conversations", "Answers that are trained on are green; the rest is only read."),
    "document": ("Documents", "Texts and media in the order of the page."),
    "video": ("Videos", "A few frames, evenly spread, with their times."),
    "audio": (
        "Sounds",
        "Waveform, and the log-mel spectrogram that models hear: low tones below, light is loud. "
        f"What plays are the first {sounds.CLIP_SECONDS:.0f} seconds, at 16 kHz.",
    ),
    "text": ("Texts", ""),
}
_POWERS = tuple(2.0**k for k in range(0, 17, 2))
_SIDES = tuple(2.0**k for k in range(4, 15))
_SECONDS = (0.125, 1, 4, 16, 60, 600, 3600)
_FAMILY = tuple(4.0**k for k in range(11))
HISTOGRAMS: tuple[tuple[str, str, str, Any, tuple[float, ...]], ...] = (
    ("resolution", "Resolution", "square root of the area, in pixels", text.count, _SIDES),
    ("image_resolution", "Resolution of images", "square root of the area, in pixels", text.count, _SIDES),
    ("video_resolution", "Resolution of videos", "square root of the area, in pixels", text.count, _SIDES),
    ("aspect", "Aspect ratio", "width to height", text.ratio, (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)),
    ("media_bytes", "Bytes", "per image, video or audio as stored", text.size, tuple(4.0**k for k in range(3, 14))),
    ("media_seconds", "Duration", "of video and audio", text.seconds, _SECONDS),
    ("video_seconds", "Duration of videos", "each by itself", text.seconds, _SECONDS),
    ("audio_seconds", "Duration of audio", "each by itself", text.seconds, _SECONDS),
    ("video_fps", "Frame rate", "frames per second of a video, on average", text.rate, (1, 5, 10, 15, 24, 30, 60, 120)),
    ("sample_rate", "Sample rate", "of audio, and of videos with sound", text.hertz, (8e3, 16e3, 24e3, 48e3, 96e3)),
    ("speech_rate_sampled", "Speech rate", "words per second of audio", text.rate, (0.125, 0.5, 1, 2, 4, 8, 16)),
    ("turns", "Turns", "texts of a conversation", text.count, (1, 2, 4, 8, 16, 32, 64)),
    ("media_per_sample", "Media per sample", "of samples that have any", text.count, (1, 2, 4, 8, 16, 32, 64)),
    ("text_characters_sampled", "Text length", "characters, all text of a sample", text.count, _POWERS),
    ("text_words_sampled", "Text words", "split at blanks, all text of a sample", text.count, _POWERS),
)
_SPLIT = {"resolution": ("image_resolution", "video_resolution"), "media_seconds": ("video_seconds", "audio_seconds")}
"""Distributions over all media, which are drawn where all are of one kind, and what is drawn in place of them else."""
_LATENCY = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


def render(
    folder: Path, manifest: Manifest, stats: dict[str, Any], *, lengths: Mapping[str, dict[str, Any]] | None = None
) -> bytes:
    """The report as one self-contained HTML page in UTF-8: no script, no request, pictures and sound as data URIs.

    `stats` is what `mmdata.stats.compute` gave for the same folder and manifest, which need not be published yet.
    `lengths` are lengths of whole samples by a title (`mmdata.stats_tokens.sample_tokens`), where a tokenizer is known.
    The same arguments give the same bytes. Raises DataError where a ledger, index or shard is damaged.
    """
    budget = Budget()
    dataset = Dataset(folder, manifest=manifest)
    forms = [
        {
            "form": form,
            "title": FORMS[form][0],
            "about": FORMS[form][1],
            "samples": held["samples"],
            "cards": [examples.card(dataset, position, form, budget) for position in held["shown"]],
        }
        for form, held in ((form, stats["forms"].get(form)) for form in FORMS)
        if held
    ]
    context = {
        "name": folder.resolve().name,
        "manifest": manifest,
        "stats": stats,
        "forms": forms,
        "box": (sounds.WIDTH, sounds.HEIGHT),
        "reasons": reasons(dataset, stats, budget),
        "reasons_left_out": max(0, len(stats["examples"]) - REASONS),
        "funnel": funnel(manifest, stats),
        "histograms": histograms(stats),
        "tokens": token_charts(stats["media_tokens"], lengths or {}),
        "latency": charts.histogram(stats["fetch"]["seconds"], text.seconds, marks=_LATENCY, name="fetch time"),
        "domains_shown": DOMAINS,
        "rows_shown": ROWS,
        "spec": json.dumps(manifest.spec, indent=2, ensure_ascii=False),
        "state_names": text.STATE_NAMES,
    }
    return template("page").render(context).encode("utf-8", "xmlcharrefreplace")


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page, compiled with what it includes: half of the time that the first report takes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmdata.report_page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in ("count", "share", "size", "seconds", "rate", "clock", "visible", "link", "moment"):
        environment.globals[each] = getattr(text, each)
    environment.globals["state_names"] = text.STATE_NAMES
    for included in ("macros.html.jinja", "page.css"):
        environment.get_template(included)
    return environment.get_template(f"{name}.html.jinja")


def drawn(histograms: Mapping[str, dict[str, Any]]) -> list[str]:
    """The distributions worth a drawing: those of each kind of media where there are several."""
    left_out: set[str] = set()
    for whole, parts in _SPLIT.items():
        several = all(histograms[part]["n"] for part in parts)
        left_out |= {whole} if several else set(parts)
    alone = ("media_per_sample", "turns")  # that a sample has one of each needs no drawing
    left_out |= {name for name in alone if histograms[name].get("max", 0) <= 1}
    return [key for key, *_ in HISTOGRAMS if key not in left_out and histograms[key]["n"]]


def histograms(stats: dict[str, Any]) -> list[dict[str, Any]]:
    """The distributions that hold anything, drawn."""
    told = []
    wanted = drawn(stats["histograms"])
    for key, title, unit, form, marks in HISTOGRAMS:
        if key not in wanted:
            continue
        value = stats["histograms"][key]
        chart = charts.histogram(value, form, marks=marks, name=f"{title.lower()}, {unit}")
        sampled = key.endswith("_sampled") and stats["text_sampled"] < stats["samples"]
        quantiles = [(name, form(value["quantiles"][name])) for name in ("p5", "p50", "p95")]
        told.append({"title": title, "unit": unit, "chart": chart, "sampled": sampled, "quantiles": quantiles})
    return told


def token_charts(media: Mapping[str, dict[str, Any]], whole: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Lengths in tokens: of whole samples where a tokenizer is known, then of their media alone, family by family."""
    told = []
    for real, found in ((True, whole), (False, media)):
        for title, each in sorted(found.items()):
            value = each["histogram"]
            chart = charts.histogram(value, text.count, marks=_FAMILY, name=f"tokens of {title}")
            if chart is None:
                continue
            quantiles = [(name, text.count(value["quantiles"][name])) for name in ("p5", "p50", "p95")]
            told.append({
                "title": title, "real": real, "chart": chart, "quantiles": quantiles, "n": value["n"],
                "of": each["samples"], "left_out": each["left_out"], "mean": value["mean"],
            })  # fmt: skip
    return told
