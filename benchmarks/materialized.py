"""Epochs over a dataset whose views' output a build has stored, against epochs that decode and resize every time.

`python -m benchmarks.materialized [--count 200] [--rounds 5] [--threads 2] [--families ...]`: photographs of 0.2 to 4
megapixels, one dataset per way of storing, streamed whole through StreamLoader and PackedCollator. The ways take turns,
epoch by epoch; the packs of the exact ways are compared first. Figures are wall and CPU seconds of an epoch, and the
bytes that the shards take. Files come from the page
cache: on storage slower than a decoder, larger shards win less.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks._photos import write as write_photos
from benchmarks.claims import Claim, beside, write
from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.build import build_dataset
from mmdata.collate import PackedCollator
from mmdata.families import Family, get_family
from mmdata.stream.spec import StreamSpec
from mmtrain.tokenizer import TokenizerSpec, train

WAYS: dict[str, dict[str, Any] | None] = {
    "decode": None,
    "uint8": {},
    "float32": {"dtype": "float32"},
    "jpeg 95 (lossy)": {"store": "jpeg"},
}
VIEWS: dict[str, dict[str, Any]] = {
    "llava_next": {},
    "qwen2_vl": {"min_pixels": 56 * 56, "max_pixels": 512 * 28 * 28},
}
MARKS = {
    "llava_next": ["<image>"],
    "qwen2_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
}


def build(root: Path, name: str, family: str, way: dict[str, Any] | None) -> Path:
    steps: list[dict[str, Any]] = [{"kind": "probe", "verify": "header"}]
    if way is not None:
        steps.append({"kind": "materialize", "family": family, "image": VIEWS[family], **way})
    spec = {"source": {"kind": "folder", "path": "photos"}, "steps": steps, "output": {"path": name}}
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    build_dataset(str(path), quiet=True)
    return root / name


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--families", nargs="+", choices=VIEWS, default=list(VIEWS))
    arguments = _options.parse(parser, count=32)
    claims: list[Claim] = []
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(root / "photos", arguments.count)
        for number in range(arguments.count):
            (root / "photos" / f"{number:06d}.txt").write_text(f"photograph number {number}")
        for family in arguments.families:
            more, figures[family] = compare(root, family, arguments)
            claims += more
    write("materialized", claims, figures=figures, threads=arguments.threads, to=arguments.json)


def compare(root: Path, name: str, arguments: argparse.Namespace) -> tuple[list[Claim], dict[str, Any]]:
    folders = {way: build(root, f"{name}-{at}", name, options) for at, (way, options) in enumerate(WAYS.items())}
    words = train(open_dataset(folders["decode"]), TokenizerSpec(vocab_size=400))
    words.add_special_tokens({"additional_special_tokens": MARKS[name]})
    family = get_family(name, tokenizer=words, image=VIEWS[name])
    check({way: stream(folder, family, way) for way, folder in folders.items()})

    def epoch(way: str) -> None:
        for _ in StreamLoader(stream(folders[way], family, way), PackedCollator(), threads=arguments.threads):
            pass

    found = turns({way: lambda way=way: epoch(way) for way in folders}, arguments.rounds)  # type: ignore[misc]
    shards = {way: sum(path.stat().st_size for path in (folders[way] / "shards").iterdir()) for way in folders}
    print(f"{name}: {arguments.count} photographs, {arguments.threads} threads, seconds of an epoch")
    table(found)
    print("MB of shards: " + ", ".join(f"{way} {size / 1e6:.1f}" for way, size in shards.items()))
    what = f"an epoch of {name}, from the page cache"
    ways = [way for way in WAYS if way != "decode"]
    claims = [beside(what, found, f"{way}", "decode", by="cpu", name="decoding every time", floor=True) for way in ways]
    return claims, {"rounds": found, "bytes": shards}


def stream(folder: Path, family: Family, way: str) -> StreamingDataset:
    kind = "lossy" if way.startswith("jpeg") else "exact"
    spec = StreamSpec(dataset=str(folder), max_length=8192, shuffle="none", materialized=kind)
    return StreamingDataset(spec, family=family)


def check(streams: dict[str, StreamingDataset]) -> None:
    """The exact ways give the same arrays, and the lossy one those of the same shape."""
    for packs in zip(*streams.values(), strict=True):
        for way, pack in zip(streams, packs, strict=True):
            assert not pack.masked, (way, pack.masked)
            for key, array in packs[0].media.items():
                assert pack.media[key].shape == array.shape, (way, key)
                assert way.startswith("jpeg") or np.array_equal(pack.media[key], array), (way, key)


if __name__ == "__main__":
    main()
