"""Documents of texts and pictures in turn, as OBELICS and MMC4 write them down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmdata.errors import DataError, SpecError
from mmdata.registry import nearest, register
from mmdata.sources import _growth, _tables
from mmdata.sources._paths import within
from mmdata.sources._tables import json_value
from mmdata.spec import InputPath, Model, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text


class InterleavedColumns(Model):
    """Which keys of a document hold what."""

    images: str = "images"
    """OBELICS: at each place of the document a path or URL, or null."""
    texts: str = "texts"
    """OBELICS: at each place a text, or null."""
    text_list: str = "text_list"
    """MMC4: the sentences."""
    image_info: str = "image_info"
    """MMC4: objects with `image_name` or `raw_url`, `matched_text_index` and `matched_sim`."""


@register("source", "interleaved")
class Interleaved(SourceSpec):
    """A record for each document: `{"images": [null, "1.jpg"], "texts": ["Before.", null]}` as OBELICS has it, or
    MMC4's sentences with the pictures that belong to them. Parts keep the order of the document; all other keys travel
    in the sample's JSON. A document of which a picture cannot be had is dropped as a whole."""

    kind: Literal["interleaved"] = "interleaved"
    path: InputPath = runtime()
    """A .parquet, .jsonl or .json file, a folder of the former two, or a pattern; local or any fsspec URL."""
    root: InputPath | None = runtime(None)
    """What paths of pictures are relative to. Default: the folder of `path`. A path that leads out of it is refused."""
    columns: InterleavedColumns = InterleavedColumns()
    """Their names, where they differ."""
    picture: Literal["before", "after"] = "before"
    """MMC4: whether a picture comes before or after its sentence."""
    least_similarity: float | None = None
    """MMC4: leave out pictures whose `matched_sim` is lower."""

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _Documents(self)


class _Documents:
    def __init__(self, spec: Interleaved) -> None:
        self._spec = spec
        self._files = _tables.list_files(spec.path, ("parquet", "jsonl"), named=("json",))
        first = self._files[0]
        self._root = (spec.root or first.url[: len(first.url) - len(first.name)]).rstrip("/")
        names = next((names for file in self._files if (names := _tables.columns(file))), [])
        wanted = spec.columns
        if names and wanted.text_list not in names:
            for field in ("images", "texts"):
                if getattr(wanted, field) not in names:
                    raise SpecError(
                        f"source.columns.{field}: {first.name} has no key {getattr(wanted, field)!r}, nor "
                        f"{wanted.text_list!r} as MMC4; " + nearest(getattr(wanted, field), names)
                    )

    def inputs(self) -> list[dict[str, Any]]:
        return [_tables.fingerprint(file) for file in self._files]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.files_continue(self._files, before, self.inputs())

    def count(self) -> int | None:
        counts = [_tables.count(file) for file in self._files]
        return None if None in counts else sum(count or 0 for count in counts)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        first = 0
        for file in self._files:
            count = _tables.count(file)
            if count is not None and first + count <= start:
                first += count
                continue
            last = -1
            for last, value in _tables.rows_from(file, max(0, start - first) if count is not None else 0):
                row = first + last
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield self._record(row, Origin(uri=file.name, row=last), value)
            first += last + 1 if count is None else count

    def _record(self, row: int, origin: Origin, value: dict[str, Any] | str) -> Record:
        empty = Sample(key=f"{row:09d}", parts=(), origin=origin)
        try:
            if isinstance(value, str):
                raise _tables.refused(value)
            columns = self._spec.columns
            mmc4 = columns.text_list in value
            used = (columns.text_list, columns.image_info) if mmc4 else (columns.images, columns.texts)
            parts = list(self._mmc4(value) if mmc4 else self._obelics(value))
            if not parts:
                raise DataError("no_parts", "neither a text nor a picture")
            meta = {name: json_value(item) for name, item in value.items() if name not in used and item is not None}
        except (DataError, ValueError) as error:
            reason, detail = (
                (error.reason, error.detail) if isinstance(error, DataError) else ("bad_record", str(error))
            )
            drop = Drop(reason=reason, detail=f"{origin.uri} row {origin.row}: {detail}", state="failed_permanent")
            return Record(row=row, sample=empty, drop=drop)
        return Record(row=row, sample=replace(empty, parts=tuple(parts), meta=meta))

    def _obelics(self, value: dict[str, Any]) -> Iterator[Media | Text]:
        images, texts = (value.get(name) for name in (self._spec.columns.images, self._spec.columns.texts))
        if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
            counts = ", ".join(str(len(of)) if isinstance(of, list) else type(of).__name__ for of in (images, texts))
            raise DataError("bad_record", f"images and texts are to be lists of one length, not {counts}")
        for image, text in zip(images, texts, strict=True):
            if image is not None:
                yield self._image(image)
            if text is not None:
                yield from _text(text)

    def _mmc4(self, value: dict[str, Any]) -> Iterator[Media | Text]:
        columns = self._spec.columns
        texts, infos = value.get(columns.text_list), value.get(columns.image_info) or []
        if not isinstance(texts, list) or not isinstance(infos, list):
            raise DataError("bad_record", f"{columns.text_list} and {columns.image_info} are to be lists")
        at: dict[int, list[Media]] = {}
        for info in infos:
            if not isinstance(info, dict) or not isinstance(info.get("matched_text_index"), int):
                raise DataError("bad_record", f"{columns.image_info}: an object with a matched_text_index is wanted")
            place, similarity = info["matched_text_index"], info.get("matched_sim")
            if not 0 <= place < len(texts):
                raise DataError("bad_record", f"matched_text_index {place} of {len(texts)} sentences")
            least = self._spec.least_similarity
            if least is None or (isinstance(similarity, int | float) and similarity >= least):
                # Whoever names a folder has the files there; the names are of no use without.
                named = info.get("image_name") if self._spec.root is not None else None
                at.setdefault(place, []).append(self._image(named or info.get("raw_url") or info.get("image_name")))
        for place, text in enumerate(texts):
            media = at.get(place, [])
            if self._spec.picture == "before":
                yield from media
            if text is not None:
                yield from _text(text)
            if self._spec.picture == "after":
                yield from media

    def _image(self, path: Any) -> Media:
        if not isinstance(path, str):
            raise DataError("bad_url", f"a picture is a path or a URL, not a {type(path).__name__}")
        return Media(kind="image", uri=within(self._root, path))


def _text(text: Any) -> Iterator[Text]:
    if not isinstance(text, str):
        raise DataError("bad_record", f"a text, not a {type(text).__name__}")
    if text:
        yield Text(text=_tables.printable(text), role="document")
