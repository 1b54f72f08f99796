"""Resampling against torchaudio's defaults."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.decode.resample import before, resample, resampled_length, until

RATES = [8_000, 11_025, 12_345, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]


def noise(samples: int) -> torch.Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(samples)) * 2 - 1


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("new_rate", [16_000, 24_000])
def test_equal_to_torchaudio(rate: int, new_rate: int) -> None:
    for samples in (1, 2, 7, 441, 1_000, 20_001):
        wave = noise(samples)
        reference = torchaudio.functional.resample(wave, rate, new_rate)
        ours = resample(wave, rate, new_rate)
        assert ours.shape == reference.shape == (resampled_length(samples, rate, new_rate),)
        assert float((ours - reference).abs().max()) < 1e-6


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(RATES), st.sampled_from(RATES), st.integers(0, 5_000))
def test_length_is_torchaudios(rate: int, new_rate: int, samples: int) -> None:
    common = math.gcd(rate, new_rate)
    if samples and rate * new_rate // common**2 < 10**6:  # torchaudio's filters of coprime rates fill the memory
        assert len(torchaudio.functional.resample(noise(samples), rate, new_rate)) == resampled_length(
            samples, rate, new_rate
        )
    assert len(resample(noise(samples), rate, new_rate)) == resampled_length(samples, rate, new_rate)


def test_equal_to_torchaudio_for_rates_without_a_common_factor() -> None:
    wave = noise(3_000)
    reference = torchaudio.functional.resample(wave, 1_601, 1_600)
    assert float((resample(wave, 1_601, 1_600) - reference).abs().max()) < 1e-6


def test_channels_are_alike_and_the_same_rate_is_untouched() -> None:
    wave = torch.stack([noise(999), noise(1000)[1:]])
    both = resample(wave, 44_100, 16_000)
    assert torch.equal(both[1], resample(wave[1], 44_100, 16_000))
    assert resample(wave, 8_000, 8_000) is wave


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(RATES), st.integers(0, 8_000), st.integers(0, 8_000))
def test_a_piece_depends_on_the_inputs_named(rate: int, first: int, count: int) -> None:
    wave, last = noise(12_000), first + count
    begin, end = before(first, rate, 16_000), until(last, rate, 16_000)
    begun = resampled_length(begin, rate, 16_000)
    piece = resample(wave[begin:end], rate, 16_000)[first - begun : last - begun]
    whole = resample(wave, rate, 16_000)[first:last]
    assert piece.shape == whole.shape
    assert not len(piece) or float((piece - whole).abs().max()) < 1e-6


def test_hostile_rates_need_no_memory() -> None:
    """44,101 to 16,000 has 16,000 filters of 44,135 taps if all are written out: 2.8 GB."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(resample(noise(40_000), 767_999, 16_000)) == 834
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 200 * 1024  # KiB
