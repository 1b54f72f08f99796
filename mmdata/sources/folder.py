"""A folder of images, videos or audio with texts beside them: `a.jpg` with `a.txt` or `a.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec
from pydantic import model_validator

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.sources import _growth, _texts
from mmdata.sources._tables import decoded, json_value, printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, MediaKind, Origin, Sample, State, Text

_FAILED: State = "failed_permanent"


@register("source", "folder")
class Folder(SourceSpec):
    """Media below a folder, sorted by path. The caption is the `.txt` of the same name, or the `caption` (or
    `text`) of the `.json` of the same name, whose other keys travel in the sample's JSON."""

    kind: Literal["folder"] = "folder"
    path: InputPath = runtime()
    """The folder; local or any fsspec URL."""
    extensions: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2")
    """File name extensions, compared without regard to case, that are taken for images."""
    video: tuple[str, ...] = ()
    """Those that are taken for videos, for example `[mp4, webm, mkv, mov, avi]`."""
    audio: tuple[str, ...] = ()
    """Those that are taken for audio, for example `[wav, flac, mp3, ogg, m4a]`."""

    @model_validator(mode="after")
    def _one_kind_each(self) -> Folder:
        listed = [suffix for suffixes in self.suffixes().values() for suffix in suffixes]
        twice = sorted({suffix for suffix in listed if listed.count(suffix) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: an extension belongs to one of extensions, video and audio")
        return self

    def suffixes(self) -> dict[MediaKind, set[str]]:
        """The wanted suffixes of each kind, in lower case, with their dot."""
        listed: dict[MediaKind, tuple[str, ...]] = {
            "image": self.extensions,
            "video": self.video,
            "audio": self.audio,
        }
        return {kind: {"." + name.lower().lstrip(".") for name in names} for kind, names in listed.items()}

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _Files(self)


class _Files:
    def __init__(self, spec: Folder) -> None:
        self._fs, root = fsspec.core.url_to_fs(spec.path)
        self._root = root.rstrip("/")
        if not self._fs.isdir(self._root):
            raise DataError("source_unreadable", f"{spec.path}: not a folder")
        wanted = {suffix: kind for kind, suffixes in spec.suffixes().items() for suffix in suffixes}
        found = self._fs.find(self._root, detail=True)
        names = {path[len(self._root) :].lstrip("/"): info for path, info in found.items()}
        self._kinds = {name: kind for name in sorted(names) if (kind := wanted.get(PurePosixPath(name.lower()).suffix))}
        # By the name with a lower-case suffix; where `a.TXT` and `a.txt` both exist, the latter sorts last and counts.
        self._sidecars = {
            str(path.with_suffix(path.suffix.lower())): name
            for name in sorted(names)
            if (path := PurePosixPath(name)).suffix.lower() in (".txt", ".json")
        }
        self._sizes = {name: int(names[name]["size"] or 0) for name in [*self._kinds, *self._sidecars.values()]}
        if not self._kinds:
            raise DataError("source_empty", f"{spec.path}: no file ends in one of {', '.join(sorted(wanted))}")
        self.arrange(())

    def inputs(self) -> list[dict[str, Any]]:
        return [
            {"name": ".", "images": sum(name in self._kinds for name in batch), **_growth.listing(batch)}
            for batch in self._batches
        ]

    def listings(self) -> list[_growth.Sizes]:
        return self._batches

    def arrange(self, before: Sequence[_growth.Sizes]) -> None:
        self._batches = _growth.batches(self._sizes, before, self._sidecars.values())
        self._files = [name for batch in self._batches for name in sorted(batch) if name in self._kinds]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.listings_continue(before, self.inputs())

    def count(self) -> int | None:
        return len(self._files)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for row in range(start, len(self._files) if stop is None else min(stop, len(self._files))):
            name = self._files[row]
            stem = str(PurePosixPath(name).with_suffix(""))
            texts: tuple[Text, ...] = ()
            meta: dict[str, Any] = {}
            drop = None
            try:
                if caption_file := self._sidecars.get(f"{stem}.txt"):
                    texts = (Text(text=decoded(self._read(caption_file)).strip()),)
                if meta_file := self._sidecars.get(f"{stem}.json"):
                    meta = json_value(json.loads(self._read(meta_file)))
                    if not isinstance(meta, dict):
                        raise ValueError(f"a JSON {type(meta).__name__}, not an object")
                    caption = meta.pop("caption", None) or meta.pop("text", None)
                    texts = texts or _texts.captions(caption, "caption")
            except (ValueError, RecursionError) as error:
                meta, drop = {}, Drop(reason="bad_record", detail=f"{printable(stem)}.json: {error}", state=_FAILED)
            if printable(name) != name:  # neither index nor ledger could hold it
                drop = Drop(reason="bad_record", detail=f"{printable(name)}: the name is not UTF-8", state=_FAILED)
            media = Media(kind=self._kinds[name], uri=printable(self._fs.unstrip_protocol(f"{self._root}/{name}")))
            sample = Sample(
                key=f"{row:09d}", parts=(media, *texts), meta=meta, origin=Origin(uri=printable(name), row=0)
            )
            yield Record(row=row, sample=sample, drop=drop)

    def _read(self, name: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except OSError as error:
            raise DataError("source_unreadable", f"{name}: {error}") from error
        return data
