"""Commands whose output nobody reads any more, as behind `| head`."""

from __future__ import annotations

import functools
import io
import os
import stat
import sys
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STATUS = 141
"""What a shell says of a program that SIGPIPE has ended: 128 + 13."""
_Arguments = ParamSpec("_Arguments")


def stops(command: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """A command whose product is what it prints: it ends at the first line that nobody reads, with `STATUS`."""
    return _quiet(command, stop=True)


def goes_on(command: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """A command that makes something: it does all of its work unheard. `STATUS` then says that it was not heard out,
    unless there is something worse to say."""
    return _quiet(command, stop=False)


class _Unread(SystemExit):
    """An exit, which no `except OSError` of a command takes for trouble with its files."""


class _Pipe(io.FileIO):
    """A pipe that is no error when its reader is gone."""

    def __init__(self, descriptor: int, *, stop: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._stop = stop
        self.unread = False

    def write(self, data: ReadableBuffer, /) -> int:
        if not self.unread:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.unread = True
                if self._stop:
                    raise _Unread(STATUS) from None
        return memoryview(data).nbytes


def _quiet(command: Callable[_Arguments, int], *, stop: bool) -> Callable[_Arguments, int]:
    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        _hold_descriptors()
        before = sys.stdout, sys.stderr
        out, errors = _pipe_of(sys.stdout, stop=stop), _pipe_of(sys.stderr, stop=False)
        sys.stdout, sys.stderr = _text(out, sys.stdout), _text(errors, sys.stderr)
        try:
            try:
                code = command(*args, **kwargs)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
        except _Unread:
            code = STATUS
        finally:
            sys.stdout, sys.stderr = before
        return code or (STATUS if out is not None and out.unread else 0)

    return run


def _hold_descriptors() -> None:
    """Let no file of a command become its standard output, which is what the next file to be opened does once a shell
    has closed that (`>&-`): what a library or a child process says would be written into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has none for a closed descriptor; which of both is missing, and what has its number by now, is nobody's.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _pipe_of(stream: IO[str], *, stop: bool) -> _Pipe | None:
    """The pipe or socket behind a stream; None for what has no reader that could leave."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # a stream of somebody's own
        return None
    return _Pipe(stream.fileno(), stop=stop) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _text(pipe: _Pipe | None, stream: IO[str]) -> IO[str]:
    """A stream of text into the pipe, with the ways of the one that is there."""
    if pipe is None or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        pipe if stream.write_through else io.BufferedWriter(pipe),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
