"""Benchmark pictures: JPEGs of 0.2 to 4 megapixels made of real photographs, the same on every machine."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mmdata.rng import generator
from mmdata.testing.photos import photos


def write(folder: Path, count: int, seed: int = 0) -> int:
    """Write `count` JPEGs (skipping those already there); returns their total size in bytes.

    Log-uniform in size between 0.2 and 4 megapixels, quality 80 to 95, 4:2:0 and 4:4:4 as the web mixes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Image.open(photo.path).convert("RGB") for photo in photos()]
    sources = [image for image in sources if min(image.size) >= 256]
    total = 0
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if not path.exists():
            draw = generator(seed, number, "benchmark photo")
            source = sources[int(draw.integers(len(sources)))]
            pixels = float(np.exp(draw.uniform(np.log(0.2e6), np.log(4e6))))
            width, height = source.size
            share = float(draw.uniform(0.6, 1.0))
            box_w, box_h = int(width * share), int(height * share)
            left, top = int(draw.integers(width - box_w + 1)), int(draw.integers(height - box_h + 1))
            crop = source.crop((left, top, left + box_w, top + box_h))
            scale = (pixels / (box_w * box_h)) ** 0.5
            picture = crop.resize((max(64, int(box_w * scale)), max(64, int(box_h * scale))), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            sampling = 0 if draw.random() < 0.2 else 2
            picture.save(buffer, "JPEG", quality=int(draw.integers(80, 96)), subsampling=sampling)
            path.write_bytes(buffer.getvalue())
        total += path.stat().st_size
        if sys.stderr.isatty() and number % 50 == 0:
            print(f"\rpictures {number}/{count}", end="", file=sys.stderr)
    return total
