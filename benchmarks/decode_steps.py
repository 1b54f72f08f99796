"""CPU milliseconds per picture of decoding, verifying and resizing, as ratios to Pillow in the same run.

python benchmarks/decode_steps.py [--repeats 15]: photographs of scikit-learn and scikit-image, enlarged to the sizes
named. The ratios hold across machines; the milliseconds do not.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from mmdata.decode import image
from mmdata.decode.work import Work
from mmdata.steps.probe import Probe
from mmdata.steps.resize import Resize
from mmdata.types import Drop, Media, Origin, Sample

LIMIT = image.MAX_PIXELS


def photo(height: int, width: int) -> bytes:
    """A 4:2:0 JPEG of quality 92."""
    from sklearn.datasets import load_sample_image

    pixels = Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC)
    return image.encode(np.asarray(pixels), "jpeg", 92)


def run(steps: tuple[Probe | Resize, ...], data: bytes) -> None:
    work = Work.for_steps(steps)
    sample: Sample | Drop = Sample(key="0", parts=(Media(kind="image", data=data),), origin=Origin(uri="", row=0))
    for step in steps:
        assert isinstance(sample, Sample)
        sample = step.apply(sample, work)


def pillow_resize(data: bytes) -> None:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(picture.size)
    size = round(picture.width * 256 / side), round(picture.height * 256 / side)
    picture.resize(size, Image.Resampling.BICUBIC).save(io.BytesIO(), "JPEG", quality=95)


def contenders() -> dict[str, Callable[[bytes], object]]:
    exact = (Probe(), Resize(mode="shortest", size=256))
    scaled = (Probe(verify="header"), Resize(mode="shortest", size=256, decode="scaled"))
    return {
        "pillow: decode": lambda data: Image.open(io.BytesIO(data)).load(),
        "decode": lambda data: image.decode(data, max_pixels=LIMIT),
        "verify": lambda data: image.verify(data, max_pixels=LIMIT),
        "read_header": lambda data: image.read_header(data, max_pixels=LIMIT),
        "probe, verify full": lambda data: run((Probe(),), data),
        "probe, verify header": lambda data: run((Probe(verify="header"),), data),
        "pillow: decode, bicubic 256, encode": pillow_resize,
        "probe full, resize 256 exact": lambda data: run(exact, data),
        "probe header, resize 256 scaled": lambda data: run(scaled, data),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats: int = parser.parse_args().repeats
    for height, width in ((480, 640), (928, 1392), (1632, 2448)):
        data = photo(height, width)
        spent: dict[str, list[float]] = {name: [] for name in contenders()}
        for _ in range(repeats):  # Interleaved, so that a slow moment of the machine hits all alike.
            for name, call in contenders().items():
                start = time.process_time()
                call(data)
                spent[name].append(1e3 * (time.process_time() - start))
        print(f"{width}x{height}, {len(data) / 1e6:.2f} MB")
        peer = 1.0
        for name, times in spent.items():
            median = float(np.median(times))
            peer = median if name.startswith("pillow") else peer
            print(f"  {name:38s} {median:7.2f} ms   {median / peer:5.2f} of pillow")


if __name__ == "__main__":
    main()
