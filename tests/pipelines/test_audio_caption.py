"""`audio_caption.yaml` on tones and noises with captions, and the damage that such lists have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.pipelines.running import conversation, run
from tests.steps.recordings import RATE, bursts, tone


def lines(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    listed: list[dict[str, Any]] = []

    def add(name: str, wave: np.ndarray, caption: str | None, rate: int = RATE) -> None:
        soundfile.write(folder / name, wave, rate)
        listed.append({"audio": name, **({} if caption is None else {"caption": caption})})

    for number, hertz in enumerate((220, 440, 880)):
        add(f"{number}.wav", tone(2, -12, hertz), f"A steady tone of {hertz} hertz hums on.")
    listed.append({"audio": "0.wav", "caption": "An electrical device hums."})
    add("rain.flac", bursts([(0, 2)], 2, noise=0.05), "Rain&nbsp;falls on a tin roof.")
    add("knock.ogg", bursts([(0.2, 0.3), (0.6, 0.7), (1.0, 1.1)], 2, noise=0.001), "Somebody knocks three times.")
    add("studio.wav", np.stack([tone(2, -20, 300, 44_100)] * 2, 1), "A low tone in both channels.", 44_100)
    add("brief.wav", tone(0.2, -12), "A short beep is heard.")
    add("silent.wav", np.zeros(2 * RATE, np.float32), "Nothing at all is heard.")
    add("untold.wav", tone(2, -12, 500), None)
    add("IMG_2041.wav", tone(2, -12, 600), "IMG_2041.wav")
    add("terse.wav", tone(2, -12, 700), "Beep.")
    listed.append({"audio": "1.wav", "caption": "A steady tone of 440 hertz hums on."})
    listed.append({"audio": "gone.wav", "caption": "A sound that nobody has."})
    return listed


def test_sounds_become_conversations(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(folder)))
    made = run(
        "audio_caption.yaml", tmp_path / "out", f"source.path={tmp_path}/captions.jsonl", f"source.root={folder}"
    )
    assert made.reasons == [
        *([""] * 7),
        *("duration", "loudness", "caption_length", "caption_filename", "caption_length", "exact_dup", "not_found"),
    ]
    assert made.tasks == {"audio_caption": 7}
    answers = []
    for sample in made.samples:
        (media,) = sample.media
        assert (media.kind, media.sample_rate, media.channels) == ("audio", 16_000, 1)
        question, answer = conversation(sample)
        assert (question[0], question[2], answer[0], answer[2]) == ("user", False, "assistant", True)
        answers.append(answer[1])
    assert answers[3:5] == ["An electrical device hums.", "Rain falls on a tin roof."]
    assert made.samples[0].meta["split"] == made.samples[3].meta["split"], "all captions of a sound are in one set"
