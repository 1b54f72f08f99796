"""stats.json against plain Python over the same files, and the bounded counters against exact ones."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata import stats_kept
from mmdata.errors import DataError
from mmdata.ledger import read_rows
from mmdata.shards.dataset import open_dataset
from mmdata.shards.manifest import Manifest
from mmdata.stats import EXAMPLES, TEXT_SAMPLE, compute, sample_keys
from mmdata.tally import Heaviest, Tally, lengths, octaves

from . import report_fixture as fixture


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, dict]:
    folder = tmp_path_factory.mktemp("stats") / "photos"
    manifest = fixture.write_dataset(folder, rows=160)
    return folder, manifest, compute(folder, manifest, fixture.RUN)


def ledger_of(folder: Path, manifest: Manifest) -> list:
    return [row for entry in manifest.shards for row in read_rows(folder / entry.ledger)]


def test_states_reasons_and_fetch_figures_are_those_of_the_ledger(built):
    folder, manifest, stats = built
    rows = ledger_of(folder, manifest)
    states = Counter(row.state for row in rows)
    assert {s: n for s, n in stats["states"].items() if n} == states
    assert sum(stats["states"].values()) == stats["input_rows"] == 160
    reasons = Counter((row.state, row.reason) for row in rows if row.state != "ok")
    assert {(s, r): n for s, by in stats["reasons"].items() for r, n in by.items()} == reasons
    assert [(e["state"], e["reason"], e["records"]) for e in stats["examples"]] == sorted(
        ((s, r, n) for (s, r), n in reasons.items()), key=lambda e: (-e[2], e[0], e[1])
    )
    fetch = stats["fetch"]
    assert fetch["attempts"] == sum(row.attempts for row in rows)
    assert fetch["retried"] == sum(row.attempts > 1 for row in rows)
    assert fetch["received_bytes"] == sum(row.size or 0 for row in rows)
    assert fetch["status"] == {str(k): n for k, n in sorted(Counter(r.status for r in rows if r.status).items())}
    seconds = [row.seconds for row in rows if row.seconds is not None]
    for name, value in fetch["seconds"]["quantiles"].items():
        exact = np.quantile(seconds, float(name[1:]) / 100, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=0.011), name


def test_funnel_takes_every_record_out_once_at_its_stage(built):
    _, manifest, stats = built
    left, where = 160, {}
    for stage in stats["funnel"]:
        left -= stage["removed"]
        assert stage["left"] == left
        assert stage["removed"] == sum(reason["records"] for reason in stage["reasons"])
        for reason in stage["reasons"]:
            where[reason["reason"]] = stage["kind"] or stage["stage"]
    assert left == manifest.counts["ok"] == stats["samples"]
    assert [stage["kind"] for stage in stats["funnel"] if stage["stage"] == "step"] == [
        s["kind"] for s in fixture.STEPS
    ]
    expected = {
        "where": "source", "http_404": "fetch", "http_503": "fetch", "timeout": "fetch", "robots": "fetch",
        "truncated_image": "decode", "not_an_image": "decode", "decoder_timeout": "decode",
        "caption_too_short": "caption_length", "too_small": "min_side", "aspect": "aspect", "same_bytes": "exact_dedup",
    }  # fmt: skip
    assert where == expected


def test_kept_facts_are_those_of_the_samples(built):
    folder, _, stats = built
    samples = list(open_dataset(folder))
    images = [sample.media[0] for sample in samples]
    texts = [sample.texts[0].text for sample in samples]
    exact = {
        "resolution": [(m.height * m.width) ** 0.5 for m in images],
        "aspect": [m.width / m.height for m in images],
        "media_bytes": [len(m.data) for m in images],
        "text_bytes": [len(text.encode()) for text in texts],
        "text_characters_sampled": [len(text) for text in texts],
        "text_words_sampled": [len(text.split()) for text in texts],
    }
    for name, values in exact.items():
        found = stats["histograms"][name]
        edges = np.asarray([-np.inf, *found["edges"], np.inf])
        counts = [int(((values >= a) & (values < b)).sum()) for a, b in pairwise(edges)]
        assert [found["below"], *found["counts"], found["above"]] == counts, name
        assert found["n"] == len(samples)
        assert found["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        median = np.quantile(values, 0.5, method="inverted_cdf")
        assert found["quantiles"]["p50"] == pytest.approx(median, rel=0.011, abs=0.5), name
    assert stats["formats"] == Counter(m.format for m in images)
    assert stats["modes"] == Counter(m.mode for m in images)
    assert stats["text_sampled"] == len(samples)
    assert max(exact["text_characters_sampled"]) > 5000  # the long hostile caption is among them


def test_domains_agree_with_the_standard_library(built):
    folder, manifest, stats = built
    exact: dict[str, Counter] = {}
    for row in ledger_of(folder, manifest):
        name = urlsplit(row.uri).hostname if row.uri.startswith("https:") else "(not a URL)"
        exact.setdefault(name, Counter())[row.state] += 1
    found = {d["name"]: Counter({s: d[s] for s in stats["states"] if d[s]}) for d in stats["domains"]["most"]}
    assert found == exact
    assert "secret" not in json.dumps(stats["domains"])
    failures = [d["failed_transient"] + d["failed_permanent"] for d in stats["domains"]["most_failed"]]
    assert failures == sorted(failures, reverse=True)


def test_examples_prefer_pictures_and_are_rows_of_their_reason(built):
    folder, manifest, stats = built
    ledgers = {entry.unit: read_rows(folder / entry.ledger) for entry in manifest.shards}
    for entry in stats["examples"]:
        same = [
            r for rows in ledgers.values() for r in rows if (r.state, r.reason) == (entry["state"], entry["reason"])
        ]
        chosen = [ledgers[place["unit"]][place["at"]] for place in entry["rows"]]
        assert len(chosen) == len({row.row for row in chosen}) == min(EXAMPLES, len(same))
        assert all((row.state, row.reason) == (entry["state"], entry["reason"]) for row in chosen)
        pictured = sum(row.thumbnail is not None for row in same)
        assert sum(row.thumbnail is not None for row in chosen) == min(EXAMPLES, pictured)


def test_same_files_give_the_same_json(built):
    folder, manifest, stats = built
    again = compute(folder, manifest, fixture.RUN)
    assert json.dumps(again) == json.dumps(stats)
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats


def repeated(manifest: Manifest, times: int) -> Manifest:
    """The dataset as if its units came `times` over: the same files under growing unit numbers."""
    entries, first, row = [], 0, 0
    for _ in range(times):
        for entry in manifest.shards:
            entries.append(replace(entry, unit=len(entries), first=first, input_first=row))
            first, row = first + entry.rows, row + entry.input_rows
    return replace(
        manifest,
        shards=entries,
        table=None,
        samples=first,
        input_rows=row,
        counts={state: count * times for state, count in manifest.counts.items()},
        reasons={s: {r: n * times for r, n in by.items()} for s, by in manifest.reasons.items()},
    )


def test_memory_does_not_grow_with_the_number_of_shards(built):
    folder, manifest, _ = built
    peaks = []
    for times in (1, 12):
        many = repeated(manifest, times)
        compute(folder, many, {})
        tracemalloc.start()
        compute(folder, many, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 500_000


def test_text_of_large_datasets_is_sampled(built, monkeypatch):
    assert TEXT_SAMPLE >= 10_000
    most = 2000
    monkeypatch.setattr(stats_kept, "TEXT_SAMPLE", most)
    folder, manifest, stats = built
    many = repeated(manifest, most // manifest.samples + 2)
    found = compute(folder, many, {})
    assert found["text_sampled"] == found["histograms"]["text_words_sampled"]["n"] == most < many.samples
    assert found["histograms"]["text_bytes"]["n"] == many.samples
    whole, part = (value["histograms"]["text_words_sampled"]["quantiles"]["p50"] for value in (stats, found))
    assert part == pytest.approx(whole, abs=1)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_is_refused_by_name(tmp_path):
    manifest = fixture.write_dataset(tmp_path / "a", rows=40)
    entry = manifest.shards[0]
    part = open_dataset(tmp_path / "a").row(0).parts[1]
    for path, at, reason in (
        (entry.ledger, 300, "ledger_sha256"),
        (entry.index, 900, "index_crc32c"),
        (entry.shard, part.offset, "part_crc32c"),
    ):
        damage(tmp_path / "a" / path, at)
        with pytest.raises(DataError) as caught:
            compute(tmp_path / "a", manifest, {})
        assert caught.value.reason == reason
        damage(tmp_path / "a" / path, at)
    compute(tmp_path / "a", manifest, {})
    wrong = replace(manifest, counts={**manifest.counts, "ok": manifest.counts["ok"] + 1})
    with pytest.raises(DataError, match="ledger_sum"):
        compute(tmp_path / "a", wrong, {})
    fewer = replace(manifest, spec={**manifest.spec, "steps": manifest.spec["steps"][:1]})
    with pytest.raises(DataError, match="ledger_step"):
        compute(tmp_path / "a", fewer, {})
    (tmp_path / "a" / entry.ledger).unlink()
    with pytest.raises(DataError, match="ledger_missing"):
        compute(tmp_path / "a", manifest, {})


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_tally_quantiles_are_within_one_percent(values, share):
    tally = Tally("x", octaves(1, 1024, 2), whole=False)
    for half in (values[::2], values[1::2]):
        tally.add(np.asarray(half))
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert tally.quantile(share) == pytest.approx(exact, rel=0.0101)
    found = tally.to_json()
    assert found["below"] + sum(found["counts"]) + found["above"] == len(values)
    assert (found["min"], found["max"]) == pytest.approx((min(values), max(values)), rel=1e-4)


@given(st.lists(st.lists(st.integers(0, 40), max_size=40), max_size=12))
def test_heaviest_bounds_what_it_misses(files):
    heaviest, exact = Heaviest(capacity=5), Counter()
    for file in files:
        for name, count in Counter(file).items():
            heaviest.add(f"n{name}", "ok", count)
            exact[f"n{name}"] += count
        heaviest.prune()
        assert len(heaviest._counts) <= 10
    found = heaviest.to_json()
    for row in found["most"]:
        assert row["records"] <= exact[row["name"]] <= row["records"] + found["missed_at_most"]
    absent = set(exact) - {row["name"] for row in found["most"]}
    assert all(exact[name] <= found["missed_at_most"] or len(found["most"]) == 20 for name in absent)


def test_edges_rise_and_hold_whole_numbers():
    assert octaves(1, 4, 1, centred=True) == [0.7071, 1.4142, 2.8284, 5.6569]
    assert lengths(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def test_sample_keys_are_distinct_and_in_range():
    assert sample_keys(5, 24, 0) == [0, 1, 2, 3, 4]
    assert sample_keys(0, 24, 0) == []
    drawn = sample_keys(10**9, 24, 3)
    assert len(set(drawn)) == 24
    assert max(drawn) < 10**9
    hits = Counter(position // 10 for seed in range(400) for position in sample_keys(100, 10, seed))
    assert all(320 < hits[tenth] < 480 for tenth in range(10))  # 400 expected in each tenth, s.d. below 19
