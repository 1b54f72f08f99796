"""LAION-style tables: a URL and a text per row, with the usual columns beside them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import field_validator

from mmdata.errors import SpecError
from mmdata.registry import register
from mmdata.sources import _growth, _tables, _texts
from mmdata.sources._paths import names_local
from mmdata.spec import InputPath, Model, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text

if TYPE_CHECKING:
    from mmdata.expression import Expression


class LaionColumns(Model):
    """The names of the table's columns. URL and text must be there; of the others, those that are."""

    url: str = "URL"
    text: str = "TEXT"
    width: str = "WIDTH"
    height: str = "HEIGHT"
    similarity: str = "similarity"
    punsafe: str = "punsafe"
    pwatermark: str = "pwatermark"
    license: str = "LICENSE"
    nsfw: str = "NSFW"
    hash: str = "hash"


@register("source", "laion")
class Laion(SourceSpec):
    """Tables with a URL and a TEXT column (parquet, csv, tsv or jsonl, compressed or not)."""

    kind: Literal["laion"] = "laion"
    path: InputPath = runtime()
    """A table, a folder of tables (searched below, sorted by name), or a glob; local or any fsspec URL."""
    columns: LaionColumns = LaionColumns()
    """Column names, where they differ from LAION's."""
    meta: tuple[str, ...] = ()
    """Further columns to carry into each sample's JSON."""
    local_files: bool = False
    """Accept `file://` URLs and plain paths in the URL column. Off: a table from elsewhere cannot name your files."""
    where: str | None = None
    """Keep only rows for which this holds, for example `WIDTH >= 256 and similarity > 0.3`: evaluated on the
    table's own columns before anything is fetched; an expression on a null is not true. Rejected rows are
    counted as `filtered: where`."""

    @field_validator("where")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            from mmdata import expression  # here: it loads Arrow's functions, which most tables do without

            expression.compile(value)
        return value

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _LaionTables(self)


@dataclass(frozen=True, slots=True)
class _Opened:
    file: _tables.TableFile
    rows: int | None
    names: list[str]


