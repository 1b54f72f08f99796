"""SpecAugment: masks are integers drawn by key, within their limits, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdata.errors import SpecError
from mmdata.views.specaugment import Mask, SpecAugment, apply


@given(
    st.integers(0, 200), st.integers(0, 500), st.integers(0, 30), st.integers(0, 120), st.floats(0, 1), st.integers()
)
def test_masks_keep_their_limits(n_mels: int, frames: int, frequency: int, time: int, share: float, seed: int) -> None:
    view = SpecAugment(frequency=frequency, time=time, time_share=share, time_masks=3)
    masks = view.plan(n_mels, frames, seed, "key")
    assert masks == view.plan(n_mels, frames, seed, "key")
    assert [mask.axis for mask in masks] == ["frequency"] * 2 + ["time"] * 3
    for mask in masks:
        limit, size = (frequency, n_mels) if mask.axis == "frequency" else (min(time, share * frames), frames)
        assert 0 <= mask.start <= mask.stop <= size
        assert mask.stop - mask.start <= limit


def test_widths_and_places_are_uniform() -> None:
    view = SpecAugment(frequency_masks=0, time_masks=1, time=9)
    masks = [view.plan(80, 20, seed)[0] for seed in range(6_000)]
    widths = np.bincount([mask.stop - mask.start for mask in masks], minlength=10)
    assert len(widths) == 10
    assert np.all(np.abs(widths / 600 - 1) < 0.2)
    starts = np.bincount([mask.start for mask in masks if mask.stop - mask.start == 9], minlength=12)
    assert len(starts) == 12
    assert np.all(np.abs(starts / starts.mean() - 1) < 0.5)


def test_only_the_masked_part_changes() -> None:
    mel = torch.rand(80, 100)
    kept = mel.clone()
    masks = (Mask("frequency", 10, 20), Mask("time", 50, 55), Mask("time", 3, 3))
    for value in (None, 0.0, -1.5):
        out = apply(mel, masks, value=value)
        masked = torch.zeros(80, 100, dtype=torch.bool)
        masked[10:20] = masked[:, 50:55] = True
        assert torch.equal(out[~masked], mel[~masked])
        assert torch.all(out[masked] == (mel.mean() if value is None else value))
    assert torch.equal(mel, kept)


def test_wrong_parameters() -> None:
    for wrong in ({"time": -1}, {"time_share": 1.5}, {"frequency_masks": -1}):
        with pytest.raises(SpecError):
            SpecAugment(**wrong)  # type: ignore[arg-type]
