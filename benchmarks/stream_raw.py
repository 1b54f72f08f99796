"""Bytes of samples from tar shards, nothing decoded, one thread: against the peers' readers and the page cache.

`python -m benchmarks.stream_raw [--count 2000] [--kilobytes 310] [--rounds 7]`, after `python -m benchmarks.peers`.
The shards are plain WebDataset tars of random bytes with a small text each; all read the same ones, from the page
cache, each in a process of its own, in turn. Claims are of CPU time, which others that use the machine hardly change;
the table has wall time beside it. The floor reads whole files into one buffer, headers and padding too. `views` are
parts as slices of a map of a local shard (`Dataset.iter_raw(..., view=True)`): with `integrity="off"` nothing has
touched their bytes, with crc32c all of them have been read once.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import _options
from benchmarks._interleaved import race, table
from benchmarks._raw_contenders import READERS
from benchmarks._raw_contenders import ours as iter_raw
from benchmarks._raw_data import write_raw
from benchmarks.claims import beside, write
from benchmarks.peers import PYTHONS, lacking, versions

FLOOR = "read() into one buffer"


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=310)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    _options.add_ours(parser)
    arguments = _options.parse(parser, rounds=5)
    missing = lacking(READERS)
    with tempfile.TemporaryDirectory() as folder:
        write_raw(Path(folder) / "dataset", arguments.count, arguments.kilobytes << 10, arguments.shards)
        if arguments.ours:
            _options.repeat(arguments.ours, [partial(iter_raw, folder, each) for each in ("off", "crc32c")])
            return 0
        names = [name for name in READERS if name not in missing]
        module, count = "benchmarks._raw_contenders", arguments.rounds
        found, failed = race(names, module, Path(folder), folder, line="", count=count, pythons=PYTHONS)
    missing |= failed
    print(f"{arguments.count} samples of {arguments.kilobytes} KB in {arguments.shards} shards, MB/s")
    table(found, "rate", "cpu_rate")
    what = f"bytes of samples of {arguments.kilobytes} KB from tar"
    claims = [
        beside(what, found, ours, other, by="cpu_rate", goal=goal, missing=missing, floor=other == FLOOR, headline=head)
        for ours, other, goal, head in (
            ("mmdata, integrity off", "spdl", 1.0, True),
            ("mmdata, integrity off", "webdataset", 9.0, True),
            ("mmdata, integrity off", FLOOR, 0.95, False),
            ("mmdata, crc32c", FLOOR, 0.65, True),
            ("mmdata, off, views", "spdl", 3.0, False),
            ("mmdata, off, views", FLOOR, None, False),
            ("mmdata, crc32c, views", FLOOR, 0.65, True),
            ("mmdata stream, crc32c", "webdataset", None, False),
        )
    ]
    told = {"count": arguments.count, "kilobytes": arguments.kilobytes}
    peers = versions(found)
    write("stream_raw", claims, figures=found, missing=missing, peers=peers, to=arguments.json, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
