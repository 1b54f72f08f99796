"""Log-mel, its counts and view against openai-whisper and transformers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import (
    _get_feat_extract_output_lengths as qwen2_5_omni_tokens,
)
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import (
    _get_feat_extract_output_lengths as qwen3_omni_tokens,
)
from transformers.models.voxtral import VoxtralEncoder
from transformers.models.whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mmdata.errors import DataError, SpecError
from mmdata.types import LogMel, Media
from mmdata.views.mel import Mel, chunks, log_mel_spectrogram, num_frames, num_tokens

LENGTHS = [201, 202, 319, 320, 399, 1_601, 16_001, 479_800, 479_801, 480_000]


def sound(samples: int, seed: int = 0) -> np.ndarray:
    """A chirp in noise that fades in and out, to silence in places."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    wave = 0.4 * np.sin(2 * np.pi * (150 + 70 * time) * time) + 0.05 * random.standard_normal(samples)
    return (wave * np.maximum(0, np.sin(3 * time + 1))).astype(np.float32)


def difference(ours: torch.Tensor, theirs: np.ndarray | torch.Tensor) -> float:
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equal_to_openai_whisper(n_mels: int) -> None:
    for samples in LENGTHS:
        wave = sound(samples)
        for padding in (0, 1, 201):
            reference = whisper.log_mel_spectrogram(wave, n_mels, padding)
            assert difference(log_mel_spectrogram(wave, n_mels, padding), reference) < 1e-6
    for samples in (0, 1, 200):
        reference = whisper.log_mel_spectrogram(whisper.pad_or_trim(sound(samples)), n_mels)
        assert difference(log_mel_spectrogram(sound(samples), n_mels, "max_length"), reference) < 1e-6


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equal_to_transformers(n_mels: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    for samples in [1, 160, *LENGTHS[1::2], 500_000]:
        wave = sound(samples, seed=1)
        padded = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        assert difference(log_mel_spectrogram(wave, n_mels, "max_length"), padded) < 1e-6
        if samples > 200:
            bare = extractor(wave, sampling_rate=16_000, padding=False, truncation=False, return_tensors="np")
            assert difference(log_mel_spectrogram(wave, n_mels), bare["input_features"][0]) < 1e-6


def test_quiet_loud_and_constant_clips() -> None:
    for wave in (np.zeros(4_000), np.ones(4_000), np.full(4_000, 1e-8), 1e3 * sound(4_000), np.eye(1, 4_000, 2_000)[0]):
        reference = whisper.log_mel_spectrogram(wave.astype(np.float32))
        assert difference(log_mel_spectrogram(wave.astype(np.float32)), reference) < 1e-5


def test_a_clip_does_not_depend_on_its_batch() -> None:
    """Where a batch is one tensor, openai-whisper limits every clip by the loudest of all."""
    batch = np.stack([sound(16_000), 1e-3 * sound(16_000, seed=1)])
    ours = log_mel_spectrogram(batch)
    assert torch.equal(ours[1], log_mel_spectrogram(batch[1]))
    assert difference(ours[1], whisper.log_mel_spectrogram(batch[1])) < 1e-6
    assert difference(ours[1], whisper.log_mel_spectrogram(batch)[1]) > 0.1


def test_threads_do_not_change_a_bit() -> None:
    wave, threads = sound(300_000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = log_mel_spectrogram(wave)
        torch.set_num_threads(2)
        assert difference(log_mel_spectrogram(wave), one) < 1e-6
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200])
def test_too_short_to_reflect(samples: int) -> None:
    with pytest.raises(DataError, match="audio_too_short"):
        log_mel_spectrogram(sound(samples))
    with pytest.raises((RuntimeError, ValueError)):
        whisper.log_mel_spectrogram(sound(samples))


def test_frames_are_the_mask_of_transformers() -> None:
    """Its mask of one clip depends on the batch that it is in; ours is a named choice of the two counts."""
    extractor = WhisperFeatureExtractor()

    def mask(*samples: int, padding: str) -> int:
        waves = [sound(count) for count in samples]
        options = {"sampling_rate": 16_000, "return_attention_mask": True, "return_tensors": "np"}
        return int(
            extractor(waves, padding=padding, truncation=padding != "longest", **options)["attention_mask"][0].sum()
        )

    for samples in (201, 319, 320, 16_000, 16_001, 479_999, 500_000):
        assert num_frames(samples, padded=480_000) == mask(samples, padding="max_length")
        assert num_frames(samples) == mask(samples, padding="longest")
    assert mask(16_001, padding="longest") == 100
    assert mask(16_001, 20_000, padding="longest") == 101


