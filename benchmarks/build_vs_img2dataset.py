"""Dataset builds from URLs, ours beside img2dataset: the same rows, server, output size and concurrency.

    python -m benchmarks.build_vs_img2dataset [--rows 1000] [--rounds 5] [--modes resize resize-fast keep keep-header]

After `python -m benchmarks.peers`: img2dataset wants older packages than ours, and has an environment of its own. The
server is a process of its own on loopback. Each mode is timed as whole commands,
start-up included, in interleaved rounds (ours, theirs, ours, ...); the marginal rate, start-up excluded, comes from a
second, shorter run of each: (rows - fewer) / (time - time of fewer). On a machine that others use, the marginal CPU
time per picture is the steadier figure; it leaves out the server, which is the same for both (0.5 to 0.7 ms).

Both make sha256 digests of every picture, write a caption and a JSON per sample, and use as many worker processes
as there are cores and as many connections in all. What ours does besides, and theirs does not: facts and crc32c of
every part in an index, sha256 of every shard and index, fsync, ledger, statistics and report. The floor is a Python
that asks for the same rows with the same library (aiohttp) and drops them: no build that fetches with it can be more
beside img2dataset than that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _options, _photos
from benchmarks._interleaved import Row, summary, table
from benchmarks.claims import Claim, beside, write
from benchmarks.peers import PEERS, lacking, versions
from mmdata.testing.server import FaultServer

HERE = Path(__file__).parent
PEER = "img2dataset"
FLOOR = "floor: fetching alone"
CONNECTIONS = 32
SHARD = 125  # so that the shorter run too has a shard for each process

PROBE = {"kind": "probe", "verify": "full"}
HEADER = {"kind": "probe", "verify": "header"}
SMALL: dict[str, Any] = {"kind": "resize", "mode": "shortest", "size": 256, "quality": 95}
THEIR_RESIZE = ["--resize_mode=keep_ratio", "--image_size=256", "--resize_only_if_bigger=True", "--encode_quality=95"]
THEIR_KEEP = ["--resize_mode=no", "--disable_all_reencoding=True"]
MODES: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "resize": ("resize shortest 256, exact decode, full verification", [PROBE, SMALL], THEIR_RESIZE),
    "resize-fast": (
        "resize shortest 256, scaled decode, header verification",
        [HEADER, {**SMALL, "decode": "scaled", "guard": 1.0}],
        THEIR_RESIZE,
    ),
    "keep": ("bytes kept, full verification", [PROBE], THEIR_KEEP),
    "keep-header": ("bytes kept, header verification", [HEADER], THEIR_KEEP),
    "keep-bare": ("bytes kept, header verification, no digest per picture", [{**HEADER, "digest": "none"}], THEIR_KEEP),
}


def rows_of(path: Path, url: str, rows: int) -> Path:
    urls = [f"{url}/images/{number:06d}.jpg" for number in range(rows)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture number {number}" for number in range(rows)]}), path)
    return path


def ours(metadata: Path, output: Path, steps: list[dict[str, Any]]) -> Row:
    spec = {
        "source": {"kind": "laion", "path": str(metadata)},
        "fetch": {
            "allow_private": True,
            "concurrency": CONNECTIONS,
            "per_host_concurrency": CONNECTIONS,
            "per_host_rate": 1e6,
            "retries": 0,
        },
        "steps": steps,
        "output": {"path": str(output), "unit_rows": SHARD},
    }
    file = output.with_suffix(".yaml")
    file.write_text(json.dumps(spec))
    return timed([sys.executable, "-m", "mmdata.build", "--quiet", "--spec", str(file)])


def theirs(metadata: Path, output: Path, options: list[str]) -> Row:
    processes = len(os.sched_getaffinity(0))
    return timed(
        [
            str(PEERS[PEER].python.with_name(PEER)),
            f"--url_list={metadata}",
            "--input_format=parquet",
            "--url_col=URL",
            "--caption_col=TEXT",
            "--output_format=webdataset",
            f"--output_folder={output}",
            f"--processes_count={processes}",
            f"--thread_count={CONNECTIONS // processes}",
            f"--number_sample_per_shard={SHARD}",
            "--enable_wandb=False",
            *options,
        ]
    )


def fetching(metadata: Path) -> Row:
    """What neither can do without: Python, and aiohttp asking for every row."""
    return timed([sys.executable, "-m", "benchmarks._fetch_alone", str(metadata), str(CONNECTIONS)])


def timed(command: list[str]) -> Row:
    """Wall seconds, CPU seconds (of its children too) and peak resident MiB (of the largest process) of a whole
    command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{errors.decode(errors='replace')[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "mib": usage.ru_maxrss / 1024}


def samples(folder: Path) -> int:
    """Pictures in all tars of a folder: both must have kept every one."""
    listed = [
        subprocess.run(["tar", "tf", str(p)], capture_output=True, text=True, check=True) for p in folder.rglob("*.tar")
    ]
    return sum(line.endswith(".jpg") for done in listed for line in done.stdout.splitlines())


GOAL_ROWS = 1000
"""Of which the goals of whole runs are: of fewer, in which starting counts for more, the figure alone is told."""
GOALS = {"resize": 2.5, "resize-fast": 2.5, "keep": 1.5, "keep-header": 6.0}
"""Times as fast as whole commands."""
MARGINAL = {"resize": 1.1, "resize-fast": 1.7}
"""Times as fast with the start-up of both left out."""


def run(modes: list[str], rows: int, rounds: int, missing: dict[str, str]) -> tuple[list[Claim], dict[str, Any]]:
    fewer = rows // 4
    data = HERE / "data" / "photos"
    size = _photos.write(data / "images", rows)
    cores = len(os.sched_getaffinity(0))
    print(f"{rows} JPEGs, {size / rows / 1e6:.2f} MB mean; {CONNECTIONS} connections; {cores} cores")
    claims: list[Claim] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, FaultServer(data) as server:
        tables = {n: rows_of(Path(temporary) / f"rows{n}.parquet", server.url, n) for n in (rows, fewer)}
        for mode in modes:
            title, steps, options = MODES[mode]
            times: dict[str, dict[int, list[Row]]] = {}
            for number in range(rounds):
                for count in (rows, fewer):
                    for who in ("mmdata", PEER) if PEER not in missing else ("mmdata",):
                        output = Path(temporary) / who
                        shutil.rmtree(output, ignore_errors=True)
                        row = (
                            ours(tables[count], output, steps)
                            if who == "mmdata"
                            else theirs(tables[count], output, options)
                        )
                        times.setdefault(who, {}).setdefault(count, []).append(row)
                        if number == 0 and samples(output) != count:
                            raise SystemExit(f"{who} kept {samples(output)} of {count} pictures")
                    times.setdefault(FLOOR, {}).setdefault(count, []).append(fetching(tables[count]))
            print(f"\n{title}: seconds of {rows} rows, MiB of the largest process, each more picture in ms")
            figures[mode] = {who: marginal(each[rows], each[fewer], rows - fewer) for who, each in times.items()}
            table(figures[mode], "wall", "cpu", "mib", "marginal_ms", "marginal_cpu_ms")
            claims += claimed(mode, figures[mode], rows, missing)
    return claims, figures


def only_ours(modes: list[str], rows: int, passes: int) -> None:
    """Builds of ours, for `benchmarks.profiles`: start-up, rows and end."""
    data = HERE / "data" / "photos"
    _photos.write(data / "images", rows)
    with tempfile.TemporaryDirectory() as temporary, FaultServer(data) as server:
        metadata, output = rows_of(Path(temporary) / "rows.parquet", server.url, rows), Path(temporary) / "mmdata"
        for mode in modes:
            for _ in range(passes):
                shutil.rmtree(output, ignore_errors=True)
                row = ours(metadata, output, MODES[mode][1])
                print(f"{mode}, {rows} rows: {row['wall']:.2f} s, {row['cpu']:.2f} s of CPU, {row['mib']:.0f} MiB")


def marginal(more: list[Row], less: list[Row], pictures: int) -> list[Row]:
    """The rows of whole runs, with milliseconds of wall and CPU time that each further picture took: what they took
    above the median of the shorter runs."""
    wall, cpu = (summary(less, key)[0] for key in ("wall", "cpu"))
    return [
        {
            **whole,
            "marginal_ms": 1e3 * (whole["wall"] - wall) / pictures,
            "marginal_cpu_ms": 1e3 * (whole["cpu"] - cpu) / pictures,
        }
        for whole in more
    ]


def claimed(mode: str, found: dict[str, list[Row]], rows: int, missing: dict[str, str]) -> list[Claim]:
    title = MODES[mode][0]
    whole, each = f"build from URLs, {rows} rows: {title}", f"each more picture: {title}"
    goal, head = GOALS.get(mode) if rows >= GOAL_ROWS else None, mode in GOALS
    return [
        beside(whole, found, "mmdata", PEER, by="wall", goal=goal, headline=head, missing=missing),
        beside(whole, found, FLOOR, PEER, by="wall", missing=missing),
        beside(whole, found, "mmdata", FLOOR, by="wall", floor=True),
        beside(f"{each}, wall time", found, "mmdata", PEER, by="marginal_ms", goal=MARGINAL.get(mode), missing=missing),
        beside(f"{each}, CPU time", found, "mmdata", PEER, by="marginal_cpu_ms", missing=missing),
    ]


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    _options.add_ours(parser)
    arguments = _options.parse(parser, rounds=2, modes=["resize", "resize-fast", "keep", "keep-header"])
    if arguments.ours:
        only_ours(arguments.modes, arguments.rows, arguments.ours)
        return
    missing = lacking([PEER])
    claims, figures = run(arguments.modes, arguments.rows, arguments.rounds, missing)
    told = {"figures": figures, "missing": missing, "peers": versions([PEER]), "to": arguments.json}
    write("build_vs_img2dataset", claims, threads=len(os.sched_getaffinity(0)), **told)


if __name__ == "__main__":
    main()
