"""Dataset builds from URLs, ours beside img2dataset: the same rows, server, output size and concurrency.

    python -m benchmarks.build_vs_img2dataset [--rows 1000] [--rounds 5] [--modes resize,resize-fast,keep,keep-header]

img2dataset wants older packages than ours, so it gets an environment of its own (benchmarks/.peers/img2dataset),
made on the first run. The server is a process of its own on loopback. Each mode is timed as whole commands,
start-up included, in interleaved rounds (ours, theirs, ours, ...); the marginal rate, start-up excluded, comes from a
second, shorter run of each: (rows - fewer) / (time - time of fewer). On a machine that others use, the marginal CPU
time per picture is the steadier figure; it leaves out the server, which is the same for both (0.5 to 0.7 ms).

Both make sha256 digests of every picture, write a caption and a JSON per sample, and use as many worker processes
as there are cores and as many connections in all. What ours does besides, and theirs does not: facts and crc32c of
every part in an index, sha256 of every shard and index, fsync, ledger, statistics and report.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _photos
from mmdata.testing.server import FaultServer

HERE = Path(__file__).parent
PEER = HERE / ".peers" / "img2dataset"
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


def peer() -> str | None:
    """The peer's Python, installed if need be; None (with the reason printed) when it cannot be."""
    python = PEER / "bin" / "python"
    if not (PEER / "bin" / "img2dataset").exists():
        print(f"installing img2dataset into {PEER.relative_to(HERE.parent)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", "img2dataset"], check=False)
        if done.returncode:
            print("img2dataset: missing (it could not be installed)", file=sys.stderr)
            return None
    return str(python)


def table(path: Path, url: str, rows: int) -> Path:
    urls = [f"{url}/images/{number:06d}.jpg" for number in range(rows)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture number {number}" for number in range(rows)]}), path)
    return path


def ours(metadata: Path, output: Path, steps: list[dict[str, Any]]) -> dict[str, float]:
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


def theirs(metadata: Path, output: Path, options: list[str]) -> dict[str, float]:
    processes = len(os.sched_getaffinity(0))
    return timed(
        [
            str(PEER / "bin" / "img2dataset"),
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


def timed(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak resident MiB (of the largest process) of a whole command."""
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{errors.decode(errors='replace')[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": cpu, "mib": usage.ru_maxrss / 1024}


def samples(folder: Path) -> int:
    """Pictures in all tars of a folder: both must have kept every one."""
    listed = [
        subprocess.run(["tar", "tf", str(p)], capture_output=True, text=True, check=True) for p in folder.rglob("*.tar")
    ]
    return sum(line.endswith(".jpg") for done in listed for line in done.stdout.splitlines())


def run(modes: list[str], rows: int, rounds: int) -> list[dict[str, Any]]:
    fewer = rows // 4
    # The peer is an installed package, which comes compiled; a checkout may not be (PYTHONDONTWRITEBYTECODE).
    compileall.compile_dir(HERE.parent / "mmdata", quiet=1)
    data = HERE / "data" / "photos"
    size = _photos.write(data / "images", rows)
    cores = len(os.sched_getaffinity(0))
    print(f"{rows} JPEGs, {size / rows / 1e6:.2f} MB mean; {CONNECTIONS} connections; {cores} cores")
    python = peer()
    results = []
    with tempfile.TemporaryDirectory() as temporary, FaultServer(data) as server:
        tables = {n: table(Path(temporary) / f"rows{n}.parquet", server.url, n) for n in (rows, fewer)}
        for mode in modes:
            title, steps, options = MODES[mode]
            times: dict[tuple[str, int], list[dict[str, float]]] = {}
            for number in range(rounds):
                for count in (rows, fewer):
                    for who in ("ours", "theirs") if python else ("ours",):
                        output = Path(temporary) / f"{who}"
                        shutil.rmtree(output, ignore_errors=True)
                        work = (
                            ours(tables[count], output, steps)
                            if who == "ours"
                            else theirs(tables[count], output, options)
                        )
                        times.setdefault((who, count), []).append(work)
                        if number == 0 and samples(output) != count:
                            raise SystemExit(f"{who} kept {samples(output)} of {count} pictures")
            results.append(show(title, times, rows, fewer))
    return results


def show(title: str, times: dict[tuple[str, int], list[dict[str, float]]], rows: int, fewer: int) -> dict[str, Any]:
    """One table row per contender: median (min to max) seconds, rates, CPU per picture, memory; then the ratios."""
    print(f"\n{title}")
    found: dict[str, Any] = {"mode": title, "rows": rows}
    for who in ("ours", "theirs"):
        if (who, rows) not in times:
            continue
        walls = [work["wall"] for work in times[who, rows]]
        marginal = [
            (rows - fewer) / (more["wall"] - less["wall"])
            for more, less in zip(times[who, rows], times[who, fewer], strict=True)
        ]
        cpus = {count: [work["cpu"] for work in times[who, count]] for count in (rows, fewer)}
        cpu = statistics.median(cpus[rows])
        found[who] = {
            "seconds": [min(walls), statistics.median(walls), max(walls)],
            "rate": rows / statistics.median(walls),
            "marginal": statistics.median(marginal),
            "cpu_ms": 1000 * cpu / rows,
            "cpu_ms_marginal": 1000 * (min(cpus[rows]) - min(cpus[fewer])) / (rows - fewer),
            "mib": max(work["mib"] for work in times[who, rows]),
        }
        f = found[who]
        print(
            f"  {who:<7} {f['seconds'][1]:7.2f} s ({f['seconds'][0]:.2f} to {f['seconds'][2]:.2f})  {f['rate']:7.1f}/s"
            f"  marginal {f['marginal']:7.1f}/s  cpu {f['cpu_ms']:5.1f} ms each"
            f" ({f['cpu_ms_marginal']:.1f} marginal)  peak {f['mib']:.0f} MiB"
        )
    if "theirs" in found:
        pairs = zip(times["ours", rows], times["theirs", rows], strict=True)
        found["ratio"] = statistics.median(b["wall"] / a["wall"] for a, b in pairs)
        found["marginal_ratio"] = found["ours"]["marginal"] / found["theirs"]["marginal"]
        found["cpu_marginal_ratio"] = found["theirs"]["cpu_ms_marginal"] / found["ours"]["cpu_ms_marginal"]
        print(
            f"  ratio   {found['ratio']:.2f}x at {rows} rows, {found['marginal_ratio']:.2f}x marginal, "
            f"{found['cpu_marginal_ratio']:.2f}x in marginal CPU time"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", default="resize,resize-fast,keep,keep-header,keep-bare")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    results = run(arguments.modes.split(","), arguments.rows, arguments.rounds)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
