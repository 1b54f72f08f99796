"""Peak memory of a build against the size of its input: the same job on 1,000, 4,000 and 8,000 rows.

    python -m benchmarks.build_memory [--rows 1000,4000,8000]

Bytes are kept and only headers verified, which is when most media wait in memory. Rows beyond 1,000 repeat pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _photos
from benchmarks.build_vs_img2dataset import HEADER, ours
from mmdata.testing.server import FaultServer

PICTURES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,4000,8000")
    arguments = parser.parse_args()
    data = Path(__file__).parent / "data" / "photos"
    _photos.write(data / "images", PICTURES)
    with tempfile.TemporaryDirectory() as temporary, FaultServer(data) as server:
        for rows in map(int, arguments.rows.split(",")):
            table = Path(temporary) / f"rows{rows}.parquet"
            urls = [f"{server.url}/images/{number % PICTURES:06d}.jpg" for number in range(rows)]
            pq.write_table(
                pa.table({"URL": urls, "TEXT": [f"picture number {number}" for number in range(rows)]}), table
            )
            output = Path(temporary) / f"out{rows}"
            work = ours(table, output, [HEADER])
            run = json.loads((output / "stats.json").read_bytes())["run"]
            print(
                f"{rows:>6} rows: {work['wall']:6.1f} s, peak {run['peak_rss_mib']:.0f} MiB, "
                f"largest worker {run['peak_worker_rss_mib']:.0f} MiB"
            )


if __name__ == "__main__":
    main()
