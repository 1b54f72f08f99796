"""A pool of killable worker processes, one per thread of the parent: a record that hangs or crashes its
decoder costs that record and a new process, never the run."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

from mmdata.engine.worker import Job, Outcome, Setup
from mmdata.errors import RunError
from mmdata.types import Drop

_START_SECONDS = 120.0
"""Generous: a cold disk and a loaded machine can make the first import slow."""
_MAIN = "from mmdata.engine.worker import main; main()"
_Item = tuple[Job, "asyncio.Future[Outcome]"]


class _Process:
    """One worker process and the socket to it."""

    def __init__(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # Not `-m`: run as __main__, the worker's classes would be other ones than ours to pickle.
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._connection.send(setup)
        self._ready = False

    def ask(self, job: Job, seconds: float) -> Outcome | None:
        """The answer, or None when the time is up. Raises EOFError or OSError when the process has died."""
        self._connection.send(job)
        if not self._connection.poll(seconds if self._ready else seconds + _START_SECONDS):
            return None
        self._ready = True
        outcome: Outcome = self._connection.recv()
        return outcome

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """How the process ended; it is killed unless it has closed its socket and ends by itself in time."""
        self._connection.close()
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Pool:
    """`workers` processes. `run` awaits one record's outcome; records are taken in the order of `run` calls.

    A record that takes longer than `seconds` ends as `decoder_timeout`, one whose process dies as
    `decoder_crashed` (it is tried once more in a fresh process, since it may have been another's doing,
    such as the system running out of memory). A bug in a step raises RunError with its traceback.
    """

    def __init__(self, setup: Setup, *, workers: int, seconds: float) -> None:
        self._setup = setup
        self._seconds = seconds
        self._jobs: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closing = False
        self._live: set[_Process] = set()
        self._loop = asyncio.get_running_loop()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    async def run(self, job: Job) -> Outcome:
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._jobs.put((job, future))
        outcome = await future
        if outcome.bug is not None:
            raise RunError(
                f"a step raised something other than DataError on {job.sample.key} "
                f"({job.sample.origin.uri} row {job.sample.origin.row}); this is a bug in the step:\n{outcome.bug}"
            )
        return outcome

    def close(self) -> None:
        """End all processes, at once for those in the middle of a record."""
        self._closing = True
        for process in list(self._live):
            process.kill()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=10)

    def _serve(self) -> None:
        process: _Process | None = None
        try:
            process = self._start()
            while (item := self._jobs.get()) is not None and not self._closing:
                job, future = item
                outcome: Outcome | None = None
                for attempt in (1, 2):
                    process = process or self._start()
                    try:
                        outcome = process.ask(job, self._seconds)
                    except (EOFError, OSError):
                        how = self._stop(process)
                        process = None
                        if self._closing:
                            return
                        if attempt == 2:
                            outcome = _failed("decoder_crashed", f"the decoder's process ended by {how}, twice")
                        continue
                    if outcome is None:
                        process.kill()
                        self._stop(process)
                        process = None
                        outcome = _failed("decoder_timeout", f"took longer than {self._seconds:g} s")
                    break
                assert outcome is not None
                self._deliver(future, outcome)
        except Exception as error:  # the thread must not die silently with futures left waiting
            self._fail(error)
        finally:
            if process is not None:
                process.kill()
                self._stop(process)

    def _start(self) -> _Process:
        process = _Process(self._setup)
        self._live.add(process)
        return process

    def _stop(self, process: _Process) -> str:
        self._live.discard(process)
        return process.end()

    def _deliver(self, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        def set_result() -> None:
            if not future.done():
                future.set_result(outcome)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(set_result)

    def _fail(self, error: Exception) -> None:
        outcome = Outcome(bug=f"{type(error).__name__}: {error}")
        while not self._closing:
            item = self._jobs.get()
            if item is None:
                return
            self._deliver(item[1], outcome)


def _failed(reason: str, detail: str) -> Outcome:
    return Outcome(drop=Drop(reason=reason, detail=detail, state="failed_permanent"))
