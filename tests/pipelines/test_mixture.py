"""`mixture.yaml` on captioned pictures, conversations and speech, with damage in each."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import soundfile

from tests.building import picture
from tests.pipelines.running import conversation, run
from tests.steps.recordings import RATE, bursts


def sources(folder: Path) -> list[str]:
    """What the three sources read, as overrides."""
    folder.mkdir()
    for number in range(6):
        picture(number).save(folder / f"{number}.jpg", quality=90)
    picture(7, (30, 30)).save(folder / "icon.png")
    rows = [(f"{number}.jpg", f"Colours that run into each other, number {number}.") for number in range(4)]
    rows += [("icon.png", "A tiny picture."), ("0.jpg", rows[0][1]), ("gone.jpg", "A picture that is not there.")]
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("URL", "TEXT"), *((f"{folder}/{name}", text) for name, text in rows)])
    talks = [
        [("human", f"<image>\nWhich field is this, {number}?"), ("gpt", f"It is number {number}.")]
        for number in (4, 5, 4)
    ]
    lines = [
        {"image": f"{number}.jpg", "conversations": [{"from": who, "value": text} for who, text in talk]}
        for number, talk in zip((4, 5, 4), talks, strict=True)
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = []
    for number, length in enumerate((2.0, 2.5, 0.2)):
        wave = bursts([(0.05, length - 0.05)], length, noise=0.001, seed=number)
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        said.append({"audio_filepath": f"{number}.wav", "text": f"sentence number {number}"})
    (folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    names = ("list.csv", "chat.jsonl", "said.jsonl")
    return [f"source.sources.{at}.source.path={folder / name}" for at, name in enumerate(names)]


def test_sources_are_mixed_and_told_apart(tmp_path: Path) -> None:
    overrides = [*sources(tmp_path / "in"), "source.sources.0.source.local_files=true"]
    made = run("mixture.yaml", tmp_path / "out", *overrides)
    lost = Counter((row.key.partition("-")[0], row.reason) for row in made.rows if row.state != "ok")
    assert lost == {
        ("captions", "min_side"): 1,
        ("captions", "exact_dup"): 1,
        ("captions", "not_found"): 1,
        ("chat", "exact_dup"): 1,
        ("speech", "duration"): 1,
    }
    assert Counter(sample.meta["source"] for sample in made.samples) == {"captions": 4, "chat": 2, "speech": 2}
    assert made.tasks == {"caption": 4, "vqa": 2, "asr": 2}
    assert [row.key.partition("-")[0] for row in made.rows[:8]].count("captions") == 4, "two for each other one"
    for sample in made.samples:
        assert [role for role, _, _ in conversation(sample)] == ["user", "assistant"], sample.key
        assert conversation(sample)[1][2], "the answer is trained"
