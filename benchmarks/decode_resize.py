"""JPEG bytes to a normalised square, against torchvision used directly: exact, guarded and fast, one thread and two.

`python -m benchmarks.decode_resize [--count 24] [--rounds 7] [--sizes 336 672]`: JPEGs of 0.2 to 4 megapixels made of
real photographs. Exact pixels are compared with torchvision's, bit for bit before normalising; of the approximate
modes the signal-to-noise ratio to the exact ones is told. A round is a pass over all pictures, by every contender in
turn; claims are of CPU time on one thread, and of wall time where they say so: over two threads it is that of one
thread over it. Beside them stand libjpeg-turbo's full decode alone, and ours at the scale that `guarded` picks.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks._photos import write as write_photos
from benchmarks.claims import Claim, beside, figure, installed, write
from mmdata.decode.image import MAX_PIXELS, decode, decode_scaled
from mmdata.decode.planned import Fidelity, decode_for
from mmdata.types import Normalise, Resize
from mmdata.views._picture import CLIP_MEAN, CLIP_STD
from mmdata.views.pixels import apply

CLIP = Normalise(CLIP_MEAN, CLIP_STD)
Call = Callable[[bytes], object]
ONE = "exact, one thread"


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
        "pixels alone": lambda data: decode(data, max_pixels=MAX_PIXELS),
        "floor: full decode": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "floor: guarded decode": lambda data: decode_scaled(
            data, min_height=size, min_width=size, max_pixels=MAX_PIXELS
        ),
    }


def decibels(files: list[bytes], size: int, fidelity: Fidelity) -> list[float]:
    """Peak signal-to-noise ratios of the pictures that were decoded at less than full scale, to the exact ones."""
    ratios = []
    for data in files:
        exact, near = (ours(data, size, mode, floats=False).double() for mode in ("exact", fidelity))
        if not torch.equal(exact, near):
            ratios.append(float(10 * np.log10(255**2 / float(((exact - near) ** 2).mean()))))
    return ratios


def passes(files: list[bytes], calls: dict[str, Call]) -> dict[str, Callable[[], object]]:
    """All pictures by one call, on this thread; none is kept, for memory that nobody has touched takes long to fill."""
    return {name: lambda call=call: deque(map(call, files), maxlen=0) for name, call in calls.items()}  # type: ignore[misc]


def at(size: int, files: list[bytes], rounds: int) -> tuple[list[Claim], dict[str, object]]:
    equal = sum(
        torch.equal(torchvisions(data, size, floats=False), ours(data, size, "exact", floats=False)) for data in files
    )
    print(f"{size} x {size}: {equal} of {len(files)} exact pictures are torchvision's, bit for bit")
    calls = contenders(size)
    one = turns(passes(files, calls), rounds, each=len(files))
    with ThreadPoolExecutor(2) as pool:
        both: dict[str, Callable[[], object]] = {
            name: lambda call=calls[name], threads=threads: deque(  # type: ignore[misc]
                pool.map(call, files) if threads == 2 else map(call, files), maxlen=0
            )
            for name, threads in (("exact", 2), ("torchvision", 2))
        }
        both[ONE] = passes(files, calls)["exact"]
        two = turns(both, rounds, each=len(files))
    milliseconds = {"seconds": 1e3, "cpu": 1e3}
    table(one, scale=milliseconds)
    print("over two threads")
    table(two, scale=milliseconds)
    what, head = f"JPEG to {size} x {size} normalised floats", size == 336
    exact, guarded = "exact (torchvision's pixels)", decibels(files, size, "guarded")
    goal = 1.1 if size == 336 else 1.05
    claims = [
        beside(what, one, "exact", "torchvision", by="cpu", goal=goal, headline=True),
        beside(what, one, "exact", "floor: full decode", by="cpu", goal=0.8 if head else None, floor=True),
        beside(
            f"{what}, 2 threads, wall time", two, "exact", ONE, by="seconds", goal=1.7, name="one thread", floor=True
        ),
        beside(f"{what}, 2 threads, wall time", two, "exact", "torchvision", by="seconds"),
        beside(what, one, "guarded", "torchvision", by="cpu", goal=1.3 if head else None, headline=head),
        beside(what, one, "fast", "torchvision", by="cpu"),
    ]
    if head:
        claims.append(
            beside("JPEG to pixels", one, "pixels alone", "floor: full decode", by="cpu", name="libjpeg-turbo")
        )
    if guarded:
        claims.append(
            figure(f"{what}, {len(guarded)} pictures decoded scaled", "guarded", guarded, "dB", goal=45.0, beside=exact)
        )
    return claims, {"one": one, "two": two, "equal": equal, "guarded_db": guarded}


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="*", default=[336, 672])
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=16, rounds=5)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), arguments.count)
        files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    if arguments.ours:
        exact = [contenders(size)["exact"] for size in arguments.sizes]
        _options.repeat(arguments.ours, [partial(call, data) for call in exact for data in files])
        return
    claims: list[Claim] = []
    figures = {}
    for size in arguments.sizes:
        more, figures[str(size)] = at(size, files, arguments.rounds)
        claims += more
    peers = installed("torch", "torchvision")
    write("decode_resize", claims, figures=figures, peers=peers, to=arguments.json, count=arguments.count)


if __name__ == "__main__":
    main()
