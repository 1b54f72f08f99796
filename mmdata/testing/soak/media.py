"""Damaged media on both ways: as they arrive at a build, and where they lie in a dataset that was whole.

Arriving, each is built like any record: the ledger must have it once, refused under a reason of its medium where the
file proves itself damaged; what was kept must decode to its facts. At rest, bytes of a finished dataset are replaced
by a damaged file's: reading that sample must fail by name, whatever the bytes are.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from mmdata import StreamingDataset, open_dataset
from mmdata.errors import DataError
from mmdata.rng import generator
from mmdata.testing.accounts import End, ledger_ends, settle
from mmdata.testing.corruptor import Corruption, corruptions
from mmdata.testing.kill import Preloaded, run_with_kills
from mmdata.testing.soak.figures import Tally
from mmdata.testing.specimens import FORMATS, medium_of, specimen
from mmdata.types import Sample

CLEAN_SHARE = 20
"""One in so many files is whole."""


def arriving(folder: Path, tally: Tally, count: int, seed: int) -> None:
    """One round: the next `count` damaged files through a build, beside whole ones."""
    shutil.rmtree(folder, ignore_errors=True)
    files = folder / "files"
    files.mkdir(parents=True)
    allowed: dict[int, list[End]] = {}
    names: dict[int, str] = {}
    lines: list[str] = []

    def add(data: bytes, format: str, medium: str, name: str, ends: list[End]) -> None:
        row = len(lines)
        (files / f"{row:06d}.{format}").write_bytes(data)
        lines.append(json.dumps({medium: f"{row:06d}.{format}", "text": f"number {row}"}))
        allowed[row], names[row] = ends, name

    for number, damaged in enumerate(corruptions(count, seed=seed, first=tally.done)):
        if number % CLEAN_SHARE == 0:
            format = FORMATS[number // CLEAN_SHARE % len(FORMATS)]
            add(specimen(format, number % 12), format, medium_of(format), f"whole {format}", [("ok", "")])
        name = f"{damaged.format} {damaged.kind}, seed {damaged.seed}"
        add(damaged.data, damaged.format, damaged.medium, name, ends_of(damaged))
    (files / "list.jsonl").write_text("\n".join(lines) + "\n")
    spec = {
        "source": {"kind": "jsonl", "path": str(files / "list.jsonl")},
        "steps": [{"kind": "probe", "animated": "keep", "max_pixels": 4_000_000}],
        "output": {"path": str(folder / "dataset"), "unit_rows": 250},
        "engine": {"workers": 2},
    }
    (folder / "spec.yaml").write_text(json.dumps(spec))
    run_with_kills(Preloaded(module="mmdata.build", arguments=("--spec", str(folder / "spec.yaml"), "--quiet")))
    ends = list(ledger_ends(folder / "dataset"))
    account = settle(allowed, ends, names)
    for problem in account.problems:
        tally.problem(f"arriving: {problem}", undetected=0)
    if account.losses or account.duplicates:
        tally.problem("arriving: see above", losses=account.losses, duplicates=account.duplicates)
    kept = [key for key, (state, _) in ends if state == "ok"]
    tally.count(arrived=count, whole=len(lines) - count, refused=len(ends) - len(kept), kept=len(kept))
    stream = StreamingDataset(folder / "dataset", yields="sample", shuffle="none")
    came = sum(isinstance(sample, Sample) for sample in stream)
    if came != len(kept) or stream.bad:
        tally.problem(f"kept: {came} of {len(kept)} samples decode to their facts; {dict(stream.bad)}")


def ends_of(damaged: Corruption) -> list[End]:
    """The ends that a damaged file may have in a ledger."""
    # That there is nothing at all is seen when it is fetched, not when it is decoded.
    reasons = sorted(damaged.reasons) if damaged.kind != "empty" else ["empty_body"]
    refused: list[End] = [("failed_permanent", reason) for reason in reasons]
    return {"refused": refused, "either": [("ok", ""), *refused], "whole": [("ok", "")]}[damaged.outcome]


def at_rest(dataset: Path, copy: Path, tally: Tally, count: int, seed: int) -> None:
    """One round: the same damaged files in the places of a finished dataset's media, one at a time."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(dataset, copy)
    opened = open_dataset(copy)
    for damaged in corruptions(count, seed=seed, first=tally.done):
        random = generator(damaged.seed, "at rest")
        position = int(random.integers(len(opened)))
        parts = opened.row(position).parts  # the picture, its caption, its metadata
        part = parts[int(random.integers(len(parts)))]
        shard = copy / "shards" / f"{opened.ref(position).shard:06d}.tar"
        handle = os.open(shard, os.O_RDWR)
        try:
            whole = os.pread(handle, part.size, part.offset)
            spoilt = _in_place(damaged, whole, int(random.integers(3)))
            os.pwrite(handle, spoilt, part.offset)
            try:
                opened[position]
            except DataError:
                tally.count(detected_at_rest=1)
            else:
                tally.problem(f"at rest: {shard.name} at {part.offset}: {damaged.kind} (seed {damaged.seed}) is read")
            os.pwrite(handle, whole, part.offset)
        finally:
            os.close(handle)
    for position in range(len(opened)):
        opened[position]  # whole again


def _in_place(damaged: Corruption, whole: bytes, how: int) -> bytes:
    """As many bytes as there were: the damaged file's beginning, its end, or the old ones with one bit turned."""
    size = len(whole)
    spoilt = (damaged.data[:size].ljust(size, b"\0"), damaged.data[-size:].rjust(size, b"\0"), whole)[how]
    if spoilt != whole:
        return spoilt
    bit = int(generator(damaged.seed, "bit").integers(8 * size))
    flipped = bytearray(whole)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    return bytes(flipped)
