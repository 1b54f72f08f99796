"""The embedded example: a small web of real photographs under LAION-style tables, with every usual damage.

    python -m mmdata.testing.example FOLDER [--records N] [--serve | --run COMMAND ...]

writes it into FOLDER if it is not there, and serves it until interrupted or while COMMAND runs. What is written:

    metadata/part-0.parquet ...   the tables a build reads
    served/                       the files that the web holds
    plan.json, healed.json        how the servers answer now, and once all transient faults have passed
    expected.parquet              how each row must end, and how after the faults have passed
    example.json                  what it was made from, written last
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmdata.rng import generator
from mmdata.testing import faults
from mmdata.testing.damage import CATALOGUE, Damage
from mmdata.testing.faults import RowFault, WebFault
from mmdata.testing.photos import Variant, encode, phash, photos, variants
from mmdata.testing.plan import Behaviour, OriginPlan, Plan, dump, load
from mmdata.testing.server import FaultServer

FORMAT = 1
DAMAGED = 0.25
FILES = 3
ROW_GROUP = 128
HEAD = 8  # the first rows are good ones, so that every copy has something to be a copy of
FIRST_PORT = 21_000
NEAR = 2  # a near-duplicate is at most so many bits from its original, by this module's own hash

METADATA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float64()),
        ("punsafe", pa.float64()),
        ("pwatermark", pa.float64()),
        ("LICENSE", pa.string()),
        ("NSFW", pa.string()),
        ("hash", pa.int64()),
    ]
)
EXPECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("of_row", pa.int64()),
        ("healed_state", pa.string()),
        ("healed_reason", pa.string()),
    ]
)
"""One row per record. `kind` is the damage (`clean` for none), `of_row` the row that a duplicate repeats."""

SETTINGS: Mapping[str, Any] = {
    "where": "punsafe < 0.5 and similarity >= 0.2",
    "fetch": {
        "allow_private": True,
        "retries": 3,
        "per_host_concurrency": 32,
        "per_host_rate": 10_000.0,
        "connect_seconds": 1.5,
        "read_seconds": 1.5,
        "total_seconds": 4.0,
        "backoff_seconds": 0.05,
        "backoff_max_seconds": 2.0,
    },
}
"""What a build of the example must be told for its expectations to hold: which rows to want, that the loopback is
allowed, deadlines short enough to wait for, and as many retries as the passing faults need."""

Kind = Damage | WebFault | RowFault
KINDS: tuple[Kind, ...] = (*CATALOGUE, *faults.WEB, *faults.ROWS)
SLOW_KINDS = frozenset(kind.kind for kind in faults.WEB if kind.slow)
"""Kinds that cost a build several deadlines of waiting each; `leave_out=SLOW_KINDS` makes a quick example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A written example. `metadata` is the folder of tables for a source of kind `laion`."""

    folder: Path
    records: int
    urls: Mapping[str, str]

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata"

    @property
    def plan(self) -> Plan:
        return load(self.folder / "plan.json")

    @property
    def healed_plan(self) -> Plan:
        """The plan once transient faults have passed: what failed for a while is there now."""
        return load(self.folder / "healed.json")

    def expected(self) -> list[dict[str, Any]]:
        """How each row must end, as dicts with the fields of `EXPECTED`, in row order."""
        rows: list[dict[str, Any]] = pq.read_table(self.folder / "expected.parquet").to_pylist()
        return rows

    def serve(self, *, healed: bool = False, log: Path | None = None) -> FaultServer:
        """The example's web, not yet started: `with example.serve() as server: ...`."""
        return FaultServer(self.folder / "served", self.healed_plan if healed else self.plan, log=log)


@dataclass(slots=True, kw_only=True)
class _Row:
    """One record in the making."""

    number: int
    kind: Kind | None
    variant: Variant
    url: str = ""
    original: _Row | None = None


