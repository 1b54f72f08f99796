"""Kills of a build, a reader and a trainer; after each they are started again, and in the end nothing may show it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmdata.shards.dataset import open_dataset
from mmdata.testing.accounts import ledger_ends, settle
from mmdata.testing.kill import Command, Preloaded, run_with_kills
from mmdata.testing.soak.figures import Tally
from mmdata.testing.specimens import specimen
from mmdata.verify import verify_dataset

SAMPLES = 48
WORKERS = (1, 2, 3)
TOPOLOGIES = ((1, 0), (2, 0), (1, 2), (4, 0), (3, 0), (2, 1))
"""Ranks, and DataLoader workers of each."""
STEPS = 12
"""Of the trainer."""


def write_sources(folder: Path) -> Path:
    """Pictures with captions, and the spec of their build."""
    files = folder / "pictures"
    if not (folder / "spec.yaml").exists():
        files.mkdir(parents=True, exist_ok=True)
        for number in range(SAMPLES):
            (files / f"{number:03d}.jpg").write_bytes(specimen("jpeg", 1000 + number))
            (files / f"{number:03d}.txt").write_text(f"a field of colours{' and more' * (number % 7)}, number {number}")
        spec = {
            "source": {"kind": "folder", "path": str(files)},
            "steps": [
                {"kind": "probe"},
                {"kind": "resize", "mode": "shortest", "size": 64},
                {"kind": "exact_dedup"},
            ],
            "output": {"path": "unused", "unit_rows": 4},
        }
        (folder / "spec.yaml").write_text(json.dumps(spec))
    return folder / "spec.yaml"


def build_command(spec: Path, output: Path, workers: int) -> Preloaded:
    told = ("--spec", str(spec), "--output", str(output), "--quiet", "--set", f"engine.workers={workers}")
    return Preloaded(module="mmdata.build", arguments=told)


def content(dataset: Path) -> dict[str, str]:
    """SHA-256 of every shard and index under its final name."""
    files = [*(dataset / "shards").glob("*.tar"), *(dataset / "index").glob("*.arrow")]
    return {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def undisturbed(folder: Path) -> Path:
    """The dataset of a build that nobody killed."""
    spec, dataset = write_sources(folder), folder / "dataset"
    if not (dataset / "manifest.json").exists():
        run_with_kills(build_command(spec, dataset, 1))
    return dataset


def build(folder: Path, tally: Tally, *, kills: int, seed: int) -> None:
    """One round: a build killed so often, on other numbers of workers each time, against the one left alone."""
    dataset, timed = undisturbed(folder), folder / "timed"
    shutil.rmtree(timed, ignore_errors=True)
    seconds = run_with_kills(build_command(write_sources(folder), timed, 2))[-1].seconds
    expected, whole = {key: [end] for key, end in ledger_ends(dataset)}, content(dataset)
    output = folder / "killed"
    shutil.rmtree(output, ignore_errors=True)

    def command(start: int) -> Command:
        for name, digest in content(output).items():  # whatever has a final name is whole, at any moment
            tally.count(looked_at=1)
            if whole.get(name) != digest:
                tally.problem(f"build, seed {seed}, start {start}: {name} is not what it is to be")
        return build_command(write_sources(folder), output, WORKERS[start % len(WORKERS)])

    def finished() -> None:
        tally.count(finished=1)
        account = settle(expected, ledger_ends(output))
        for problem in account.problems:
            tally.problem(f"build, seed {seed}: {problem}", losses=account.losses, duplicates=account.duplicates)
        if content(output) != whole or verify_dataset(output).problems:
            tally.problem(f"build, seed {seed}: other bytes than undisturbed")
        if keys := _twice(open_dataset(output).keys()):
            tally.problem(f"build, seed {seed}: {keys[0]} twice", duplicates=len(keys))
        shutil.rmtree(output)

    _killed(tally, command, finished, kills, seed, seconds)


def stream(folder: Path, tally: Tally, *, kills: int, seed: int) -> None:
    """One round: a reader of packs killed so often, on other ranks and workers each time, against one left alone."""
    dataset = undisturbed(folder)

    def reader(log: Path, ranks: int, workers: int) -> Preloaded:
        told = (str(dataset), str(log), "--ranks", str(ranks), "--workers", str(workers), "--seed", str(seed))
        return Preloaded(module="mmdata.testing.reading", arguments=told)

    alone, log = folder / "alone", folder / "read"
    for place in (alone, log):
        shutil.rmtree(place, ignore_errors=True)
    seconds = run_with_kills(reader(alone, 1, 0))[-1].seconds
    due = (alone / "log.jsonl").read_text().splitlines()

    def finished() -> None:
        tally.count(finished=1)
        compare(tally, f"stream, seed {seed}", due, (log / "log.jsonl").read_text().splitlines())
        shutil.rmtree(log)

    _killed(tally, lambda start: reader(log, *TOPOLOGIES[start % len(TOPOLOGIES)]), finished, kills, seed, seconds)
    tally.count(packs=len(due))


def trainer(folder: Path, tally: Tally, *, kills: int, seed: int) -> None:
    """One round: a training run killed so often, against one left alone: keys, losses and last weights."""
    dataset = undisturbed(folder)

    def training(output: Path) -> Preloaded:
        told = {
            "data.dataset": dataset,
            "output": output,
            "seed": seed,
            "steps": STEPS,
            "checkpoint.every": 2,
            "global_batch": 2,
            "data.max_length": 128,
            "tokenizer.vocab_size": 300,
            "model.vision.hidden": 32,
            "model.language.hidden": 32,
        }
        sets = [f"{name}={value}" for name, value in told.items()]
        return Preloaded(module="mmtrain.sft", arguments=("--config", "sft_tiny.yaml", "--set", *sets))

    alone, output = folder / "run-alone", folder / "run-killed"
    for place in (alone, output):
        shutil.rmtree(place, ignore_errors=True)
    run_with_kills(training(alone))  # the first makes the packing certificate
    shutil.rmtree(alone)
    seconds = run_with_kills(training(alone))[-1].seconds
    due, weights = trained(alone)

    def finished() -> None:
        tally.count(finished=1)
        found, others = trained(output)
        compare(tally, f"trainer, seed {seed}", due, found)
        if others != weights:
            tally.problem(f"trainer, seed {seed}: other weights than undisturbed")
        shutil.rmtree(output)

    _killed(tally, lambda start: training(output), finished, kills, seed, seconds)


def trained(run: Path) -> tuple[list[str], str]:
    """What a run logs of every step that does not depend on time, and the digest of its last weights."""
    steady = ("step", "loss", "keys_crc32c", "tokens", "targets", "packs")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    digest = hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()
    return [json.dumps({name: line.get(name) for name in steady}) for line in lines], digest


def compare(tally: Tally, name: str, due: list[str], found: list[str]) -> None:
    """The lines of two logs: each must be there once, in its place."""
    missing, again = Counter(due) - Counter(found), Counter(found) - Counter(due)
    if missing or again:
        example = next(iter(missing or again))
        tally.problem(f"{name}: {example[:200]}", losses=missing.total(), duplicates=again.total())
    elif due != found:
        tally.problem(f"{name}: the order differs")


def _twice(keys: Iterable[str]) -> list[str]:
    return [key for key, count in Counter(keys).items() if count > 1]


def _killed(
    tally: Tally,
    command: Callable[[int], Command],
    finished: Callable[[], None],
    kills: int,
    seed: int,
    seconds: float,
) -> None:
    """Kill and start until it has been killed so often, then let it finish, and look at the end."""
    runs: list[Any] = run_with_kills(command, kills=kills, seed=seed, seconds=seconds, earliest=0.02, finished=finished)
    finished()
    tally.count(starts=len(runs))
    tally.done += sum(run.killed_at is not None for run in runs)
