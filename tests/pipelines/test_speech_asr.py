"""`speech_asr.yaml` on a NeMo manifest of sounds made like speech, and the damage that such lists have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.pipelines.running import conversation, run
from tests.steps.recordings import RATE, bursts

WORDS = "the quick brown fox jumps over the lazy dog"


def speech(seed: int, *, noise: float = 0.001, level: float = 0.2, lead: float = 0.3) -> np.ndarray:
    """Three seconds with pauses, like a sentence."""
    return bursts([(lead, 1.1), (1.4, 2.0), (2.3, 2.7)], 3.0, noise=noise, level=level, seed=seed)


def manifest(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    lines: list[dict[str, Any]] = []

    def add(name: str, wave: np.ndarray, text: str | None, *, rate: int = RATE, **more: Any) -> None:
        soundfile.write(folder / name, wave, rate, subtype="PCM_16")
        lines.append({"audio_filepath": name, **({} if text is None else {"text": text}), **more})

    for number in range(4):
        add(f"{number}.wav", speech(number), f"{WORDS} {number}", speaker=f"s{number % 2}")
    stereo = np.stack([np.repeat(speech(5), 3), np.repeat(speech(5), 3)], 1)
    add("studio.flac", stereo, WORDS, rate=48_000, speaker="s2")
    add("long.wav", np.concatenate([np.zeros(RATE, np.float32), speech(6)]), WORDS, speaker="s0")
    add("short.wav", speech(7)[: RATE // 4], "fox", speaker="s0")
    add("clipped.wav", (speech(8) * 40).clip(-1, 1), WORDS, speaker="s0")
    add("silent.wav", np.zeros(3 * RATE, np.float32), WORDS, speaker="s1")
    add("noisy.wav", speech(9, noise=0.15, level=0.1), WORDS, speaker="s1")
    add("wrong.wav", speech(10), " ".join([WORDS] * 4), speaker="s1")
    add("untold.wav", speech(11), " ", speaker="s1")
    add("again.wav", speech(0), f"{WORDS} 0", speaker="s0")
    lines.append({"audio_filepath": "gone.wav", "text": WORDS, "speaker": "s0"})
    add("cut.flac", speech(12), WORDS, speaker="s0")
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    return lines


def test_utterances_become_conversations(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    listed = "".join(json.dumps(line) + "\n" for line in manifest(folder))
    (folder / "manifest.jsonl").write_text(listed)
    made = run("speech_asr.yaml", tmp_path / "out", f"source.path={folder}/manifest.jsonl")
    assert made.reasons == [
        *([""] * 6),
        *("duration", "clipping", "silence", "snr", "transcript_rate", "text_length", "exact_dup"),
        *("not_found", "truncated_audio"),
    ]
    for sample in made.samples:
        (media,) = sample.media
        assert (media.kind, media.sample_rate, media.channels) == ("audio", 16_000, 1)
        (role, _, trained), answer = conversation(sample)
        assert (role, trained) == ("user", False)
        assert answer[0] == "assistant"
        assert answer[1].startswith(WORDS)
        assert answer[2]
    assert made.tasks == {"asr": 6}
    assert made.samples[5].media[0].seconds is not None
    assert 3.1 < made.samples[5].media[0].seconds < 3.4, "a second of silence is trimmed"
    sets = {sample.meta["speaker"]: sample.meta["split"] for sample in made.samples}
    assert all(sample.meta["split"] == sets[sample.meta["speaker"]] for sample in made.samples)