def make_example(
    folder: str | Path,
    *,
    records: int = 1200,
    damage: bool = True,
    seed: int = 0,
    leave_out: Collection[str] = (),
    ports: Sequence[int] | None = None,
) -> Example:
    """Write the example into `folder`, or open the one that is there if it was made from the same arguments.

    A quarter of the records are damaged, every kind of `KINDS` (but those in `leave_out`) about equally often; with
    `damage=False` none are. The URLs hold port numbers, one for each of `faults.ORIGINS`; by default the first ones
    from 21000 on that are free now. Everything written is a function of the arguments, the ports and the versions of
    Pillow, pyarrow and the photographs' packages. Raises RuntimeError where the folder holds something else.
    """
    folder = Path(folder)
    names = {kind.kind for kind in KINDS}
    if unknown := sorted(set(leave_out) - names):
        raise ValueError(f"leave_out: no kind {unknown[0]!r}")
    made_from: dict[str, Any] = {
        "format": FORMAT,
        "records": records,
        "damage": damage,
        "seed": seed,
        "leave_out": sorted(leave_out),
        "pillow": PIL.__version__,
    }
    marker = folder / "example.json"
    if marker.exists():
        found = json.loads(marker.read_text(encoding="utf-8"))
        urls = found.pop("urls")
        if found != made_from or (ports is not None and urls != _urls(ports)):
            raise RuntimeError(f"{folder} holds another example ({found}); remove it or choose another folder")
        return Example(folder=folder, records=records, urls=urls)
    if folder.exists() and any(folder.iterdir()) and not (folder / "served").exists():
        raise RuntimeError(f"{folder} is not empty and holds no example")
    for name in ("served", "metadata"):  # what an interrupted run left
        shutil.rmtree(folder / name, ignore_errors=True)
    urls = _urls(ports if ports is not None else free_ports(len(faults.ORIGINS)))
    kinds = [kind for kind in KINDS if kind.kind not in leave_out] if damage else []
    _write(folder, records, kinds, seed, urls)
    marker.write_text(json.dumps({**made_from, "urls": urls}, indent=1), encoding="utf-8")
    return Example(folder=folder, records=records, urls=urls)


def free_ports(count: int, first: int = FIRST_PORT) -> list[int]:
    """The first `count` TCP ports from `first` on that nobody listens on at 127.0.0.1 just now. They lie below the
    range from which systems take ports for outgoing connections, so that they are likely to stay free."""
    ports: list[int] = []
    for port in range(first, 32_768):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} free ports from {first} on")


def _urls(ports: Sequence[int]) -> dict[str, str]:
    return {name: f"http://127.0.0.1:{port}" for name, port in zip(faults.ORIGINS, ports, strict=True)}


def _deal(records: int, kinds: Sequence[Kind], seed: int) -> list[Kind | None]:
    """The kind of each row: `DAMAGED` of them take the kinds in turn, at places drawn at random."""
    random = generator(seed, "deal")
    count = min(round(records * DAMAGED), max(0, records - HEAD)) if kinds else 0
    places = HEAD + random.permutation(max(0, records - HEAD))[:count]
    dealt: list[Kind | None] = [None] * records
    for turn, place in enumerate(places.tolist()):
        dealt[place] = kinds[turn % len(kinds)]
    return dealt


def _write(folder: Path, records: int, kinds: Sequence[Kind], seed: int, urls: Mapping[str, str]) -> None:
    served = folder / "served" / "images"
    served.mkdir(parents=True)
    (folder / "metadata").mkdir()
    answers: dict[tuple[str, str], tuple[Behaviour, ...]] = dict(faults.ROBOTS)
    healed = {key: value for key, value in answers.items() if key[0] != "broken"}
    licences = {photo.name: photo.licence for photo in photos()}
    table, expected = [], []
    for row, data, suffix in _rows(records, kinds, seed):
        name = f"images/{row.number:06d}{suffix}"
        (folder / "served" / name).write_bytes(data)
        here, there = _answers(row, name, urls)
        answers |= here
        healed |= there
        table.append(_metadata(row, seed, licences))
        expected.append(_expected(row, table[-1]["URL"]))
    _write_tables(folder / "metadata", table)
    pq.write_table(pa.Table.from_pylist(expected, schema=EXPECTED), folder / "expected.parquet")
    live = [name for name in faults.ORIGINS if name != "down"]
    (folder / "plan.json").write_text(dump(_plan(urls, live, answers, {"hole"})), encoding="utf-8")
    (folder / "healed.json").write_text(dump(_plan(urls, faults.ORIGINS, healed, set())), encoding="utf-8")


def _rows(records: int, kinds: Sequence[Kind], seed: int) -> Iterator[tuple[_Row, bytes, str]]:
    """Each row with the bytes and the suffix of its file."""
    clean: list[_Row] = []
    for variant, kind in zip(variants(records, seed), _deal(records, kinds, seed), strict=True):
        row = _Row(number=variant.number, kind=kind, variant=variant)
        suffix = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}[variant.format]
        if kind is None:
            if variant.format == "jpeg":
                clean.append(row)
            yield row, variant.data, suffix
        elif isinstance(kind, Damage):
            random = generator(seed, kind.kind, row.number)
            if kind.state == "duplicate":
                row.original, data = _copy(kind, clean, row.number, seed)
            else:
                data = kind.make(_as_jpeg(variant), random)
            yield row, data, kind.suffix
        else:
            yield row, variant.data, suffix


