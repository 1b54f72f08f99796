"""Peak memory of a build against the size of its input: the same job on 8,000, 16,000 and 32,000 rows.

    python -m benchmarks.build_memory [--rows 8000 16000 32000]

Bytes are kept and only headers verified, which is when most media wait in memory. They may take so much and no more;
how soon they do depends on how much faster a machine fetches than it writes, and below 8,000 rows they may not have
yet. Rows beyond 1,000 repeat pictures.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _options, _photos
from benchmarks.build_vs_img2dataset import HEADER, ours
from benchmarks.claims import figure, write
from mmdata.testing.server import FaultServer

PICTURES = 1000


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[8000, 16_000, 32_000])
    arguments = _options.parse(parser, rows=[8000, 16_000])
    data = Path(__file__).parent / "data" / "photos"
    _photos.write(data / "images", min(PICTURES, max(arguments.rows)))
    found = []
    with tempfile.TemporaryDirectory() as temporary, FaultServer(data) as server:
        for rows in arguments.rows:
            table = Path(temporary) / f"rows{rows}.parquet"
            urls = [f"{server.url}/images/{number % PICTURES:06d}.jpg" for number in range(rows)]
            pq.write_table(
                pa.table({"URL": urls, "TEXT": [f"picture number {number}" for number in range(rows)]}), table
            )
            output = Path(temporary) / f"out{rows}"
            work = ours(table, output, [HEADER])
            run = json.loads((output / "stats.json").read_bytes())["run"]
            found.append({"rows": rows, "peak": run["peak_rss_mib"], "worker": run["peak_worker_rss_mib"]})
            print(
                f"{rows:>6} rows: {work['wall']:6.1f} s, peak {run['peak_rss_mib']:.0f} MiB, "
                f"largest worker {run['peak_worker_rss_mib']:.0f} MiB"
            )
    first, last = found[0], found[-1]
    what = f"peak memory of a build, {last['rows']:,} rows over {first['rows']:,}"
    claims = [
        figure(what, "mmdata", [last["peak"] / first["peak"]], "times", goal=1.2, at_most=True, headline=True),
        figure(f"peak memory of a build of {last['rows']:,} rows", "mmdata", [last["peak"]], "MiB"),
        figure(f"of its largest worker, {last['rows']:,} rows", "mmdata", [last["worker"]], "MiB"),
    ]
    write("build_memory", claims, figures=found, threads=len(os.sched_getaffinity(0)), to=arguments.json)


if __name__ == "__main__":
    main()
