"""Film discs that drift, light up and ring: python -m examples.learn.scenes FOLDER [--train N] [--heldout N].

FOLDER/scenes holds `train.jsonl`, `heldout.jsonl` (LLaVA's conversations), the videos of four seconds and the sounds
that they name. In a clip a grey disc, or a part of one, drifts left or right, and now and then lights up in red or
blue, while a low or a high tone is heard. Each line says

- `actions`: [begin, end, colour] in seconds, when it lights up;
- `action`: "drifts left" or "drifts right";
- `quality`: how much of the disc there is, from 0 to 1;
- `offset`, of held-out clips: by how many seconds the sound is late. That of the others is in time.

All of it is made by numbers, and every file is the same for the same number.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from examples.learn.make import RATE as SAMPLES
from examples.learn.make import SIDE, write_wave
from examples.learn.moving import RATE, film

SECONDS = 4.0
COLOURS = {"red": ((240, 50, 50), 400), "blue": ((60, 90, 250), 1600)}
"""What lights up, and the Hz that are heard with it."""
LEAST, MOST, APART = 0.5, 1.25, 0.5
"""Seconds that a light lasts, and that there are between two at least."""
LATE = 4
"""Frames by which the sound of a held-out clip may be late, or early."""
Light = tuple[float, float, str]


def lights(draw: np.random.Generator) -> list[Light]:
    """One to three of them, in order."""
    found, free = list[Light](), float(draw.uniform(0.1, 1.2))
    while free < SECONDS - LEAST - 0.1:
        end = min(SECONDS - 0.1, free + float(draw.uniform(LEAST, MOST)))
        found.append((round(free, 3), round(end, 3), str(draw.choice(list(COLOURS)))))
        free = end + float(draw.uniform(APART, 2 * APART + 0.5))
    return found


def pictures(draw: np.random.Generator, shown: list[Light], action: str, quality: float) -> list[Image.Image]:
    """The frames of a clip."""
    shade = tuple(int(value) for value in draw.integers(0, 30, 3))
    speed = float(draw.uniform(0.6, 1.0)) * (1 if action.endswith("right") else -1)
    count, half, turned = int(SECONDS * RATE), 7.0, float(draw.uniform(0, 360))
    y, frames = SIDE / 2 + float(draw.uniform(-5, 5)), []
    for number in range(count):
        x, when = SIDE / 2 + (number - (count - 1) / 2) * speed, number / RATE
        lit = next((COLOURS[label][0] for begin, end, label in shown if begin <= when <= end), (120, 120, 120))
        picture = Image.new("RGB", (SIDE, SIDE), shade)
        box = (x - half, y - half, x + half, y + half)
        ImageDraw.Draw(picture).pieslice(box, turned, turned + 360 * quality, fill=lit)
        frames.append(picture)
    return frames


def tones(draw: np.random.Generator, shown: list[Light], late: float) -> np.ndarray:
    """int16 [samples]: a tone for each light, so many seconds late, over faint noise."""
    count = int(SECONDS * SAMPLES)
    at, samples = np.arange(count) / SAMPLES - late, draw.normal(size=count) * 0.01
    for begin, end, label in shown:
        swell = np.clip(np.minimum(at - begin, end - at) / 0.01, 0, 1)
        samples += np.sin(2 * math.pi * COLOURS[label][1] * at) * swell * 0.4
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


def make(folder: Path, name: str, seed: int, count: int, *, late: bool) -> None:
    """`count` clips, and the lines that tell of them."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        draw = np.random.default_rng((seed, number))
        shown, action = lights(draw), f"drifts {draw.choice(['left', 'right'])}"
        quality, offset = round(float(draw.uniform(0.1, 1)), 3), int(draw.integers(-LATE, LATE + 1)) / RATE
        paths = {"video": f"{name}/{number:05d}.mp4", "audio": f"{name}/{number:05d}.wav"}
        film(pictures(draw, shown, action, quality), folder / paths["video"])
        write_wave(folder / paths["audio"], tones(draw, shown, offset if late else 0.0))
        answer = ", ".join(label for _, _, label in shown)
        said = [{"from": "human", "value": "<video>\n<audio>\nWhich lights?"}, {"from": "gpt", "value": answer}]
        told: dict[str, Any] = {**paths, "conversations": said, "actions": shown, "action": action, "quality": quality}
        lines.append(json.dumps(told | ({"offset": offset} if late else {})) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.scenes", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="clips to train on")
    parser.add_argument("--heldout", type=int, default=100, metavar="N", help="clips to test on")
    options = parser.parse_args(arguments)
    make(options.folder / "scenes", "train", 1, options.train, late=False)
    make(options.folder / "scenes", "heldout", 2, options.heldout, late=True)


if __name__ == "__main__":
    main()
