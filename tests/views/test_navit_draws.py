"""NaViT's draws have the distributions of the paper, belong to a sample of an epoch, and are all in its plan."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from mmdata.errors import SpecError
from mmdata.rng import generator
from mmdata.types import KeepRows
from mmdata.views import navit, positions
from tests.views.tiling import noise


def test_resolutions_are_truncated_normal():
    draw = generator("resolutions")
    sides = np.array([navit.sample_resolution(draw) for _ in range(20_000)])
    assert sides.min() >= 64
    assert sides.max() <= 384
    truncated = stats.truncnorm(-0.5, 1.5, loc=-0.5, scale=1.0)  # mean -0.5, deviation 1, within -1 and 1
    stretched = (sides - 64) / 320 * 2 - 1
    # Whole pixels are steps of 1/160; Kolmogorov's bound for 20,000 draws at 1 in 10,000.
    assert stats.kstest(stretched + draw.uniform(-0.5, 0.5, sides.size) / 160, truncated.cdf).statistic < 0.0158


def test_a_normal_far_from_its_limits():
    sides = [navit.sample_resolution(generator("far", i), 100, 200, mean=12.0, std=0.1) for i in range(50)]
    assert set(sides) <= set(range(100, 201))
    assert navit.sample_resolution(generator("one"), 96, 96) == 96


@pytest.mark.parametrize(("mean", "maximum"), [(0.5, 0.9), (0.1, 0.5), (0.3, 1.0)])
def test_drop_rates_are_beta(mean, maximum):
    draw = generator("rates", int(1000 * mean))
    rates = np.array([navit.drop_rate(draw, mean, maximum) for _ in range(20_000)])
    share = mean / maximum
    a, b = share / 0.3 - share, (1 - share) * (1 / 0.3 - 1)
    assert navit.beta_parameters(mean, maximum) == pytest.approx((a, b))
    assert stats.kstest(rates / maximum, stats.beta(a, b).cdf).statistic < 0.0158
    assert rates.mean() == pytest.approx(mean, abs=0.01)
    assert (rates / maximum).var() == pytest.approx(0.3 * share * (1 - share), abs=0.01)


def test_rates_without_chance():
    assert navit.drop_rate(generator("x"), 0.0) == 0.0
    assert navit.drop_rate(generator("x"), 0.9, 0.9) == 0.9


def test_kept_patches_are_a_sorted_random_subset():
    draw, counts = generator("subset"), np.zeros(40)
    for _ in range(4000):
        kept = navit.drop_tokens(40, 0.7, draw)
        assert kept.dtype == np.int64
        assert len(kept) == max(1, int(40 * (1 - 0.7)))
        assert (np.diff(kept) > 0).all()
        counts[kept] += 1
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()
    assert navit.drop_tokens(7, 0.0, draw).tolist() == list(range(7))
    assert len(navit.drop_tokens(7, 1.0, draw)) == 1


def test_schedule():
    rho = [navit.sigmoid_schedule(n, 0.1, 0.6, middle=1000, width=50) for n in (0, 950, 1000, 1050, 10**9)]
    logistic = 1 / (1 + math.exp(-1))
    assert rho == pytest.approx([0.1, 0.1 + 0.5 * (1 - logistic), 0.35, 0.1 + 0.5 * logistic, 0.6], abs=1e-8)
    view = navit.NaViT(schedule=(0.6, 0.0, 1000, 50))
    assert view.at(0).drop_mean == pytest.approx(0.6, abs=1e-6)
    assert view.at(1000).drop_mean == pytest.approx(0.3)
    assert view.at(10**9) == navit.NaViT(drop_mean=view.at(10**9).drop_mean)
    assert navit.NaViT().at(7) == navit.NaViT()


def draws(view, epoch, key="000000017"):
    return view.plan((480, 640), rng=generator(3, epoch, key, "navit"))


def test_a_draw_belongs_to_its_sample_and_epoch():
    view = navit.NaViT(drop_mean=0.4)
    assert draws(view, 1) == draws(view, 1)
    plans = [draws(view, epoch) for epoch in range(30)]
    assert len({plan.grid for plan in plans}) > 10
    assert len({plan.tokens / (plan.grid[1] * plan.grid[2]) for plan in plans}) > 20
    assert draws(view, 1) != draws(view, 1, "000000018")
    assert view.plan((480, 640)) == view.plan((480, 640))  # evaluation: one size, all patches
    assert view.plan((480, 640)).tokens == 13 * 18


def test_the_kept_patches_are_those_of_the_whole():
    view, pixels = navit.NaViT(drop_mean=0.5), noise(150, 201)
    dropped = 0
    for epoch in range(8):
        plan = view.plan(pixels.shape[:2], rng=generator(0, epoch, "key", "navit"))
        rows = view.realize(pixels, plan)
        *ops, last = plan.ops
        assert isinstance(last, KeepRows)
        whole = view.realize(pixels, replace(plan, ops=tuple(ops)))
        at = navit.kept_coordinates(plan)
        assert at.shape == (plan.tokens, 2)
        assert torch.equal(rows, whole[torch.from_numpy(at[:, 0] * plan.grid[2] + at[:, 1])])
        dropped += len(whole) - len(rows)
        # Positions of what is left are those it had.
        table = torch.randn(60, 4), torch.randn(60, 4)
        encoded = positions.factorised(*table, positions.patch_coordinates(plan.grid))
        kept = positions.factorised(*table, at)
        assert torch.equal(kept, encoded[torch.from_numpy(at[:, 0] * plan.grid[2] + at[:, 1])])
    assert dropped


def test_pictures_keep_their_shape_and_budget():
    for height, width in [(480, 640), (100, 1000), (3000, 20), (1, 1)]:
        for epoch in range(20):
            plan = navit.NaViT().plan((height, width), rng=generator(0, epoch, "key", "navit"))
            _, rows, columns = plan.grid
            assert rows * columns * 256 <= 384**2
            if max(height, width) < 11 * min(height, width) and rows > 3:
                assert rows / columns == pytest.approx(height / width, rel=0.35)


def test_pooling_keeps_images_apart():
    lengths = [3, 5, 2]
    ids = navit.image_ids(lengths, 12)
    assert ids.dtype == np.int32
    assert ids.tolist() == [0] * 3 + [1] * 5 + [2] * 2 + [-1] * 2
    mask = torch.from_numpy(navit.pooling_mask(ids, 3))
    torch.manual_seed(0)
    pool = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    probe, patches = torch.randn(1, 1, 8), torch.randn(1, 12, 8)
    with torch.no_grad():
        packed, _ = pool(probe.expand(1, 3, 8), patches, patches, attn_mask=~mask)
        for image, (first, last) in enumerate([(0, 3), (3, 8), (8, 10)]):
            alone, _ = pool(probe, patches[:, first:last], patches[:, first:last])
            assert torch.allclose(packed[0, image], alone[0, 0], atol=1e-6)
    with pytest.raises(SpecError):
        navit.image_ids([3, 5], 7)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: navit.NaViT(drop_mean=0.95),
        lambda: navit.NaViT(low=10, high=5),
        lambda: navit.NaViT(schedule=(0.1, 1.2, 0, 1)),
        lambda: navit.sample_resolution(generator("x"), std=0),
        lambda: navit.beta_parameters(0.0, 0.5),
        lambda: navit.sigmoid_schedule(0, 0, 1, 0, 0),
        lambda: navit.drop_tokens(0, 0.5, generator("x")),
        lambda: navit.drop_tokens(3, 1.5, generator("x")),
    ],
)
def test_wrong_parameters(wrong):
    with pytest.raises(SpecError):
        wrong()
