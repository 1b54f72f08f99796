"""report.html: hostile input, self-containment, the command, and how it looks in a real browser."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmdata.errors import DataError
from mmdata.report import main, render
from mmdata.report_page import charts, text
from mmdata.report_page.pictures import thumbnail
from mmdata.shards import manifest as manifests
from mmdata.stats import compute
from mmdata.tally import Tally, octaves

from . import report_browser as browser
from . import report_fixture as fixture

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """The page as a browser's parser sees it: elements with their attributes, and the text between them."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)

    def of(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(folder, manifest, stats, page) of a dataset whose manifest is not published yet."""
    folder = tmp_path_factory.mktemp("report") / "laion_subset"
    manifest = fixture.write_dataset(folder, publish=False)
    stats = compute(folder, manifest, fixture.RUN)
    return folder, manifest, stats, render(folder, manifest, stats)


def test_page_is_whole_and_asks_for_nothing(built):
    page = Reader(built[3])
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form"})
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "srcset" not in attributes
        assert tag == "img" or "src" not in attributes
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", image["src"]) for image in page.of("img"))
    assert b"url(" not in built[3].split(b"</style>")[0]
    assert b"@import" not in built[3]
    for link in page.of("a"):
        assert link["href"].startswith("#") or re.match(r"https?://[^\s\"'<>]+$", link["href"]), link
        assert link["href"].startswith("#") or {"noreferrer", "noopener"} <= set(link["rel"].split())
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert len(built[3]) < 2_500_000


def test_page_is_accessible(built):
    page = Reader(built[3])
    assert page.of("html")[0]["lang"] == "en"
    assert all(image["alt"].strip() for image in page.of("img"))
    assert all(header.get("scope") in ("row", "col") for header in page.of("th"))
    assert all(svg["role"] == "img" and "median" in svg["aria-label"] for svg in page.of("svg"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for _, a in page.elements for name in a.get("aria-labelledby", "").split()}
    targets = {link["href"][1:] for link in page.of("a") if link["href"].startswith("#")}
    assert named | targets <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_hostile_strings_are_text(built):
    page, raw = Reader(built[3]), built[3].decode()
    shown = "".join(page.text)
    assert "<script>document.title='owned'</script>" in shown
    assert "<script" not in raw.lower()
    assert "{{ 7*7 }}" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", raw)
    assert "javascript:alert('owned')" in shown
    assert not [a for a in page.of("a") if "javascript" in a["href"] or "secret" in a["href"]]
    # The long caption is cut, and its length told.
    assert re.search(r"5,\d\d\d characters", shown)
    assert max(len(piece) for piece in page.text if "document.title" in piece and "{\n" not in piece) < 400


def test_numbers_of_the_page_are_those_of_the_manifest(built):
    _, manifest, stats, page = built
    shown = " ".join(" ".join(Reader(page).text).split())
    kept = manifest.counts["ok"]
    assert f"{kept} of {manifest.input_rows} input records were kept ({100 * kept / manifest.input_rows:.1f}%)" in shown
    for state, name in text.STATE_NAMES.items():
        assert f"{name} {state} {manifest.counts[state]} " in shown
    assert f"Sum, equal to the input {manifest.input_rows} 100%" in shown
    for entry in stats["examples"]:
        assert f"{entry['records']} record" in shown.split(f" {entry['reason']} ")[-1][:120]
    for number in ("1 min 15 s", "1.59", "2 workers", "412"):
        assert number in shown
    assert manifest.root_digest in shown


def test_same_input_gives_the_same_page_and_another_seed_another_grid(built):
    folder, manifest, stats, page = built
    assert render(folder, manifest, json.loads(json.dumps(stats, sort_keys=True))) == page
    other = render(folder, manifest, compute(folder, manifest, fixture.RUN, seed=1))
    keys = [set(re.findall(r'alt="Sample (\d+):', html.decode())) for html in (page, other)]
    assert len(keys[0]) == len(keys[1]) == 24
    assert keys[0] != keys[1]


def test_duplicates_stand_beside_what_they_repeat(built):
    page = Reader(built[3])
    alts = [image["alt"] for image in page.of("img")]
    left = next(at for at, alt in enumerate(alts) if alt.endswith("left out: same_bytes"))
    assert alts[left + 1] == "Record 000000000, kept"


def test_a_page_full_of_reasons_and_none_at_all(tmp_path):
    many = [("filtered", f"reason_{n:03d}", f"seen {n}", 2, 1, 200, True) for n in range(240)]
    manifest = fixture.write_dataset(tmp_path / "many", ends=many)
    stats = compute(tmp_path / "many", manifest, {})
    page = render(tmp_path / "many", manifest, stats)
    assert len(page) < 2_500_000
    shown = "".join(Reader(page).text)
    assert "Nothing was kept." in shown
    assert "40 more reasons" in shown
    assert "not recorded" in shown
    kept = [("ok", "", "", None, 1, 200, True)] * 3
    manifest = fixture.write_dataset(tmp_path / "all", ends=kept)
    page = render(tmp_path / "all", manifest, compute(tmp_path / "all", manifest, {}))
    assert b"3 of 3 input records were kept (100%)" in page
    assert b"Why records were left out" not in page
    manifest = fixture.write_dataset(tmp_path / "empty", ends=[])
    page = render(tmp_path / "empty", manifest, compute(tmp_path / "empty", manifest, {}))
    assert b"0 of 0 input records" in page
    Reader(page)


def test_a_changed_byte_is_never_shown(tmp_path):
    manifest = fixture.write_dataset(tmp_path / "d", ends=[("ok", "", "", None, 1, 200, True)] * 4)
    stats = compute(tmp_path / "d", manifest, {})
    shard = tmp_path / "d" / manifest.shards[0].shard
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="part_crc32c"):
        render(tmp_path / "d", manifest, stats)


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,<script>", "vbscript:x", "//example.org/a",
        "https:///nohost", "http://a b/", "http://a/\nb", "https://user:pw@example.org/", "ftp://example.org/",
        "http://[::1", "https://example.org/\"onmouseover='x'", "", None, "http://a/" + "x" * 3000,
    ],
)  # fmt: skip
def test_only_plain_web_addresses_are_linked(uri):
    assert text.link(uri) is None


def encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def shown(data: bytes, side: int = 160) -> Image.Image:
    picture = thumbnail(data, side)
    assert picture.uri, picture.why
    image = Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",", 1)[1])))
    assert image.size == (picture.width, picture.height)
    assert max(image.size) <= side
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def test_thumbnails_of_every_mode_look_like_the_picture():
    ramp = np.tile(np.linspace(0, 255, 400, dtype=np.uint8), (200, 1))
    for image in (
        encoded(Image.fromarray(ramp), "PNG"),
        encoded(Image.fromarray(ramp).convert("P"), "GIF"),
        encoded(Image.fromarray(ramp).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
        encoded(Image.fromarray(ramp).convert("RGB"), "WEBP"),
        encoded(Image.fromarray(ramp.astype(np.float32) / 255), "TIFF"),
    ):
        grey = np.asarray(shown(image).convert("L"), dtype=int)
        assert grey.shape == (80, 160)
        assert np.abs(grey - np.linspace(0, 255, 160)).mean() < 8


def test_thumbnails_are_upright_and_transparency_is_white():
    photo = Image.new("RGB", (300, 100), "black")
    photo.paste("white", (0, 0, 150, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter right to stand upright
    upright = shown(encoded(photo, "JPEG", exif=exif))
    assert upright.size == (53, 160)
    assert upright.getpixel((25, 20)) > (200,) * 3
    assert upright.getpixel((25, 140)) < (60,) * 3
    clear = shown(encoded(Image.new("RGBA", (50, 50), (0, 0, 0, 0)), "PNG"))
    assert clear.getpixel((25, 25)) > (250,) * 3


def test_what_cannot_be_shown_says_why():
    for data in (b"", b"<html>", b"\xff\xd8\xff\xe0junk", encoded(Image.new("1", (9000, 9000)), "PNG")):
        picture = thumbnail(data, 160)
        assert not picture.uri
        assert picture.why.startswith("no preview")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([1, 2, 4]))
def test_bars_stay_in_the_plot_and_stand_for_their_counts(values, parts):
    tally = Tally("px", octaves(16, 16384, parts))
    tally.add(np.asarray(values))
    chart = charts.histogram(tally.to_json(), text.count, marks=tuple(2.0**k for k in range(4, 15)), name="x")
    told = [int(bar.title.rsplit(": ", 1)[1].replace(",", "")) for bar in chart.bars]
    assert sum(told) == len(values)
    unit = (chart.bottom - chart.top) / (charts.scale(max(told))[-1])
    for bar, count in zip(chart.bars, told, strict=True):
        assert chart.left <= bar.x <= bar.x + bar.width <= chart.right + 0.2
        assert chart.top - 0.1 <= bar.y
        assert bar.y + bar.height == pytest.approx(chart.bottom, abs=0.11)
        assert bar.height == pytest.approx(max(count * unit, 1) if count else 0, abs=0.06)
    places = [tick.at for tick in chart.ticks]
    assert all(b - a >= charts.LABEL_GAP for a, b in pairwise(places))


def test_command_replaces_the_report_and_keeps_the_root_digest(tmp_path, capsys):
    folder = tmp_path / "photos"
    before = fixture.write_dataset(folder)
    (folder / "stats.json").write_text(json.dumps({"run": {"seconds": 3725, "records_per_second": 5}}))
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    page = (folder / "report.html").read_bytes()
    assert b"1 h 2 min" in page
    after = manifests.read(folder)
    assert after.files == {"report.html": hashlib.sha256(page).hexdigest()}
    assert replace(after, files={}) == before
    whole = (folder / "manifest.json").read_bytes()
    target = tmp_path / "elsewhere.html"
    assert main([str(folder), "--output", str(target)]) == 0
    assert target.read_bytes() == page
    assert (folder / "manifest.json").read_bytes() == whole
    assert not list(folder.glob(".*"))


def failure(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_command_fails_with_one_line(tmp_path, capsys):
    folder = tmp_path / "photos"
    fixture.write_dataset(folder, ends=list(fixture.fates(20)))
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "manifest_missing" in failure(capsys, tmp_path)
    assert "manifest_missing" in failure(capsys, tmp_path / "nowhere")
    assert "cannot write" in failure(capsys, folder, "--output", tmp_path / "no" / "such" / "r.html")
    assert "only report.html" in failure(capsys, folder, "--output", folder / "manifest.json")
    assert "only report.html" in failure(capsys, folder, "--output", folder / "shards" / "000000.tar")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole
    (folder / "stats.json").write_text("[]")
    assert "stats_damaged" in failure(capsys, folder)
    (folder / "stats.json").unlink()
    (folder / ".build").mkdir()
    (folder / ".build" / "publish.json").write_text("{}")
    assert "publish_interrupted" in failure(capsys, folder)


def test_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mmdata.report", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mmdata.report: manifest_missing: ")


@pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on this machine: apt-get install chromium")
def test_page_in_a_browser(built, tmp_path):
    page = tmp_path / "report.html"
    page.write_bytes(built[3])
    shots = asyncio.run(browser.shoot(page, ((390, 844), (360, 740), (1280, 900))))
    for (width, scheme), shot in shots.items():
        facts, pixels = shot.facts, np.asarray(shot.picture)
        assert shot.picture.width == width == facts["viewport"] == facts["content"], (width, scheme)
        assert facts["wide"] == facts["clipped"] == facts["requests"] == []
        assert facts["title"] == "laion_subset · dataset report"
        assert (facts["scripts"], facts["handlers"], facts["broken"]) == (0, 0, 0)
        assert facts["pictures"] == len(Reader(built[3]).of("img")) >= 24
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # not blank
        assert pixels.std() > 15
    for width in (390, 360, 1280):
        light, dark = (np.asarray(shots[width, scheme].picture.convert("L")) for scheme in ("light", "dark"))
        assert np.median(light) > 220
        assert np.median(dark) < 60
