"""Families' preprocessing against Hugging Face's processors and against the bare resizes it cannot do without.

`python -m benchmarks.processors [--count 12] [--rounds 7] [--threads 1] [FAMILY ...]`: decoded photographs of 0.2 to 4
megapixels, one by one, through views with the processors' own settings. Every contender's output is compared first. The
peer is the fastest of: transformers' torchvision processor with tensors or Pillow images, one by one or in a batch of
8. `uint8` is the same output before normalising, which is then the device's work (`normalise_on_device`). The floor is
what the plan resizes, in channels-last memory, nothing else. A round is a pass over all pictures by every contender in
turn; figures are CPU milliseconds per picture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks._photos import write as write_photos
from benchmarks.claims import Claim, beside, best_of, figure, installed, write
from mmdata.decode.image import MAX_PIXELS, decode
from mmdata.types import Fork, Media, Op, Resize
from mmdata.views.anyres import AnyRes
from mmdata.views.naflex import NaFlex
from mmdata.views.qwen import SmartResize
from mmdata.views.tiles import SplitImage

QWEN_PIXELS = (56 * 56, 1280 * 28 * 28)
BATCH = 8


def families() -> dict[str, tuple[Any, Any]]:
    """Per family: our view and Hugging Face's processor."""
    from transformers import (
        Idefics3ImageProcessor,
        LlavaNextImageProcessor,
        Qwen2VLImageProcessor,
        Siglip2ImageProcessor,
    )

    side = {"shortest_edge": 336}
    crop = {"height": 336, "width": 336}
    size = {"shortest_edge": QWEN_PIXELS[0], "longest_edge": QWEN_PIXELS[1]}
    return {
        "llava_next": (AnyRes(), LlavaNextImageProcessor(size=side, crop_size=crop)),
        "qwen2_vl": (
            SmartResize(min_pixels=QWEN_PIXELS[0], max_pixels=QWEN_PIXELS[1]),
            Qwen2VLImageProcessor(size=size),
        ),
        "siglip2": (NaFlex(budget=576), Siglip2ImageProcessor(max_num_patches=576)),
        "idefics3": (SplitImage(), Idefics3ImageProcessor()),
    }


def resizes(ops: Sequence[Op]) -> list[Any]:
    """The resizes of a plan, and of its forks as lists of their own."""
    found: list[Any] = []
    for op in ops:
        if isinstance(op, Resize):
            found.append(op)
        elif isinstance(op, Fork):
            found.append([resizes(branch) for branch in op.branches])
    return found


def bare(image: torch.Tensor, found: list[Any]) -> None:
    for op in found:
        if isinstance(op, Resize):
            image = resize_image(image, [op.height, op.width], InterpolationMode(op.filter), antialias=True)
        else:
            for branch in op:
                bare(image, branch)


def contenders(view: Any, processor: Any, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """What is timed for one picture. Each call ends with the family's array for it."""
    facts = Media(kind="image", height=pixels.shape[0], width=pixels.shape[1])
    light = replace(view, dtype="uint8")
    tensor, picture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), Image.fromarray(pixels)
    last, found = torch.from_numpy(pixels).permute(2, 0, 1), resizes(view.plan(facts).ops)
    nested = hasattr(processor, "do_image_splitting")

    def theirs(image: Any, **options: Any) -> Any:
        return processor([[image]] if nested else image, return_tensors="pt", **options).pixel_values

    return {
        "ours": lambda: view.realize(pixels, view.plan(facts)),
        "ours, uint8": lambda: light.realize(pixels, light.plan(facts)),
        "transformers, tensor": lambda: theirs(tensor),
        "transformers, tensor, no grouping": lambda: theirs(tensor, disable_grouping=True),
        "transformers, Pillow image": lambda: theirs(picture),
        "floor: bare resizes": lambda: bare(last, found),
    }


def batched(processor: Any, pictures: Sequence[np.ndarray]) -> Callable[[], Any]:
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1).contiguous() for pixels in pictures]
    nested = hasattr(processor, "do_image_splitting")

    def call() -> None:
        for at in range(0, len(tensors), BATCH):
            batch: list[Any] = tensors[at : at + BATCH]
            processor([[image] for image in batch] if nested else batch, return_tensors="pt")

    return call


def compare(name: str, pictures: Sequence[np.ndarray], rounds: int) -> tuple[list[Claim], dict[str, Any]]:
    view, processor = families()[name]
    calls = [contenders(view, processor, pixels) for pixels in pictures]
    worst = 0.0
    for call in calls:
        ours, theirs = call["ours"](), call["transformers, tensor"]().reshape(call["ours"]().shape)
        worst = max(worst, float((ours - theirs).abs().max()))
    whole: dict[str, Callable[[], object]] = {
        label: lambda label=label: [call[label]() for call in calls]
        for label in calls[0]  # type: ignore[misc]
    }
    whole[f"transformers, batch of {BATCH}"] = batched(processor, pictures)
    found = turns(whole, rounds, each=len(pictures))
    print(f"{name}: largest difference {worst:.1e}, milliseconds a picture")
    table(found, "cpu", scale={"cpu": 1e3})
    peers = [label for label in found if label.startswith("transformers")]
    what, floor = f"{name} preprocessing", "floor: bare resizes"
    claims = [
        best_of(what, found, "ours", peers, by="cpu", goal=2.0, headline=True),
        best_of(what, found, "ours, uint8", peers, by="cpu"),
        beside(what, found, "ours", floor, by="cpu", goal=0.6, floor=True),
        beside(what, found, "ours, uint8", floor, by="cpu", goal=0.6, floor=True),
        figure(f"{what}, largest difference", "ours", [worst], "", goal=0.06, at_most=True, beside=peers[0]),
    ]
    return claims, {"rounds": found, "difference": worst}


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    _options.add_ours(parser)
    parser.add_argument("names", nargs="*", default=list(families()), metavar="FAMILY")
    arguments = _options.parse(parser, count=8, rounds=5)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), arguments.count)
        pictures = [decode(path.read_bytes(), max_pixels=MAX_PIXELS) for path in sorted(Path(folder).iterdir())]
    if arguments.ours:
        chosen = [families()[name] for name in arguments.names]
        calls = [contenders(*one, pixels)["ours"] for one in chosen for pixels in pictures]
        _options.repeat(arguments.ours, calls)
        return
    print(f"{len(pictures)} pictures, {np.mean([pixels.size / 3e6 for pixels in pictures]):.2f} MP, mean")
    claims: list[Claim] = []
    figures = {}
    for name in arguments.names:
        more, figures[name] = compare(name, pictures, arguments.rounds)
        claims += more
    peers = installed("transformers", "torchvision")
    write("processors", claims, figures=figures, peers=peers, threads=arguments.threads, to=arguments.json)


if __name__ == "__main__":
    main()
