"""A pool of killable worker processes: a record that hangs or crashes its decoder costs that record and a new
process, never the run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass

from PIL import Image

from mmdata.engine.channel import Channel, shared_memory
from mmdata.engine.worker import Job, Outcome, Setup, serve, settle_in
from mmdata.errors import RunError
from mmdata.spec import StepSpec
from mmdata.types import Drop

_START_SECONDS = 120.0
"""Generous: a cold disk and a loaded machine can make the first import slow."""
_MAIN = "from mmdata.engine.worker import main; main()"
_ATTEMPTS = 2


class Process:
    """One worker process and the channel to it. `ready` once it has answered: only its first record may wait for
    its imports."""

    def __init__(self, channel: Channel, process: subprocess.Popen[bytes] | int) -> None:
        self.channel = channel
        self.ready = False
        self._process = process  # a child that we started, or the pid of one that we forked
        self._how: str | None = None

    def fileno(self) -> int:
        return self.channel.fileno()

    def kill(self) -> None:
        if self._how is not None:
            return  # its number may be another process's by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process if isinstance(self._process, int) else self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """How the process ended; it is killed unless it has closed its channel and ends by itself in time."""
        if self._how is None:
            self.channel.close()
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
                    other.channel.close()
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


@dataclass(slots=True)
class _Task:
    job: Job
    answer: asyncio.Future[Outcome]
    attempts: int = 0


class Pool:
    """`workers` processes, driven by the event loop that creates the pool. `run` awaits one record's outcome;
    records are taken in the order of `run` calls.

    A record that takes longer than `seconds` ends as `decoder_timeout`, one whose process dies as
    `decoder_crashed` (it is tried once more in a fresh process, since it may have been another's doing,
    such as the system running out of memory). A bug in a step raises RunError with its traceback.
    """

    def __init__(self, setup: Setup, *, workers: int, seconds: float, forked: list[Process] | None = None) -> None:
        self._setup = setup
        self._workers = workers
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Task] = deque()
        self._busy: dict[Process, tuple[_Task, asyncio.TimerHandle]] = {}
        self._idle: list[Process] = []
        for process in forked or ():
            self._adopt(process)

    async def run(self, job: Job) -> Outcome:
        task = _Task(job, self._loop.create_future())
        self._waiting.append(task)
        self._dispatch()
        outcome = await task.answer
        if outcome.bug is not None:
            raise RunError(
                f"a step raised something other than DataError on {job.sample.key} "
                f"({job.sample.origin.uri} row {job.sample.origin.row}); this is a bug in the step:\n{outcome.bug}"
            )
        return outcome

    def close(self) -> None:
        """End all processes, at once for those in the middle of a record."""
        processes = [*self._idle, *self._busy]
        for _, timer in self._busy.values():
            timer.cancel()
        for process in processes:
            self._loop.remove_reader(process.fileno())
            process.kill()
        for process in processes:
            process.end()
        self._idle.clear()
        self._busy.clear()

    def _adopt(self, process: Process) -> None:
        self._idle.append(process)
        self._loop.add_reader(process.fileno(), self._readable, process)

    def _dispatch(self) -> None:
        """Give waiting records to idle processes, starting processes up to their number."""
        while self._waiting:
            if not self._idle:
                if len(self._busy) >= self._workers:
                    return
                self._adopt(_start_worker(self._setup))
            task = self._waiting.popleft()
            if task.answer.done():  # its row was given up
                continue
            process = self._idle.pop()
            task.attempts += 1
            limit = self._seconds if process.ready else self._seconds + _START_SECONDS
            self._busy[process] = task, self._loop.call_later(limit, self._late, process)
            try:
                process.channel.send(task.job)
            except OSError:
                self._died(process)

    def _readable(self, process: Process) -> None:
        """A process has answered, or has closed its end."""
        try:
            outcome: Outcome = process.channel.receive()
        except (EOFError, OSError):
            self._died(process)
            return
        process.ready = True
        task, timer = self._busy.pop(process)
        timer.cancel()
        self._idle.append(process)
        _answer(task, outcome)
        self._dispatch()

    def _late(self, process: Process) -> None:
        task, _ = self._busy.pop(process)
        process.kill()
        self._remove(process)
        _answer(task, _failed("decoder_timeout", f"took longer than {self._seconds:g} s"))
        self._dispatch()

    def _died(self, process: Process) -> None:
        how = self._remove(process)
        if process in self._busy:
            task, timer = self._busy.pop(process)
            timer.cancel()
            if task.attempts < _ATTEMPTS:
                self._waiting.appendleft(task)
            else:
                _answer(task, _failed("decoder_crashed", f"the decoder's process ended by {how}, twice"))
        elif process in self._idle:
            self._idle.remove(process)
        self._dispatch()

    def _remove(self, process: Process) -> str:
        self._loop.remove_reader(process.fileno())
        return process.end()


def _answer(task: _Task, outcome: Outcome) -> None:
    if not task.answer.done():
        task.answer.set_result(outcome)


def _failed(reason: str, detail: str) -> Outcome:
    return Outcome(drop=Drop(reason=reason, detail=detail, state="failed_permanent"))
