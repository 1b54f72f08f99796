"""Datasets of random bytes with a short text each, in so many shards: for benchmarks of reading and of starting."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import yaml

from mmdata.build import build_dataset


def write_raw(folder: Path, count: int, size: int, shards: int) -> None:
    """`count` samples of `size` bytes; the shards are plain WebDataset tars."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        source = Path(temporary) / "files"
        source.mkdir()
        draw = np.random.Generator(np.random.Philox(0))
        for number in range(count):
            (source / f"{number:06d}.jpg").write_bytes(draw.bytes(size))
            (source / f"{number:06d}.txt").write_text(f"sample {number}")
        spec = {
            "source": {"kind": "folder", "path": str(source)},
            "steps": [],
            "output": {"path": str(folder), "unit_rows": -(-count // shards)},
        }
        path = Path(temporary) / "spec.yaml"
        path.write_text(yaml.safe_dump(spec))
        build_dataset(str(path), quiet=True)
