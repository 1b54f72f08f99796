"""JPEG bytes to a normalised square, against torchvision used directly: exact, guarded and fast, one thread and two.

`python -m benchmarks.decode_resize [--count 24] [--repeats 7] [--sizes 336 672]`: JPEGs of 0.2 to 4 megapixels made of
real photographs. Exact pixels are compared with torchvision's, bit for bit before normalising; of the approximate
modes the signal-to-noise ratio to the exact ones is told. CPU milliseconds of one thread are the smallest of each
picture's repeats, which are interleaved. Wall time of one and two threads is that of whole passes, the best of the
repeats. Floors are a full decode alone, and one at the scale that `guarded` picks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmarks._photos import write
from mmdata.decode.image import MAX_PIXELS, decode_scaled
from mmdata.decode.planned import Fidelity, decode_for
from mmdata.types import Normalise, Resize
from mmdata.views._picture import CLIP_MEAN, CLIP_STD
from mmdata.views.pixels import apply

CLIP = Normalise(CLIP_MEAN, CLIP_STD)
Call = Callable[[bytes], object]


def torchvisions(data: bytes, size: int, *, floats: bool = True) -> torch.Tensor:
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    resized: torch.Tensor = tv.resize(image, [size, size], InterpolationMode.BICUBIC, antialias=True)
    if floats:
        resized = tv.normalize(tv.to_dtype(resized, torch.float32, scale=True), list(CLIP.mean), list(CLIP.std))
    return resized


def ours(data: bytes, size: int, fidelity: Fidelity, *, floats: bool = True) -> torch.Tensor:
    ops = (Resize(size, size), CLIP)
    pixels = decode_for(data, ops, fidelity=fidelity, max_pixels=MAX_PIXELS)
    return apply(pixels, ops if floats else ops[:1])


def contenders(size: int) -> dict[str, Call]:
    return {
        "torchvision": lambda data: torchvisions(data, size),
        "exact": lambda data: ours(data, size, "exact"),
        "guarded": lambda data: ours(data, size, "guarded"),
        "fast": lambda data: ours(data, size, "fast"),
        "floor: full decode": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "floor: guarded decode": lambda data: decode_scaled(
            data, min_height=size, min_width=size, max_pixels=MAX_PIXELS
        ),
    }


def decibels(files: list[bytes], size: int, fidelity: Fidelity) -> str:
    """Peak signal-to-noise ratios of the pictures that were decoded at less than full scale, to the exact ones."""
    ratios = []
    for data in files:
        exact, near = (ours(data, size, mode, floats=False).double() for mode in ("exact", fidelity))
        if not torch.equal(exact, near):
            ratios.append(10 * np.log10(255**2 / float(((exact - near) ** 2).mean())))
    told = f"{len(ratios)} of {len(files)} decoded at less than full scale"
    if not ratios:
        return told
    return f"{told}: {np.mean(ratios):.1f} dB mean, {np.median(ratios):.1f} median, {np.min(ratios):.1f} worst"


def cpu(files: list[bytes], calls: dict[str, Call], repeats: int) -> dict[str, float]:
    best = {name: np.full(len(files), np.inf) for name in calls}
    for _ in range(repeats):
        for at, data in enumerate(files):
            for name, call in calls.items():
                start = time.thread_time()
                call(data)
                best[name][at] = min(best[name][at], 1e3 * (time.thread_time() - start))
    return {name: float(times.mean()) for name, times in best.items()}


def wall(files: list[bytes], calls: dict[str, Call], repeats: int, threads: int) -> dict[str, float]:
    """Pictures per second."""
    best = dict.fromkeys(calls, np.inf)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in pool.map(call, files):
                    pass
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: len(files) / seconds for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="*", default=[336, 672])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.count)
        files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    for size in arguments.sizes:
        equal = sum(
            torch.equal(torchvisions(data, size, floats=False), ours(data, size, "exact", floats=False))
            for data in files
        )
        print(f"{size} x {size}: {equal} of {len(files)} exact pictures are torchvision's, bit for bit")
        modes: tuple[Fidelity, ...] = ("guarded", "fast")
        for mode in modes:
            print(f"  {mode}: {decibels(files, size, mode)}")
        calls = contenders(size)
        times = cpu(files, calls, arguments.repeats)
        one, two = (wall(files, calls, arguments.repeats, threads) for threads in (1, 2))
        for name, milliseconds in times.items():
            print(
                f"  {name:22s} {milliseconds:7.2f} ms CPU, {times['torchvision'] / milliseconds:5.2f} x torchvision;"
                f"  {one[name]:6.1f} a second, with 2 threads {two[name]:6.1f} ({two[name] / one[name]:.2f} x)"
            )


if __name__ == "__main__":
    main()
