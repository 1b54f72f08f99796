"""Patience with storage: what fails for a moment is tried again, each time later; what keeps failing stops the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mmdata.errors import RunError

T = TypeVar("T")

ATTEMPTS = 4
WAIT = 0.1
"""Seconds before the second attempt; each further one waits four times as long: 0.1, 0.4, 1.6 s."""


def patiently(read: Callable[[], T], what: str) -> T:
    """What `read` returns, tried `ATTEMPTS` times while it raises OSError (time limits are OSErrors too).

    Raises RunError, naming `what`, when the last attempt fails: storage that fails is nobody's data and must not be
    masked as if it were. What is not there passes through at once, and so does a DataError: data do not get better by
    reading them again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except OSError as error:
            if attempt == ATTEMPTS:
                said = str(error) or type(error).__name__
                raise RunError(f"{what}: read failed {attempt} times: {said}") from error
            import random  # most read without

            # Chance in the waiting keeps many readers of one server from coming back all at once; it decides no data.
            time.sleep(WAIT * 4 ** (attempt - 1) * random.uniform(0.75, 1.25))
    raise AssertionError("unreachable")
