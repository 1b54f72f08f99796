"""CRC-32C, by the C module of the `crc32c` package without the package around it.

That one asks for its own version when it is imported, for which the standard library loads what reads e-mail: 20 ms of
CPU at every start of a command, more than all our own modules take.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any

_PACKAGE, _MODULE = "crc32c", "crc32c._crc32c"


def _module() -> Any:
    """The C module under its own name, so that the package finds it there when it is imported after all."""
    if _MODULE in sys.modules or (package := importlib.util.find_spec(_PACKAGE)) is None:
        return sys.modules.get(_MODULE)
    spec = PathFinder.find_spec(_MODULE, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    module = sys.modules[_MODULE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _function() -> Callable[..., int]:
    found = getattr(_module(), "crc32c", None)
    if found is None:  # a version that is made otherwise
        import crc32c as package

        found = package.crc32c
    return found  # type: ignore[no-any-return]


crc32c: Callable[..., int] = _function()
"""`crc32c(data, value=0)`: of any bytes, going on from the sum `value` of those before."""
