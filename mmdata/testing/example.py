"""The embedded example: a small web of real photographs under LAION-style tables, with every usual damage.

    python -m mmdata.testing.example FOLDER [--records N] [--serve | --run COMMAND ...]

writes it into FOLDER if it is not there, and serves it until interrupted or while COMMAND runs. What is written:

    metadata/part-0.parquet ...   the tables a build reads
    served/                       the files that the web holds
    plan.json, healed.json        how the servers answer now, and once all transient faults have passed
    expected.parquet              how each row must end, and how after the faults have passed
    spec.yaml                     the build for which that holds: python -m mmdata.build --spec FOLDER/spec.yaml
    example.json                  what it was made from
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import pyarrow.parquet as pq
import yaml

from mmdata import unread
from mmdata.rng import generator
from mmdata.testing import faults
from mmdata.testing.making import KINDS, write
from mmdata.testing.plan import Plan, load
from mmdata.testing.server import FaultServer

FORMAT = 1
FIRST_PORT = 21_000

SPEC: Mapping[str, Any] = {
    "source": {
        "kind": "laion",
        "path": "metadata",
        "where": "(punsafe < 0.9 or is_null(punsafe)) and (similarity >= 0.2 or is_null(similarity))",
    },
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
    "steps": [
        {"kind": "probe", "verify": "full"},
        {"kind": "max_pixels", "pixels": 4_000_000},
        {"kind": "min_side", "pixels": 128},
        {"kind": "aspect", "max": 4.0},
        {"kind": "caption_clean"},
        {"kind": "caption_length", "min_chars": 5, "max_chars": 1000},
        {"kind": "exact_dedup"},
        {"kind": "near_dup"},
    ],
    "output": {"path": "dataset", "unit_rows": 100},
}
"""The build spec for which the expectations are written, `spec.yaml` beside them. What matters of it: which rows are
wanted, that the loopback is allowed, deadlines short enough to wait for, as many retries as passing faults need, and
the limits of the filters."""

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
    def spec(self) -> Path:
        """The build spec for which the expectations hold; its output is `dataset` beside it."""
        return self.folder / "spec.yaml"

    @property
    def plan(self) -> Plan:
        return load(self.folder / "plan.json")

    @property
    def healed_plan(self) -> Plan:
        """The plan once transient faults have passed: what failed for a while is there now."""
        return load(self.folder / "healed.json")

    def expected(self) -> list[dict[str, Any]]:
        """How each row must end, as dicts with the fields of `making.EXPECTED`, in row order."""
        rows: list[dict[str, Any]] = pq.read_table(self.folder / "expected.parquet").to_pylist()
        return rows

    def serve(self, *, healed: bool = False, log: Path | None = None) -> FaultServer:
        """The example's web, not yet started: `with example.serve() as server: ...`."""
        return FaultServer(self.folder / "served", self.healed_plan if healed else self.plan, log=log)


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
    `damage=False` none are. The URLs hold port numbers, one for each of `faults.ORIGINS`; by default they follow from
    the folder's path, so that examples side by side can be served at once (ports taken just now are passed over).
    Everything written is a function of the arguments, the ports and the versions of
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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RuntimeError(f"{folder} is not empty and holds no example")
    urls = _urls(ports if ports is not None else free_ports(len(faults.ORIGINS), _first_port(folder)))
    kinds = [kind for kind in KINDS if kind.kind not in leave_out] if damage else []
    making = folder.with_name(folder.name + ".making")  # a half-written example is never visible
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    write(making, records, kinds, seed, urls)
    (making / "spec.yaml").write_text(yaml.safe_dump(dict(SPEC), sort_keys=False), encoding="utf-8")
    (making / marker.name).write_text(json.dumps({**made_from, "urls": urls}, indent=1), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    making.rename(folder)
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


def _first_port(folder: Path) -> int:
    return FIRST_PORT + 10 * int(generator("port", str(folder.resolve())).integers(1000))


def _urls(ports: Sequence[int]) -> dict[str, str]:
    return {name: f"http://127.0.0.1:{port}" for name, port in zip(faults.ORIGINS, ports, strict=True)}


def _run(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit status, the shell's way (128 + signal). An interrupt from the
    terminal reaches the command too: it decides, we wait."""
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue


@unread.goes_on
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
                return _run(options.run)
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            stop.wait()
        return 0
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
