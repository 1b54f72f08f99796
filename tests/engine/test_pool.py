"""Worker processes, forked or started afresh: answers, big media, deaths, and the spool beside them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.engine.channel import Channel, shared_memory
from mmdata.engine.pool import Pool
from mmdata.engine.spool import Memory, Spilled, Spool
from mmdata.engine.worker import Job, Outcome, Setup
from mmdata.types import Media, Origin, Sample, Text
from tests.building import build, folder_of_pictures, ledger, write_spec


def sample(*data: bytes, key: str = "000000001") -> Sample:
    media = tuple(Media(kind="image", uri=f"m{n}", data=d) for n, d in enumerate(data))
    return Sample(key=key, parts=(*media, Text(text="t")), origin=Origin(uri="o", row=1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=200_000), max_size=4), st.lists(st.binary(max_size=3_000_000), max_size=2))
def test_a_channel_carries_media_of_any_size_both_ways(there: list[bytes], back: list[bytes]) -> None:
    a, b = socket.socketpair()
    memory = shared_memory()
    ours, theirs = Channel(a.detach(), memory), Channel(b.detach(), os.dup(memory))
    try:
        for message in (there, back, there):
            ours.send(Job(unit=0, sample=sample(*message)))
            assert theirs.receive() == Job(unit=0, sample=sample(*message))
            theirs.send(Outcome(sample=sample(*message)))
            assert ours.receive() == Outcome(sample=sample(*message))
        ours.send(Outcome())
        assert theirs.receive() == Outcome()
    finally:
        ours.close()
        theirs.close()


def test_workers_started_afresh_rebuild_their_steps() -> None:
    """Where a process has threads already its pool cannot fork: workers get their steps as fields."""

    async def run() -> list[Outcome]:
        setup = Setup(plugins=(), steps=({"kind": "caption_length", "min_chars": 2},))
        pool = Pool(setup, workers=2, seconds=30)
        try:
            return await asyncio.gather(*(pool.run(Job(unit=0, sample=sample(b"x", key=str(n)))) for n in range(5)))
        finally:
            pool.close()

    outcomes = asyncio.run(run())
    assert [(o.drop.reason, o.step) for o in outcomes if o.drop] == [("caption_length", 0)] * 5


def test_messages_beyond_a_socket_buffer_do_not_wait_for_each_other() -> None:
    """A worker that is given records ahead may be busy answering while the next one is being sent."""
    meta = {"long": "x" * 1_000_000}

    async def run() -> list[Outcome]:
        pool = Pool(Setup(plugins=(), steps=()), workers=1, seconds=30)
        jobs = [
            Job(unit=0, sample=replace(sample(b"x", key=str(n)), meta=meta if size == "long" else {}))
            for n, size in enumerate(["long", "long", "short", "short", "long", "short"])
        ]
        try:
            return await asyncio.wait_for(asyncio.gather(*(pool.run(job) for job in jobs)), 60)
        finally:
            pool.close()

    outcomes = asyncio.run(run())
    assert [o.sample.key for o in outcomes if o.sample] == [str(n) for n in range(6)]


STUMBLE = """
import os, time
from typing import Literal
from mmdata import register
from mmdata.spec import StepSpec


@register("step", "stumble")
class Stumble(StepSpec):
    kind: Literal["stumble"] = "stumble"

    def apply(self, sample, work):
        if sample.key == "crash":
            os.abort()
        time.sleep(100 if sample.key == "hang" else 0.5)
        return sample
"""


@pytest.mark.parametrize("bad", ["crash", "hang"])
def test_a_record_given_ahead_pays_neither_for_the_one_before_it_nor_with_its_time(tmp_path: Path, bad: str) -> None:
    (tmp_path / "stumble.py").write_text(STUMBLE)
    setup = Setup(plugins=(str(tmp_path / "stumble.py"),), steps=({"kind": "stumble"},))

    async def run() -> list[Outcome]:
        pool = Pool(setup, workers=1, seconds=0.8)
        try:
            await pool.run(Job(unit=0, sample=sample(key="first")))  # the worker's imports are over
            keys = [bad, "a", bad, "b", "c"]
            return await asyncio.gather(*(pool.run(Job(unit=0, sample=sample(key=key))) for key in keys))
        finally:
            pool.close()

    outcomes = asyncio.run(run())
    reason = "decoder_crashed" if bad == "crash" else "decoder_timeout"
    assert [o.drop.reason if o.drop else "" for o in outcomes] == [reason, "", reason, "", ""]


READING = """
import os, time
from typing import Literal
from mmdata import register
from mmdata.errors import SpecError
from mmdata.spec import StepSpec


@register("step", "reading")
class Reading(StepSpec):
    kind: Literal["reading"] = "reading"
    how: str = "long"

    def prepare(self):
        self.how == "killed" and os.kill(os.getpid(), 9)
        if self.how == "wrong":
            raise SpecError("set.txt: of no use")
        if self.how == "bug":
            raise KeyError("a bug")
        time.sleep(3.5)

    def apply(self, sample, work):
        time.sleep(30 if sample.key.endswith("1") else 0)
        return sample
