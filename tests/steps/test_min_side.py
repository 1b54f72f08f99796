from __future__ import annotations

import numpy as np
import pytest

from mmdata.decode import image
from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps.min_side import MinSide
from mmdata.types import Drop, Media, Origin, Sample, Text


def sample(*sizes: tuple[int, int]) -> Sample:
    pictures = (Media(kind="image", height=height, width=width) for height, width in sizes)
    return Sample(key="a", parts=(Text(text="x"), *pictures), origin=Origin(uri="", row=0))


def test_the_shorter_side_decides() -> None:
    step, work = MinSide(pixels=256), Work()
    for kept in ((256, 256), (256, 4000), (4000, 256)):
        assert step.apply(sample(kept), work) == sample(kept)
    drop = step.apply(sample((180, 224)), work)
    assert drop == Drop(reason="min_side", detail="224x180, shorter side below 256")
    assert isinstance(step.apply(sample((300, 255)), work), Drop)


def test_every_picture_counts_and_other_parts_do_not() -> None:
    step, work = MinSide(pixels=256), Work()
    assert isinstance(step.apply(sample((300, 300), (300, 255)), work), Drop)
    other = Sample(key="a", parts=(Text(text="x"), Media(kind="audio")), origin=Origin(uri="", row=0))
    assert step.apply(other, work) == other


def test_without_facts_the_header_is_read() -> None:
    data = image.encode(np.zeros((20, 30, 3), np.uint8), "jpeg", 90)
    part = Sample(key="a", parts=(Media(kind="image", data=data),), origin=Origin(uri="", row=0))
    assert MinSide(pixels=20).apply(part, Work()) == part
    assert isinstance(MinSide(pixels=21).apply(part, Work()), Drop)
    broken = Sample(key="a", parts=(Media(kind="image", data=b"<html>"),), origin=Origin(uri="", row=0))
    with pytest.raises(DataError, match="html_not_image"):
        MinSide(pixels=21).apply(broken, Work())
