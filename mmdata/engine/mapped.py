"""A unit whose rows are fetched and through the map steps, as a file: what one process hands to the one that commits.

`.build/mapped/000012.unit` is `MMUNIT1\\n`, u64 bytes of the rows, u32 crc32c of them, the rows, and then the bytes of
media, each with a crc32c that the rows hold. Rows are pickled and read back by a reader that knows our own few types
and no others, so that nothing in such a file can be run.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdata.checksum import crc32c
from mmdata.engine.blobs import take
from mmdata.engine.local import Row, Unit
from mmdata.engine.spool import FileSpool, Held, Spilled
from mmdata.errors import DataError
from mmdata.shards.storage import fsync_folder

FOLDER = ".build/mapped"
MAGIC = b"MMUNIT1\n"
_HEAD = struct.Struct("<QI")
_OURS = ("mmdata.types", "mmdata.spec", "mmdata.engine.local", "mmdata.engine.spool")
_NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
}


def place(folder: Path, number: int) -> Path:
    """Where the file of a unit lies."""
    return folder / FOLDER / f"{number:06d}.unit"


def write(folder: Path, unit: Unit) -> None:
    """Write the file of a unit whose rows have all been through the map steps; it has its name once it is whole."""
    target = place(folder, unit.number)
    writing = target.with_name(f".{target.name}.{os.uname().nodename}.{os.getpid()}.writing")
    try:
        with open(writing, "wb") as file:
            offset = 0
            rows: list[tuple[Row, dict[Any, int]]] = []
            waiting: list[Held] = []
            for number in sorted(unit.rows):
                row = unit.rows[number]
                held: dict[Any, Held] = {}
                sums: dict[Any, int] = {}
                for slot, what in row.held.items():
                    data = unit.spool.get(what)
                    held[slot], sums[slot] = Spilled(offset, len(data)), int(crc32c(data))
                    offset += len(data)
                    waiting.append(what)
                bare = replace(row.record, sample=take(row.record.sample)[0])
                facts = None if row.facts is None else replace(row.facts, data=None)
                rows.append((replace(row, record=bare, facts=facts, held=held), sums))
            packed = pickle.dumps(rows, protocol=5)
            file.write(MAGIC + _HEAD.pack(len(packed), crc32c(packed)) + packed)
            for what in waiting:
                file.write(unit.spool.get(what))
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, target)
        fsync_folder(target.parent)
    finally:
        writing.unlink(missing_ok=True)


def read(folder: Path, number: int) -> Unit:
    """The unit, its media still in the file. Raises DataError `unit_damaged` for a file that is not one."""
    path = place(folder, number)
    file = open(path, "rb")  # noqa: SIM115 closed with the unit
    try:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("does not begin as one")
        size, checksum = _HEAD.unpack(file.read(_HEAD.size))
        packed = file.read(size)
        if len(packed) != size or crc32c(packed) != checksum:
            raise ValueError("its rows have changed or are cut short")
        rows = _Reader(io.BytesIO(packed)).load()
    except (ValueError, struct.error, pickle.UnpicklingError, EOFError) as error:
        file.close()
        raise DataError("unit_damaged", f"{path}: {error}; remove it and run its worker again") from error
    spool = FileSpool(file, len(MAGIC) + _HEAD.size + size, {})
    for row, sums in rows:
        for slot, held in row.held.items():
            spool.sums[held.offset] = sums[slot]
    unit = Unit(number, spool, rows={row.record.row: row for row, _ in rows}, closed=True)
    unit.settle()
    return unit


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A dotted name leads from one of our modules into what it imports, such as `os.subprocess.Popen`.
        if "." not in name and (module in _OURS or (module, name) in _NUMPY):
            found = super().find_class(module, name)
            if module not in _OURS or (isinstance(found, type) and found.__module__ in _OURS):
                return found
        raise pickle.UnpicklingError(f"holds a {module}.{name}")
