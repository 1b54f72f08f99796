"""A build of thousands of records of every medium: bounded memory, busy cores, and killed and resumed without a trace.

    python -m benchmarks.mixed_build [--records 5000] [--kills 6] [--folder DIR]

The source is a mixture of a folder of captioned pictures, conversations about pictures, plain texts, speech of about a
second and short films, real files all of them, made once (benchmarks/_mixed_media.py); one in ten is damaged, missing,
of a wrong type, flat, tiny or a copy. Steps of every medium decode, judge, dedupe and re-encode them.

Three builds. One of a quarter of the records and one of all, watched while they run: peak memory of the command's
process and of its largest worker must not grow with the records (`--growth`, MiB; that of all together is told, and
says when workers happened to be at their largest at once), and the cores must be busy: CPU time / (wall time * cores),
and, since others may use the machine, CPU time / (CPU time + idle time of the cores).

Then one that is killed by SIGKILL at `--kills` moments drawn by `--seed`, resumed each time, and compared with
the one that was left alone: every shard, index, table and ledger, the manifest and the statistics must be the same.
What differs between any two builds is left out of that: the seconds that fetches took, and the figures of the run
(with report.html, which draws them, and the digests of these files).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import _mixed_media, _options
from benchmarks._processes import watched
from benchmarks.claims import figure, write
from mmdata.testing.kill import run_with_kills
from mmdata.verify import verify_dataset

DATA = Path(__file__).parent / "data" / "mixed"
STEPS: list[dict[str, Any]] = [
    {"kind": "caption_clean"},
    {"kind": "mask_pii"},
    {"kind": "text_length", "min_chars": 5, "max_chars": 20_000},
    {"kind": "repetition"},
    {"kind": "probe", "verify": "full"},
    {"kind": "min_side", "pixels": 48},
    {"kind": "max_pixels", "pixels": 4_000_000},
    {"kind": "aspect", "max": 4.0},
    {"kind": "solid_colour"},
    {"kind": "entropy", "min": 2.0},
    {"kind": "blur", "min": 2.0},
    {"kind": "duration", "min_seconds": 0.2, "max_seconds": 30.0},
    {"kind": "clipping", "max": 0.1},
    {"kind": "loudness", "min": -50.0, "target": -23.0},
    {"kind": "audio_resample", "sample_rate": 16_000},
    {"kind": "video_shape", "min_frames": 4},
    {"kind": "black_frames"},
    {"kind": "motion", "max_static": 0.95},
    {"kind": "exact_dedup", "of": ["bytes"], "texts": True},
    {"kind": "near_dup", "radius": 4},
    {"kind": "text_near_dup", "jaccard": 0.8, "min_words": 40},
    {"kind": "resize", "mode": "shortest", "size": 96, "quality": 90},
    {"kind": "split", "by": "sha256", "missing": "own"},
]
UNIT = 100


def spec(source: dict[str, Any], file: Path) -> Path:
    """Written beside the datasets. Few units are under way and little waits in memory: so the bounds are reached."""
    told = {
        "source": source,
        "steps": STEPS,
        "output": {"path": "out", "unit_rows": UNIT},
        "engine": {"memory_mib": 64, "units_ahead": 4},
    }
    file.write_text(json.dumps(told))
    return file


def command(file: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "mmdata.build", "--quiet", "--spec", str(file), "--output", str(output)]


def content(folder: Path) -> dict[str, str]:
    """What every file of a dataset says, by its name: its digest, without the figures of time."""
    found: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.startswith(".build/") or path.name == "report.html":
            continue
        found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    """The bytes of a file, or where it tells of the time that fetches took, or holds the digest of one that does, what
    else it says."""
    if path.parent.name == "ledger":
        return repr(pq.read_table(path).drop_columns(["seconds"]).to_pylist()).encode()
    if path.name == "shards.arrow":
        table = pa.ipc.open_file(path).read_all().drop_columns(["ledger_sha256", "crc32c"])
        return repr((table.schema.metadata, table.to_pylist())).encode()
    if path.name == "stats.json":
        stats = json.loads(path.read_bytes())
        del stats["run"], stats["fetch"]["seconds"]
        return json.dumps(stats).encode()
    if path.name == "manifest.json":
        manifest = json.loads(path.read_bytes())
        del manifest["files"], manifest["self_sha256"], manifest["table"]["sha256"]
        return json.dumps(manifest).encode()
    return path.read_bytes()


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def killed(file: Path, output: Path, whole: Path, kills: int, seed: int, seconds: float) -> dict[str, Any]:
    """Kill the build over and over and let it finish. `seconds`: how long it takes. Raises SystemExit for a trace."""
    ends: list[int] = []  # starts after which it was done before its moment came

    def again() -> None:
        ends.append(1)
        _same(output, whole)
        shutil.rmtree(output)

    # About a quarter of the work at a time: several moments fall into one build.
    runs = run_with_kills(
        command(file, output), kills=kills, seed=seed, earliest=0.3, seconds=0.3 + seconds / 3, finished=again
    )
    _same(output, whole)
    moments = [round(run.killed_at, 3) for run in runs if run.killed_at is not None]
    return {"moments": moments, "builds": 1 + len(ends), "wall": sum(run.seconds for run in runs)}


def _same(output: Path, whole: Path) -> None:
    if wrong := differences(content(output), content(whole)):
        raise SystemExit(f"{output} differs from {whole}, which nobody killed: {', '.join(wrong[:9])}")


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the media and of the moments")
    parser.add_argument("--growth", type=float, default=48.0, help="MiB more than with a quarter of the records")
    parser.add_argument("--folder", type=Path, default=DATA, help="where the media are made, and stay")
    options = _options.parse(parser, records=600, kills=3)
    rows: list[dict[str, float]] = []
    told: dict[str, Any] = {"records": options.records, "seed": options.seed}
    with tempfile.TemporaryDirectory(dir=options.folder.parent if options.folder.parent.is_dir() else None) as made:
        for records in (options.records // 4, options.records):
            source = _mixed_media.write(options.folder / str(records), records, options.seed)
            file, output = spec(source, Path(made) / f"{records}.json"), Path(made) / f"whole{records}"
            row = watched(command(file, output))
            manifest = json.loads((output / "manifest.json").read_bytes())
            rows.append({"records": records, "kept": manifest["counts"]["ok"], **row})
            print(
                f"{records:>6,} records  {manifest['counts']['ok']:>6,} kept  {row['wall']:6.1f} s  {row['cpu']:6.1f} s"
                f" CPU  cores {row['busy']:.0%} busy, {row['busy_of_free']:.0%} of what others left; peak MiB: parent"
                f" {row['parent_mib']:.0f}, worker {row['worker_mib']:.0f}, together {row['together_mib']:.0f}",
                flush=True,
            )
        reasons = {state: dict(told) for state, told in manifest["reasons"].items()}
        print("rejected: " + json.dumps(reasons))
        for name in ("parent_mib", "worker_mib"):
            if (more := rows[1][name] - rows[0][name]) > options.growth:
                raise SystemExit(
                    f"{name} grew by {more:.0f} MiB from {rows[0]['records']} records to {options.records}"
                )
        started = time.perf_counter()
        again = killed(file, Path(made) / "killed", output, options.kills, options.seed, rows[1]["wall"])
        print(
            f"killed {len(again['moments'])} times in {again['builds']} builds ({time.perf_counter() - started:.0f} s):"
            f" {len(content(output)):,} files the same"
        )
        if problems := verify_dataset(Path(made) / "killed").problems:
            raise SystemExit(f"the killed build is not sound: {problems[:3]}")
        told |= {"reasons": reasons, "killed": again, "files": len(content(output))}
    small, whole = rows
    what = f"build of {options.records:,} records of every medium"
    grown = [sum(whole[name] - small[name] for name in ("parent_mib", "worker_mib"))]
    grows = f"{what}: memory of the command and of its largest worker above that of a quarter of them"
    free = [100 * whole["busy_of_free"]]
    claims = [
        figure(grows, "mmdata", grown, "MiB", goal=options.growth, at_most=True, headline=True),
        figure(f"{what}: peak memory, all processes", "mmdata", [whole["together_mib"]], "MiB"),
        figure(f"{what}: cores busy, of what others left", "mmdata", free, "%", headline=True),
        figure(
            f"{what}: files that {options.kills} kills change", "mmdata", [0], "", goal=0, at_most=True, headline=True
        ),
    ]
    write("mixed_build", claims, figures=rows, threads=len(os.sched_getaffinity(0)), to=options.json, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
