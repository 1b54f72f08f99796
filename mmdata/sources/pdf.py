"""PDF documents: a record for each page, rendered as a picture by pdfium."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import Field

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.sources import _growth
from mmdata.sources._tables import printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Page, Sample

SECONDS = 30.0
"""Longest time that counting the pages of a document may take."""
# Run in a process of its own: a document that crashes or stops pdfium costs itself, not the build.
_COUNTER = """
import json, sys, pypdfium2
for line in sys.stdin:
    try:
        document = pypdfium2.PdfDocument(json.loads(line))
        said = len(document)
        document.close()
    except Exception as error:
        said = str(error)
    print(json.dumps(said), flush=True)
"""


@register("source", "pdf")
class Pdf(SourceSpec):
    """The pages of the PDF files below a folder, sorted by path, as pictures (PNG); `page` (from 0) and `pages` travel
    in the sample's JSON. Needs `pip install 'mmdata[pdf]'`. A document that cannot be opened is one row: `corrupt_pdf`,
    `encrypted_pdf`."""

    kind: Literal["pdf"] = "pdf"
    path: InputPath = runtime()
    """A .pdf file, or a folder, searched below; local or any fsspec URL."""
    dpi: int = Field(144, ge=18, le=1200)
    """Pixels per inch that pages are rendered with."""

    def open(self) -> Source:
        if importlib.util.find_spec("pypdfium2") is None:
            raise SpecError("source.kind: pdf: pages are rendered by pypdfium2: pip install 'mmdata[pdf]'")
        return _Documents(self)


class _Documents:
    def __init__(self, spec: Pdf) -> None:
        self._dpi = spec.dpi
        self._fs, root = fsspec.core.url_to_fs(spec.path)
        root = root.rstrip("/")
        if self._fs.isfile(root):
            base, found = root.rpartition("/")[0], {root: self._fs.info(root)}
        else:
            base, found = root, self._fs.find(root, detail=True)
        self._base = base
        self._sizes = {
            path[len(base) + 1 :]: int(found[path]["size"] or 0)
            for path in sorted(found)
            if PurePosixPath(path.lower()).suffix == ".pdf"
        }
        if not self._sizes:
            raise DataError("source_empty", f"{spec.path}: no .pdf file there")
        self.arrange(())

    def inputs(self) -> list[dict[str, Any]]:
        return [{"name": ".", "documents": len(batch), **_growth.listing(batch)} for batch in self._batches]

    def listings(self) -> list[_growth.Sizes]:
        return self._batches

    def arrange(self, before: Sequence[_growth.Sizes]) -> None:
        self._batches = _growth.batches(self._sizes, before)
        self._sizes = {name: batch[name] for batch in self._batches for name in sorted(batch)}

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.listings_continue(before, self.inputs())

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        row = 0
        with _Counter() as counter:
            for name in self._sizes:
                if stop is not None and row >= stop:
                    return
                pages: int | DataError
                try:
                    pages = self._pages(counter, f"{self._base}/{name}")
                except DataError as error:
                    pages = error
                for record in self._records(row, name, pages):
                    if stop is not None and record.row >= stop:
                        return
                    if record.row >= start:
                        yield record
                row += pages if isinstance(pages, int) else 1

    def _records(self, row: int, name: str, pages: int | DataError) -> Iterator[Record]:
        shown = printable(name)
        if isinstance(pages, DataError):
            empty = Sample(key=f"{row:09d}", parts=(), origin=Origin(uri=shown, row=0))
            detail = printable(f"{name}: {pages.detail}")
            yield Record(row=row, sample=empty, drop=Drop(reason=pages.reason, detail=detail, state="failed_permanent"))
            return
        uri = printable(self._fs.unstrip_protocol(f"{self._base}/{name}"))
        for number in range(pages):
            media = Media(kind="image", uri=uri, excerpt=Page(number=number, dpi=self._dpi))
            meta = {"page": number, "pages": pages}
            origin = Origin(uri=shown, row=number)
            yield Record(
                row=row + number, sample=Sample(key=f"{row + number:09d}", parts=(media,), meta=meta, origin=origin)
            )

    def _pages(self, counter: _Counter, path: str) -> int:
        if isinstance(self._fs, LocalFileSystem):
            return counter.pages(path)
        with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
            try:
                self._fs.get_file(path, file.name)
            except OSError as error:
                raise DataError("source_unreadable", f"{path}: {error}") from error
            return counter.pages(file.name)


class _Counter:
    """Counts the pages of documents in a process that is started again when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def pages(self, path: str) -> int:
        """Raises DataError `corrupt_pdf`, `encrypted_pdf`, and `decoder_timeout`; at least one page is there."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COUNTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        try:
            said = self._ask(self._process, path)
        except (OSError, EOFError) as error:
            self._end()
            raise DataError("corrupt_pdf", f"pdfium crashed over it ({error})") from error
        if isinstance(said, int) and said > 0:
            return said
        encrypted = isinstance(said, str) and ("password" in said.lower() or "security" in said.lower())
        raise DataError("encrypted_pdf" if encrypted else "corrupt_pdf", str(said) if said else "it has no page")

    def _ask(self, process: subprocess.Popen[bytes], path: str) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(path).encode() + b"\n")
        line, deadline = b"", time.monotonic() + SECONDS
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self._end()
                raise DataError("decoder_timeout", f"its pages were not counted within {SECONDS:g} s")
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise EOFError("its process has ended")
            line += piece
        return json.loads(line)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
