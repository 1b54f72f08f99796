"""Functions in C that are called for each sample or member: a module of Python's, as ctypes takes a microsecond a call.

Compiled as the kernels are, where there are Python's headers too, and done without as those (`library`)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from mmdata.native.library import VERSION, wanted


@functools.cache
def calls() -> Any:
    """The module, or None where it was not compiled or is not wanted: what each function does its twin says."""
    if not wanted():
        return None
    try:
        module = importlib.import_module("mmdata.native._calls")
    except ImportError:  # there is none, or of another platform
        return None
    return module if getattr(module, "VERSION", None) == VERSION else None


calls()  # with all else that is imported, not with the first sample
