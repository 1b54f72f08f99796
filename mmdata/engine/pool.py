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
from dataclasses import dataclass, field

from PIL import Image

from mmdata.engine.channel import Channel, Packed, pack, shared_memory
from mmdata.engine.worker import Job, Outcome, Setup, serve, settle_in
from mmdata.errors import RunError, SpecError
from mmdata.spec import StepSpec
from mmdata.types import Drop

_START_SECONDS = 120.0
"""Generous: a cold disk and a loaded machine can make the first import slow."""
_MAIN = "from mmdata.engine.worker import main; main()"
_ATTEMPTS = 2
_AHEAD = 2
"""Records that a worker holds at most: the one that it is busy with and the next, so that it need not wait while
this process is busy with something else."""
_AHEAD_MEDIA = 4 << 20
"""Bytes of media of a record that is given ahead: of a longer one the wait is no part worth its memory."""
_AHEAD_MESSAGE = 32 << 10
"""Bytes of a message that is sent ahead. It has to fit the socket's buffer: were it to wait for a worker that waits
for us to take its answer, both would wait for good."""


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


def may_fork() -> bool:
    """Forking is sound only while this process has a single thread, and torch may have started others unseen."""
    return sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules


def fork_workers(steps: tuple[StepSpec, ...], count: int, memory_mib: int | None = None) -> list[Process]:
    """Workers forked from this process, which has imported all they need: they are there in milliseconds.

    Where this process may not fork there are none, and the pool starts its workers afresh (half a second of CPU time
    each).
    """
    if not may_fork():
        return []
    processes: list[Process] = []
    parent = os.getpid()
    Image.preinit()  # what every worker would import with its first picture
    for _ in range(count):
        ours, theirs = socket.socketpair()
        areas = [shared_memory() for _ in range(_AHEAD)]
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                for other in processes:
                    other.channel.close()
                settle_in(parent)
                serve(Channel(theirs.detach(), *areas), steps, memory_mib)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        processes.append(Process(Channel(ours.detach(), *areas), pid))
    return processes


def _start_worker(setup: Setup) -> Process:
    ours, theirs = socket.socketpair()
    areas = [shared_memory() for _ in range(_AHEAD)]
    with theirs:
        process = subprocess.Popen(
            # Not `-m`: run as __main__, the worker's classes would be other ones than ours to pickle.
            [sys.executable, "-c", _MAIN, *map(str, (os.getpid(), theirs.fileno(), *areas))],
            pass_fds=(theirs.fileno(), *areas),
            stdin=subprocess.DEVNULL,
        )
    channel = Channel(ours.detach(), *areas)
    channel.send(setup)
    return Process(channel, process)


@dataclass(slots=True)
class _Task:
    job: Job
    answer: asyncio.Future[Outcome]
    attempts: int = 0
    packed: Packed | None = None

    def pack(self) -> Packed:
        if self.packed is None:
            self.packed = pack(self.job)
        return self.packed

    def fits_ahead(self) -> bool:
        if sum(len(media.data or b"") for media in self.job.sample.media) > _AHEAD_MEDIA:
            return False
        return len(self.pack().rest) <= _AHEAD_MESSAGE


@dataclass(slots=True, eq=False)
class _Lane:
    """A process and the records it holds; it is busy with the first of them, since `timer` was set, unless it is
    `preparing` for it."""

    process: Process
    preparing: bool = False
    tasks: deque[_Task] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    area: int = 0


