"""The folder of a dataset as a command line names it, for commands that work on datasets of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from mmdata.shards.access import local_path


def dataset_folder(name: str) -> Path:
    """The folder that is meant. A URL ends the command with one line and exit code 2: as a path it would name nothing,
    and a sound dataset would be said to be damaged.

    >>> dataset_folder("file:///data/small")
    PosixPath('/data/small')
    """
    local = local_path(name)
    if local is None:
        print(f"error: {name}: this command works on local datasets; copy it here first", file=sys.stderr)
        raise SystemExit(2)
    return Path(local)
