"""Large arrays: their memory comes again, and never while anybody looks at it."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import threading

import numpy as np
import pytest
import torch

from mmdata import memory
from mmdata.memory import LEAST, Pool


def test_an_array_is_as_numpys_own() -> None:
    pool = Pool()
    for shape, dtype in (
        ((3, 5, 2), np.float32),
        ((0, 4), np.uint8),
        ((700, 600, 3), np.uint8),
        ((1 << 20,), np.int64),
    ):
        array = pool.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = 1
        assert torch.from_numpy(array).sum() == array.size


def test_memory_comes_again_when_the_last_view_is_gone() -> None:
    pool = Pool()
    array = pool.empty((LEAST + 9,), np.uint8)
    at = array.ctypes.data
    view = torch.from_numpy(array)[5:].view(torch.uint8)
    del array
    other = pool.empty((LEAST,), np.uint8)
    assert other.ctypes.data != at
    del view
    assert pool.empty((LEAST,), np.uint8).ctypes.data == at


def test_a_block_is_not_much_larger_than_its_array() -> None:
    pool = Pool()
    held = [pool.empty((4 * LEAST,), np.uint8)]
    held.clear()
    assert [block.size for block in pool.free] == [4 * LEAST]
    small = pool.empty((2 * LEAST,), np.uint8)
    assert [block.size for block in pool.free] == [4 * LEAST]
    large = pool.empty((3 * LEAST,), np.uint8)
    assert not pool.free
    assert small.size + large.size == 5 * LEAST


def test_no_more_is_kept_than_told_and_what_waited_longest_goes_first() -> None:
    pool = Pool(kept=3 * LEAST)
    arrays = [pool.empty((LEAST + number,), np.uint8) for number in range(5)]
    for _ in range(5):
        arrays.pop(0)
    assert [block.size for block in pool.free] == [LEAST + 3, LEAST + 4]
    del arrays[:]
    whole = [pool.empty((4 * LEAST,), np.uint8)]
    whole.clear()
    assert not pool.free


def test_arrays_that_end_in_a_circle_and_in_other_threads_come_back() -> None:
    pool = Pool()
    circle: list[object] = [pool.empty((LEAST,), np.uint8)]
    circle.append(circle)
    del circle
    gc.collect()
    assert len(pool.free) == 1
    held = [pool.empty((LEAST,), np.uint8)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert len(pool.free) == 1


def test_threads_never_share_a_block() -> None:
    pool, wrong = Pool(kept=8 * LEAST), []

    def work(number: int) -> None:
        for turn in range(60):
            array = pool.empty((LEAST + 4096 * (turn % 3),), np.uint8)
            array[::4096] = number
            if (array[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(block.size for block in pool.free) <= pool.kept


def _forked(answer: multiprocessing.connection.Connection) -> None:
    answer.send((len(memory._pool.free), memory.empty((LEAST,), np.uint8).size))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
def test_a_forked_process_begins_with_none() -> None:
    here, there = multiprocessing.Pipe()
    held = [memory.empty((LEAST,), np.uint8)]
    held.clear()
    with memory._pool._lock:  # another thread's, for all that a fork knows
        process = multiprocessing.get_context("fork").Process(target=_forked, args=(there,))
        process.start()
    assert here.recv() == (0, LEAST)
    process.join()
    assert process.exitcode == 0
