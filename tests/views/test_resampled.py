"""A view with the tokens of a resampler: all else is the view's own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mmdata.errors import SpecError
from mmdata.types import Media
from mmdata.views.fixed import Fixed
from mmdata.views.navit import NaViT
from mmdata.views.resampled import Resampled
from mmdata.views.smaller import smaller_plans
from mmdata.views.video import FrameVideo, PatchVideo

IMAGE = Media(kind="image", height=90, width=160)
VIDEO = Media(kind="video", height=90, width=160, frames=9, fps=3.0)


def test_a_picture_has_its_tokens_and_a_video_those_of_its_frames() -> None:
    for view, facts, pictures in (
        (Fixed(size=56), IMAGE, 1),
        (NaViT(), IMAGE, 1),
        (FrameVideo(num_frames=4, size=56, pool=1, extra=0), VIDEO, 4),
        (PatchVideo(rule="uniform", num_frames=4, temporal=1, merge=1, min_pixels=784, max_pixels=28 * 56), VIDEO, 4),
    ):
        plain = view.plan(facts)
        plan = Resampled(view=view, tokens=7).plan(facts)
        assert plan.tokens == 7 * pictures
        assert (plan.shape, plan.ops, plan.grid) == (plain.shape, plain.ops, plain.grid)
        assert Resampled(view=view, tokens=10**6, at_most=True).plan(facts).tokens == plain.tokens
        assert Resampled(view=view, tokens=3, at_most=True).plan(facts).tokens == 3 * pictures


def test_it_draws_as_its_view_and_says_what_it_says() -> None:
    view = Resampled(view=NaViT(drop_mean=0.5), tokens=5)
    assert view.draws
    assert not Resampled(view=Fixed(), tokens=5).draws
    one, other = (view.plan(IMAGE, rng=np.random.default_rng(seed)) for seed in (1, 2))
    assert one.shape != other.shape
    assert one.tokens == other.tokens == 5
    assert (view.patch, view.at(1.0)) == (16, view.view.at(1.0))
    again = pickle.loads(pickle.dumps(view))
    assert again == view
    assert hash(again) == hash(view)
    assert view.describe()["of"] == view.view.describe()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    assert view.realize(pixels, one).shape == one.shape
    with pytest.raises(SpecError, match="tokens 0"):
        Resampled(view=Fixed(), tokens=0)


def test_a_video_that_is_too_long_loses_frames() -> None:
    view = Resampled(view=FrameVideo(num_frames=4, size=56, pool=1, extra=0), tokens=5)
    assert [plan.tokens for plan in smaller_plans(view, VIDEO)] == [10, 5]
