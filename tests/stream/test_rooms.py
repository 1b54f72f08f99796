"""Media go into one array from the start: the same values, and nothing to join."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from mmdata.families._family import Family, MediaRule
from mmdata.families._join import joined
from mmdata.stream.rooms import rooms
from mmdata.types import Join, Media, MediaPlan
from mmdata.views.anyres import AnyRes
from mmdata.views.fixed import Fixed
from mmdata.views.mel import Mel
from mmdata.views.naflex import NaFlex
from mmdata.views.navit import NaViT
from mmdata.views.pixtral import LongestEdge
from mmdata.views.qwen import SmartResize
from mmdata.views.resampled import Resampled
from mmdata.views.tiles import DynamicTiles
from mmdata.views.video import PatchVideo

SIZES = [(90, 120), (300, 200), (64, 64), (130, 410)]
VIEWS: list[tuple[Any, Join]] = [
    (Fixed(size=56), "stack"),
    (Fixed(size=56, dtype="uint8"), "stack"),
    (Fixed(size=56, mode="pad_square", backend="pil"), "stack"),
    (SmartResize(min_pixels=28 * 28), "concat"),
    (SmartResize(min_pixels=28 * 28, dtype="uint8"), "concat"),
    (DynamicTiles(size=56), "concat"),
    (AnyRes(), "concat"),
    (NaFlex(), "stack"),
    (NaViT(), "concat"),
    (Resampled(view=SmartResize(min_pixels=28 * 28), tokens=9), "concat"),
]


def family(view: Any, join: Join) -> Family:
    rule = MediaRule(view=view, placeholder=None, key="pixel_values", join=join)
    return cast(Family, SimpleNamespace(media={"image": rule, "video": rule, "audio": rule}))


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("view", "join"), VIEWS)
def test_what_is_written_into_a_room_is_what_the_view_makes(view: Any, join: Join) -> None:
    plans = [view.plan(Media(kind="image", height=height, width=width)) for height, width in SIZES]
    of = rooms([plans[:1], [], plans[1:]], family(view, join))
    assert [len(each) for each in of] == [1, 0, 3]
    found = [room for each in of for room in each]
    if len({plan.shape[1:] for plan in plans}) > 1:  # arrays of several widths are nothing to join
        assert found == [None] * 4
        return
    expected = []
    for plan, room, size in zip(plans, found, SIZES, strict=True):
        assert room is not None
        made = view.realize(pixels(*size), plan, out=torch.from_numpy(room))
        assert made.data_ptr() == torch.from_numpy(room).data_ptr()
        expected.append(view.realize(pixels(*size), plan).numpy())
        np.testing.assert_array_equal(room, expected[-1], strict=True)
    whole = joined([room for room in found if room is not None], join)
    assert all(np.shares_memory(whole, room) for room in found)
    np.testing.assert_array_equal(whole, joined(expected, join), strict=True)
    assert whole.flags.carray


def test_a_video_goes_into_its_room() -> None:
    view: Any = PatchVideo()
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 60, 90), dtype=np.uint8))
    plan = view.plan(Media(kind="video", height=60, width=90, frames=4, fps=2.0, seconds=2.0))
    ((room,),) = rooms([[plan]], family(view, "concat"))
    frames = frames[: len(plan.frames)]
    view.realize(frames, plan, out=torch.from_numpy(room))
    np.testing.assert_array_equal(room, view.realize(frames, plan).numpy(), strict=True)


def test_there_is_none_where_arrays_are_filled_up_or_made_elsewhere() -> None:
    plan = LongestEdge(size=64).plan(Media(kind="image", height=40, width=50))
    assert rooms([[plan, plan]], family(LongestEdge(size=64), "pad")) == [[None, None]]
    assert rooms([[plan]], None) == [[None]]
    sound = Mel().plan(Media(kind="audio", samples=16_000, sample_rate=16_000, seconds=1.0))
    assert rooms([[sound]], family(Mel(), "concat")) == [[None]]


def test_only_neighbours_of_one_array_are_taken_for_one() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(6, 4)
    parts = [whole[:2], whole[2:3], whole[3:]]
    assert np.shares_memory(joined([whole[:0], *parts], "concat"), whole)
    np.testing.assert_array_equal(joined([whole[:0], *parts], "concat"), whole, strict=True)
    assert np.shares_memory(joined(parts, "concat"), whole)
    for others in (
        [parts[1], parts[0]],
        [parts[0], parts[2]],
        [parts[0], parts[1].copy()],
        [whole[:2, :2], whole[2:3, :2]],
    ):
        made = joined(others, "concat")
        np.testing.assert_array_equal(made, np.concatenate(others), strict=True)
        assert not np.shares_memory(made, whole)


def test_plans_of_no_media() -> None:
    none: list[list[MediaPlan]] = [[], []]
    assert rooms(none, family(Fixed(size=56), "stack")) == [[], []]
