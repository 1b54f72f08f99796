"""Pages as a source: what a reader sees, in the order in which it is read, from pages however badly written."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.sources.html import SILENT, Html, read
from mmdata.types import Media
from tests.dataset_fixture import jpeg
from tests.sources.run import built, records, states

PAGE = """<!doctype html><html lang="de"><head><title>A &amp;
 page</title><style>p {{}}</style><script>var x = "<p>no</p>";</script></head>
<body><nav><ul><li>Menu<li>Items</ul></nav>
<h1>Head  line</h1><p>First <b>bold</b> words<br>on two lines.</p>
<figure><img src="img/1.jpg?v=3" alt="the first"><figcaption>Its caption</figcaption></figure>
<img src="pixel.gif" width="1" height="1">
<p>After it. <img data-src="img/2.jpg" src="{pixel}"> More.
<pre>a
  b</pre><noscript><img src="never.jpg"></noscript>
<footer>Imprint</footer></body></html>"""


def page(**more: str) -> str:
    return PAGE.format(pixel="data:image/gif;base64,AAAA", **more)


def test_pages_are_built_in_reading_order(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "a" / "img").mkdir(parents=True)
    for number in (1, 2):
        (folder / "a" / "img" / f"{number}.jpg").write_bytes(jpeg(number)[0])
    (folder / "a" / "index.html").write_text(page())
    inline = base64.b64encode(jpeg(3)[0]).decode()
    (folder / "b.htm").write_bytes(
        f'<meta charset="latin-1"><img src="data:image/jpeg;base64,{inline}">caf\xe9'.encode("latin-1")
    )
    (folder / "c.html").write_text('<p>words<img src="../../x.jpg">')
    (folder / "d.html").write_text("<nav>only a menu</nav>")
    (folder / "e.html").write_text('<p>words<img src="/a/img/none.jpg">')
    (folder / "f.html").write_text('<p>words<img src="/a/img/1.jpg">')
    source = {"kind": "html", "path": str(folder)}
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == [
        *("ok", "ok", "failed_permanent:path_escape", "failed_permanent:no_parts", "failed_permanent:not_found"),
        "ok",
    ]
    first = dataset[0]
    assert [part.data if isinstance(part, Media) else part.text for part in first.parts] == [
        "Head line\n\nFirst bold words\non two lines.",
        jpeg(1)[0],
        "Its caption\n\nAfter it.",
        jpeg(2)[0],
        "More.\n\na\n  b",
    ]
    assert first.meta == {"title": "A & page", "lang": "de", "alts": ["the first", ""]}
    assert {text.role for text in first.texts} == {"document"}
    assert (dataset[1].media[0].data, dataset[1].texts[0].text) == (jpeg(3)[0], "café")
    assert len(records(source)) == 6
    texts = records({**source, "images": False})
    assert [len(record.sample.media) for record in texts] == [0] * 6
    assert texts[2].sample.texts[0].text == "words"


def test_addresses_of_a_saved_site(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    images = ["a.jpg", "../b.jpg", "/c.jpg", "//cdn.org/d.jpg", "http://o.org/e.jpg", "file:///etc/passwd"]
    for number, src in enumerate(images):
        (tmp_path / "x" / f"{number}.html").write_text(f'<p>w<img src="{src}">')
    found = records({"kind": "html", "path": str(tmp_path), "base": "https://s.org/docs/"})
    assert [media.uri for record in found for media in record.sample.media] == [
        *("https://s.org/docs/x/a.jpg", "https://s.org/docs/b.jpg", "https://s.org/c.jpg", "https://cdn.org/d.jpg"),
        "http://o.org/e.jpg",
    ]
    assert [record.drop.reason for record in found if record.drop] == ["path_escape"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<p>a<p>b", ["a\n\nb"]),
        ("a<nav>b<div>c</nav>d", ["ad"]),
        ("<svg><title>x</title></svg>t", ["t"]),
        ("&lt;p&gt; &#x41;&nbsp;", ["<p> A"]),
        ('<img srcset="s.jpg 1x, l.jpg 2x">', [{"src": "l.jpg", "alt": ""}]),
        ("<td>1</td><td>2", ["1\n\n2"]),
        ("", []),
        ("a<p hidden>b<p>c", ["a\n\nc"]),
        ("a<p hidden><b>b</b><i>b<div>c", ["a\n\nc"]),
        ("<div>a<div style='Display:none!important'><p>b<div>b</div>b</div>c</div>d", ["ac\n\nd"]),
        ("<div>a<span style='visibility: hidden;'>b<b>b</div>c", ["a\n\nc"]),
        ("<ul><li hidden>a<ul><li>a</ul><li>b<li style='display: none'><p>c</ul>d", ["b\n\nd"]),
        ("<table><tr hidden><td>a<td>b<tr><td>c<td hidden>d<th>e</table>f", ["c\n\ne\n\nf"]),
        ("<img hidden src=a><img src=b style='display:none'><img src=c>", [{"src": "c", "alt": ""}]),
        (
            "a<noscript><p>b</div></noscript>c<p>d<template><p>e</p></div><template>f</template>g</template>h",
            ["ac\n\ndh"],
        ),
        ("<div>a<svg><g></div>b</svg>c</div>", ["ac"]),
        ("a<nav><ul><li hidden>b</nav>c", ["ac"]),
        ("<div><nav>menu</div>a", ["a"]),
        (
            "<body style='display:none'><p hidden=until-found>a<p aria-hidden=true>b<p style='color:red'>c",
            ["a\n\nb\n\nc"],
        ),
        ("<p hidden>a</p></p></div>b", ["b"]),
        ("<pre>a\n<b hidden>b</pre> c ", ["a\n\nc"]),
    ],
)
def test_odd_pages(text: str, parts: list[object]) -> None:
    assert read(text, (*SILENT, "nav")).parts == parts


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"<& ",
                "<p>",
                "</p>",
                "<nav>",
                "</nav>",
                "<img src=x>",
                "word ",
                "<!--",
                "-->",
                "<pre>",
                "<b hidden>",
                "</b>",
                "<svg>",
            ]
        )
    )
)
def test_no_page_breaks_the_reader(pieces: list[str]) -> None:
    for part in read("".join(pieces)).parts:
        assert part != ""


def test_what_is_never_closed_takes_no_long_time() -> None:
    page = read(
        "<b hidden>" + "<i><li>" * 100_000 + "</u>" * 100_000 + "</b>seen<ul>" + "<i>" * 100_000 + "<li>" * 100_000
    )
    assert page.parts == ["seen"]


WISH = '<meta name="{}" content="{}"><p>words'
PICTURE = '<img src="1.jpg">'


@pytest.mark.parametrize(
    ("text", "more", "end"),
    [
        (WISH.format("robots", "noai"), {}, "opted_out:x_robots_noai"),
        (WISH.format("ROBOTS", "max-snippet:20, NoIndex"), {}, "opted_out:x_robots_noindex"),
        (WISH.format("robots", "none"), {}, "opted_out:x_robots_noindex"),
        (WISH.format("robots", "noml nofollow"), {}, "opted_out:x_robots_noml"),
        (WISH.format("mmdata", "noai"), {}, "opted_out:x_robots_noai"),
        (WISH.format("googlebot", "noindex"), {}, "ok"),
        (WISH.format("robots", "index, nofollow"), {}, "ok"),
        (WISH.format("tdm-reservation", "1"), {}, "opted_out:tdm_reservation"),
        (WISH.format("tdm-reservation", "0"), {}, "ok"),
        (f"<noscript>{WISH.format('robots', 'noai')}</noscript>words", {}, "opted_out:x_robots_noai"),
        (WISH.format("robots", "noimageai"), {}, "ok"),
        (WISH.format("robots", "noimageai") + PICTURE, {}, "opted_out:x_robots_noimageai"),
        (WISH.format("robots", "noimageindex") + PICTURE, {"images": False}, "ok"),
        (WISH.format("robots", "noai"), {"respect": ["noindex"]}, "ok"),
        (WISH.format("robots", "noai, noindex"), {"respect": ["noindex"]}, "opted_out:x_robots_noindex"),
        (WISH.format("robots", "noai, none"), {"respect": []}, "ok"),
    ],
)
def test_what_a_page_says_of_its_use_is_obeyed(tmp_path: Path, text: str, more: dict[str, object], end: str) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(jpeg(1)[0])
    (folder / "a.html").write_text(text)
    (folder / "z.html").write_text("<p>words")
    _, rows = built(tmp_path / "out", {"kind": "html", "path": str(folder), **more})
    assert states(rows) == [end, "ok"]
    if end != "ok":
        assert (rows[0].detail or "").startswith("a.html: meta ")
        funnel = json.loads((tmp_path / "out" / "stats.json").read_text())["funnel"]
        assert {stage["stage"]: stage["removed"] for stage in funnel[:3]} == {"input": 0, "source": 1, "fetch": 0}


def test_what_is_no_folder_of_pages_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source_empty: .* no file ends in one of \.html"):
        Html(path=str(tmp_path)).open()
    with pytest.raises(DataError, match="not a folder"):
        Html(path=str(tmp_path / "none")).open()


def test_a_page_of_another_character_set_that_names_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes("<p>un caf\u00e9".encode("latin-1"))
    (tmp_path / "b.html").write_bytes('<meta charset="utf-8"><p>one byte \u00e9'.encode("latin-1"))
    first, second = records({"kind": "html", "path": str(tmp_path)})
    assert first.drop
    assert first.drop.reason == "text_not_utf8"
    assert second.sample.texts[0].text == "one byte \ufffd"
