"""Spectrograms of one size: the numbers of the extractors of Hugging Face, pieces of long sounds, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, SpecError
from mmdata.families._mel import heard
from mmdata.stream.cost import mel_frames
from mmdata.types import Media, MediaPlan
from mmdata.views.spectrograms import AstSpectrogram, ClapSpectrogram

hf: Any = transformers
TOLERANCE = 2e-4
"""Of AST's normalised logarithms, and of CLAP's decibels below."""
DECIBELS = 1e-3


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Sound with loud and quiet stretches and a tone."""
    draw = np.random.default_rng(seed)
    at = np.arange(samples)
    loud = 0.3 * np.abs(np.sin(at / 7_000)) ** 3
    return (loud * draw.normal(size=samples) + 0.1 * np.sin(at / 9)).astype(np.float32).clip(-1, 1)


def plan(view: Any, samples: int, rate: int | None = None) -> MediaPlan:
    found: MediaPlan = view.plan(Media(kind="audio", samples=samples, sample_rate=rate or view.sample_rate))
    return found


@pytest.mark.parametrize("samples", [400, 5_000, 16_000, 163_840, 164_080, 200_000])
@pytest.mark.parametrize("told", [{}, {"num_mel_bins": 40, "max_length": 100, "do_normalize": False}])
def test_ast_spectrograms_are_transformers(samples: int, told: dict[str, Any]) -> None:
    """Shorter sounds to the end of the silence, and of longer ones the first spectrogram."""
    extractor = hf.ASTFeatureExtractor(**told)
    names = {"num_mel_bins": "bins", "max_length": "frames", "do_normalize": "normalise"}
    view = AstSpectrogram(**{names[name]: value for name, value in told.items()}, long="trim")
    wave = noise(samples)
    (wanted,) = extractor(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
    mine = view.realize(wave, plan(view, samples))
    assert mine.shape == (1, *wanted.shape)
    assert (mine[0] - wanted).abs().max() < TOLERANCE * (1 if view.normalise else 9)


@pytest.mark.parametrize(
    ("samples", "truncation", "padding"),
    [
        (600, "rand_trunc", "repeatpad"),
        (100_001, "rand_trunc", "repeatpad"),
        (100_001, "fusion", "repeatpad"),
        (100_001, "fusion", "repeat"),
        (100_001, "rand_trunc", "pad"),
        (480_000, "rand_trunc", "repeatpad"),
    ],
)
def test_clap_spectrograms_are_transformers(samples: int, truncation: str, padding: Any) -> None:
    extractor = hf.ClapFeatureExtractor(truncation=truncation, padding=padding)
    view = ClapSpectrogram(scale="htk" if truncation == "fusion" else "slaney", fill=padding)
    wave = noise(samples)
    wanted = extractor(wave, sampling_rate=48_000, return_tensors="pt")["input_features"][0]
    mine = view.realize(wave, plan(view, samples))
    assert len(wanted) == (4 if truncation == "fusion" else 1)
    assert mine.shape == (1, *wanted.shape[1:])
    assert (mine[0] - wanted[0]).abs().max() < DECIBELS


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(20, 70), st.integers(4, 16), st.integers(1, 16))
def test_pieces_of_long_sounds_go_on_at_their_rate(frames: int, size: int, patch: int, stride: int) -> None:
    """Spectrograms of a long sound are those of the whole, cut; positions of all together lie `stride` frames apart, as
    many as begin in the sound and have room."""
    view = AstSpectrogram(frames=size, patch=patch, stride=min(stride, patch), bins=8, normalise=False)
    samples = 400 + 160 * (frames - 1) + frames % 160
    found = plan(view, samples)
    ops: Any = found.ops
    assert found.tokens == sum(op.positions for op in ops) == heard(found)
    assert all(op.positions == view.positions for op in ops[:-1])
    assert ops[-1].stop == samples
    assert len(ops) == -(-found.tokens // view.positions)
    assert mel_frames(found) == len(ops) * size
    begin = (len(ops) - 1) * view.positions * view.stride
    assert found.tokens == (len(ops) - 1) * view.positions + min(view.positions, -(-(frames - begin) // view.stride))
    wave = noise(samples)
    whole = AstSpectrogram(frames=frames, patch=1, stride=1, bins=8, normalise=False)
    bank = whole.realize(wave, plan(whole, samples))[0]
    for at, row in enumerate(view.realize(wave, found)):
        first = at * view.positions * view.stride
        kept = bank[first : first + size]
        assert torch.allclose(row[: len(kept)], kept, atol=1e-4)
        assert not row[len(kept) :].any()


@pytest.mark.parametrize("view", [AstSpectrogram(frames=100), ClapSpectrogram(clip=24_000)])
def test_long_sounds_are_cut_trimmed_or_refused_by_name(view: Any) -> None:
    samples = view.sample_rate * 2 + 123
    whole = plan(view, samples)
    assert len(whole.ops) == {"ast": 3, "clap": 5}[view.describe()["view"]]
    wave = noise(samples)
    made = view.realize(wave, whole)
    assert tuple(made.shape) == whole.shape
    trimmed = type(view)(**{**{k: v for k, v in view.describe().items() if k != "view"}, "long": "trim"})
    assert torch.equal(trimmed.realize(wave, plan(trimmed, samples))[0], made[0])
    refusing = type(view)(**{**{k: v for k, v in view.describe().items() if k != "view"}, "long": "refuse"})
    with pytest.raises(DataError, match="do not fit one spectrogram") as error:
        plan(refusing, samples)
    assert error.value.reason == "audio_too_long"
    assert plan(refusing, samples // 5).tokens == plan(view, samples // 5).tokens


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(DataError, match="needs 400"):
        plan(AstSpectrogram(), 399)
    with pytest.raises(DataError, match="no samples"):
        plan(ClapSpectrogram(), 0)
    with pytest.raises(DataError, match="are not known"):
        ClapSpectrogram().plan(Media(kind="audio"))
    with pytest.raises(DataError, match="planned for"):
        AstSpectrogram().realize(noise(999), plan(AstSpectrogram(), 1_000))
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (AstSpectrogram, {"long": "cut"}),
        (AstSpectrogram, {"pool": 0}),
        (AstSpectrogram, {"frames": 9}),
        (AstSpectrogram, {"sample_rate": 22_050}),
        (ClapSpectrogram, {"fill": "mirror"}),
        (ClapSpectrogram, {"clip": 512}),
    ]
    for kind, told in wrong:
        with pytest.raises(SpecError):
            kind(**told)