class _LaionTables:
    """The opened tables. All headers are checked before the first row is read."""

    def __init__(self, spec: Laion) -> None:
        self._spec = spec
        self._where: Expression | None = None
        if spec.where is not None:
            from mmdata import expression

            self._where = expression.compile(spec.where)
        self._files = [
            _Opened(file, _tables.count(file), _tables.columns(file)) for file in _tables.list_files(spec.path)
        ]
        found: dict[tuple[str, str], list[_Opened]] = {}  # a mistake that all files share is told once
        for opened in self._files:
            for problem in self._problems(opened):
                found.setdefault(problem, []).append(opened)
        if found:
            raise SpecError("\n".join(_told(field, problem, files) for (field, problem), files in found.items()))

    def _problems(self, opened: _Opened) -> Iterator[tuple[str, str]]:
        columns = self._spec.columns
        if not opened.names and opened.file.format == "jsonl":
            return  # no readable line, so none that lacks a key
        # A name that the user wrote down must be there; of LAION's own, only URL and TEXT must.
        needed = {f"columns.{name}": getattr(columns, name) for name in {"url", "text"} | columns.model_fields_set}
        needed |= {f"meta[{at}]": name for at, name in enumerate(self._spec.meta)}
        if self._where is not None:
            needed |= {f"where ({name})": name for name in self._where.columns}
        for field, name in sorted(needed.items()):
            if opened.names.count(name) > 1:
                yield f"source.{field}", f"{opened.names.count(name)} columns {name!r}"
            elif name not in opened.names:
                yield f"source.{field}", f"no column {name!r}; {_nearest_column(name, opened.names)}"

    def inputs(self) -> list[dict[str, Any]]:
        return [_tables.fingerprint(opened.file) for opened in self._files]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.files_continue([opened.file for opened in self._files], before, self.inputs())

    def count(self) -> int | None:
        total = 0
        for opened in self._files:
            if opened.rows is None:
                return None
            total += opened.rows
        return total

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        first = 0  # the row number, over all files, of the current file's first row
        for opened in self._files:
            if opened.rows is not None and first + opened.rows <= start:
                first += opened.rows
                continue
            last = 0
            for batch in _tables.batches(opened.file, start=max(0, start - first), select=self._select(opened)):
                last = batch.first + len(batch)
                for record in self._batch(opened.file, batch, first):
                    if stop is not None and record.row >= stop:
                        return
                    if record.row >= start:
                        yield record
                if stop is not None and first + last >= stop:
                    return  # before more is read, which may be damaged
            first += last

    def _select(self, opened: _Opened) -> list[str]:
        wanted = {getattr(self._spec.columns, name) for name in LaionColumns.model_fields}
        wanted |= set(self._spec.meta) | set(self._where.columns if self._where else ())
        return [name for name in opened.names if name in wanted]

    def _batch(self, file: _tables.TableFile, batch: _tables.Batch, first: int) -> Iterator[Record]:
        columns = self._spec.columns
        keep: list[bool] | None = None
        if self._where is not None and batch.table.num_rows:
            mask = self._where.mask(_with_columns(batch.table, self._where.columns))
            keep = mask.to_pylist()
        named = {field: getattr(columns, field) for field in LaionColumns.model_fields}
        kept_rows = dict(zip(batch.rows, keep or [True] * batch.table.num_rows, strict=True))
        rows = batch.bad | dict(zip(batch.rows, batch.values(), strict=True))
        for at, row in sorted(rows.items()):
            key = f"{first + at:09d}"
            origin = Origin(uri=file.name, row=at)
            if isinstance(row, str):
                unreadable = Drop(reason="bad_record", detail=f"{file.name} row {at}: {row}", state="failed_permanent")
                yield Record(row=first + at, sample=Sample(key=key, parts=(), origin=origin), drop=unreadable)
                continue
            kept = kept_rows[at]
            url, text = row.get(named["url"]), row.get(named["text"])
            meta = {
                field: value
                for field, name in named.items()
                if field not in ("url", "text") and (value := _tables.json_value(row.get(name))) is not None
            }
            meta |= {name: _tables.json_value(row.get(name)) for name in self._spec.meta}
            media = Media(kind="image", uri=_text(url).strip() if url is not None else "")
            drop = Drop(reason="where", detail=self._spec.where or "") if not kept else self._refused(media.uri or "")
            parts: tuple[Media | Text, ...] = (media,)
            try:
                parts += _texts.captions(text, named["text"])
            except ValueError as error:
                drop = drop or Drop(
                    reason="bad_record", detail=f"{file.name} row {at}: {error}", state="failed_permanent"
                )
            yield Record(row=first + at, sample=Sample(key=key, parts=parts, meta=meta, origin=origin), drop=drop)

    def _refused(self, uri: str) -> Drop | None:
        """A table comes from strangers: what it names must not be a file of ours, unless the spec says so."""
        if not uri:
            return Drop(reason="bad_url", detail="the URL is empty", state="failed_permanent")
        found = "://" in uri
        if self._spec.local_files or (found and not names_local(uri)):
            return None
        if found:
            return Drop(reason="bad_scheme", detail=f"{uri[:200]}: source.local_files is off", state="failed_permanent")
        return Drop(reason="bad_url", detail=f"{uri[:200]}: no scheme", state="failed_permanent")


def _with_columns(table: pa.Table, names: frozenset[str]) -> pa.Table:
    """A batch of loose rows (jsonl) may lack a column that the file has: it is null there."""
    for name in sorted(names):
        if name not in table.schema.names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def _nearest_column(name: str, known: list[str]) -> str:
    """As `registry.nearest`, but `widht` is near `WIDTH` too."""
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]!r}?" if close else f"its columns: {', '.join(known) or 'none'}"


def _told(field: str, problem: str, files: list[_Opened]) -> str:
    more = f" (nor have {len(files) - 1} other files)" if len(files) > 1 and problem.startswith("no ") else ""
    return f"{field}: {files[0].file.url.removeprefix('file://')} has {problem}{more}"


def _text(value: Any) -> str:
    """A column's value as text; columns of bytes are how some writers spell text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
