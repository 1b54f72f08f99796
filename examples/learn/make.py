"""Draw shapes and play melodies to learn from: python -m examples.learn.make FOLDER [--train N] [--heldout N].

Nothing is downloaded and nothing is labelled by hand: pictures and sounds are made from what they are to be called, at
places, sizes, shades and pitches of chance, and every file is the same for the same number. FOLDER/shapes and
FOLDER/melodies each hold `train.jsonl`, `heldout.jsonl` (LLaVA's conversations) and the media they name; shapes also
hold `french_train.jsonl` and `french_heldout.jsonl`, the same pictures called by other words, for an adapter, and
`draw_train.jsonl` and `draw_heldout.jsonl`, which ask for the pictures by their names.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32
"""Pixels of a picture's side."""
COLOURS = {
    "red": ((200, 40, 40), "rouge"),
    "green": ((40, 160, 60), "vert"),
    "blue": ((50, 70, 210), "bleu"),
    "yellow": ((225, 205, 50), "jaune"),
    "violet": ((150, 60, 190), "violet"),
    "white": ((245, 245, 245), "blanc"),
}
SHAPES = {"circle": "cercle", "square": "carré", "triangle": "triangle", "cross": "croix"}
RATE = 16_000
NOTES = {"do": 262, "re": 330, "mi": 415, "fa": 523, "sol": 659}
"""Hz: a third apart, each, so that a small model can tell them by their mel bins."""
NOTE_SECONDS = 0.2


def shape(draw: np.random.Generator, forms: int) -> tuple[Image.Image, str, str]:
    """A picture of one of the first so many forms, its name, and its name in French."""
    colour, form = str(draw.choice(list(COLOURS))), str(draw.choice(list(SHAPES)[:forms]))
    rgb, couleur = COLOURS[colour]
    shade = tuple(int(value) for value in draw.integers(0, 40, 3))
    picture = Image.new("RGB", (SIDE, SIDE), shade)
    pen = ImageDraw.Draw(picture)
    half = float(draw.uniform(9, 13))
    x, y = (SIDE / 2 + draw.uniform(-2.5, 2.5, 2)).tolist()
    ink = tuple(int(np.clip(value + draw.integers(-15, 16), 0, 255)) for value in rgb)
    if form == "circle":
        pen.ellipse((x - half, y - half, x + half, y + half), fill=ink)
    elif form == "square":
        pen.rectangle((x - half * 0.85, y - half * 0.85, x + half * 0.85, y + half * 0.85), fill=ink)
    elif form == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half * 0.8), (x + half, y + half * 0.8)], fill=ink)
    else:
        arm = half * 0.3
        pen.rectangle((x - half, y - arm, x + half, y + arm), fill=ink)
        pen.rectangle((x - arm, y - half, x + arm, y + half), fill=ink)
    return picture, f"a {colour} {form}", f"un {SHAPES[form]} {couleur}"


def melody(draw: np.random.Generator, length: int) -> tuple[np.ndarray, str]:
    """Notes with overtones over a little noise, int16 [samples] at 16 kHz, and their names."""
    names = [str(name) for name in draw.choice(list(NOTES), length)]
    at = np.arange(int(RATE * NOTE_SECONDS)) / RATE
    swell = np.minimum(1, np.minimum(at, at[::-1]) / 0.02)
    notes = []
    for name in names:
        pitch = NOTES[name] * 2 ** float(draw.uniform(-1, 1) / 24)  # a quarter of a tone off at most
        sound = sum(np.sin(2 * math.pi * k * pitch * at + draw.uniform(0, 6)) / k for k in (1, 2, 3))
        notes.append(sound * swell)
    sound = np.concatenate(notes) * draw.uniform(0.2, 0.6) / 2
    sound += draw.normal(size=len(sound)) * 0.01
    return (np.clip(sound, -1, 1) * 32767).astype(np.int16), " ".join(names)


def line(medium: str, path: str, question: str, answer: str) -> str:
    said = [{"from": "human", "value": f"<{medium}>\n{question}"}, {"from": "gpt", "value": answer}]
    return json.dumps({medium: path, "conversations": said}, ensure_ascii=False) + "\n"


def make_shapes(folder: Path, name: str, seed: int, count: int, forms: int = len(SHAPES)) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    english, french, drawn = [], [], []
    for number in range(count):
        picture, called, appelle = shape(np.random.default_rng((seed, number)), forms)
        path = f"{name}/{number:05d}.png"
        picture.save(folder / path)
        english.append(line("image", path, "What is this?", called))
        french.append(line("image", path, "En français ?", appelle))
        said = [{"from": "human", "value": f"Draw {called}"}, {"from": "gpt", "value": "Here it is:\n<image>"}]
        drawn.append(json.dumps({"image": path, "conversations": said, "caption": called}) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(english))
    (folder / f"french_{name}.jsonl").write_text("".join(french))
    (folder / f"draw_{name}.jsonl").write_text("".join(drawn))


def write_wave(path: Path, samples: np.ndarray) -> None:
    """int16 samples as a mono file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())


def make_melodies(folder: Path, name: str, seed: int, count: int, length: int = 3) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        sound, called = melody(np.random.default_rng((seed, number)), length)
        path = f"{name}/{number:05d}.wav"
        write_wave(folder / path, sound)
        lines.append(line("audio", path, "Which notes?", called))
    (folder / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.make", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="samples of each task to train on")
    parser.add_argument("--heldout", type=int, default=200, metavar="N", help="samples of each task to test on")
    parser.add_argument("--forms", type=int, default=len(SHAPES), metavar="N", help="of shapes")
    parser.add_argument("--notes", type=int, default=3, metavar="N", help="of a melody")
    parser.add_argument("--only", choices=("shapes", "melodies"), help="one of the two tasks")
    options = parser.parse_args(arguments)
    makers: dict[str, Callable[[Path, str, int, int], None]] = {
        "shapes": functools.partial(make_shapes, forms=options.forms),
        "melodies": functools.partial(make_melodies, length=options.notes),
    }
    for task, make in makers.items():
        if options.only in (None, task):
            make(options.folder / task, "train", 1, options.train)
            make(options.folder / task, "heldout", 2, options.heldout)


if __name__ == "__main__":
    main()
