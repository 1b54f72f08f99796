"""Counter-based randomness: every draw is a pure function of what it is for, never of when it is made."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*what: int | str) -> np.random.Generator:
    """A Philox generator keyed by `what`, for example (seed, epoch, key, operation).

    The key is a SHA-256 of the parts, each with its type and length, so ("ab", "c") and ("a", "bc") differ.

    >>> int(generator(0, 1, "000000017", "crop").integers(1000)) == int(
    ...     generator(0, 1, "000000017", "crop").integers(1000))
    True
    """
    digest = hashlib.sha256()
    for part in what:
        data = part.encode() if isinstance(part, str) else str(int(part)).encode()
        digest.update(b"s" if isinstance(part, str) else b"i")
        digest.update(len(data).to_bytes(4, "little"))
        digest.update(data)
    key = np.frombuffer(digest.digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


def random_subset(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of 0..total-1, ascending, every subset alike: those with the least of `total` uniform draws. int64."""
    draws = rng.random(total)
    chosen = np.argpartition(draws, count - 1)[:count] if count < total else np.arange(total)
    return np.sort(chosen).astype(np.int64)


def kept_rows(rows: int, count: int, key: int) -> np.ndarray:
    """Indices of the rows that `KeepRows(count, key)` keeps of `rows`, ascending: int64 [count]. Raises ValueError
    where there are not as many."""
    if not 1 <= count <= rows:
        raise ValueError(f"KeepRows: {count} of {rows} rows")
    return random_subset(rows, count, generator(key, "keep_rows"))
