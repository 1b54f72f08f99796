"""What is decided about samples that are too long: media whole or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import RunError
from mmdata.pack import fit_overlong

plans = st.lists(st.integers(0, 60), min_size=1, max_size=4).map(lambda sizes: sorted(sizes, reverse=True))


@settings(deadline=None)
@given(
    st.integers(0, 100),
    st.lists(plans, max_size=5),
    st.integers(1, 200),
    st.sampled_from(["drop", "truncate_text", "shrink_media"]),
    st.integers(0, 20),
)
def test_what_is_decided_fits_and_orphans_nothing(
    text: int, media: list[list[int]], capacity: int, policy: str, min_text: int
) -> None:
    wanted = text + sum(sizes[0] for sizes in media)
    fitted = fit_overlong(text, media, capacity, policy, min_text=min_text)  # type: ignore[arg-type]
    assert (fitted.outcome == "kept") == (wanted <= capacity)
    if fitted.outcome == "overlong":
        assert (fitted.text, fitted.media, fitted.tokens) == (0, (), 0)
        if policy == "truncate_text":
            assert capacity - (wanted - text) < min_text or capacity < wanted - text
        if policy == "shrink_media":
            assert text + sum(sizes[-1] for sizes in media) > capacity
        return
    assert len(fitted.media) == len(media)  # every medium, whole
    assert fitted.tokens == fitted.text + sum(s[choice] for s, choice in zip(media, fitted.media, strict=True))
    assert fitted.tokens <= capacity
    if fitted.outcome == "kept":
        assert (fitted.text, set(fitted.media) | {0}) == (text, {0})
    if fitted.outcome == "truncated_text":
        assert (policy, set(fitted.media) | {0}) == ("truncate_text", {0})
        assert min_text <= fitted.text < text
    if fitted.outcome == "shrunk_media":
        assert (policy, fitted.text) == ("shrink_media", text)
        for sizes, choice in zip(media, fitted.media, strict=True):  # no medium is smaller than it must be
            assert not choice or fitted.tokens - sizes[choice] + sizes[choice - 1] > capacity


def test_the_largest_shrinks_first() -> None:
    assert fit_overlong(10, [(100, 50), (100, 50), (60, 30)], 230, "shrink_media").media == (0, 1, 0)


def test_an_error_names_the_sample() -> None:
    assert fit_overlong(5, [], 5, "error").outcome == "kept"
    with pytest.raises(RunError, match=r"000000017: 12 tokens, 10 fit"):
        fit_overlong(2, [(10,)], 10, "error", name="000000017")


@pytest.mark.parametrize(("text", "media"), [(-1, []), (1, [[]]), (1, [[3, 4]]), (1, [[3, -1]])])
def test_impossible_samples_are_bugs(text: int, media: list[list[int]]) -> None:
    with pytest.raises(ValueError):
        fit_overlong(text, media, 10, "drop")
