"""A pool of killable worker processes, one per thread of the parent: a record that hangs or crashes its
decoder costs that record and a new process, never the run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

from PIL import Image

from mmdata.engine.channel import Channel, shared_memory
from mmdata.engine.worker import Job, Outcome, Setup, serve, settle_in
from mmdata.errors import RunError
from mmdata.spec import StepSpec
from mmdata.types import Drop

_START_SECONDS = 120.0
"""Generous: a cold disk and a loaded machine can make the first import slow."""
_MAIN = "from mmdata.engine.worker import main; main()"
_Item = tuple[Job, "asyncio.Future[Outcome]"]


class Process:
    """One worker process and the channel to it."""

    def __init__(self, channel: Channel, process: subprocess.Popen[bytes] | int) -> None:
        self._channel = channel
        self._process = process  # a child that we started, or the pid of one that we forked
        self._ready = False
        self._how: str | None = None

    def ask(self, job: Job, seconds: float) -> Outcome | None:
        """The answer, or None when the time is up. Raises EOFError or OSError when the process has died."""
        self._channel.send(job)
        if not self._channel.poll(seconds if self._ready else seconds + _START_SECONDS):
            return None
        self._ready = True
        outcome: Outcome = self._channel.receive()
        return outcome

    def kill(self) -> None:
        if self._how is not None:
            return  # its number may be another process's by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process if isinstance(self._process, int) else self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """How the process ended; it is killed unless it has closed its channel and ends by itself in time."""
        if self._how is None:
            self._channel.close()
            deadline = time.monotonic() + 0.5
            while (code := self._poll()) is None:
                if time.monotonic() > deadline:
                    self.kill()
                time.sleep(0.002)
            self._how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._how

    def _poll(self) -> int | None:
        if not isinstance(self._process, int):
            return self._process.poll()
        pid, status = os.waitpid(self._process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def fork_workers(steps: tuple[StepSpec, ...], count: int) -> list[Process]:
    """Workers forked from this process, which has imported all they need: they are there in milliseconds.

    Forking is sound only while this process has a single thread; else there are none, and the pool starts
    its workers afresh (half a second of CPU time each).
    """
    if sys.platform != "linux" or threading.active_count() > 1 or "torch" in sys.modules:
        return []
    processes: list[Process] = []
    parent = os.getpid()
    Image.preinit()  # what every worker would import with its first picture
    for _ in range(count):
        ours, theirs = socket.socketpair()
        memory = shared_memory()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                for other in processes:
                    other._channel.close()
                settle_in(parent)
                serve(Channel(theirs.detach(), memory), steps)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        processes.append(Process(Channel(ours.detach(), memory), pid))
    return processes


def _start_worker(setup: Setup) -> Process:
    ours, theirs = socket.socketpair()
    memory = shared_memory()
    with theirs:
        process = subprocess.Popen(
            # Not `-m`: run as __main__, the worker's classes would be other ones than ours to pickle.
            [sys.executable, "-c", _MAIN, str(theirs.fileno()), str(memory), str(os.getpid())],
            pass_fds=(theirs.fileno(), memory),
            stdin=subprocess.DEVNULL,
        )
    channel = Channel(ours.detach(), memory)
    channel.send(setup)
    return Process(channel, process)


class Pool:
    """`workers` processes. `run` awaits one record's outcome; records are taken in the order of `run` calls.

    A record that takes longer than `seconds` ends as `decoder_timeout`, one whose process dies as
    `decoder_crashed` (it is tried once more in a fresh process, since it may have been another's doing,
    such as the system running out of memory). A bug in a step raises RunError with its traceback.
    """

    def __init__(self, setup: Setup, *, workers: int, seconds: float, forked: list[Process] | None = None) -> None:
        self._setup = setup
        self._seconds = seconds
        self._jobs: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closing = False
        self._forked = list(forked or ())
        self._live: set[Process] = set(self._forked)
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
        for process in self._forked:  # never taken up
            process.end()

    def _serve(self) -> None:
        process: Process | None = None
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

    def _start(self) -> Process:
        try:
            return self._forked.pop()
        except IndexError:
            process = _start_worker(self._setup)
        self._live.add(process)
        return process

    def _stop(self, process: Process) -> str:
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
