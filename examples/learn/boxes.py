"""Draw shapes apart from each other, and say where: python -m examples.learn.boxes FOLDER [--train N] [--heldout N].

FOLDER/boxes holds `train.jsonl` and `heldout.jsonl` and the pictures they name. A line has `boxes` ([left, top, right,
bottom] in pixels), `labels` ("red circle"; no two alike in a picture) and `polygons` (of each box a list of outlines
[x, y, x, y, ...]). Nothing is labelled by hand, and every file is the same for the same number.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from examples.learn.make import COLOURS, SHAPES

SIDE = 64
"""Pixels of a picture's side."""
LEAST, MOST = 9, 15
"""Half the side of a shape's box."""
CORNERS = 32
"""Of the outline of a circle."""


def outline(form: str, x: float, y: float, half: float) -> list[float]:
    """The corners of a shape around (x, y) whose box is 2 * half wide and high."""
    if form == "circle":
        turns = [2 * math.pi * at / CORNERS for at in range(CORNERS)]
        points = [(x + half * math.cos(turn), y + half * math.sin(turn)) for turn in turns]
    elif form == "square":
        points = [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    elif form == "triangle":
        points = [(x, y - half), (x + half, y + half), (x - half, y + half)]
    else:
        arm = half / 3
        quarter = [(arm, -half), (arm, -arm), (half, -arm), (half, arm), (arm, arm), (arm, half)]
        points = [(x + dx, y + dy) for dx, dy in quarter + [(-dx, -dy) for dx, dy in quarter]]
    return [round(value, 2) for point in points for value in point]


def scene(draw: np.random.Generator, count: int) -> tuple[Image.Image, list[tuple[str, list[float], list[float]]]]:
    """A picture of so many shapes at most, apart from each other, with the name, box and outline of each."""
    shade = tuple(int(value) for value in draw.integers(0, 40, 3))
    picture = Image.new("RGB", (SIDE, SIDE), shade)
    pen = ImageDraw.Draw(picture)
    kinds = [(colour, form) for colour in COLOURS for form in SHAPES]
    found: list[tuple[str, list[float], list[float]]] = []
    for at in draw.permutation(len(kinds))[:count].tolist():
        colour, form = kinds[at]
        for _ in range(50):
            half = float(draw.uniform(LEAST, MOST))
            x, y = draw.uniform(half + 1, SIDE - half - 1, 2).tolist()
            box = [round(value, 2) for value in (x - half, y - half, x + half, y + half)]
            if all(_apart(box, other) for _, other, _ in found):
                break
        else:
            continue
        rgb = COLOURS[colour][0]
        ink = tuple(int(np.clip(value + draw.integers(-15, 16), 0, 255)) for value in rgb)
        corners = outline(form, x, y, half)
        pen.polygon([(corners[i], corners[i + 1]) for i in range(0, len(corners), 2)], fill=ink)
        found.append((f"{colour} {form}", box, corners))
    return picture, found


def _apart(a: list[float], b: list[float]) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def make_boxes(folder: Path, name: str, seed: int, count: int, shapes: int = 2) -> None:
    """Pictures with their lines, under FOLDER."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        picture, found = scene(np.random.default_rng((seed, number)), shapes)
        path = f"{name}/{number:05d}.png"
        picture.save(folder / path)
        told = {
            "image": path,
            "text": " and ".join(f"a {label}" for label, _, _ in found),
            "labels": [label for label, _, _ in found],
            "boxes": [box for _, box, _ in found],
            "polygons": [[corners] for _, _, corners in found],
        }
        lines.append(json.dumps(told) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.boxes", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="pictures to train on")
    parser.add_argument("--heldout", type=int, default=100, metavar="N", help="pictures to test on")
    parser.add_argument("--shapes", type=int, default=2, metavar="N", help="in a picture, at most")
    options = parser.parse_args(arguments)
    make_boxes(options.folder / "boxes", "train", 1, options.train, options.shapes)
    make_boxes(options.folder / "boxes", "heldout", 2, options.heldout, options.shapes)


if __name__ == "__main__":
    main()
