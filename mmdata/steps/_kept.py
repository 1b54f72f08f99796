"""What ordered steps remember of kept rows, in flat memory: their keys, and short digests that lead to them."""

from __future__ import annotations

from array import array

EMPTY = 0


class Keys:
    """An append-only list of keys: their UTF-8 in one buffer, and 8 bytes more for each.

    >>> keys = Keys()
    >>> keys.append("000000017"), keys.append("a-b"), keys[0], len(keys)
    (0, 1, '000000017', 2)
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        return self._text[start : self._ends[position]].decode()

    def append(self, key: str) -> int:
        """Add a key and return its position."""
        self._text += key.encode()
        self._ends.append(len(self._text))
        return len(self._ends) - 1


class Digests:
    """A map from 16-byte digests to the position (below 2**32) first given for each: open addressing with linear
    probing. A digest is uniform already and so its own hash. At 10^6 digests it takes about 29 bytes for each,
    where a dict of bytes takes about 120.

    >>> digests = Digests()
    >>> digests.add(b"0123456789abcdef", 7); digests.add(b"0123456789abcdef", 8)
    >>> digests.find(b"0123456789abcdef"), digests.find(b"another.........")
    (7, None)
    """

    def __init__(self) -> None:
        self._slots = array("I", [EMPTY]) * 1024  # 1 + the entry that lies there.
        self._low, self._high, self._positions = array("Q"), array("Q"), array("I")

    def find(self, digest: bytes) -> int | None:
        """The position, or None. Raises ValueError for a digest that has not 16 bytes."""
        entry = self._slots[self._slot(*_halves(digest))]
        return None if entry == EMPTY else self._positions[entry - 1]

    def add(self, digest: bytes, position: int) -> None:
        """Remember a digest, unless it is known."""
        low, high = _halves(digest)
        slot = self._slot(low, high)
        if self._slots[slot] != EMPTY:
            return
        self._low.append(low)
        self._high.append(high)
        self._positions.append(position)
        self._slots[slot] = len(self._positions)
        if 4 * len(self._positions) > 3 * len(self._slots):
            self._grow()

    def _slot(self, low: int, high: int) -> int:
        """Where the digest lies, or the empty slot where it belongs."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = low & mask
        while (entry := slots[slot]) != EMPTY and (self._low[entry - 1] != low or self._high[entry - 1] != high):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        slots = array("I", [EMPTY]) * (2 * len(self._slots))
        mask = len(slots) - 1
        for entry, low in enumerate(self._low, start=1):
            slot = low & mask
            while slots[slot] != EMPTY:
                slot = (slot + 1) & mask
            slots[slot] = entry
        self._slots = slots


def _halves(digest: bytes) -> tuple[int, int]:
    if len(digest) != 16:
        raise ValueError(f"a digest has 16 bytes, not {len(digest)}")
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