def test_tokens_are_those_of_the_models() -> None:
    for frames in range(1, 3_001, 7):
        halved = (frames - 1) // 2 + 1
        assert num_tokens(frames, "whisper") == halved
        assert num_tokens(frames, "qwen2_audio") == (halved - 2) // 2 + 1
        assert num_tokens(frames, "qwen2_5_omni") == int(qwen2_5_omni_tokens(torch.tensor(frames)))
        assert num_tokens(frames, "qwen3_omni") == int(qwen3_omni_tokens(torch.tensor(frames)))
        both = VoxtralEncoder._get_feat_extract_output_lengths(None, torch.tensor(frames))
        assert num_tokens(frames, "voxtral") == int(both[1])
    assert [num_tokens(frames, "qwen2_audio") for frames in (1, 2, 3)] == [0, 0, 1]
    config = WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16)
    hidden = WhisperEncoder(config)(torch.zeros(1, 80, 3_000)).last_hidden_state
    assert hidden.shape[1] == num_tokens(3_000, "whisper")
    assert hidden.reshape(-1, 4 * 16).shape[0] == num_tokens(3_000, "voxtral_grouped")


VIEWS = [
    Mel(),
    Mel(n_mels=128, tokens="qwen2_audio"),
    Mel(n_mels=128, tokens="qwen3_omni", padded=None),
    Mel(n_mels=128, tokens="qwen2_5_omni", padded=4_800_000, trim=True),
    Mel(n_mels=128, tokens="voxtral_grouped", chunk=480_000),
    Mel(n_mels=80, tokens="qwen2_audio", padded=32_000, chunk=32_000, overlap=8_000),
]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(VIEWS), st.integers(1, 60_000), st.sampled_from([16_000, 44_100, 8_000]))
def test_realized_as_planned(view: Mel, samples: int, rate: int) -> None:
    facts = Media(kind="audio", samples=samples, sample_rate=rate)
    resampled = -(-samples * 16_000 // rate)
    if view.padded is None and resampled <= 200:
        with pytest.raises(DataError, match="audio_too_short"):
            view.plan(facts)
        return
    plan = view.plan(facts)
    array = view.realize(sound(resampled), plan)
    assert tuple(array.shape) == plan.shape
    assert array.dtype == torch.float32
    assert bool(torch.isfinite(array).all())
    pieces = array if view.chunk else array[None]
    valid = [num_frames(op.stop - op.start, padded=op.padded) for op in plan.ops if isinstance(op, LogMel)]
    every = view.tokens in ("whisper", "voxtral_grouped")
    assert plan.tokens == sum(num_tokens(pieces.shape[2] if every else count, view.tokens) for count in valid)


def test_trimmed_frames_are_those_of_the_padded_clip() -> None:
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    for samples in (100, 16_001, 100_000):
        wave = sound(samples)
        whole = extractor(wave, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        plan = VIEWS[3].plan(Media(kind="audio", samples=samples, sample_rate=16_000))
        assert plan.shape[1] == int(whole["attention_mask"].sum())
        assert difference(VIEWS[3].realize(wave, plan), whole["input_features"][0][:, : plan.shape[1]]) < 1e-6


def test_chunks_cover_and_overlap() -> None:
    for samples in (1, 99, 100, 101, 175, 176, 1_000):
        for overlap in (0, 25, 99):
            pieces = chunks(samples, size=100, overlap=overlap)
            assert pieces[0][0] == 0
            assert pieces[-1][1] == samples
            assert all(stop - start <= 100 for start, stop in pieces)
            for (_, stop), (start, _) in itertools.pairwise(pieces):
                assert stop - start == overlap
            assert all(stop > before for (_, before), (_, stop) in itertools.pairwise(pieces))


def test_chunked_view_gives_each_piece_its_own_spectrogram() -> None:
    wave, view = sound(70_000), VIEWS[5]
    plan = view.plan(Media(kind="audio", samples=70_000, sample_rate=16_000))
    assert plan.shape == (3, 80, 200)
    reference = [
        whisper.log_mel_spectrogram(whisper.pad_or_trim(wave[at : at + 32_000], 32_000)) for at in (0, 24_000, 48_000)
    ]
    assert difference(view.realize(wave, plan), torch.stack(reference)) < 1e-6


def test_refusals() -> None:
    with pytest.raises(DataError, match="no_facts"):
        Mel().plan(Media(kind="audio", sample_rate=16_000))
    with pytest.raises(DataError, match="empty_audio"):
        Mel().plan(Media(kind="audio", samples=0, sample_rate=16_000))
    plan = Mel().plan(Media(kind="video", samples=100, sample_rate=16_000))
    with pytest.raises(DataError, match="facts_mismatch"):
        Mel().realize(sound(99), plan)
    for wrong in (
        {"n_mels": 0},
        {"padded": 200},
        {"tokens": "bark"},
        {"trim": True},
        {"overlap": 10},
        {"chunk": 0},
        {"chunk": 500_000},
        {"chunk": 100, "overlap": 100},
    ):
        with pytest.raises(SpecError):
            Mel(**wrong)  # type: ignore[arg-type]
