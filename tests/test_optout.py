"""Robots' directives: their grammar, which headers (`tests/fetch/test_consent.py`) and pages have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmdata.optout import product_token, robots_tags

SAID = ("noai", "noimageai", "noindex", "noimageindex", "noml")
names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(lambda n: n not in SAID and n != "none")
words = st.sampled_from([*SAID, "nofollow", "noarchive", "all"])


@given(st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_the_layout_of_headers_does_not_matter(groups: list[list[str]], random: object) -> None:
    """The same directives in one header, in several, in any case and spacing, say the same."""
    flat = {word for group in groups for word in group}
    assert robots_tags([", ".join(group) for group in groups], "mmdata") == flat
    assert robots_tags([" ,".join(w.upper() for group in groups for w in group)], "mmdata") == flat
    assert robots_tags(["mmdata:" + ",".join(group) for group in groups], "mmdata") == flat


@given(names, st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_a_name_narrows_to_its_end(name: str, theirs: list[str], ours: list[str]) -> None:
    if name == "mmdata" or name in ("max-snippet", "max-image-preview", "max-video-preview"):
        return
    assert robots_tags([f"{name}: {', '.join(theirs)}", ", ".join(ours)], "mmdata") == set(ours)
    assert robots_tags([", ".join([*ours, f"{name}: {', '.join(theirs)}"])], "mmdata") == set(ours)


@given(st.lists(st.text(max_size=60), max_size=3), st.text(max_size=10))
def test_no_header_breaks_the_parser(values: list[str], agent: str) -> None:
    assert all(tag == tag.lower() for tag in robots_tags(values, product_token(agent)))
