"""The page of two builds: its numbers against the ledgers, hostile strings, the command, and how it looks."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.report import main
from mmdata.report_page import charts, text
from mmdata.shards import manifest as manifests
from mmdata.tally import Tally, octaves
from tests import report_browser as browser
from tests import report_fixture as fixture
from tests import report_mixed as mixture
from tests.building import ledger
from tests.test_report import Reader


def shown(page: bytes) -> str:
    return " ".join(" ".join(Reader(page).text).split())


@pytest.fixture(scope="module")
def page(dataset: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compared") / "page.html"
    assert main([str(dataset), "--against", str(other), "--output", str(target)]) == 0
    return target


def test_what_moved_is_what_the_ledgers_say(dataset: Path, other: Path, page: Path) -> None:
    one, two = ({(row.origin, row.origin_row): row for row in ledger(folder)} for folder in (dataset, other))
    fates = Counter(
        (a.state + (f"/{a.reason}" if a.reason else ""), b.state + (f"/{b.reason}" if b.reason else ""))
        for a, b in ((row, two[place]) for place, row in one.items())
        if (a.state, a.reason) != (b.state, b.reason)
    )
    told = shown(page.read_bytes())
    assert fates["duplicate/exact_dup", "ok"] == 2
    assert fates["ok", "filtered/duration"] == 1
    for (a, b), count in fates.items():
        assert f"{a} → {b} {count} record" in told
    assert f"{sum(fates.values())} records have another fate in B, 0 are only in A, 0 only in B" in told
    for folder in (dataset, other):
        assert manifests.read(folder).root_digest in told
    # Which side kept them is what one sees.
    pictures = [image["alt"] for image in Reader(page.read_bytes()).of("img")]
    assert len([alt for alt in pictures if alt.startswith("Record photos-")]) == 2


def test_counts_stand_beside_each_other(dataset: Path, other: Path, page: Path) -> None:
    told = shown(page.read_bytes())
    a, b = (manifests.read(folder).counts for folder in (dataset, other))
    for state, name in text.STATE_NAMES.items():
        change = "=" if a[state] == b[state] else f"{'+' if b[state] > a[state] else '−'}{abs(b[state] - a[state])}"
        assert f"{name} {a[state]} {b[state]} {change}" in told


def test_the_same_pair_gives_the_same_page_and_one_with_itself_says_so(dataset: Path, other: Path, page: Path) -> None:
    again = page.with_name("again.html")
    assert main([str(dataset), "--against", str(other), "--output", str(again)]) == 0
    assert again.read_bytes() == page.read_bytes()
    assert main([str(dataset), "--against", str(dataset), "--output", str(again)]) == 0
    told = shown(again.read_bytes())
    assert "Every record has the same fate in both." in told
    assert "Nothing: the bound specs are the same." in told


def test_hostile_strings_are_text(page: Path, tmp_path: Path) -> None:
    fates = list(fixture.fates(60))
    moved = [("ok", "", "", None, 1, 200, True) if fate[0] != "ok" else fixture.FATES[6] for fate in fates]
    fixture.write_dataset(tmp_path / "<i>a", ends=fates)
    fixture.write_dataset(tmp_path / "b", ends=moved)
    target = tmp_path / "x.html"
    for by in ("origin", "uri", "key"):
        arguments = ["--against", str(tmp_path / "b"), "--output", str(target), "--by", by]
        assert main([str(tmp_path / "<i>a"), *arguments]) == 0
        for raw in (page.read_bytes(), target.read_bytes()):
            read = Reader(raw)
            assert read.open == []
            assert {tag for tag, _ in read.elements}.isdisjoint({"script", "i-", "iframe", "object", "embed", "link"})
            assert not [name for _, held in read.elements for name in held if name.startswith("on")]
            assert all(re.match(r"data:image/jpeg;base64,[\w+/=]+$", image["src"]) for image in read.of("img"))
            assert not [a for a in read.of("a") if not a["href"].startswith(("#", "https://", "http://"))]
            assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", raw)
    told = shown(target.read_bytes())
    assert "<i>a" in told
    assert "<script>document.title='owned'</script>" in told


def test_trouble_is_one_line(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--against", str(tmp_path / "none"), "--output", str(tmp_path / "p.html")], "manifest_missing"),
        (["--against", str(dataset), "--output", str(dataset / "p.html")], "outside of the datasets"),
        (["--against", str(dataset), "--output", str(tmp_path / "no" / "p.html")], "cannot write"),
    ):
        assert main([str(dataset), *arguments]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert message in told.err


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_shares_over_each_other_stand_for_their_counts(one: list[float], other: list[float]) -> None:
    values = []
    for numbers in (one, other):
        tally = Tally("px", octaves(16, 16384, 2))
        tally.add(np.asarray(numbers))
        values.append(tally.to_json())
    chart = charts.overlay(*values, text.count, marks=(64, 1024), name="x")
    assert chart is not None
    told = [re.search(r": ([\d.e+-]+)% in A, ([\d.e+-]+)% in B", bar.title) for bar in chart.bars]
    shares = [[float(match[side]) for match in told if match] for side in (1, 2)]
    assert [sum(each) for each in shares] == pytest.approx([100, 100], abs=1.5)
    top = int(chart.grid[-1].label[:-1])
    tall = chart.bottom - chart.top
    for bar, share in zip(chart.bars, shares[0], strict=True):
        assert bar.height == pytest.approx(tall * share / top, abs=1)
        assert chart.left <= bar.x <= bar.x + bar.width <= chart.right + 0.3
    heights = [chart.bottom - float(step.split("L")[0].split()[1]) for step in chart.line[1:].split("L")[::2]]
    assert heights == pytest.approx([tall * share / top for share in shares[1]], abs=1)


@pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on this machine: apt-get install chromium")
def test_page_in_a_browser(page: Path) -> None:
    shots = asyncio.run(browser.shoot(page, ((390, 844), (1280, 900))))
    for (width, scheme), shot in shots.items():
        facts, pixels = shot.facts, np.asarray(shot.picture.convert("L"))
        assert width == facts["viewport"] == facts["content"], (width, scheme)
        assert facts["wide"] == facts["clipped"] == facts["requests"] == []
        assert facts["title"] == "out and other · two builds"
        assert (facts["scripts"], facts["handlers"], facts["broken"]) == (0, 0, 0)
        assert np.median(pixels) > 220 if scheme == "light" else np.median(pixels) < 60
    assert mixture.NAME.startswith('a">')  # which is on the page, as text
