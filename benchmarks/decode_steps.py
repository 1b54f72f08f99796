"""CPU milliseconds per picture of decoding, verifying and resizing, as ratios to Pillow in the same run.

`python -m benchmarks.decode_steps [--rounds 15]`: photographs of scikit-learn and scikit-image, enlarged to the sizes
named. The ratios hold across machines; the milliseconds do not.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks.claims import beside, installed, write
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
    parser = _options.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = _options.parse(parser, rounds=5)
    claims, figures = [], {}
    for height, width in ((480, 640), (928, 1392), (1632, 2448)):
        data = photo(height, width)
        calls = {name: lambda call=call, data=data: call(data) for name, call in contenders().items()}  # type: ignore[misc]
        print(f"{width}x{height}, {len(data) / 1e6:.2f} MB, milliseconds")
        found = figures[f"{width}x{height}"] = turns(calls, arguments.rounds)
        table(found, scale={"seconds": 1e3, "cpu": 1e3})
        for ours, peer in (
            ("decode", "pillow: decode"),
            ("probe, verify full", "pillow: decode"),
            ("probe full, resize 256 exact", "pillow: decode, bicubic 256, encode"),
            ("probe header, resize 256 scaled", "pillow: decode, bicubic 256, encode"),
        ):
            claims.append(beside(f"a JPEG of {width}x{height}", found, ours, peer, by="cpu"))
    write("decode_steps", claims, figures=figures, peers=installed("pillow"), to=arguments.json)


if __name__ == "__main__":
    main()
