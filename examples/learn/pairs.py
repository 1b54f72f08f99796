"""Preferences about drawn shapes: python -m examples.learn.pairs FOLDER, after `python -m examples.learn.make FOLDER`.

FOLDER/pairs/train.jsonl and heldout.jsonl ask of each picture of FOLDER/shapes what it is. The chosen answer is its
name; the rejected one is another colour's, another form's, or leaves the colour out, the same for the same number.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from examples.learn.make import COLOURS, SHAPES


def other(name: str, draw: np.random.Generator) -> str:
    """The name of a shape with one of its two words changed, or without its colour."""
    article, colour, form = name.split()
    match int(draw.integers(3)):
        case 0:
            return f"{article} {draw.choice([each for each in COLOURS if each != colour])} {form}"
        case 1:
            return f"{article} {colour} {draw.choice([each for each in SHAPES if each != form])}"
    return f"{article} {form}"


def make_pairs(folder: Path, name: str) -> None:
    """FOLDER/pairs/NAME.jsonl of FOLDER/shapes/NAME.jsonl."""
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate((folder / "shapes" / f"{name}.jsonl").read_text().splitlines()):
        line = json.loads(text)
        question, answer = line["conversations"]
        worse = other(answer["value"], np.random.default_rng((7, number)))
        told = {**line, "conversations": [question], "chosen": answer["value"], "rejected": worse}
        lines.append(json.dumps(told, ensure_ascii=False) + "\n")
    (folder / "pairs" / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.pairs", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    for name in ("train", "heldout"):
        make_pairs(folder, name)


if __name__ == "__main__":
    main()
