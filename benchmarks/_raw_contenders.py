"""Readers that compete in `stream_raw`: every byte of the samples of tar shards, nothing decoded, one thread.

`python -m benchmarks._raw_contenders NAME FOLDER` does one pass for every line that it reads, and answers each with one
line of JSON: samples, bytes of their parts, seconds, CPU seconds, MB a second of either.
"""

from __future__ import annotations

import functools
import glob
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks._interleaved import Row, answer

Totals = tuple[int, int]


def tars(folder: str) -> list[str]:
    return sorted(glob.glob(f"{folder}/dataset/shards/*.tar"))


def webdataset(folder: str) -> Totals:
    import webdataset as wds

    samples = count = 0
    for sample in wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False):
        samples += 1
        count += sum(len(value) for key, value in sample.items() if not key.startswith("__"))
    return samples, count


def spdl(folder: str) -> Totals:
    import spdl.io

    keys, count = set(), 0
    for path in tars(folder):
        with open(path, "rb") as file:
            for name, data in spdl.io.iter_tarfile(file):
                keys.add(name.partition(".")[0])
                count += len(data)
    return len(keys), count


def tarfile(folder: str) -> Totals:
    import tarfile as standard

    keys, count = set(), 0
    for path in tars(folder):
        with standard.open(path) as tar:
            for member in tar:
                keys.add(member.name.partition(".")[0])
                count += len(tar.extractfile(member).read())  # type: ignore[union-attr]
    return len(keys), count


def ours(folder: str, integrity: Any, view: bool = False) -> Totals:
    """`Dataset.iter_raw` over all positions: a key and the bytes of each part."""
    import numpy as np

    from mmdata import open_dataset

    samples = count = 0
    dataset = open_dataset(f"{folder}/dataset", integrity=integrity)
    for raw in dataset.iter_raw(np.arange(len(dataset)), view=view):
        samples += 1
        for data in raw[1].values():
            count += len(data)
    return samples, count


def stream(folder: str, integrity: Any) -> Totals:
    """The stream as a user iterates it, with the same bytes in typed Samples."""
    from mmdata import StreamingDataset
    from mmdata.stream.spec import StreamSpec

    spec = StreamSpec(dataset=f"{folder}/dataset", shuffle="none", integrity=integrity)
    samples = count = 0
    for sample in StreamingDataset(spec, yields="raw"):
        samples += 1
        count += sum(len(medium.data) for medium in sample.media)
    return samples, count


def floor(folder: str) -> Totals:
    """`read()` of whole files into one buffer: what the page cache gives."""
    count = 0
    buffer = memoryview(bytearray(1 << 20))
    for path in tars(folder):
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                count += got
    return 0, count


READERS: dict[str, Callable[[str], Totals]] = {
    "webdataset": webdataset,
    "python tarfile": tarfile,
    "spdl": spdl,
    "mmdata, integrity off": functools.partial(ours, integrity="off"),
    "mmdata, crc32c": functools.partial(ours, integrity="crc32c"),
    "mmdata, off, views": functools.partial(ours, integrity="off", view=True),
    "mmdata, crc32c, views": functools.partial(ours, integrity="crc32c", view=True),
    "mmdata stream, crc32c": functools.partial(stream, integrity="crc32c"),
    "read() into one buffer": floor,
}


def measure(name: str, folder: str) -> Row:
    """One pass, after one that is not timed: what a process holds may have been taken from its memory, or from the
    caches, while others had their turns."""
    READERS[name](folder)
    used, began = time.process_time(), time.perf_counter()
    samples, count = READERS[name](folder)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    row = {"samples": samples, "bytes": count, "seconds": seconds, "cpu": cpu}
    return {**row, "rate": count / seconds / 1e6, "cpu_rate": count / cpu / 1e6}


if __name__ == "__main__":
    answer(lambda _: measure(*sys.argv[1:3]))
