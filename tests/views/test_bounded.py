"""A view that leaves out pictures which a table of positions has no place for: all else is the view's own."""

from __future__ import annotations

import pickle

import pytest

from mmdata.errors import DataError
from mmdata.types import Media
from mmdata.views.bounded import Bounded
from mmdata.views.fixed import Fixed
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo


def test_what_has_a_place_is_planned_as_ever() -> None:
    view = Bounded(view=SmartResize(), most=20)
    square = Media(kind="image", height=280, width=280)
    assert view.plan(square) == SmartResize().plan(square)
    assert view.describe() == SmartResize().describe()
    assert view.patch == 14
    assert pickle.loads(pickle.dumps(view)) == view
    for height, width in ((280, 300), (40, 308)):
        with pytest.raises(DataError, match=r"positions for 20 \(max_grid\)") as error:
            view.plan(Media(kind="image", height=height, width=width))
        assert error.value.reason == "aspect_extreme"


def test_frames_have_rows_and_columns_too_and_squares_need_none() -> None:
    inner = PatchVideo(rule="uniform", num_frames=4, temporal=1, merge=1, min_pixels=784, max_pixels=28 * 560)
    clip = Media(kind="video", height=28, width=560, frames=9, fps=3.0)
    assert Bounded(view=inner, most=40).plan(clip) == inner.plan(clip)
    with pytest.raises(DataError):
        Bounded(view=inner, most=39).plan(clip)
    image = Media(kind="image", height=90, width=160)
    assert Bounded(view=Fixed(size=56), most=1).plan(image) == Fixed(size=56).plan(image)
