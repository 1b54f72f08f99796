"""Where a dataset lies: a local folder, or a URL whose small files come through the cache and whose shards are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmdata.errors import DataError
from mmdata.shards import cache as caches
from mmdata.shards.access import Source, join, local_path, read_file
from mmdata.shards.cache import Cache
from mmdata.shards.prefetch import Prefetcher
from mmdata.shards.rows import open_shard
from mmdata.shards.storage import write_atomic

FETCHING = 8
"""Files fetched at a time."""
SMALL = ("shards.arrow",)
"""Files that a manifest describes in its `table`, and without which it cannot be read."""


class Folder:
    """The files of a dataset, by name relative to it, or by URL or absolute path where they lie elsewhere.

    `path` is the local folder. Of a dataset behind a URL it is one in the cache's folder that holds what opening needs,
    `manifest.json` and the table of shards, for this very version of the dataset, its tombstones; and what is computed
    of it, like the lengths of its texts. These few are not counted in the cache's limit. Raises DataError
    `manifest_missing` for a URL without a dataset, and RunError when its server keeps failing.
    """

    def __init__(self, uri: str | os.PathLike[str], *, cache: Cache | None = None) -> None:
        local = local_path(uri)
        self.uri = os.fspath(uri) if local is None else local
        self.remote = local is None
        self.cache = caches.default() if cache is None and self.remote else cache
        self.ahead: Prefetcher | None = None
        """Asked first by the sources that are opened from now on."""
        self.path = Path(local) if local is not None else self._mirror()

    def file(self, name: str, *, digest: str | None = None) -> str:
        """The local path of a small file: downloaded, if it is remote, and verified (see `Cache.local_path`)."""
        uri = self.locate(name)
        local = local_path(uri)
        return str(self._cached().local_path(uri, digest=digest)) if local is None else local

    def source(self, name: str, *, size: int | None = None, digest: str | None = None) -> Source:
        """A shard, to be read at any offset. `size` in bytes and `digest` (hex SHA-256) as the manifest has them."""
        uri = self.locate(name)
        return open_shard(uri, cache=self.cache, size=size or None, digest=digest, ahead=self.ahead)

    def fetch(self, files: Sequence[tuple[str, str | None]]) -> None:
        """Have these files (name, digest) in the cache, several at a time. What fails shows when they are opened."""
        remote = [(uri, digest) for name, digest in files if local_path(uri := self.locate(name)) is None]

        def get(file: tuple[str, str | None]) -> None:
            try:
                self._cached().local_path(file[0], digest=file[1])
            except Exception:
                return

        if len(remote) > 1:
            with ThreadPoolExecutor(min(FETCHING, len(remote)), thread_name_prefix="mmdata-fetch") as pool:
                list(pool.map(get, remote))

    def locate(self, name: str) -> str:
        """The path or URL of a file.

        >>> Folder("/data/pets").locate("shards/000000.tar"), Folder("/data/pets").locate("s3://bucket/a.tar")
        ('/data/pets/shards/000000.tar', 's3://bucket/a.tar')
        """
        if "://" in name or os.path.isabs(name):
            return name
        return join(self.uri, name) if self.remote else os.path.join(self.uri, name)

    def mirror_numbered(self, name: Callable[[int], str]) -> None:
        """Have the files `name(1)`, `name(2)` and so on beside the manifest, as many as there are. They are written
        once and never changed, so that of a remote dataset only those are asked for that are not there yet. Raises
        RunError when the server keeps failing or refuses."""
        number = 1
        while self.remote:
            path = self.path / name(number)
            if not path.exists():
                try:
                    data = read_file(join(self.uri, name(number)))
                except FileNotFoundError:
                    return
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, data)
            number += 1

    def _cached(self) -> Cache:
        if self.cache is None:
            self.cache = caches.default()  # a local dataset of files that lie elsewhere
        return self.cache

    def _mirror(self) -> Path:
        try:
            manifest = read_file(join(self.uri, "manifest.json"))
        except FileNotFoundError as error:
            raise DataError("manifest_missing", f"{self.uri}: not a dataset made by mmdata.build ({error})") from error
        version = hashlib.sha256(self.uri.encode() + b"\n" + manifest).hexdigest()[:12]
        path = self._cached().folder / "datasets" / f"{_slug(self.uri)}-{version}"
        if not (path / "manifest.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            for name in SMALL:
                table = _table(manifest)
                if table is not None:
                    data = read_file(join(self.uri, name))
                    if hashlib.sha256(data).hexdigest() != table:
                        raise DataError("table_damaged", f"{join(self.uri, name)}: not the table of its manifest")
                    write_atomic(path / name, data)
            write_atomic(path / "manifest.json", manifest)
        return path


def _table(manifest: bytes) -> str | None:
    """The digest of the table of shards, by a manifest that has one; the rest of a manifest is checked by who reads
    it."""
    try:
        found = json.loads(manifest)["table"]["sha256"]
        return found if isinstance(found, str) else None
    except (ValueError, KeyError, TypeError):
        return None


def _slug(uri: str) -> str:
    """A name for people: `https://host:80/data/pets/` is `host-80-data-pets`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", uri.partition("://")[2].partition("?")[0]).strip("-.")[-80:] or "dataset"
