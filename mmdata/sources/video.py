"""Video manifests: paths or URLs with the times of clips, captions, and subtitles aligned to the clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import fsspec

from mmdata.errors import DataError, SpecError
from mmdata.registry import nearest, register
from mmdata.sources import _growth, _subtitles, _tables, _texts
from mmdata.sources._paths import within
from mmdata.sources._tables import json_value, printable
from mmdata.spec import InputPath, Model, Record, Source, SourceSpec, runtime
from mmdata.types import Clip, Drop, Media, Origin, Sample, Text

BESIDE = (".srt", ".vtt", ".en.srt", ".en.vtt")
MOST = 16 << 20
"""Bytes of the largest file of subtitles that is read."""


class VideoColumns(Model):
    """Which columns of the manifest hold what."""

    video: str = "video"
    """A path or URL."""
    start: str = "start"
    """Where the clip begins: seconds, or `HH:MM:SS.mmm`; empty: at the beginning."""
    end: str = "end"
    """Where it ends; empty: at the end."""
    text: str = "caption"
    """A caption of the clip."""
    subtitles: str = "subtitles"
    """The path of a .srt or .vtt file of the whole video."""


@register("source", "video")
class Video(SourceSpec):
    """A record for each row of a manifest. A row with times is a clip: it is decoded and written again as H.264 with
    AAC sound, exact to the frame (see `engine.sample_seconds` for long ones); a row without keeps the file's bytes.
    Times are those of the file's own clock, which begins at 0 in most MP4 and seldom in MPEG-TS; pictures and sound
    stay together, silent where the sound track begins later. A clip that reaches beyond the end is cut short, by at
    most 0.5 s and at most half of it; else it ends as `clip_beyond_end`, as one without a frame does. Of subtitles the
    cues within the clip become texts after the caption, one each, and `cues` of the sample's JSON says which part each
    is (`part`) and when it is said in the clip's own time (`start`, `stop`). All other columns travel in the JSON,
    too."""

    kind: Literal["video"] = "video"
    path: InputPath = runtime()
    """A .csv, .tsv, .jsonl, .parquet or .json file, a folder of them, or a pattern; local or any fsspec URL."""
    root: InputPath | None = runtime(None)
    """What paths are relative to. Default: the folder of `path`. A path that leads out of it is refused."""
    columns: VideoColumns = VideoColumns()
    """Their names, where they differ."""
    beside: bool = True
    """Where a row names no subtitles, take those that lie beside a file: `a.srt`, `a.vtt`, `a.en.srt` or `a.en.vtt` of
    `a.mp4`."""

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _Clips(self)


class _Clips:
    def __init__(self, spec: Video) -> None:
        self._spec = spec
        self._files = _tables.list_files(spec.path, named=("json",))
        first = self._files[0]
        self._root = (spec.root or first.url[: len(first.url) - len(first.name)]).removeprefix("file://").rstrip("/")
        for file in self._files:
            names = _tables.columns(file)
            wanted = ["video", *sorted(spec.columns.model_fields_set - {"video"})]
            for field in wanted if names else ():
                name = getattr(spec.columns, field)
                if name not in names:
                    raise SpecError(
                        f"source.columns.{field}: {file.name} has no column {name!r}; {nearest(name, names)}"
                    )

    def inputs(self) -> list[dict[str, Any]]:
        return [_tables.fingerprint(file) for file in self._files]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.files_continue(self._files, before, self.inputs())

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        row = 0
        for file in self._files:
            for at, value in _tables.rows_from(file):
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield self._record(row, Origin(uri=file.name, row=at), value)
                row += 1

    def _record(self, row: int, origin: Origin, value: dict[str, Any] | str) -> Record:
        empty = Sample(key=f"{row:09d}", parts=(), origin=origin)
        try:
            if isinstance(value, str):
                raise _tables.refused(value)
            return Record(row=row, sample=self._sample(empty, value))
        except (DataError, ValueError) as error:
            reason, detail = (
                (error.reason, error.detail) if isinstance(error, DataError) else ("bad_record", str(error))
            )
            detail = printable(f"{origin.uri} row {origin.row}: {detail}")
            return Record(row=row, sample=empty, drop=Drop(reason=reason, detail=detail, state="failed_permanent"))

    def _sample(self, empty: Sample, value: dict[str, Any]) -> Sample:
        columns = self._spec.columns
        path = value.get(columns.video)
        if not isinstance(path, str):
            raise DataError("bad_url", f"{columns.video}: a path or URL is wanted, not {path!r}")
        uri = within(self._root, path)
        start, end = (_seconds(value.get(name), name) for name in (columns.start, columns.end))
        if (start or 0) < 0 or (end is not None and end <= (start or 0)):
            raise DataError("bad_clip", f"from {start} s to {end} s")
        clip = None if start is None and end is None else Clip(start=start or 0.0, stop=end)
        parts: list[Media | Text] = [Media(kind="video", uri=uri, excerpt=clip)]
        parts += _texts.captions(value.get(columns.text), columns.text)
        used = [getattr(columns, name) for name in VideoColumns.model_fields]
        meta = {name: json_value(item) for name, item in value.items() if name not in used and item is not None}
        if clip is not None:
            meta["clip"] = [clip.start, clip.stop]
        if (file := self._subtitles(value.get(columns.subtitles), uri)) is not None:
            cues = _subtitles.within(_subtitles.read(*file), start or 0.0, end)
            meta["cues"] = [
                {"part": len(parts) + at, "start": cue.start, "stop": cue.stop} for at, cue in enumerate(cues)
            ]
            parts += [Text(text=printable(cue.text)) for cue in cues]
        return Sample(key=empty.key, parts=tuple(parts), meta=meta, origin=empty.origin)

    def _subtitles(self, given: Any, uri: str) -> tuple[bytes, str] | None:
        """The bytes and the name of the subtitles of a video, if it has any."""
        if isinstance(given, str) and given.strip():
            place = within(self._root, given)
            if place.split("://")[0].lower() in ("http", "https"):
                raise DataError("bad_subtitles", f"{given[:200]}: subtitles are files; fetch them first")
            data = _bytes(place)
            if data is None:
                raise DataError("bad_subtitles", f"{given}: no such file")
            return data, given
        if self._spec.beside and uri.split("://")[0].lower() not in ("http", "https"):
            for suffix in BESIDE:
                place = f"{uri.rpartition('.')[0]}{suffix}"
                if (data := _bytes(place)) is not None:
                    return data, place.rpartition("/")[2]
        return None


def _bytes(place: str) -> bytes | None:
    fs, path = fsspec.core.url_to_fs(place)
    try:
        if fs.info(path)["size"] > MOST:
            raise DataError("bad_subtitles", f"{place}: more than {MOST:,} bytes")
        data: bytes = fs.cat_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise DataError("bad_subtitles", f"{place}: {error}") from error
    return data


def _seconds(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        found = _subtitles.seconds(value) if isinstance(value, str) else float(value)
        if found - found != 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError("bad_clip", f"{name}: seconds or HH:MM:SS.mmm are wanted, not {str(value)[:40]!r}") from None
    return found
