"""What it costs to open a stream anywhere, by number of samples.

`python -m benchmarks.planner [--samples 1000000 10000000 ...] [--rounds 5] [--shuffle global]`: for each size and round
a process of its own opens the middle of an epoch of a synthetic index (`mmdata.testing.synthetic`: captioned pictures
in shards of 1,000, token counts at hand), plans its block for LLaVA and saves the state. Seconds and MiB are those
above the process after its imports; `+` does the same in the middle of a mixture of three such datasets.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

from benchmarks import _options
from benchmarks._interleaved import Row, table
from benchmarks.claims import figure, write


def measure(samples: int, shuffle: str, block_samples: int, *, weighted: bool) -> dict[str, Any]:
    """In this process: seconds to the first pack, MiB at the peak above the imports, bytes of the state."""
    import torch

    from mmdata.families import get_family
    from mmdata.stream import state
    from mmdata.stream.deal import Cursor
    from mmdata.stream.extent import extent, planner
    from mmdata.stream.mix import DatasetCursor
    from mmdata.stream.position import Position
    from mmdata.stream.spec import StreamSpec
    from mmdata.templates import get_template
    from mmdata.testing.synthetic import SyntheticDataset, SyntheticLengths, tokenizer

    words = tokenizer()
    family = get_family("llava", tokenizer=words, image={"size": 56})
    template = get_template("caption", tokenizer=words, markers=family.markers)
    torch.zeros(1)
    sources = (
        {"datasets": [{"path": f"/{name}", "weight": weight} for name, weight in (("a", 5), ("b", 3), ("c", 2))]}
        if weighted
        else {"dataset": "/a"}
    )
    spec = StreamSpec.model_validate(
        {**sources, "max_length": 2048, "shuffle": shuffle, "block_samples": block_samples, "epochs": None}
    )
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    with mock.patch("mmdata.stream.measure.Lengths", SyntheticLengths):
        datasets: Any = [SyntheticDataset(samples, name=each.title) for each in spec.sources]
        templates = [template] * len(datasets)
        extents = [extent(datasets)]
        made = planner(datasets, spec, family, templates, extents=extents, control=None)
        at = Position(0 if weighted else 1, samples // 2 // block_samples)
        if weighted:
            middle = [samples * part // 20 for part in (5, 3, 2)]
            at = Position(
                0, at.block, 0, tuple(DatasetCursor(0, each // block_samples, 7, each, each * 70) for each in middle)
            )
        block = made.block(at)
        pack = block.pack(len(block.bins) // 2)
        saved = state.dump(Cursor(position=block.after, taken=10**9), extents, state.config(spec, family, templates))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "samples": samples * len(datasets),
        "seconds": round(seconds, 3),
        "cpu": round(cpu, 3),
        "mib": round(_peak() - before, 1),
        "state": len(json.dumps(saved, separators=(",", ":"))),
        "packs": len(block.bins),
        "first": pack.items[0].key,
    }


def _peak() -> float:
    """MiB of this process at its peak so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(samples: int, shuffle: str, block_samples: int, *, weighted: bool) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.planner", "--one", "--samples", str(samples), "--shuffle", shuffle]
    command += ["--block-samples", str(block_samples), *(["--weighted"] if weighted else [])]
    with tempfile.TemporaryDirectory() as cache:  # where token counts would go, were there any
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


FIGURES = ("samples", "seconds", "cpu", "mib", "state", "packs")


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[10**6, 10**7, 10**8, 10**9])
    parser.add_argument("--shuffle", nargs="+", default=["global", "block", "shard"])
    parser.add_argument("--block-samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weighted", action="store_true", help="only the mixture, with --one")
    parser.add_argument("--one", action="store_true", help="measure one size here and print JSON")
    arguments = _options.parse(parser, samples=[10**6, 10**9], shuffle=["global"], rounds=2)
    block = arguments.block_samples
    if arguments.one:
        print(json.dumps(measure(arguments.samples[0], arguments.shuffle[0], block, weighted=arguments.weighted)))
        return
    found: dict[str, list[Row]] = {}
    for _ in range(arguments.rounds):
        for shuffle in arguments.shuffle:
            for samples in arguments.samples:
                for weighted in (False, True):
                    each = apart(samples, shuffle, block, weighted=weighted)
                    name = f"{each['samples']:,} samples, {shuffle}{', a mixture' if weighted else ''}"
                    found.setdefault(name, []).append({key: float(each[key]) for key in FIGURES})
    table(found, *FIGURES[1:])
    claims = []
    for name, rows in found.items():
        head = name == f"{10**9:,} samples, global"
        what = f"open the middle of {name} and plan a block"
        for key, unit, goal in (("seconds", "s", 1.0), ("cpu", "s CPU", None), ("mib", "MiB", 200.0)):
            more = {"goal": goal, "at_most": True, "headline": head and bool(goal)}
            claims.append(figure(what, "mmdata", [row[key] for row in rows], unit, **more))
        claims.append(
            figure(f"state of {name}", "mmdata", [row["state"] for row in rows], "bytes", goal=4096, at_most=True)
        )
    write("planner", claims, figures=found, to=arguments.json)


if __name__ == "__main__":
    main()