"""


def test_what_a_step_reads_first_is_no_part_of_a_records_time(tmp_path: Path) -> None:
    """But what a record takes behind it is."""
    (tmp_path / "reading.py").write_text(READING)
    source = {"kind": "folder", "path": str(folder_of_pictures(tmp_path / "in", 3))}
    steps, engine = [{"kind": "reading"}], {"workers": 1, "sample_seconds": 2.5}
    build(write_spec(tmp_path / "s.yaml", source, steps, plugins=["reading.py"], engine=engine))
    assert [row.reason for row in ledger(tmp_path / "out")] == ["", "decoder_timeout", ""]


def test_nor_is_it_in_a_worker_that_was_started_afresh(tmp_path: Path) -> None:
    (tmp_path / "reading.py").write_text(READING)
    setup = Setup(plugins=(str(tmp_path / "reading.py"),), steps=({"kind": "reading", "how": "long"},))

    async def run() -> list[Outcome]:
        pool = Pool(setup, workers=1, seconds=2.5)
        try:
            return await asyncio.gather(*(pool.run(Job(unit=0, sample=sample(key=key))) for key in "012"))
        finally:
            pool.close()

    assert [outcome.drop.reason if outcome.drop else "" for outcome in asyncio.run(run())] == [
        "",
        "decoder_timeout",
        "",
    ]


@pytest.mark.parametrize(
    ("how", "said"), [("killed", "ended by signal SIGKILL while it read"), ("wrong", "of no use"), ("bug", "KeyError")]
)
def test_a_step_that_cannot_be_made_ready_ends_the_run_and_costs_no_record(tmp_path: Path, how: str, said: str) -> None:
    (tmp_path / "reading.py").write_text(READING)
    source = {"kind": "folder", "path": str(folder_of_pictures(tmp_path / "in", 3))}
    steps = [{"kind": "reading", "how": how}]
    done = build(write_spec(tmp_path / "s.yaml", source, steps, plugins=["reading.py"]), code=1 if how == "bug" else 2)
    assert said in done.stderr
    assert not list((tmp_path / "out" / "ledger").glob("*.parquet"))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_memory_that_cannot_be_shared_with_workers_ends_the_run_and_costs_no_record(tmp_path: Path) -> None:
    """It is a file to the system: one that may be no larger than this."""
    source = {"kind": "folder", "path": str(folder_of_pictures(tmp_path / "in", 3))}
    spec = write_spec(tmp_path / "s.yaml", source, [{"kind": "probe"}], engine={"workers": 1})
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY));"
        "from mmdata.build import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--quiet", "--spec", str(spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "memory shared with a worker: File too large" in done.stderr
    assert not list((tmp_path / "out" / "ledger").glob("*.parquet"))
    build(spec)
    assert [row.state for row in ledger(tmp_path / "out")] == ["ok"] * 3


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        "from mmdata.engine.pool import fork_workers\n"
        "workers = fork_workers((), 2)\n"
        "print(*[w._process for w in workers], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 2, done.stderr
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
            return
        time.sleep(0.02)
    pytest.fail("workers outlived their parent")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=20), st.integers(0, 20_000))
def test_a_spool_gives_back_what_it_took_within_its_budget(items: list[bytes], limit: int) -> None:
    memory = Memory(limit)
    spool = Spool(Path("."), memory)
    held = [spool.put(item) for item in items]
    assert memory.used <= limit
    assert [hashlib.sha256(spool.get(h)).digest() for h in held] == [hashlib.sha256(i).digest() for i in items]
    assert memory.spilled == sum(h.size for h in held if isinstance(h, Spilled))
    spool.close()
    assert memory.used == 0


GARBAGE = """
import gc, os, sys, time

class Held:  # as libav's are, whose end waits for threads of theirs
    def __init__(self):
        self.itself, self.process = self, os.getpid()

    def __del__(self):
        if os.getpid() != self.process:
            time.sleep(600)

gc.disable()
Held()
from mmdata.build import main
sys.exit(main(sys.argv[1:]))
"""
SWEEP = """
import gc
from typing import Literal
from mmdata import register
from mmdata.spec import StepSpec

@register("step", "sweep")
class Sweep(StepSpec):
    kind: Literal["sweep"] = "sweep"

    def apply(self, sample, work):
        gc.collect()
        return sample
"""


def test_forks_leave_the_garbage_of_their_parent_alone(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "photos", 2)
    (tmp_path / "sweep.py").write_text(SWEEP)
    source, engine = {"kind": "folder", "path": "photos"}, {"workers": 1, "sample_seconds": 10.0}
    spec = write_spec(tmp_path / "build.yaml", source, [{"kind": "sweep"}], plugins=["sweep.py"], engine=engine)
    command = [sys.executable, "-c", GARBAGE, "--spec", str(spec), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [row.state for row in ledger(tmp_path / "out")] == ["ok", "ok"]
