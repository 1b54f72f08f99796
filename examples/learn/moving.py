"""Film shapes that move, and shapes that follow each other: python -m examples.learn.moving FOLDER [--train N]
[--heldout N].

FOLDER/moving holds short videos of one shape that moves left, right, up or down, grows, or shrinks; what is asked is
what it does, of which a frame tells nothing unless one knows when it is shown. FOLDER/order holds longer videos in
which shapes of several colours follow each other; what is asked is their order. Each has `train.jsonl`,
`heldout.jsonl` (LLaVA's conversations) and the videos they name, and is the same for the same number.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from examples.learn.make import COLOURS, SIDE, line

ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
FRAMES = 8
PARTS, PART = 4, 6
"""Shapes that follow each other, and frames of each."""
RATE = 4
"""Frames a second."""
Film = tuple[list[Image.Image], str]


def moving(draw: np.random.Generator) -> Film:
    """A square or a circle of some colour that does one of ACTIONS, and what it does."""
    action = str(draw.choice(ACTIONS))
    shade = tuple(int(value) for value in draw.integers(0, 40, 3))
    ink, form = COLOURS[str(draw.choice(list(COLOURS)))][0], int(draw.integers(2))
    speed, size = float(draw.uniform(1.2, 2.0)), float(draw.uniform(4, 6))
    x, y = (SIDE / 2 + draw.uniform(-3, 3, 2)).tolist()
    aside, growth = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}, {"grows": 1, "shrinks": -1}
    dx, dy = aside.get(action.removeprefix("moves "), (0, 0))
    bigger = growth.get(action, 0)
    frames = []
    for number in range(FRAMES):
        far = (number - (FRAMES - 1) / 2) * speed
        half = size + bigger * far / 2
        frames.append(_shape(shade, ink, form, x + dx * far, y + dy * far, half))
    return frames, action


def order(draw: np.random.Generator) -> Film:
    """Shapes of other colours one after the other, and their colours in order."""
    names = [str(name) for name in draw.choice(list(COLOURS), PARTS, replace=False)]
    shade = tuple(int(value) for value in draw.integers(0, 40, 3))
    frames = []
    for name in names:
        form, half = int(draw.integers(2)), float(draw.uniform(7, 11))
        for _ in range(PART):
            x, y = (SIDE / 2 + draw.uniform(-3, 3, 2)).tolist()
            frames.append(_shape(shade, COLOURS[name][0], form, x, y, half))
    return frames, ", ".join(names)


def _shape(shade: Any, ink: Any, form: int, x: float, y: float, half: float) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), shade)
    pen, box = ImageDraw.Draw(picture), (x - half, y - half, x + half, y + half)
    (pen.ellipse if form else pen.rectangle)(box, fill=ink)
    return picture


def film(frames: list[Image.Image], path: Path) -> None:
    """Write frames as H.264, RATE of them a second."""
    with av.open(str(path), "w", format="mp4") as file:
        track: Any = file.add_stream("libx264", rate=Fraction(RATE))
        track.width, track.height, track.pix_fmt = SIDE, SIDE, "yuv420p"
        track.codec_context.thread_count = 1
        track.options = {"crf": "12", "preset": "fast"}
        for picture in frames:
            for packet in track.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")):
                file.mux(packet)
        for packet in track.encode(None):
            file.mux(packet)


TASKS: dict[str, tuple[Callable[[np.random.Generator], Film], str]] = {
    "moving": (moving, "What does it do?"),
    "order": (order, "Which colours, in order?"),
}


def make(folder: Path, task: str, name: str, seed: int, count: int) -> None:
    """`count` videos of a task and the lines that name them."""
    (folder / task / name).mkdir(parents=True, exist_ok=True)
    draw, question = TASKS[task]
    lines = []
    for number in range(count):
        frames, answer = draw(np.random.default_rng((seed, number)))
        path = f"{name}/{number:05d}.mp4"
        film(frames, folder / task / path)
        lines.append(line("video", path, question, answer))
    (folder / task / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.moving", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="videos of each task to train on")
    parser.add_argument("--heldout", type=int, default=200, metavar="N", help="videos of each task to test on")
    parser.add_argument("--only", choices=tuple(TASKS), help="one of the two tasks")
    options = parser.parse_args(arguments)
    for task in TASKS:
        if options.only in (None, task):
            make(options.folder, task, "train", 1, options.train)
            make(options.folder, task, "heldout", 2, options.heldout)


if __name__ == "__main__":
    main()
