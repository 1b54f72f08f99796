"""What a command spares itself while it starts."""

from __future__ import annotations

import os
import sys


class _Hidden:
    """A finder, put before all others, that says a package is not there."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._package:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


def spare_threads() -> None:
    """Keep numpy's matrix products to one thread, unless the environment says otherwise: at its import it starts one a
    core, each of which spins for 50 ms before it sleeps.

    To be called before numpy is loaded, by a command that has little to multiply, or a process of its own a core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def spare_pandas() -> None:
    """Keep pyarrow from loading pandas, which it does to ask whether the first list it is given is a pandas Series.

    That costs 0.3 s. pyarrow asks once per process and believes the answer for good, so this is for a command that
    has its process for itself and no use for pandas, not for a library or for a user's plugins.
    """
    import pyarrow

    hidden = _Hidden("pandas")
    sys.meta_path.insert(0, hidden)  # type: ignore[arg-type]
    try:
        pyarrow.array([0])
    finally:
        sys.meta_path.remove(hidden)  # type: ignore[arg-type]
