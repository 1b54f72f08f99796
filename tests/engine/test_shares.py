"""A build shared by workers: the bytes of a build alone, whatever was killed, lost or damaged on the way."""

from __future__ import annotations

import pickle
import signal
import struct
import subprocess
import time
from pathlib import Path

import crc32c
import pytest

from mmdata.build import build_dataset, build_share
from mmdata.engine import mapped
from mmdata.engine.shares import Share
from mmdata.errors import DataError, RunError, SpecError
from mmdata.shards import manifest as manifests
from mmdata.verify import verify_dataset
from tests.building import build, command, content, ledger


def fates(dataset: Path) -> list[tuple[object, ...]]:
    return [(row.key, row.state, row.reason, row.of, row.shard, row.shard_row) for row in ledger(dataset)]


def test_workers_and_one_that_commits_do_what_one_build_does(shared: Path, alone: Path, tmp_path: Path) -> None:
    """Through the command: three at once, one of them killed and run again."""
    out = ("--output", str(tmp_path / "out"), "--set", "engine.workers=1")
    running = [subprocess.Popen(command(shared, *out, "--worker", f"{at}/2")) for at in range(2)]
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / ".build" / "mapped").glob("*.unit")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGKILL)
    codes = [process.wait(60) for process in running]
    assert codes[0] == 0
    if running[1].returncode == -signal.SIGKILL:  # it may have been done already
        assert "--worker 1/2 has not ended" in build(shared, *out, "--finish", code=1).stderr
    build(shared, *out, "--worker", "1/2")
    build(shared, *out, "--finish")
    assert content(tmp_path / "out") == content(alone)
    assert fates(tmp_path / "out") == fates(alone)
    assert {row.state for row in ledger(alone)} == {"ok", "duplicate", "failed_permanent"}
    assert verify_dataset(tmp_path / "out").problems == []
    assert manifests.read(tmp_path / "out").root_digest == manifests.read(alone).root_digest
    assert list((tmp_path / "out" / ".build" / "mapped").glob("*.unit")) == []
    build(shared, *out, "--finish")  # nothing to do
    build(shared, *out, "--retry", "transient")


@pytest.mark.parametrize("workers", [3, pytest.param(40, marks=pytest.mark.soak)])
def test_any_number_of_workers(shared: Path, alone: Path, tmp_path: Path, workers: int) -> None:
    """Also more than there are units."""
    told = [f"output.path={tmp_path}/out", "engine.workers=1"]
    for at in reversed(range(workers)):
        build_share(shared, f"{at}/{workers}", told, quiet=True)
    build_dataset(shared, told, finish=True, quiet=True)
    assert content(tmp_path / "out") == content(alone)


def test_a_commit_that_breaks_off_goes_on(shared: Path, alone: Path, tmp_path: Path) -> None:
    told = [f"output.path={tmp_path}/out", "engine.workers=1"]
    build_share(shared, "0/1", told, quiet=True)
    place = mapped.place(tmp_path / "out", 7)
    whole = place.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:3000] + b"?" + whole[3001:], whole[:-9] + b"\0" + whole[-8:]):
        if damaged == whole:
            continue
        place.write_bytes(damaged)
        with pytest.raises(DataError, match=r"000007\.unit.*(remove it and )?run its worker again"):
            build_dataset(shared, told, finish=True, quiet=True)
    place.unlink()
    with pytest.raises(RunError, match="run the worker that maps unit 7 again"):
        build_dataset(shared, told, finish=True, quiet=True)
    assert not mapped.place(tmp_path / "out", 3).exists()
    build_share(shared, "0/1", told, quiet=True)
    build_dataset(shared, told, finish=True, quiet=True)
    assert content(tmp_path / "out") == content(alone)


def test_who_may_not_work_together(shared: Path, alone: Path, tmp_path: Path) -> None:
    told = [f"output.path={tmp_path}/out", "engine.workers=1"]
    with pytest.raises(RunError, match="no worker has ended"):
        build_dataset(shared, told, finish=True, quiet=True)
    build_share(shared, "0/2", told, quiet=True)
    with pytest.raises(SpecError, match="was begun with another spec"):
        build_share(shared, "1/2", [*told, "steps.min_side.pixels=51"], quiet=True)
    build_share(shared, "0/3", told, quiet=True)
    with pytest.raises(RunError, match="workers of different shares have ended"):
        build_dataset(shared, told, finish=True, quiet=True)
    for wrong in ("2/2", "-1/2", "1", "a/b", "0/0"):
        with pytest.raises(SpecError, match="give i/n"):
            Share.parse(wrong)


def test_nothing_else_is_read_back(tmp_path: Path) -> None:
    """A file of rows that would call something is refused, whole as it is."""

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "called",)

    for value in (Evil(), [print], mapped.read):
        packed = pickle.dumps(value)
        place = mapped.place(tmp_path, 0)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(mapped.MAGIC + struct.pack("<QI", len(packed), crc32c.crc32c(packed)) + packed)
        with pytest.raises(DataError, match=r"unit_damaged.*holds a"):
            mapped.read(tmp_path, 0)
    assert not (tmp_path / "called").exists()