class Pool:
    """`workers` processes, driven by the event loop that creates the pool. `run` awaits one record's outcome;
    records are taken in the order of `run` calls.

    A record that takes longer than `seconds` ends as `decoder_timeout`, one whose process dies as
    `decoder_crashed` (it is tried once more in a fresh process, since it may have been another's doing,
    such as the system running out of memory). What steps read before the first record of a process is no part of its
    time, and a process that dies of it ends the run: it would cost every record. A bug in a step raises RunError with
    its traceback, a mistake of the spec that a step finds at its work SpecError.
    """

    def __init__(self, setup: Setup, *, workers: int, seconds: float, forked: list[Process] | None = None) -> None:
        self._setup = setup
        self._workers = workers
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Task] = deque()
        self._lanes: list[_Lane] = []
        for process in forked or ():
            self._adopt(process)

    async def run(self, job: Job) -> Outcome:
        task = _Task(job, self._loop.create_future())
        self._waiting.append(task)
        self._dispatch()
        outcome = await task.answer
        if outcome.mistake is not None:
            raise SpecError(outcome.mistake)
        if outcome.bug is not None:
            raise RunError(
                f"a step raised something other than DataError on {job.sample.key} "
                f"({job.sample.origin.uri} row {job.sample.origin.row}); this is a bug in the step:\n{outcome.bug}"
            )
        return outcome

    def close(self) -> None:
        """End all processes, at once for those in the middle of a record."""
        for lane in self._lanes:
            if lane.timer is not None:
                lane.timer.cancel()
            self._loop.remove_reader(lane.process.fileno())
            lane.process.kill()
        for lane in self._lanes:
            lane.process.end()
        self._lanes.clear()

    def _adopt(self, process: Process) -> _Lane:
        lane = _Lane(process)
        self._lanes.append(lane)
        self._loop.add_reader(process.fileno(), self._readable, lane)
        return lane

    def _dispatch(self) -> None:
        """Give waiting records to idle processes, starting processes up to their number, then one ahead to each."""
        while self._waiting:
            task = self._waiting[0]
            if task.answer.done():  # its row was given up
                self._waiting.popleft()
                continue
            lane = self._lane(task)
            if lane is None:
                return
            self._waiting.popleft()
            lane.tasks.append(task)
            lane.area = (lane.area + 1) % _AHEAD  # answers come in order, so the one used least recently is free
            if len(lane.tasks) == 1:
                self._begin(lane)
            try:
                lane.process.channel.send_packed(task.pack(), lane.area)
            except RunError as error:  # it was not sent
                lane.tasks.pop()
                if not lane.tasks and lane.timer is not None:
                    lane.timer.cancel()
                task.answer.set_exception(error)
            except OSError:
                self._died(lane)

    def _lane(self, task: _Task) -> _Lane | None:
        """Where the next record goes; None while it has to wait."""
        idle = next((lane for lane in self._lanes if not lane.tasks), None)
        if idle is not None:
            return idle
        if len(self._lanes) < self._workers:
            return self._adopt(_start_worker(self._setup))
        ahead = next((lane for lane in self._lanes if len(lane.tasks) < _AHEAD), None)
        return ahead if ahead is not None and task.fits_ahead() else None

    def _begin(self, lane: _Lane) -> None:
        """The process takes up its first record, and with it this record's time begins."""
        lane.tasks[0].attempts += 1
        limit = self._seconds if lane.process.ready else self._seconds + _START_SECONDS
        lane.timer = self._loop.call_later(limit, self._late, lane)

    def _readable(self, lane: _Lane) -> None:
        """A process has answered, or has closed its end."""
        try:
            outcome: Outcome | bool = lane.process.channel.receive()
        except (EOFError, OSError):
            self._died(lane)
            return
        lane.process.ready = True
        if isinstance(outcome, bool):
            lane.preparing = not outcome
            assert lane.timer is not None
            lane.timer.cancel()
            if outcome:
                lane.timer = self._loop.call_later(self._seconds, self._late, lane)
            return
        lane.preparing = False
        task = lane.tasks.popleft()
        if lane.timer is not None:
            lane.timer.cancel()
        if lane.tasks:
            self._begin(lane)
        _answer(task, outcome)
        self._dispatch()

    def _late(self, lane: _Lane) -> None:
        lane.process.kill()
        self._remove(lane)
        _answer(lane.tasks.popleft(), _failed("decoder_timeout", f"took longer than {self._seconds:g} s"))
        self._waiting.extendleft(reversed(lane.tasks))
        self._dispatch()

    def _died(self, lane: _Lane) -> None:
        how = self._remove(lane)
        if lane.preparing:
            said = f"steps: a worker ended by {how} while it read what they need; start fewer (engine.workers), or give"
            _answer(lane.tasks.popleft(), Outcome(mistake=f"{said} them more memory"))
        elif lane.tasks and lane.tasks[0].attempts >= _ATTEMPTS:
            task = lane.tasks.popleft()
            _answer(task, _failed("decoder_crashed", f"the decoder's process ended by {how}, twice"))
        self._waiting.extendleft(reversed(lane.tasks))
        self._dispatch()

    def _remove(self, lane: _Lane) -> str:
        if lane.timer is not None:
            lane.timer.cancel()
        self._lanes.remove(lane)
        self._loop.remove_reader(lane.process.fileno())
        return lane.process.end()


def _answer(task: _Task, outcome: Outcome) -> None:
    if not task.answer.done():
        task.answer.set_result(outcome)


def _failed(reason: str, detail: str) -> Outcome:
    return Outcome(drop=Drop(reason=reason, detail=detail, state="failed_permanent"))
