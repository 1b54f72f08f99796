"""What is made of audio towers: rates, layers, prosody, languages; encoders of waveforms; packed as alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from mmdata.collate import PackedCollator
from mmdata.errors import DataError, SpecError
from mmdata.types import Media
from mmdata.views.audio_features import f0_contour
from mmdata.views.mel import Mel
from mmdata.views.waveform import Waveform, num_positions
from mmtrain.components import aliases
from mmtrain.models import build, family_of, hearing
from mmtrain.models.hearing import Hearing, HearingSpec, heard, prosodic
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses
from mmtrain.weighting import step_weights
from tests.families.processors import packed
from tests.mmtrain.test_grounding import words
from tests.mmtrain.tiny_models import sound

CONVS: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 4,
}
hf: Any = transformers
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVS |= {"num_feat_extract_layers": 3, "num_conv_pos_embedding_groups": 2, "vocab_size": 8}
LIKE_WAV2VEC2 = {"wav2vec2": hf.Wav2Vec2Config, "hubert": hf.HubertConfig, "wavlm": hf.WavLMConfig}


def folder_of(root: Path, kind: str) -> str:
    """A tiny model as others save them."""
    folder = root / kind
    if not folder.exists():
        torch.manual_seed(0)
        if kind == "whisper":
            sizes = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16}
            told = hf.WhisperConfig(
                d_model=16, encoder_layers=2, decoder_layers=1, decoder_ffn_dim=16, vocab_size=60, pad_token_id=0,
                bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **sizes,
            )  # fmt: skip
            hf.WhisperForConditionalGeneration(told).save_pretrained(folder)
        else:
            made = hf.AutoModel.from_config(LIKE_WAV2VEC2[kind](**SIZES, **CONVS))
            made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


def model_of(audio: dict[str, Any]) -> tuple[Any, Any]:
    spec = NativeSpec.model_validate(
        {"kind": "native", "vision": None, "audio": audio, "language": {"hidden": 16, "layers": 1, "heads": 2}}
    )
    tokenizer = words()
    return build(spec, tokenizer, seed=0).eval(), family_of(spec, tokenizer)


TOWERS = ("varlen", "whisper", *LIKE_WAV2VEC2)


@pytest.mark.parametrize("kind", TOWERS)
def test_packed_sounds_are_what_they_are_alone(kind: str, root: Path) -> None:
    own = {"hidden": 16, "layers": 2, "heads": 2} if kind == "varlen" else {"kind": "hf", "path": folder_of(root, kind)}
    told = {**own, "hz": 12.5, "reduce": "convolution", "states": "weighted", "languages": ["de", "fr"]}
    model, family = model_of({**told, "prosody": kind in ("varlen", "whisper")})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prosody" in name or "language." in name or name.endswith("layer_weights"):
                parameter.normal_()
    samples: list[Any] = [["a", sound(9_000), "word"], ["b", sound(5_000), "and", sound(12_345), "more"]]
    languages = [{"language": "fr"}, {"language": "xx"}]
    rows = [packed(family, [sample]) for sample in samples]
    batch = PackedCollator()(rows) | {"fields": languages}
    both, each = losses(model, batch, step_weights(batch, "token"))
    alone = [PackedCollator()(row) | {"fields": [language]} for row, language in zip(rows, languages, strict=True)]
    apart = [losses(model, one, step_weights(one, "token")) for one in alone]
    assert float(both) == pytest.approx(float(sum(one for one, _ in apart)), rel=1e-5)
    assert torch.allclose(each, torch.cat([one for _, one in apart]), atol=1e-5)
    other, _ = losses(model, batch | {"fields": languages[::-1]}, step_weights(batch, "token"))
    assert float(other) != pytest.approx(float(both), rel=1e-6), "the language is heard"
    assert {alias.split(".")[0] for alias in aliases(model).values()} >= {"audio", "connector", "language"}
    assert model.get_encoder(modality="audio") is model.model.audio_tower
    torch.autograd.backward(both)
    assert all(p.grad is not None for n, p in model.model.hearing.named_parameters()), "every part learns"


@pytest.mark.parametrize("kind", LIKE_WAV2VEC2)
def test_waveforms_give_what_transformers_gives(kind: str, root: Path) -> None:
    """Weights from the folder, the clip as its extractor makes it, and its weighted sum of layers."""
    model, family = model_of({"kind": "hf", "path": folder_of(root, kind), "hz": 50, "states": "weighted"})
    theirs: Any = hf.AutoModel.from_pretrained(folder_of(root, kind)).eval()
    wave = np.random.default_rng(0).normal(size=7_000).astype(np.float32) * 0.1 + 0.03
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True)
    view: Any = family.media["audio"].view
    plan = view.plan(Media(kind="audio", samples=7_000, sample_rate=16_000))
    mine = view.realize(wave, plan)
    wanted = extractor(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
    assert torch.allclose(mine[None], wanted, atol=1e-5)
    shares = torch.tensor([0.2, -1.0, 0.5])
    with torch.no_grad():
        model.model.hearing.layer_weights.copy_(shares)
        rows, lengths = model.model.hearing(model.model.audio_tower, mine[None], torch.tensor([7_000]))
        states = torch.stack(theirs(wanted, output_hidden_states=True).hidden_states, dim=1)
    assert lengths == [plan.tokens] == [num_positions(7_000, CONVS["conv_kernel"], CONVS["conv_stride"])]
    summed = (states * shares.softmax(-1).view(-1, 1, 1)).sum(dim=1)[0]  # as Wav2Vec2ForSequenceClassification
    assert torch.allclose(rows, summed, atol=1e-5)


def test_views_of_waveforms_take_their_own_parameters(root: Path) -> None:
    told = {"kind": "hf", "path": folder_of(root, "hubert")}
    spec = NativeSpec.model_validate(
        {"kind": "native", "vision": None, "audio": told, "views": {"audio": {"normalise": False, "longest": 8_000}}}
    )
    view: Any = family_of(spec, words()).media["audio"].view
    assert (view.normalise, view.longest) == (False, 8_000)


def test_whispers_layers_are_transformers(root: Path) -> None:
    tower = hf.WhisperModel.from_pretrained(folder_of(root, "whisper")).encoder.eval()
    mels = torch.randn(2, 80, 3000)
    with torch.no_grad():
        states, lengths = heard(tower, mels, torch.tensor([100, 3000]), every=True)
        theirs = tower(mels, output_hidden_states=True).hidden_states
    assert lengths == [50, 1500]
    for mine, wanted in zip(states, theirs, strict=True):
        assert torch.equal(mine, torch.cat([wanted[0, :50], wanted[1]]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from([50, 25, 12.5, 10]))
@settings(deadline=None, max_examples=25)
def test_rates_are_reached_as_torch_does_it(lengths: list[int], hz: float) -> None:
    config = hf.AutoConfig.for_model("mmtrain_varlen_audio", hidden_size=4, num_hidden_layers=1)
    rows = torch.randn(sum(lengths), 4)
    for reduce in ("pool", "stride", "convolution"):
        module = Hearing(HearingSpec(hz=hz, reduce=reduce), config)
        factor = module.spec.factor
        found = module._reduced(rows, lengths)
        wanted = []
        for one in torch.split(rows, lengths):
            if len(one) < factor:
                continue
            kept = one.T[None]
            if reduce == "pool":
                wanted.append(nn.functional.avg_pool1d(kept, factor)[0].T)
            elif reduce == "stride":
                wanted.append(one[: len(one) // factor * factor : factor])
            else:
                wanted.append(module.convolution(kept)[0].T)
        assert found.shape == (sum(length // factor for length in lengths), 4)
        assert not wanted or torch.allclose(found, torch.cat(wanted), atol=1e-5)


def test_prosody_is_pitch_loudness_and_length() -> None:
    seconds, rate = 0.5, 16_000
    tone = (0.5 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    view = Mel(tokens="qwen2_audio", trim=True, pool=1, prosody=True, n_mels=20)
    plan = view.plan(Media(kind="audio", samples=len(tone), sample_rate=rate))
    made = view.realize(tone, plan)
    assert tuple(made.shape) == plan.shape == (22, 50)
    assert torch.equal(made[:20], Mel(tokens="qwen2_audio", trim=True, n_mels=20).realize(tone, plan))
    assert torch.equal(made[20], f0_contour(torch.from_numpy(tone))[:50])
    rows = prosodic(made[None, 20:], torch.tensor([50]))
    assert rows.shape == (25, 4)
    middle = rows[10]
    assert middle.tolist() == pytest.approx([1.0, 1.0, 1 + 10 * np.log10(0.125) / 100, np.log10(0.5)], abs=0.02)
    silent = Mel(pool=1, prosody=True, n_mels=20)
    padded = silent.realize(tone, silent.plan(Media(kind="audio", samples=len(tone), sample_rate=rate)))
    assert padded.shape == (22, 3000)
    assert torch.unique(padded[20:, 100:], dim=1).tolist() == [[0.0], [-100.0]]


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"hz": 30}, "no whole number"),
        ({"languages": ["de", "de"]}, "twice"),
        ({"kind": "hf", "path": "wav2vec2", "prosody": True}, "takes waveforms"),
        ({"kind": "hf", "path": "bert"}, "encoders of whisper"),
    ],
)
def test_what_cannot_be_heard_is_said(audio: dict[str, Any], message: str, root: Path) -> None:
    if audio.get("path") == "bert":
        hf.BertConfig(vocab_size=9).save_pretrained(root / "bert")
        audio = {**audio, "path": str(root / "bert")}
    elif "path" in audio:
        audio = {**audio, "path": folder_of(root, audio["path"])}
    with pytest.raises((SpecError, ValidationError), match=message):
        model_of(audio)


def test_short_clips_and_other_lengths_are_refused() -> None:
    view = Waveform()
    with pytest.raises(DataError, match="no position"):
        view.plan(Media(kind="audio", samples=300, sample_rate=16_000))
    plan = view.plan(Media(kind="audio", samples=3_000, sample_rate=16_000))
    with pytest.raises(DataError, match="planned for"):
        view.realize(np.zeros(2_999, np.float32), plan)
    assert hearing.tokens(hf.Wav2Vec2Config(), HearingSpec(), torch.tensor([3_000])) == [plan.tokens]
