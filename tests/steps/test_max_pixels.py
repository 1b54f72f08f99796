from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmdata.decode.work import Work
from mmdata.steps.max_pixels import MaxPixels
from mmdata.types import Drop, Media, Origin, Sample


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 90_000))
def test_more_pixels_than_the_limit_are_dropped(height: int, width: int, limit: int) -> None:
    picture = Media(kind="image", height=height, width=width)
    sample = Sample(key="a", parts=(picture,), origin=Origin(uri="", row=0))
    answer = MaxPixels(pixels=limit).apply(sample, Work())
    assert (answer is sample) == (height * width <= limit)
    if isinstance(answer, Drop):
        assert answer.reason == "max_pixels"
        assert f"{width}x{height}" in answer.detail


def test_every_picture_counts() -> None:
    small, large = Media(kind="image", height=10, width=10), Media(kind="image", height=11, width=10)
    sample = Sample(key="a", parts=(small, large), origin=Origin(uri="", row=0))
    assert isinstance(MaxPixels(pixels=100).apply(sample, Work()), Drop)
