"""A bounded cache of remote files on the local disk, verified before use, shared by threads, processes and jobs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from pathlib import Path

from mmdata.checksum import crc32c
from mmdata.errors import DataError, RunError, SpecError
from mmdata.shards import transport
from mmdata.shards.local import Handle
from mmdata.shards.room import Room
from mmdata.shards.storage import user_cache

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
WAIT_SECONDS = 600.0
"""So long a download by another process is waited for."""
TOUCH_SECONDS = 1.0
"""A file's time of use is written no oftener than this."""
DEFAULT_BYTES = 32 << 30
EVICTED_AGAIN = 8
"""So often a file may be evicted by others between its download and its use before the cache is called too small."""


class Cache:
    """Whole remote files, at most `limit_bytes` of them together; the least recently used go first.

    Several processes and jobs may share the folder (`mmdata.shards.room`); each keeps to its own limit, so give all
    the same. A file's name is made of its URL, size and digest, so another version is another file. Where there is no
    room, or the disk is full or fails, `ensure` answers None, with one warning, and callers read ranges of the remote
    file instead. Can be pickled. Raises SpecError for a folder that cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int) -> None:
        self.folder = Path(folder).expanduser()
        self.limit_bytes = limit_bytes
        if limit_bytes < 1:
            raise SpecError(f"cache: a limit of {limit_bytes} bytes holds nothing")
        self._used: dict[str, float] = {}
        self._verified: set[tuple[str, int]] = set()
        self._warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._room = Room(self.folder, limit_bytes)
        except OSError as error:
            raise SpecError(
                f"cache: {self.folder}: {error.strerror}; give a folder on a local disk, with file locks"
            ) from error

    def path(self, uri: str, size: int, digest: str | None = None) -> Path:
        """Where this version of a file lies, or would."""
        return self.folder / hashlib.sha256(f"{uri}\n{size}\n{digest or ''}".encode()).hexdigest()[:40]

    def used(self) -> int:
        """Bytes that all its files take, whole ones and those on their way."""
        return self._room.used()

    def read(self, path: Path, size: int, offset: int, count: int) -> bytes | None:
        """`count` bytes at `offset` of a cached file of `size` bytes; None where it is not there (any more). One that
        has another length or cannot be read is thrown away.

        The file is open for this one read: what is evicted then leaves the disk at once, and the limit is true.
        """
        try:
            handle = Handle(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            data = os.pread(handle.number, count, offset)
            while len(data) < count and (more := os.pread(handle.number, count - len(data), offset + len(data))):
                data += more
            sound = len(data) == count and os.fstat(handle.number).st_size == size
        except FileNotFoundError:
            return None
        except OSError as error:
            self.throw_away(path, str(error))
            return None
        if not sound:
            self.throw_away(path, f"it does not have {size} bytes")
            return None
        self._touch(path)
        return data

    def throw_away(self, path: Path, why: str) -> None:
        """Forget a file that its user has found damaged. Who reads it at this moment reads on."""
        log.warning("cache: %s is thrown away: %s", path, why)
        self._room.unpin(path.name)
        with contextlib.suppress(OSError):
            path.unlink()

    def local_path(self, uri: str, *, size: int | None = None, digest: str | None = None) -> Path:
        """The path of the file, downloaded if it is not there; verified against `digest` (hex SHA-256, or
        `crc32c:` and eight hex digits) when this process first asks for it.

        The last ones asked for stay while the process lives; what was opened or mapped before it is evicted stays
        readable. Raises DataError for a file that is missing, cut, or twice not that of the digest, and RunError when
        its server keeps failing or there is no room.
        """
        if size is None:
            facts = transport.stat(uri)
            size, digest = facts.size, digest or facts.version
        damaged = 0
        for _ in range(EVICTED_AGAIN):
            path = self.ensure(uri, size, digest)
            if path is None:
                break
            if not self._room.pin(path.name):
                time.sleep(POLL_SECONDS)  # evicted since
                continue
            if self._is_sound(path, digest):
                return path
            damaged += 1
            if damaged == 2:
                raise DataError("file_digest", f"{uri}: its bytes do not match {digest}, nor when downloaded anew")
        raise RunError(
            f"cache {self.folder}: no room for {uri} ({size} bytes) within {self.limit_bytes} bytes; "
            "raise the cache's limit, or free its disk"
        )

    def ensure(self, uri: str, size: int, digest: str | None = None) -> Path | None:
        """The path of the whole file, downloaded if it is not there and there is room, else None. A download is
        verified against `digest` before anybody sees it; one that another process has begun is waited for. Raises as
        `local_path` does."""
        path = self.path(uri, size, digest)
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_whole(path, size):
            try:
                taken = self._room.take(path.name, size)
            except OSError as error:
                self._degrade(uri, error)
                return None
            if isinstance(taken, Handle):
                if not self._download(uri, size, digest, path, taken):
                    return None
            elif taken == "full":
                self._warn(f"no room for {uri} ({size} bytes) within {self.limit_bytes} bytes")
                return None
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(POLL_SECONDS)
        self._touch(path)
        return path

    def _download(self, uri: str, size: int, digest: str | None, path: Path, handle: Handle) -> bool:
        """Fill the room that was taken; False when the disk does not hold it. Twice, where the digest is not met: a
        bit may have turned on the way."""
        done = False
        try:
            for _ in (1, 2):
                check, at = Check(digest), 0
                for piece in transport.pieces(uri, size):
                    check.update(piece)
                    rest = memoryview(piece)
                    while rest:
                        written = os.pwrite(handle.number, rest, at)
                        rest, at = rest[written:], at + written
                if check.met():
                    self._room.fill(path.name, handle)
                    done = True
                    return True
            raise DataError("file_digest", f"{uri}: twice its bytes did not match {digest}; the file is damaged")
        except OSError as error:
            self._degrade(uri, error)
            return False
        finally:
            if not done:
                self._room.give_back(path.name)

    def _is_whole(self, path: Path, size: int) -> bool:
        try:
            actual = path.stat().st_size
        except FileNotFoundError:
            return False
        if actual != size:
            self.throw_away(path, f"it has {actual} bytes, not {size}")
        return actual == size

    def _is_sound(self, path: Path, digest: str | None) -> bool:
        """Whether a file's bytes match its digest, looked at once per process; it is thrown away where not."""
        try:
            identity = (path.name, path.stat().st_ino)
            if identity not in self._verified:
                check = Check(digest)
                check.update(path.read_bytes())
                if not check.met():
                    self.throw_away(path, f"its bytes do not match {digest}")
                    return False
                self._verified.add(identity)
        except OSError as error:
            self.throw_away(path, str(error))
            return False
        return True

    def _touch(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._used.get(path.name, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._used[path.name] = now
            with contextlib.suppress(OSError):  # evicted meanwhile, or another user's
                os.utime(path)

    def _degrade(self, uri: str, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        self._warn(f"{uri} cannot be kept ({name}: {error.strerror or error})")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("cache %s: %s; what is not in it is read by ranges from now on", self.folder, what)

    def __getstate__(self) -> tuple[Path, int]:
        return self.folder, self.limit_bytes

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def default() -> Cache:
    """The user's own cache, of `DEFAULT_BYTES`: `$XDG_CACHE_HOME/mmdata/shards`, or `~/.cache/mmdata/shards`."""
    return Cache(user_cache("shards"), DEFAULT_BYTES)


class Check:
    """A digest on its way through the bytes; met by any bytes where none is known."""

    def __init__(self, digest: str | None) -> None:
        self._crc = 0 if digest is not None and digest.startswith("crc32c:") else None
        self._sha = hashlib.sha256() if _is_sha256(digest) else None
        self._digest = digest

    def update(self, data: bytes) -> None:
        if self._crc is not None:
            self._crc = crc32c(data, self._crc)
        elif self._sha is not None:
            self._sha.update(data)

    def met(self) -> bool:
        if self._crc is not None:
            return self._digest == f"crc32c:{self._crc:08x}"
        return self._sha is None or self._digest == self._sha.hexdigest()


def _is_sha256(digest: str | None) -> bool:
    return digest is not None and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
