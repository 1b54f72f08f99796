"""Who makes a loader's batches: threads of this process, or of processes of their own. Whoever does, the order is the
loader's, which asks for one batch after the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from mmdata.errors import RunError
from mmdata.stream.ahead import ReadAhead
from mmdata.stream.handover import receive, send
from mmdata.stream.making import Job, Made, Making

PATIENCE = 10.0
"""Seconds that a worker has to end once nobody wants anything from it any more."""


class Readers(Protocol):
    """Makes batches in the background, several at a time."""

    def submit(self, job: Job) -> Future[Made]: ...

    def close(self) -> None:
        """Give up what is not finished, and end all that was started."""


class ThreadReaders:
    """Threads of this process in which torch does not fan out: a resize of one image on all cores, in every thread at
    once, takes four times as long as on one. The setting is each thread's own; the model's threads keep theirs."""

    def __init__(self, making: Making, threads: int) -> None:
        self._making = making
        self._pool = _reading_pool(threads)
        self._ahead = _read_ahead(making)

    def submit(self, job: Job) -> Future[Made]:
        coming = self._ahead.coming(job.deals, job.known)
        future = self._pool.submit(self._making, job)
        future.add_done_callback(lambda _: self._ahead.done(coming))
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.close()


class ProcessReaders:
    """`workers` processes of `threads` threads each, which last until `close`. A job goes to the process that has the
    fewest; a process that ends before its time stops the run, and one whose parent ends, ends too."""

    def __init__(self, making: Making, workers: int, threads: int, context: str) -> None:
        started = multiprocessing.get_context(context)
        if context == "forkserver":
            # It imports once what every worker needs, torch above all, and a worker is a fork of it, which imports
            # nothing. (A server that runs already, of the trainer's own, stays as it is.)
            tokenizer = None if making.dataset.family is None else making.dataset.family.tokenizer
            names = {type(value).__module__ for value in (making.collate, making.transform, tokenizer)}
            started.set_forkserver_preload(["__main__", __name__, *sorted(names - {"builtins", "__main__"})])
        self._workers = [_Worker(making, threads, started) for _ in range(workers)]
        self._next = 0

    def submit(self, job: Job) -> Future[Made]:
        self._next += 1
        return min(self._workers, key=lambda worker: worker.outstanding).submit(self._next, job)

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()


class _Worker:
    """The parent's end of one process."""

    def __init__(self, making: Making, threads: int, context: Any) -> None:
        self._channel, theirs = socket.socketpair()
        self._process = context.Process(target=_serve, args=(theirs, making, threads), daemon=True)
        self._process.start()
        theirs.close()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Made]] = {}
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._receive, name="mmdata-receive", daemon=True)
        self._thread.start()

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    def submit(self, number: int, job: Job) -> Future[Made]:
        future: Future[Made] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._waiting[number] = future
        with contextlib.suppress(OSError):  # The process is gone: the receiving thread says how it ended.
            send(self._channel, (number, job))
        return future

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # It is gone already.
            self._channel.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._thread.join()
        self._channel.close()

    def _receive(self) -> None:
        while True:
            try:
                number, error, made = receive(self._channel)
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._waiting.pop(number)
            if error is not None:
                future.set_exception(error)
            else:
                made.spent.lap("hand_over")
                future.set_result(made)
        self._process.join(PATIENCE)
        how = self._process.exitcode
        ended = RunError(
            f"a reading worker (process {self._process.pid}) ended, "
            + (f"killed by signal {-how}" if how is not None and how < 0 else f"exit code {how}")
            + "; is there enough memory?"
        )
        with self._lock:
            self._ended = ended
            left = list(self._waiting.values())
            self._waiting.clear()
        for future in left:
            future.set_exception(ended)


def _serve(channel: socket.socket, making: Making, threads: int) -> None:
    """A worker: makes what it is asked for until its parent closes the channel, or ends."""
    torch.set_num_threads(1)
    pool = _reading_pool(threads)
    ahead = _read_ahead(making)
    sending = threading.Lock()

    def run(number: int, job: Job) -> None:
        try:
            answer: tuple[int, Exception | None, Made | None] = (number, None, making(job))
        except Exception as error:
            answer = (number, _portable(error), None)
        with sending:
            try:
                send(channel, answer)
            except (BrokenPipeError, ConnectionResetError):
                os._exit(0)  # Nobody is left who wants it.
            except Exception as error:
                told = RuntimeError(f"a worker cannot hand over what it made: {type(error).__name__}: {error}")
                send(channel, (number, told, None))

    while True:
        try:
            number, job = receive(channel)
        except (EOFError, ConnectionResetError):
            break
        coming = ahead.coming(job.deals, job.known)
        pool.submit(run, number, job).add_done_callback(lambda _, coming=coming: ahead.done(coming))  # type: ignore[misc]
    os._exit(0)  # Threads may be in the middle of a long decode, which nobody will see the end of.


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or where it cannot be pickled, one that says as much."""
    told = "".join(traceback.format_exception(error))
    error.add_note(told)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(told)
    return error


def _read_ahead(making: Making) -> ReadAhead:
    dataset = making.dataset
    return ReadAhead(dataset.datasets, dataset.spec, dataset.family, dataset.world.ranks)


def _reading_pool(threads: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="mmdata-read")
    for _ in range(threads):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(before)  # what threads that start from now on (autograd's, too) begin with
    return pool
