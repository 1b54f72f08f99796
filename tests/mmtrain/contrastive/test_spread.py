"""What is told of vectors: of spread ones, of collapsed ones, and what is done about it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmdata.errors import RunError
from mmtrain.contrastive.spread import Spread, SpreadSpec, directions, measured


def unit(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_vectors_on_the_sphere() -> None:
    """Pictures that are their texts: pairs have a cosine of 1, others of about 0; uniformity is that of the sphere."""
    rows = unit(400, 32)
    found = measured(rows, rows, torch.eye(400, dtype=torch.bool))
    assert found["pair_mean"] == pytest.approx(1.0)
    assert found["pair_p10"] == pytest.approx(1.0)
    assert found["other_mean"] == pytest.approx(0.0, abs=0.01)
    assert found["other_std"] == pytest.approx(1 / math.sqrt(32), rel=0.05)
    assert found["top1"] == 1.0
    assert found["gap"] == pytest.approx(0.0, abs=1e-6)
    assert found["uniformity_texts"] < -3
    assert 25 < found["rank"] <= 32
    seen = rows @ rows.T
    hardest = (seen - 3 * torch.eye(400)).amax(-1)
    assert found["margin"] == pytest.approx(float((1 - hardest).mean()), abs=1e-5)


def test_collapse_is_told_and_stops_the_run() -> None:
    texts = unit(50, 16, 1)
    alike = F.normalize(torch.ones(50, 16) + 1e-3 * unit(50, 16, 2), dim=-1)
    together = torch.eye(50, dtype=torch.bool)
    bad, good = measured(alike, texts, together), measured(unit(50, 16, 3), texts, together)
    assert bad["rank"] == pytest.approx(1.0, abs=1e-3)
    assert bad["alike_pictures"] > 0.99
    warned = Spread(SpreadSpec(patience=2))
    assert [warned.judge(each) is None for each in (bad, good, bad, bad)] == [True, True, True, False]
    stopped = Spread(SpreadSpec(patience=2, on_collapse="stop"))
    stopped.judge(bad)
    again = Spread(SpreadSpec(patience=2, on_collapse="stop"))
    again.load_state_dict(stopped.state_dict())
    with pytest.raises(RunError, match=r"collapse: vectors point in 1\.00 directions"):
        again.judge(bad)


def test_directions_by_known_spectra() -> None:
    assert directions(torch.eye(8)) == pytest.approx(8.0)
    assert directions(torch.diag(torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(2.0)


def test_what_is_no_number_is_left_to_the_gate() -> None:
    rows = torch.full((4, 3), math.nan)
    found = measured(rows, unit(4, 3), torch.eye(4, dtype=torch.bool))
    assert math.isnan(found["rank"])
    assert Spread(SpreadSpec(patience=1, on_collapse="stop")).judge(found) is None
