"""A small mixed build of library-made media: pictures, films, sounds, conversations, documents, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests import report_fixture as fixture
from tests.building import build, write_spec
from tests.steps.footage import film
from tests.steps.recordings import RATE, bursts

HOSTILE = "</p><script>document.title='owned'</script><b>bold</b> {{ 7*7 }} \x00\x1b"
NAME = "a\"><img src=x onerror=alert(1)>'&.jpg"
"""Of a file."""


def media(folder: Path) -> None:
    """Photographs, films with and without sound, recordings in three formats and at three rates."""
    for number in range(8):
        form, data = fixture.photo(20 + number)
        (folder / f"p{number}.{form}").write_bytes(data)
    (folder / NAME).write_bytes(fixture.photos()[8][1])
    (folder / "cut.mp4").write_bytes((film(("cat", 30, 3)).data or b"")[:900])
    (folder / "film.mp4").write_bytes(film(("cat", 40, 3), ("coffee", 40, 2), sound=True).data or b"")
    (folder / "talk.mp4").write_bytes(film(("cat", 20, 1), ("rocket", 40, 4)).data or b"")
    (folder / "silent.mp4").write_bytes(film(("rocket", 50, 2)).data or b"")
    speech = bursts([(0.2, 0.9), (1.4, 2.6)], 3.0, noise=0.003)
    time = np.arange(2 * 44_100) / 44_100
    soundfile.write(folder / "speech.flac", speech, RATE)
    soundfile.write(folder / "talk.flac", speech[::-1], RATE)
    soundfile.write(folder / "sweep.wav", 0.4 * np.sin(2 * np.pi * (300 + 900 * time) * time), 44_100)
    soundfile.write(folder / "low.mp3", speech[:RATE], RATE)


def records(pictures: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each source of the mixture."""
    photos = [{"image": name, "text": f"photo {at}"} for at, name in enumerate([*pictures[:4], NAME])]
    photos += [{"image": NAME, "text": HOSTILE}, {"image": pictures[0], "text": "again"}]
    clips: list[dict[str, Any]] = [{"video": name, "text": f"the film {name}"} for name in ("film.mp4", "silent.mp4")]
    clips.append({"video": "cut.mp4", "text": "cut short"})
    speech = [{"audio": name, "text": "seven words are said in this one"} for name in ("speech.flac", "sweep.wav")]
    speech.append({"audio": "low.mp3", "text": HOSTILE})
    asked = [
        ({"image": pictures[4:6]}, "<image>\n<image>\nWhich is older?", "vqa"),
        ({"video": ["talk.mp4"]}, "<video>\nWhat happens?", "vqa"),
        ({"audio": ["talk.flac"]}, "<audio>\nWrite it down.", "<i>asr</i>"),
    ]
    chat = [
        {
            **held,
            "task": task,
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": question},
                {"from": "gpt", "value": f"An answer. {HOSTILE}"},
            ],
        }
        for held, question, task in asked
    ]
    pages = [{"texts": ["Before.", None, "Between.", None], "images": [None, pictures[6], None, pictures[7]]}]
    return {"photos": photos, "clips": clips, "speech": speech, "chat": chat, "pages": pages}


def mixed(folder: Path, *steps: dict[str, Any], output: str = "out") -> Path:
    """Build it; the dataset's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "photos.jsonl").exists():
        media(folder)
        pictures = sorted(path.name for path in folder.glob("p*.*") if path.suffix != ".jsonl")
        for name, lines in records(pictures).items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = [
        {"name": name, "source": {"kind": "interleaved" if name == "pages" else "jsonl", "path": f"{name}.jsonl"}}
        for name in ("photos", "clips", "speech", "chat", "pages")
    ]
    spec = write_spec(
        folder / f"{output}.yaml",
        {"kind": "mixture", "sources": parts},
        [{"kind": "probe"}, *steps],
        output={"path": output, "unit_rows": 8, "seed": 5},
    )
    build(spec, "--set", "engine.workers=2")
    return folder / output
