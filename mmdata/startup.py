"""What a command spares itself while it starts."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


class _Hidden:
    """A finder, put before all others, that says packages are not there."""

    def __init__(self, *packages: str) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._packages:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


def spare_threads() -> None:
    """Keep numpy's matrix products to one thread, unless the environment says otherwise: at its import it starts one a
    core, each of which spins for 50 ms before it sleeps.

    To be called before numpy is loaded, by a command that has little to multiply, or a process of its own a core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _NoCertificates(ModuleType):
    """For `ssl`, while somebody is imported who asks it for nothing but where certificates lie, which nobody will
    read. Whatever else is asked, the genuine one is loaded."""

    cafile = capath = None

    def get_default_verify_paths(self) -> _NoCertificates:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of the import system
            raise AttributeError(name)
        self.restore()
        import ssl

        return getattr(ssl, name)

    def restore(self) -> None:
        if sys.modules.get("ssl") is self:
            del sys.modules["ssl"]


def spare_drivers() -> None:
    """Load pyarrow without its own drivers of stores, as ours are fsspec's, without the certificates that are only for
    them, and without cloudpickle, which it takes instead of pickle where that is installed.

    As `spare_pandas`, for a command that has its process for itself: pyarrow remembers that they were not there.
    """
    stores = ("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs")
    hidden, certificates = _Hidden("cloudpickle", *stores), _NoCertificates("ssl")
    sys.meta_path.insert(0, hidden)  # type: ignore[arg-type]
    sys.modules.setdefault("ssl", certificates)
    try:
        import pyarrow.parquet  # noqa: F401 what it has found is there from now on
    finally:
        sys.meta_path.remove(hidden)  # type: ignore[arg-type]
        certificates.restore()


def spare_pandas() -> None:
    """Keep pyarrow from loading pandas and dateutil, which it does to ask whether the first list that it is given is a
    Series of the one, or holds intervals of the other.

    That costs 0.3 s. pyarrow asks once per process and believes the answer for good, so this is for a command that
    has its process for itself and no use for either, not for a library or for a user's plugins.
    """
    import pyarrow

    hidden = _Hidden("pandas", "dateutil")
    sys.meta_path.insert(0, hidden)  # type: ignore[arg-type]
    try:
        pyarrow.array([0])
    finally:
        sys.meta_path.remove(hidden)  # type: ignore[arg-type]


def keep_memory() -> None:
    """Let malloc keep up to 128 MiB that have become free, in pieces of up to 32 MiB, which is as much as glibc lets us
    name: to fault in fresh pages for what is as large as before takes longer than to write it."""
    if sys.platform == "linux":
        import ctypes

        mallopt, mmap_threshold, trim_threshold = getattr(ctypes.CDLL(None), "mallopt", None), -3, -1
        if mallopt is not None:  # as it is in another C library than glibc
            mallopt(mmap_threshold, 32 << 20)
            mallopt(trim_threshold, 128 << 20)


def formatter(prog: str) -> argparse.HelpFormatter:
    """What argparse asks about each option of a command, whether or not help is wanted: without `shutil`, which it
    loads to find out how wide a terminal is, and with that all that reads compressed files."""
    from argparse import RawDescriptionHelpFormatter

    try:
        columns = int(os.environ.get("COLUMNS") or 0)
        columns = columns or os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # no number, no terminal
        columns = 0
    return RawDescriptionHelpFormatter(prog, width=(columns or 80) - 2)
