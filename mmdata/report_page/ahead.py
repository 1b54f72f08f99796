"""A process, forked early, in which statistics and report are about to be made: to import what makes them and to
compile the page takes as long as the making, and at the end of a build nothing else is left to do meanwhile."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmdata.engine.worker import settle_in
from mmdata.shards.manifest import Manifest

Made = tuple[dict[str, Any], bytes]
"""The values of stats.json, and the page."""


def make(folder: Path, manifest: Manifest, run: dict[str, Any], *, seed: int) -> Made:
    """Count a dataset and render its report, here and now. Raises DataError where a file is damaged."""
    from mmdata import stats
    from mmdata.report_page.page import render

    figures = stats.compute(folder, manifest, run, seed=seed)
    return figures, render(folder, manifest, figures)


class Reporter:
    """The process. Use as a context manager; it ends with it, and with the process that forked it.

    To fork is sound only in a process of one thread, whose libraries have started none either: this is for a command
    that has just begun.
    """

    def __init__(self) -> None:
        self._pid: int | None = None
        if sys.platform != "linux" or threading.active_count() > 1:
            return
        parent = os.getpid()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):  # `make` sees that there is no answer
                ours.close()
                settle_in(parent)
                _serve(Connection(theirs.detach()))
            os._exit(0)
        theirs.close()
        self._pid, self._connection = pid, Connection(ours.detach())

    def make(self, folder: Path, manifest: Manifest, run: dict[str, Any], *, seed: int) -> Made:
        """As the function does, which takes over where the process cannot: what is wrong is raised here."""
        if self._pid is not None:
            with contextlib.suppress(OSError, EOFError):
                self._connection.send((folder, manifest, run, seed))
                made: Made = self._connection.recv()
                return made
        return make(folder, manifest, run, seed=seed)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pid is not None:
            self._connection.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None


def _serve(connection: Connection) -> None:
    _make_ready()
    folder, manifest, run, seed = connection.recv()
    connection.send(make(folder, manifest, run, seed=seed))


def _make_ready() -> None:
    """Load what `make` would load when it comes to it."""
    from PIL import Image

    from mmdata import rng
    from mmdata.families import family_views
    from mmdata.report_page.page import template
    from mmdata.stats_tokens import FAMILIES

    importlib.import_module("mmdata.stats")
    rng.generator(0)
    Image.preinit()
    template("page")
    for name in FAMILIES:
        family_views(name)
