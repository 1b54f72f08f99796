"""The packing check by command: models that keep samples apart, one that does not, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BloomConfig, LlamaConfig, MambaConfig, XLNetConfig

from mmtrain import certify
from tests.mmtrain.hf_folders import write_folder
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    LlamaConfig(**SMALL, **heads).save_pretrained(folder)
    return folder


def test_a_decoder_is_packed_by_the_kernel(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certify.main([str(llama), "--random"]) == 0
    assert "LlamaForCausalLM: packed by varlen (varlen: loss" in capsys.readouterr().out
    assert certify.main([str(llama), "--random", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["strategy"] == "varlen"


@pytest.mark.parametrize(
    "config", [MambaConfig(**SMALL, state_size=4), BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)]
)
def test_what_runs_over_borders_must_not_be_packed(
    config: MambaConfig | BloomConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.save_pretrained(tmp_path)
    assert certify.main([str(tmp_path), "--random"]) == 1
    assert "must not be packed, for its" in capsys.readouterr().out


def test_what_looks_ahead_must_not_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    XLNetConfig(vocab_size=64, d_model=32, n_layer=2, n_head=4, d_inner=48).save_pretrained(tmp_path)
    assert certify.main([str(tmp_path), "--random"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("XLNetLMHeadModel: looks ahead, and must not be trained to predict the next token")
    assert said.count("\n") == 1


def test_what_cannot_be_asked_is_said(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certify.main([str(llama)]) == 2
    assert "`random: true` builds it without weights" in capsys.readouterr().err
    assert certify.main([str(tmp_path / "none")]) == 2
    assert f"no such folder: {tmp_path / 'none'}" in capsys.readouterr().err


def test_conversations_are_told_as_the_models_own_template_tells_them(
    media: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_folder(tmp_path / "source", "llava", chat=True)
    assert certify.main([str(source), "--data", str(media)]) == 0
    assert "shown image" in capsys.readouterr().out