def _as_jpeg(variant: Variant) -> bytes:
    return variant.data if variant.format == "jpeg" else encode(_open(variant.data).convert("RGB"), "jpeg")


def _copy(kind: Damage, clean: Sequence[_Row], number: int, seed: int) -> tuple[_Row, bytes]:
    """A copy of some earlier good row that stays within `NEAR` bits of it."""
    for attempt in range(50):
        random = generator(seed, kind.kind, number, attempt)
        original = clean[int(random.integers(len(clean)))]
        data = kind.make(original.variant.data, random)
        if (phash(_open(data)) ^ phash(_open(original.variant.data))).bit_count() <= NEAR:
            return original, data
    raise RuntimeError(f"{kind.kind}: no copy stays near its original")


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _answers(row: _Row, file: str, urls: Mapping[str, str]) -> tuple[faults.Answers, faults.Answers]:
    """Set the row's URL; what the servers answer to it now, and once transient faults have passed."""
    kind = row.kind
    if not isinstance(kind, WebFault):
        row.url = f"{urls['mirror' if row.number % 4 == 3 else 'main']}/{file}"
        return {}, {}
    path = f"/{kind.folder}/{file.rpartition('/')[2]}"
    row.url = urls[kind.origin] + path
    here = kind.answers(file, path)
    there = {(kind.origin, path): (Behaviour(file=file),)} if kind.state == "failed_transient" else here
    return here, there


def _metadata(row: _Row, seed: int, licences: Mapping[str, str]) -> dict[str, Any]:
    random = generator(seed, "metadata", row.number)
    variant = row.variant
    values = {
        "URL": row.url,
        "TEXT": variant.caption,
        "WIDTH": variant.width,
        "HEIGHT": variant.height,
        "similarity": round(float(random.uniform(0.25, 0.45)), 4),
        "punsafe": round(float(random.uniform(0.0, 0.1)), 4),
        "pwatermark": round(float(random.uniform(0.0, 0.6)), 4),
        "LICENSE": licences[variant.photo],
        "NSFW": "UNLIKELY",
        "hash": int(random.integers(-(1 << 62), 1 << 62)),
    }
    return values | dict(row.kind.change) if isinstance(row.kind, RowFault) else values


def _expected(row: _Row, url: str | None) -> dict[str, Any]:
    kind = row.kind
    state, reason = ("ok", "") if kind is None else (kind.state, kind.reason)
    passes = state == "failed_transient"
    return {
        "row": row.number,
        "url": url,
        "kind": "clean" if kind is None else kind.kind,
        "state": state,
        "reason": reason,
        "of_row": None if row.original is None else row.original.number,
        "healed_state": "ok" if passes else state,
        "healed_reason": "" if passes else reason,
    }


def _write_tables(folder: Path, table: Sequence[Mapping[str, Any]]) -> None:
    size = -(-len(table) // FILES)
    for number in range(FILES):
        part = pa.Table.from_pylist(list(table[number * size : (number + 1) * size]), schema=METADATA)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=ROW_GROUP)


def _plan(
    urls: Mapping[str, str],
    live: Sequence[str],
    answers: Mapping[tuple[str, str], tuple[Behaviour, ...]],
    holes: Collection[str],
) -> Plan:
    origins = {}
    for name in live:
        paths = {path: steps for (origin, path), steps in answers.items() if origin == name}
        port = int(urls[name].rpartition(":")[2])
        origins[name] = OriginPlan(port=port, paths=paths, blackhole=name in holes)
    return Plan(origins=origins)


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.testing.example", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-damage", action="store_true", help="only good records")
    parser.add_argument("--leave-out-slow", action="store_true", help="leave out the kinds that wait for deadlines")
    parser.add_argument("--log", type=Path, help="file to append one JSON line per request to")
    parser.add_argument("--serve", action="store_true", help="serve until interrupted")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="serve while this command runs")
    options = parser.parse_args(arguments)
    try:
        example = make_example(
            options.folder,
            records=options.records,
            damage=not options.no_damage,
            seed=options.seed,
            leave_out=SLOW_KINDS if options.leave_out_slow else (),
        )
        print(f"{example.records} records: {example.metadata}")
        if not (options.serve or options.run):
            return 0
        with example.serve(log=options.log) as server:
            print(f"served at {server.url}", flush=True)
            if options.run:
                return subprocess.run(options.run).returncode
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            stop.wait()
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
