from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from mmdata.decode.work import Work
from mmdata.steps.aspect import Aspect
from mmdata.types import Drop, Media, Origin, Sample


def sample(height: int, width: int) -> Sample:
    return Sample(key="a", parts=(Media(kind="image", height=height, width=width),), origin=Origin(uri="", row=0))


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from((1.0, 1.5, 2.0, 3.0, 2.25)))
def test_the_ratio_of_longer_to_shorter_decides(height: int, width: int, most: float) -> None:
    kept = max(Fraction(height, width), Fraction(width, height)) <= Fraction(most)
    assert isinstance(Aspect(max=most).apply(sample(height, width), Work()), Drop) == (not kept)


def test_the_detail_gives_the_numbers() -> None:
    drop = Aspect(max=3).apply(sample(100, 310), Work())
    assert drop == Drop(reason="aspect", detail="310x100, ratio 3.10 above 3")
