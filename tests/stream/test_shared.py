"""A value that processes share, however they were started, and that copies do not."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mmdata.stream.shared import SharedValue


def answer(value: SharedValue, pipe: Connection) -> None:
    """Say what the value is whenever asked; once asked to `set`, change it."""
    while (told := pipe.recv()) is not None:
        if told == "set":
            value.set({"by": "child"})
        pipe.send(value.get())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_see_what_is_set_after_they_started(method: str) -> None:
    context = multiprocessing.get_context(method)
    value = SharedValue([1, 2])
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(value, theirs))
    process.start()
    try:
        ours.send("get")
        assert ours.poll(60)
        assert ours.recv() == [1, 2]
        value.set({"epoch": 3, "long": "x" * 5000})
        ours.send("get")
        assert ours.recv() == {"epoch": 3, "long": "x" * 5000}
        ours.send("set")
        assert ours.recv() == value.get() == {"by": "child"}
        ours.send(None)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()


def test_copies_are_values_of_their_own() -> None:
    value = SharedValue(1)
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other.get() == 1
        other.set(2)
        assert value.get() == 1


def test_nobody_reads_half_a_value() -> None:
    value = SharedValue([0] * 300)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            value.set([number] * (300 + number % 200))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            assert len(set(value.get())) == 1
    finally:
        stop.set()
        writer.join()


def test_nothing_is_left_open_or_named() -> None:
    before, names = len(os.listdir("/proc/self/fd")), set(Path("/dev/shm").iterdir())
    values = [SharedValue(number) for number in range(20)]
    assert set(Path("/dev/shm").iterdir()) == names
    assert len(os.listdir("/proc/self/fd")) == before + 20
    del values
    assert len(os.listdir("/proc/self/fd")) == before
