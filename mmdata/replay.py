"""`python -m mmdata.replay STREAM --steps A..B`: packs of a run once more, bit for bit, without a model.

Each step is planned and read again and compared with the run's log: `keys_crc32c` is the sum of the CRC-32C of the keys
of all samples of the step, modulo 2^32, the same however they were dealt (mmtrain logs it); `arrays_crc32c` is that of
every array of a pack, as `--record` writes it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdata import pointer, unread
from mmdata.checksum import crc32c
from mmdata.errors import DataError, RunError, SpecError
from mmdata.shards.storage import write_atomic
from mmdata.stream import command
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import deal
from mmdata.types import Packed, World

CHECKED = ("keys_crc32c", "arrays_crc32c")
RECORD = "replay.jsonl"
"""In the folder of `--output`: what `--record` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as it was streamed again."""

    step: int
    rank: int
    ranks: int
    samples: int
    """Of all ranks."""
    keys_crc32c: str
    """Of the keys of all ranks' samples: 8 hex digits."""
    arrays_crc32c: list[str]
    """Of each pack of this rank in its order: 8 hex digits, see `checksum`."""
    masked: list[tuple[str, str]]
    """Samples of this rank that are masked, and why."""


def replayed(stream: StreamingDataset, first: int, last: int) -> Iterator[tuple[Step, list[Packed]]]:
    """Steps first..last of a run, both among them: what `stream.world.rank` gets, and what all ranks together have.

    The stream may have been given a state (`load_state_dict`), which matters where its datasets have changed since.
    Raises SpecError for a stream without a family, and one that ends before the last step."""
    if stream.family is None:
        raise SpecError("family: packs are of a family; give --family and --tokenizer, or a spec and both")
    if not 0 <= first <= last:
        raise SpecError(f"steps: {first}..{last}; write A..B with 0 <= A <= B")
    stream.seek(first)
    own = stream.deals()
    every = deal(
        stream.planner, stream.start, epochs=stream.spec.epochs, global_batch=stream.global_batch, world=World()
    )
    for number in range(first, last + 1):
        keys: list[str] = []
        for dealt in every:  # one rank alone: a micro-step for each pack
            keys += () if dealt.pack is None else dealt.pack.keys
            if dealt.micro + 1 == dealt.micros:
                break
        packs: list[Packed] = []
        for dealt in own:
            packed = stream.read(dealt)
            assert isinstance(packed, Packed), packed
            packs.append(packed)
            if dealt.micro + 1 == dealt.micros:
                break
        if not packs:
            raise SpecError(f"steps: the stream ends before step {number}")
        world = stream.world
        yield (
            Step(
                step=number,
                rank=world.rank,
                ranks=world.ranks,
                samples=len(keys),
                keys_crc32c=f"{sum(crc32c(key.encode()) for key in keys) % 2**32:08x}",
                arrays_crc32c=[checksum(packed) for packed in packs],
                masked=[each for packed in packs for each in packed.masked],
            ),
            packs,
        )


def arrays(packed: Packed) -> dict[str, np.ndarray]:
    """Every array of a pack by its name, media as `media/NAME`."""
    own = ("input_ids", "labels", "loss_weights", "position_ids", "cu_seqlens", "token_classes")
    found = {name: getattr(packed, name) for name in own}
    found |= {f"tokens/{name}": array for name, array in packed.token_arrays.items()}
    found |= {f"media/{name}": array for name, array in packed.media.items()}
    return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}


def checksum(packed: Packed) -> str:
    """CRC-32C of a pack, 8 hex digits: of the JSON of its keys, and of each array's name, dtype, shape and bytes
    (little-endian), arrays by their names."""
    value = crc32c(json.dumps(list(packed.keys)).encode())
    for name, array in sorted(arrays(packed).items()):
        value = crc32c(json.dumps([name, array.dtype.str, list(array.shape)]).encode(), value)
        value = crc32c(array.tobytes(), value)
    return f"{value:08x}"


