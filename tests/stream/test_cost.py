"""Costs: patches counted against the arrays that views make, coefficients found again in times made from them."""

from __future__ import annotations

import numpy as np
import pytest

from mmdata.errors import SpecError
from mmdata.families import get_family
from mmdata.stream.cost import Costs, calibrate, loads, mel_frames, patches
from mmdata.types import Cost, Media
from mmdata.views.anyres import AnyRes
from mmdata.views.lfm2 import Lfm2Tiles
from mmdata.views.mel import Mel
from mmdata.views.naflex import NaFlex
from mmdata.views.pixtral import LongestEdge
from mmdata.views.qwen import SmartResize
from mmdata.views.tiles import DynamicTiles
from mmdata.views.video import FrameVideo, PatchVideo
from tests.tokenizer_fixture import small_tokenizer

PICTURE = Media(kind="image", height=480, width=640)
FILM = Media(kind="video", frames=9, fps=3.0, height=90, width=160, seconds=3.0)


@pytest.mark.parametrize(
    ("view", "facts", "expected"),
    [
        (AnyRes(), PICTURE, 5 * 24 * 24),  # the whole and 2 x 2 tiles of 336 / 14
        (DynamicTiles(), PICTURE, 13 * 32 * 32),  # 3 x 4 tiles of 448 / 14 and the thumbnail
        (SmartResize(), PICTURE, 34 * 46),  # 476 x 644 pixels
        (NaFlex(), PICTURE, 256),  # 14 x 18 patches and 4 rows of padding, which the tower sees too
        (NaFlex(pad=False), PICTURE, 14 * 18),
        (LongestEdge(), PICTURE, 30 * 40),
        (FrameVideo(num_frames=4), FILM, 4 * 27 * 27),
        (PatchVideo(num_frames=4), FILM, 2 * np.prod(PatchVideo(num_frames=4).plan(FILM).grid[1:])),  # type: ignore[index]
    ],
)
def test_patches_that_the_tower_sees(view: object, facts: Media, expected: int) -> None:
    plan = view.plan(facts)  # type: ignore[attr-defined]
    assert patches(view, plan) == expected  # type: ignore[arg-type]
    assert mel_frames(plan) == 0


def test_padded_tiles_count_their_padding() -> None:
    view = Lfm2Tiles()
    plan = view.plan(Media(kind="image", height=1500, width=1500))
    assert patches(view, plan) == plan.shape[0] * plan.shape[1]


def test_sound_counts_frames() -> None:
    plan = Mel().plan(Media(kind="audio", samples=16_000 * 7, sample_rate=16_000, seconds=7.0))
    assert mel_frames(plan) == plan.shape[-1] == 3000
    assert patches(Mel(), plan) == 0


def test_the_family_and_the_planner_agree_on_a_picture() -> None:
    view = get_family("llava", tokenizer=small_tokenizer(), image={"size": 28}).media["image"].view
    assert patches(view, view.plan(PICTURE)) == 4


def test_coefficients_are_found_again() -> None:
    draw = np.random.default_rng(0)
    costs = draw.integers(1, 9000, (60, 4)).astype(np.float64)
    costs[:, 1] *= 4000
    true = Costs(tokens=3e-5, squares=2e-10, patches=1e-6, mel_frames=0)
    seconds = 0.02 + loads(costs, true)[:, 0]
    found = calibrate(costs, seconds)
    assert found.model_dump() == pytest.approx(true.model_dump(), rel=1e-6, abs=1e-15)
    noisy = calibrate(costs, seconds * draw.normal(1, 0.05, 60))
    assert min(noisy.model_dump().values()) >= 0
    assert noisy.tokens == pytest.approx(true.tokens, rel=0.3)


def test_what_nothing_explains_is_refused() -> None:
    with pytest.raises(SpecError, match="1 micro-steps tell nothing of 2 coefficients"):
        calibrate([Cost(tokens=5, squares=25)], [1.0])
    with pytest.raises(SpecError, match="2 costs and 1 times"):
        calibrate([Cost(tokens=5), Cost(tokens=6)], [1.0])


def test_loads_by_hand() -> None:
    weights = Costs(tokens=2, squares=0.5, patches=3, mel_frames=0.25)
    found = loads([Cost(10, 40, 5, 8), Cost()], weights)
    assert found.tolist() == [[20 + 20 + 15 + 2, 15, 2], [0, 0, 0]]
