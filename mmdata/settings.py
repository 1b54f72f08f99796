"""JSON values that settings are bound to: their digest, and in words how two of them differ. Loads nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any


def digest(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def difference(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What changed between two JSON values, one line each. A key that is null is as one that is not there: a version
    that knows more keys goes on with what an older one began.

    >>> list(difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 4, "d": None}))
    ['a[1].b: 2 -> 3', 'c: absent -> 4']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{path}.{key}" if path else str(key)
            if old.get(key) is None and new.get(key) is None:
                continue
            if key not in old or key not in new:
                yield f"{place}: {shown(old[key]) if key in old else 'absent'} -> " + (
                    shown(new[key]) if key in new else "absent"
                )
            else:
                yield from difference(old[key], new[key], place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from difference(before, after, f"{path}[{at}]")
    elif old != new:
        yield f"{path}: {shown(old)} -> {shown(new)}"


def shown(value: Any) -> str:
    """A value in at most 80 characters."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except TypeError:  # a key that JSON has not, such as a date
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
