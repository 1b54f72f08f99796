"""What the tests of whole builds share: running the command as a user does, and reading what it wrote."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mmdata.ledger import LedgerRow, read_rows
from mmdata.rng import generator
from tests import forked

NEEDS_TORCH = re.compile(rb"audio|video|sound|speech|loudness|silence|clip|frames|motion|materialize|embedding_score")
"""What specs say whose steps, or what they decode, import torch."""


def command(spec: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mmdata.build", "--spec", str(spec), "--quiet", *arguments]


def build(
    spec: Path, *arguments: str, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the build; its exit code must be `code`."""
    torch = spec.is_file() and bool(NEEDS_TORCH.search(spec.read_bytes()))
    done = forked.run("mmdata.build", *command(spec, *arguments)[3:], env=env, torch=torch)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def ledger(dataset: Path) -> list[LedgerRow]:
    return [row for file in sorted((dataset / "ledger").glob("*.parquet")) for row in read_rows(file)]


def content(dataset: Path) -> dict[str, str]:
    """sha256 of every shard and index under its final name."""
    files = [*(dataset / "shards").iterdir(), *(dataset / "index").iterdir()]
    return {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def picture(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture unlike all others: smooth random fields, different for each number."""
    field = generator(number, "test picture").integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(field).resize(size, Image.Resampling.BICUBIC)


def folder_of_pictures(folder: Path, count: int, *, captions: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number:04d}.jpg", quality=90)
        if captions:
            (folder / f"{number:04d}.txt").write_text(f"a smooth field of colours, number {number}")
    return folder


def write_spec(path: Path, source: dict[str, Any], steps: Sequence[dict[str, Any]], **more: Any) -> Path:
    """A spec whose dataset lies beside it, under `out`."""
    output = {"path": "out", "unit_rows": 10, **more.pop("output", {})}
    path.write_text(yaml.safe_dump({"source": source, "steps": list(steps), "output": output, **more}))
    return path
