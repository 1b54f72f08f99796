"""Writers that compete in `shard_writing`: the same samples, held in memory, into tar shards, one process each.

`python -m benchmarks._shard_writers NAME FOLDER` does one pass for every line that it reads, which names one of the
sets of samples in FOLDER, and answers each with one line of JSON: samples, bytes of their parts, bytes written,
seconds, CPU seconds, MB a second of either. A writer's files are removed between passes, outside the time.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._interleaved import answer

SHARD = 1000
"""Samples of a shard."""
Row = tuple[str, bytes, str, dict[str, Any]]
"""Key, JPEG, caption, and what its JSON holds."""


def webdataset(samples: list[dict[str, Any]], out: Path) -> None:
    """As its documentation shows it."""
    import webdataset as wds

    with wds.ShardWriter(str(out / "%06d.tar"), maxcount=SHARD, verbose=0) as sink:
        for sample in samples:
            sink.write(sample)


def tarfile(rows: list[Row], out: Path, each: int = SHARD) -> None:
    import tarfile as standard

    for first in range(0, len(rows), each):
        with standard.open(out / f"{first // each:06d}.tar", "w", format=standard.USTAR_FORMAT) as tar:
            for key, jpeg, caption, meta in rows[first : first + each]:
                for name, data in (("jpg", jpeg), ("txt", caption.encode()), ("json", json.dumps(meta).encode())):
                    info = standard.TarInfo(f"{key}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def floor(rows: list[Row], out: Path) -> None:
    """The members end to end in one file, nothing between them: what the file system gives."""
    file = os.open(out / "all", os.O_WRONLY | os.O_CREAT)
    for _, jpeg, caption, meta in rows:
        os.writev(file, (jpeg, caption.encode(), json.dumps(meta).encode()))
    os.close(file)


def ours(kept: list[Any], out: Path, sha256: bool) -> None:
    """Shard, index and the crc32c of every part and row in one pass; with `sha256` that of the shard too."""
    from mmdata.engine import commit
    from mmdata.shards import index as indexes

    for first in range(0, len(kept), SHARD):
        number = first // SHARD
        shard = commit.write_shard(out / f"{number:06d}.tar", kept[first : first + SHARD], sha256=sha256)
        (out / f"{number:06d}.arrow").write_bytes(indexes.to_bytes(shard.rows))


def unit(kept: list[Any], out: Path) -> None:
    """All that a build does for a unit: also its ledger, fsync of all, and sha256 of index and ledger."""
    from mmdata.engine import commit
    from mmdata.ledger import LedgerRow

    commit.prepare(out)
    for first in range(0, len(kept), SHARD):
        some = kept[first : first + SHARD]
        fates = [
            LedgerRow(row=item.row, key=item.sample.key, origin="photos", origin_row=item.row, state="ok")
            for item in some
        ]
        commit.write_unit(out, first // SHARD, first, some, fates)


def _sample(row: Row) -> dict[str, Any]:
    key, jpeg, caption, meta = row
    return {"__key__": key, "jpg": jpeg, "txt": caption, "json": meta}


def _kept(row: Row) -> Any:
    from mmdata.engine.commit import Kept
    from mmdata.types import Media, Origin, Sample, Text

    key, jpeg, caption, meta = row
    facts = {name: meta[name] for name in ("height", "width", "sha256")}
    media = Media(kind="image", data=jpeg, uri=meta["url"], format="jpeg", mode="RGB", verified="full", **facts)
    origin = Origin(uri="photos", row=int(key))
    return Kept(row=int(key), sample=Sample(key=key, parts=(media, Text(text=caption)), origin=origin), signatures={})


def _plain(row: Row) -> Row:
    return row


WRITERS: dict[str, tuple[Callable[[Row], Any], Callable[[list[Any], Path], None]]] = {
    "webdataset ShardWriter": (_sample, webdataset),
    "python tarfile": (_plain, tarfile),
    "mmdata: index, crc32c": (_kept, functools.partial(ours, sha256=False)),
    "mmdata: + sha256": (_kept, functools.partial(ours, sha256=True)),
    "mmdata: a build's unit": (_kept, unit),
    "writev of the members": (_plain, floor),
}
"""The form in which each takes samples, made before the clock starts, and the writing."""


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    form, write = WRITERS[name]
    held: dict[str, list[Row]] = {}

    def measure(kind: str) -> dict[str, float]:
        if kind not in held:
            held.clear()
            held[kind] = pickle.loads((folder / f"{kind}.pickle").read_bytes())
        rows = held[kind]
        samples = list(map(form, rows))
        out = folder / f"out-{os.getpid()}"
        out.mkdir()
        used, began = time.process_time(), time.perf_counter()
        write(samples, out)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        size = sum(len(jpeg) + len(caption) for _, jpeg, caption, _ in rows)
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        shutil.rmtree(out)
        told = {"samples": len(rows), "bytes": size, "written": written, "seconds": seconds, "cpu": cpu}
        return {**told, "rate": size / seconds / 1e6, "cpu_rate": size / cpu / 1e6}

    answer(measure)


if __name__ == "__main__":
    main()
