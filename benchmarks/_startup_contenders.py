"""Readers that compete in `stream_startup`: what it costs to begin, to go on, and to begin in the middle.

`python -m benchmarks._startup_contenders prepare|run NAME FOLDER` makes a reader's own data of the tars, or does one
row in this fresh process and answers with one line of JSON: import s and MB, first sample ms, first batch ms (samples
until there are `BATCH`), us per sample, resume ms, peak MB. Every reader gives the bytes of a sample's parts, in the
order of the data, in this process.
"""

from __future__ import annotations

import functools
import glob
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

BATCH = 32
"""Samples of the first batch."""
Reader = Callable[[int], Iterable[Any]]
"""The samples from a position on; called anew for each start, once before it is timed to go on from a state."""


def tars(folder: str) -> list[str]:
    return sorted(glob.glob(f"{folder}/dataset/shards/*.tar"))


def webdataset(folder: str) -> Reader:
    import webdataset as wds

    def read(start: int) -> Iterable[Any]:  # it has no other way than to skip
        data = wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False)
        return itertools.islice(iter(data), start, None)

    return read


def spdl(folder: str) -> Reader:
    import spdl.io

    def samples() -> Iterator[dict[str, Any]]:
        for path in tars(folder):
            with open(path, "rb") as file:
                members = spdl.io.iter_tarfile(file)
                for _, group in itertools.groupby(members, lambda member: member[0].partition(".")[0]):
                    yield dict(group)

    return lambda start: itertools.islice(samples(), start, None)


def prepare_mosaicml(folder: str) -> None:
    import tarfile

    from streaming import MDSWriter

    # A shard of MDS is bounded by bytes: as many as a tar of ours has payload.
    limit = 0
    rows = []
    for number, path in enumerate(tars(folder)):
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        if number == 0:
            limit = sum(len(data) + 16 for _, data in members) + 512
        rows += [data for name, data in members if name.endswith(".bin")]
    with MDSWriter(out=f"{folder}/mds", columns={"jpg": "bytes"}, size_limit=limit) as writer:
        for data in rows:
            writer.write({"jpg": data})


def mosaicml(folder: str) -> Reader:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    def read(start: int) -> Iterable[Any]:
        clean_stale_shared_memory()
        data = StreamingDataset(local=f"{folder}/mds", remote=None, shuffle=False, batch_size=1)
        if start:
            data.load_state_dict(data.state_dict(start, from_beginning=True))
        return data

    return read


def _numbered(number: int) -> dict[str, bytes]:
    return {"jpg": _PAYLOADS[number]}


_PAYLOADS: list[bytes] = []


def prepare_litdata(folder: str) -> None:
    import tarfile

    from litdata import optimize

    for path in tars(folder):
        with tarfile.open(path) as tar:
            _PAYLOADS.extend(
                tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.name.endswith(".bin")
            )
    rows = -(-len(_PAYLOADS) // len(tars(folder)))
    optimize(
        _numbered,
        list(range(len(_PAYLOADS))),
        f"{folder}/litdata",
        chunk_size=rows,
        num_workers=1,
        start_method="fork",
    )


def litdata(folder: str) -> Reader:
    from litdata import StreamingDataset

    def read(start: int) -> Iterable[Any]:
        data = StreamingDataset(f"{folder}/litdata", shuffle=False)
        if not start:
            return data
        return (data[at] for at in range(start, len(data)))

    return read


def dataset(folder: str) -> Reader:
    """`Dataset.iter_raw`, checked."""
    from mmdata import open_dataset

    def read(start: int) -> Iterable[Any]:
        data = open_dataset(f"{folder}/dataset")
        return data.iter_raw(range(start, len(data)))

    return read


def stream(folder: str, shuffle: Any) -> Reader:
    """The stream as a user iterates it."""
    from mmdata import StreamingDataset

    states: dict[int, Any] = {}

    def read(start: int) -> Iterable[Any]:
        data = StreamingDataset(f"{folder}/dataset", yields="bytes", shuffle=shuffle)
        if start in states:
            data.load_state_dict(states[start])
        elif start:
            states[start] = data.state_dict(step=start)
        return data

    return read


def bare_import(folder: str) -> Reader:
    import mmdata

    assert mmdata.__version__
    return lambda start: [None] * 2


READERS: dict[str, Callable[[str], Reader]] = {
    "webdataset": webdataset,
    "mosaicml-streaming": mosaicml,
    "litdata": litdata,
    "spdl": spdl,
    "import mmdata": bare_import,
    "mmdata dataset": dataset,
    "mmdata stream": functools.partial(stream, shuffle="none"),
    "mmdata stream, global": functools.partial(stream, shuffle="global"),
}
PREPARE: dict[str, Callable[[str], None]] = {"mosaicml-streaming": prepare_mosaicml, "litdata": prepare_litdata}


def resident() -> float:
    """MB of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def peak() -> float:
    """The most MB that this process held, not counting the one it was forked from."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))


def run(name: str, folder: str, samples: int, read_on: int) -> dict[str, float]:
    before, began = resident(), time.perf_counter()
    reader = READERS[name](folder)
    row = {"import_s": time.perf_counter() - began, "import_mb": resident() - before}
    began = time.perf_counter()
    values = iter(reader(0))
    next(values)
    row["first_ms"] = 1e3 * (time.perf_counter() - began)
    for _ in itertools.islice(values, BATCH - 1):
        pass
    row["batch_ms"] = 1e3 * (time.perf_counter() - began)
    used, began = time.process_time(), time.perf_counter()
    count = sum(1 for _ in itertools.islice(values, read_on))
    row["sample_us"] = 1e6 * (time.perf_counter() - began) / max(1, count)
    row["sample_cpu_us"] = 1e6 * (time.process_time() - used) / max(1, count)
    del values
    reader(samples // 2)  # who goes on from a state has it by then
    began = time.perf_counter()
    next(iter(reader(samples // 2)))
    row["resume_ms"] = 1e3 * (time.perf_counter() - began)
    row["peak_mb"] = peak()
    return row


def main() -> None:
    what, name, folder = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand before the answer
    if what == "prepare":
        PREPARE[name](folder)
        return
    print(json.dumps(run(name, folder, int(sys.argv[4]), int(sys.argv[5]))), file=answers, flush=True)
    os._exit(0)  # some wait for threads of their own at the end


if __name__ == "__main__":
    main()