def differences(found: Step, log: Mapping[int, Mapping[str, Any]]) -> list[str] | None:
    """How a step differs from its line in a log (by step and, where the line tells it, for this rank), or None where
    there is no line that tells anything."""
    line = log.get(found.step)
    told = {name: line[name] for name in CHECKED if name in line} if line is not None else {}
    if line is not None and (line.get("rank", found.rank), line.get("ranks", found.ranks)) != (found.rank, found.ranks):
        told.pop("arrays_crc32c", None)  # how packs are dealt to others says nothing of these
    if not told:
        return None
    now = asdict(found)
    return [f"{name}: {told[name]} -> {now[name]}" for name in told if told[name] != now[name]]


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of a log in JSON lines, by step; the last one of a step counts. A line that a kill cut is left out.

    Raises SpecError for a file that is no such log."""
    try:
        lines = path.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]
        return {int(line["step"]): line for line in found}
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"log: {path} is not JSON lines with a `step` each: {error}") from error


def parse_steps(text: str) -> tuple[int, int]:
    """The first and last step of `A..B`, or of one number.

    >>> parse_steps("12..15"), parse_steps("7")
    ((12, 15), (7, 7))
    """
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None:
        raise SpecError(f"steps: {text!r}; write A..B (both among them), or one number")
    first = int(match[1])
    return first, int(match[2] or first)


def run(
    stream: StreamingDataset, first: int, last: int, *, log: Path | None, output: Path | None, record: Path | None
) -> bool:
    """Stream steps again, say of each what it is, and answer whether none differs from the log. `output` gets an .npz
    file of each pack, `record` a JSON line for each step."""
    known = {} if log is None else read_log(log)
    lines, differing, compared = [], 0, 0
    for found, packs in replayed(stream, first, last):
        difference = differences(found, known)
        compared += difference is not None
        differing += bool(difference)
        verdict = "" if log is None else "  not in the log" if difference is None else "  as in the log"
        if difference:
            verdict = f"  DIFFERS: {'; '.join(difference)}"
        masked = f", {len(found.masked)} masked" if found.masked else ""
        print(
            f"step {found.step}: {found.samples} samples, keys {found.keys_crc32c}; rank {found.rank} of {found.ranks}"
            f": {len(packs)} packs{masked}, arrays {' '.join(found.arrays_crc32c)}{verdict}"
        )
        lines.append(json.dumps(asdict(found)) + "\n")
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for number, packed in enumerate(packs):
                name = f"step-{found.step:08d}-rank-{found.rank}-pack-{number}.npz"
                np.savez(output / name, keys=np.array(packed.keys), **arrays(packed))  # type: ignore[arg-type]
    for path in filter(None, [record, None if output is None else output / RECORD]):
        write_atomic(path, "".join(lines).encode())
    if log is not None:
        print(f"{compared} of {last - first + 1} steps compared with {log}: {differing} differ")
    return not differing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` is told."""
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write each pack's arrays there (.npz)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write a JSON line of checksums for each step")


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, 3 where a step differs from the log, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.replay",
        description=(__doc__ or "").partition(": ")[2].partition("\n")[0],
        epilog="Of a run of mmtrain: python -m mmtrain.replay RUN --packs A..B, which knows its stream.\n"
        "exit codes: 0 streamed, and as logged; 3 a step differs from the log; 2 a mistake; 1 failed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--steps", required=True, metavar="A..B", help="global steps, both among them; or one")
    parser.add_argument("--log", type=Path, metavar="FILE", help="metrics.jsonl of a run, or what --record wrote")
    parser.add_argument("--state", type=Path, metavar="FILE", help="a state (JSON) of the run, where its data changed")
    add_arguments(parser)
    options = parser.parse_args(argv)
    writes = options.record is not None or options.output is not None
    return (unread.goes_on if writes else unread.stops)(_replay)(options)


def _replay(options: argparse.Namespace) -> int:
    try:
        first, last = parse_steps(options.steps)
        with tempfile.TemporaryDirectory() as aside:
            stream = command.opened(options, run_folder=known_to(options.run, Path(aside)))
            if options.state is not None:
                stream.load_state_dict(json.loads(options.state.read_text()))
            same = run(stream, first, last, log=options.log, output=options.output, record=options.record)
    except (SpecError, ValueError) as error:
        print(f"mmdata.replay: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, DataError, OSError) as error:
        print(f"mmdata.replay: {pointer.told(error)}", file=sys.stderr)
        return 1
    return 0 if same else 3


def known_to(folder: str | Path | None, aside: Path) -> Path | None:
    """A copy of what a run keeps for its stream (anchors, control log, skips), so that a replay writes nothing to the
    run; None without a folder."""
    if folder is None:
        return None
    copy = aside / "stream"
    if Path(folder).is_dir():
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("quarantine"))
    return copy


if __name__ == "__main__":
    sys.exit(main())
