"""COCO's annotation files: pictures with captions, and with boxes as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import field_validator

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.sources import _json_list, _tables
from mmdata.sources._paths import within
from mmdata.sources._tables import json_value, printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text


@register("source", "coco")
class Coco(SourceSpec):
    """COCO's captions and instances (also RefCOCO-like phrases, Objects365 and others in its form): a record for each
    caption of a picture, with the picture's boxes in its JSON: `boxes` ([left, top, right, bottom] in pixels), `labels`
    (their categories, in the same order), `crowds` (positions of boxes around crowds), `image_id`, `height` and
    `width`. A caption of a picture that the files do not list ends as `unknown_image`.

    The first step of `probe`, `boxes`, `resize` and `aspect_bucket` brings boxes to the picture as it is: where
    `height` and `width` are those of the stored pixels and EXIF turns them, they are turned; where the picture has been
    resized, they are scaled, and `height` and `width` become the picture's. A picture of another shape ends as
    `boxes_size`.

    Of an annotation file no text is in memory at once, but all captions and boxes are."""

    kind: Literal["coco"] = "coco"
    annotations: tuple[InputPath, ...] = runtime()
    """One or several annotation files of the same pictures, for example captions_val2017.json and
    instances_val2017.json; local or any fsspec URL, compressed or not."""
    images: InputPath | None = runtime(None)
    """The folder that `file_name` is relative to. Default: pictures are fetched from their `coco_url`."""
    captions: Literal["each", "first", "all"] = "each"
    """`each`: a record for each caption; `first`: the first only; `all`: one record with all of them, as texts."""

    @field_validator("annotations", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def open(self) -> Source:
        return _Annotations(self)


@dataclass(slots=True)
class _Picture:
    """What the files say of a picture."""

    id: int | str
    at: int
    name: str | None
    url: str | None
    size: tuple[Any, Any]
    captions: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    crowds: list[int] = field(default_factory=list)


class _Annotations:
    def __init__(self, spec: Coco) -> None:
        self._spec = spec
        self._files = [file for path in spec.annotations for file in _tables.list_files(path, (), named=("json",))]
        self._pictures: list[_Picture] | None = None
        self._lost: list[tuple[str, int, str, str]] = []

    def inputs(self) -> list[dict[str, Any]]:
        return [_tables.fingerprint(file) for file in self._files]

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        pictures = self._read()
        row = 0
        for picture in pictures:
            for texts in self._texts(picture):
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield self._record(row, picture, texts)
                row += 1
        for name, at, reason, detail in self._lost:
            if stop is not None and row >= stop:
                return
            if row >= start:
                empty = Sample(key=f"{row:09d}", parts=(), origin=Origin(uri=name, row=at))
                drop = Drop(reason=reason, detail=printable(f"{name}: {detail}"), state="failed_permanent")
                yield Record(row=row, sample=empty, drop=drop)
            row += 1

    def _texts(self, picture: _Picture) -> list[list[str]]:
        if not picture.captions:
            return [[]]
        if self._spec.captions == "each":
            return [[caption] for caption in picture.captions]
        return [picture.captions if self._spec.captions == "all" else picture.captions[:1]]

    def _record(self, row: int, picture: _Picture, texts: list[str]) -> Record:
        key = f"{row:09d}"
        origin = Origin(uri=self._files[0].name, row=picture.at)
        meta = {"image_id": picture.id, "height": picture.size[0], "width": picture.size[1]}
        if picture.boxes:
            meta |= {"boxes": picture.boxes, "labels": picture.labels}
            meta |= {"crowds": picture.crowds} if picture.crowds else {}
        sample = Sample(key=key, parts=(), meta=meta, origin=origin)
        if not texts and not picture.boxes:
            return Record(row=row, sample=sample, drop=Drop(reason="no_annotation", detail="neither caption nor box"))
        try:
            if self._spec.images is not None and picture.name is None:
                raise DataError("bad_record", f"image {picture.id}: no file_name")
            if self._spec.images is not None:
                uri = within(self._spec.images.rstrip("/"), picture.name or "")
            else:
                uri = picture.url or ""
                if "://" not in uri or uri.split("://")[0].lower() in ("file", "local"):
                    raise DataError("bad_url", f"image {picture.id}: no coco_url; source.images says where files are")
        except DataError as error:
            drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
            return Record(row=row, sample=sample, drop=drop)
        parts: tuple[Media | Text, ...] = (Media(kind="image", uri=uri), *(Text(text=text) for text in texts))
        boxed = _size(picture) if picture.boxes else None
        return Record(row=row, sample=Sample(key=key, parts=parts, meta=meta, origin=origin, boxed=boxed))

    def _read(self) -> list[_Picture]:
        """All pictures in the order of the files, annotations at theirs; what belongs to none is put aside."""
        if self._pictures is not None:
            return self._pictures
        pictures: dict[Any, _Picture] = {}
        categories: dict[Any, str] = {}
        lost: list[tuple[str, int, str, str]] = []
        for file in self._files:
            for at, (key, item) in enumerate(_sections(file, ("images", "categories"))):
                if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
                    lost.append((file.name, at, "bad_record", f"{key}: an object with an id is wanted"))
                elif key == "categories":
                    if item.get("name") is not None:  # else boxes are called by its number
                        categories[item["id"]] = printable(str(item["name"]))
                elif item["id"] not in pictures:
                    name, url = item.get("file_name"), item.get("coco_url")
                    pictures[item["id"]] = _Picture(
                        id=json_value(item["id"]),
                        at=at,
                        name=printable(name) if isinstance(name, str) else None,
                        url=printable(url) if isinstance(url, str) else None,
                        size=(json_value(item.get("height")), json_value(item.get("width"))),
                    )
        for file in self._files:
            for at, (_, item) in enumerate(_sections(file, ("annotations",))):
                try:
                    _annotate(item, pictures, categories)
                except DataError as error:
                    lost.append((file.name, at, error.reason, f"annotation {at}: {error.detail}"))
        if not pictures and not lost:
            raise DataError("source_empty", f"{', '.join(file.name for file in self._files)}: no images in COCO's form")
        self._lost, self._pictures = lost, list(pictures.values())
        return self._pictures


def _sections(file: _tables.TableFile, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    with _tables.opened_text(file) as text:
        for key, item in _json_list.sections(text, file.name):
            if key in wanted:
                yield key, item


def _annotate(item: Any, pictures: dict[Any, _Picture], categories: dict[Any, str]) -> None:
    """Note a caption or a box at its picture. Raises DataError for what is neither, or of no picture."""
    if not isinstance(item, dict) or not isinstance(item.get("image_id"), int | str):
        raise DataError("bad_record", "an object with an image_id is wanted")
    picture = pictures.get(item["image_id"])
    if picture is None:
        raise DataError("unknown_image", f"image_id {item['image_id']} is none of the images")
    caption, box = item.get("caption"), item.get("bbox")
    if isinstance(caption, str):
        picture.captions.append(printable(caption))
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise DataError("bad_record", f"bbox {str(box)[:80]}: [left, top, width, height] is wanted")
        left, top, width, height = map(float, box)
        if item.get("iscrowd"):
            picture.crowds.append(len(picture.boxes))
        picture.boxes.append([left, top, left + width, top + height])
        category = item.get("category_id")
        known = categories.get(category) if isinstance(category, int | str) else None
        picture.labels.append(
            printable(str(caption or "" if category is None else category)) if known is None else known
        )
    elif not isinstance(caption, str):
        raise DataError("bad_record", "neither caption nor bbox")


def _size(picture: _Picture) -> tuple[int, int] | None:
    """The height and width that the files tell, where they do."""
    height, width = picture.size
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width)):
        return None
    return height, width


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and json_value(float(value)) is not None
