"""Commands as forks of a process that has imported them: what tests start a hundred times need not import each time.

The process forks while it has a single thread and without torch, so a build forks its workers as it does for a user.
Commands that would import torch, and do so in each of their workers, come from another one that has it, and that forks
workers all the same: torch has one thread here. Importing it takes seconds, so where all tests have been collected
(`collected`), that process and the one of multiprocessing's "forkserver" are forks of this one, which has it already.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import IO, NoReturn

MODULES = (
    "mmdata.build",
    "mmdata.report",
    "mmdata.verify",
    "pyarrow.parquet",
    "pyarrow.compute",
    "PIL.JpegImagePlugin",
)
TORCH = ("torch", "torchaudio", "transformers.modeling_utils", "av", "mmdata.decode.audio", "mmdata.views.resample")
_lock = threading.Lock()


class Forked:
    """A server that is a fork of this process, as a `Popen` of one is used."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.stdin: IO[str] = os.fdopen(stdin, "w", encoding="utf-8")
        self.stdout: IO[str] = os.fdopen(stdout, encoding="utf-8")

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


_servers: dict[bool, subprocess.Popen[str] | Forked] = {}


def collected() -> None:
    """Fork the servers that need torch, where tests have imported it and none has run yet: no thread, no state. Each
    ends when this process does."""
    if sys.platform != "linux" or "torch" not in sys.modules:
        return
    asked, ask = os.pipe()
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become((asked, answer), lambda: serve(os.fdopen(asked, encoding="utf-8"), answer, torch=True))
    os.close(asked)
    os.close(answer)
    _servers[True] = Forked(pid, ask, answers)
    if "tests.mmtrain.ranks" in sys.modules:  # whose processes come from there
        resource_tracker.ensure_running()
        started, util.spawnv_passfds = util.spawnv_passfds, _spawned  # type: ignore[attr-defined]
        try:
            forkserver.ensure_running()
        finally:
            util.spawnv_passfds = started  # type: ignore[attr-defined]


def _spawned(path: bytes, words: Sequence[str], passed: Sequence[int]) -> int:
    """What multiprocessing does to start its server, `python -c CODE`: in a fork."""
    pid = os.fork()
    if pid == 0:
        _become(passed, lambda: exec(words[-1], {}))
    return pid


def _become(kept: Collection[int], do: Callable[[], object]) -> NoReturn:
    """Be another process than one of tests: no file of its own but `kept`, nothing captured, and an end of its own."""
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number not in kept:
                with contextlib.suppress(OSError):  # of the listing itself
                    os.fstat(number)
                    os.dup2(nothing, number, inheritable=False)  # not closed: objects that have it may close it yet
        os.dup2(nothing, 0)
        faulthandler.disable()
        logging.getLogger().handlers.clear()
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        do()
        code = 0
    except SystemExit:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 300.0, torch: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, for a module with `main(arguments) -> int | None`: in this folder, with this
    process's environment and `env`; with `torch` of a process that has imported it. Raises TimeoutExpired, after
    killing it, as `subprocess.run` does."""
    with _lock, tempfile.TemporaryDirectory() as folder:
        server = _running(torch)
        assert server.stdin is not None
        assert server.stdout is not None
        place = {"folder": folder, "cwd": os.getcwd(), "env": {**os.environ, **(env or {})}, "path": sys.path}
        server.stdin.write(json.dumps({"module": module, "arguments": arguments, **place}) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        timer = threading.Timer(timeout, lambda: _kill(pid))
        timer.start()
        code = int(server.stdout.readline())
        timer.cancel()
        words = [module, *arguments]
        output, error = ((Path(folder) / name).read_text() for name in ("out", "err"))
        if code == -signal.SIGALRM:
            raise subprocess.TimeoutExpired(words, timeout, output, error)
        return subprocess.CompletedProcess(words, code, output, error)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGALRM)


def _running(torch: bool) -> subprocess.Popen[str] | Forked:
    if torch not in _servers or _servers[torch].poll() is not None:
        _servers[torch] = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", *(["torch"] if torch else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
    return _servers[torch]


def _child(told: dict[str, object], out: int) -> int:
    """What the fork does. Its exit code is the command's."""
    os.close(out)
    arguments: Sequence[str] = told["arguments"]  # type: ignore[assignment]
    folder, module = Path(str(told["folder"])), str(told["module"])
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(told["env"])  # type: ignore[arg-type, call-overload]
    os.chdir(str(told["cwd"]))
    sys.path[:] = told["path"]  # type: ignore[assignment]
    sys.argv = [module, *arguments]
    try:
        code = importlib.import_module(module).main(list(arguments))
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int | None) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code or 0


def serve(asked: IO[str], out: int, *, torch: bool) -> None:
    """Read requests, fork, and answer each with the number of its process and then with its exit code."""
    for module in (*MODULES, *(TORCH if torch else ())):
        importlib.import_module(module)
    if torch:
        from mmdata.engine import pool

        pool.may_fork = lambda: sys.platform == "linux" and threading.active_count() == 1
    assert ("torch" in sys.modules) == torch
    assert threading.active_count() == 1
    while line := asked.readline():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _child(json.loads(line), out)
            finally:
                os._exit(code)
        os.write(out, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(out, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)
    serve(sys.stdin, out, torch="torch" in sys.argv[1:])


if __name__ == "__main__":
    main()
