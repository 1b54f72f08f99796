"""A small dataset of preferences for tests: questions about drawn squares, each with a better and a worse answer."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from mmdata import build
from tests.building import write_spec

COUNT = 24
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 40)}


def write_lines(folder: Path, count: int = COUNT) -> Path:
    """`pairs.jsonl` and its pictures. The better answer names the colour, the worse one the next colour; each fourth
    line has no picture."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    lines = []
    for number in range(count):
        name, other = names[number % 4], names[(number + 1) % 4]
        side = 20 + number % 5 * 4
        Image.new("RGB", (side, side + 6), COLOURS[name]).save(folder / f"{number:03d}.png")
        asked = [{"from": "human", "value": "<image>\nWhich colour is it?"}]
        line: dict[str, object] = {"image": f"{number:03d}.png", "conversations": asked}
        if number % 4 == 3:
            line = {"text": f"Name the colour {name}."}
        more = " indeed" * (number % 3)
        lines.append({**line, "chosen": f"It is {name}{more}.", "rejected": f"It is {other}."})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_pairs(folder: Path, count: int = COUNT) -> Path:
    """The dataset built of `write_lines`, by the command."""
    path = write_lines(folder / "raw", count)
    source = {"kind": "jsonl", "path": str(path), "columns": {"chosen": "chosen", "rejected": "rejected"}}
    spec = write_spec(folder / "build.yaml", source, [{"kind": "probe"}], engine={"workers": 1})
    assert build.main(["--spec", str(spec), "--quiet"]) == 0
    return folder / "out"
