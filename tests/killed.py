"""A build that ends, as by a kill, at the n-th step that a kill can tell from others: tests.killed N SPEC ..."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mmdata import build

CODE = 77


def main(arguments: Sequence[str]) -> int:
    wanted, seen, parent = int(arguments[0]), 0, os.getpid()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal seen
            result = real(*given, **named)
            if os.getpid() == parent:
                seen += 1
                if seen == wanted:
                    os._exit(CODE)
            return result

        return call

    for name in ("replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    return build.main(["--quiet", "--spec", *arguments[1:]])
