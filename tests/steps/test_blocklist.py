"""Words, phrases, scripts without spaces, hosts; and what a build is bound to."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdata.errors import SpecError
from mmdata.steps.blocklist import Blocklist
from mmdata.types import Drop
from tests.decode.pictures import photo, save
from tests.steps.given import apply, build, image, record


def test_a_build_and_a_changed_list(tmp_path: Path) -> None:
    data = save(photo(16, 16), "PNG")
    (tmp_path / "words.txt").write_text("# a list\nsea shell\nass\n毒\n")
    records = [
        record("A class of its own"),
        record("My ASS."),
        record("by the Sea-Shell shop"),
        record("the sea, shelling peas"),
        record("これは毒です"),
        record("fine", image(data, "https://cdn.bad.org/1.png")),
        record("fine", image(data, "https://notbad.org/1.png")),
    ]
    steps = [{"kind": "blocklist", "file": "words.txt", "hosts": ["bad.org"]}]
    built = build(tmp_path, records, steps)
    assert built.reasons == ["", "blocklist", "blocklist", "", "blocklist", "blocklist_host", ""]
    assert built.details[5] == "cdn.bad.org"
    (tmp_path / "words.txt").write_text("ass\n")
    with pytest.raises(SpecError, match="file_digest"):
        build(tmp_path, records, steps)


def test_counting() -> None:
    step = Blocklist(words=("a b", "a", "ＣＡＴ"), most=2)
    assert not isinstance(apply(step, "a b x a"), Drop)
    assert apply(step, "a b x a", "cat") == Drop(reason="blocklist", detail="3 listed words")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give `words`"):
        Blocklist()
    with pytest.raises(ValidationError, match="has no letter"):
        Blocklist(words=("--",))
    (tmp_path / "w").write_text("x")
    with pytest.raises(ValidationError, match="file_digest"):
        Blocklist(file=str(tmp_path / "w"), file_digest="00")


@pytest.mark.parametrize(
    ("entry", "found", "passes"),
    [
        ("c++", ["I like C++.", "c++11"], ["vitamin c", "c + +"]),
        ("s&m", ["S&M club", "an S&amp;M".replace("&amp;", "&")], ["sizes S, M, L", "ss&mm"]),
        ("a$$", ["big A$$!"], ["a big one"]),
        ("\U0001f595", ["no\U0001f595way"], ["\U0001f44d"]),
        ("bad", ["bad_word", "b\u00adad", "b\u200bad"], ["badly"]),
        ("हि", ["हि है"], ["हिन्दी"]),  # vowels belong to a word
        ("สวัสดี", ["สวัสดีครับ"], ["ดี"]),  # there are no spaces between words
    ],
)
def test_symbols_and_scripts(entry: str, found: list[str], passes: list[str]) -> None:
    step = Blocklist(words=(entry,))
    assert all(isinstance(apply(step, text), Drop) for text in found)
    assert not any(isinstance(apply(step, text), Drop) for text in passes)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("Bad.org", "https://cdn.BAD.org/1.png"),
        ("*.bad.org", "https://a.bad.org/1.png"),
        ("müller.de", "https://xn--mller-kva.de/1.png"),
        ("xn--mller-kva.de", "https://www.müller.de/1.png"),
    ],
)
def test_hosts_however_they_are_written(host: str, url: str) -> None:
    data = save(photo(16, 16), "PNG")
    step = Blocklist(hosts=(host,))
    assert isinstance(apply(step, image(data, url)), Drop)
    assert not isinstance(apply(step, image(data, f"https://notbad.org/?{host}")), Drop)


@pytest.mark.parametrize("host", ["https://bad.org", "bad.org/x", "", "*."])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="is no name of a host"):
        Blocklist(hosts=(host,))
