"""Questions and answers about pictures: lists of pairs, or VQAv2's two files of questions and annotations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

from pydantic import Field, field_validator

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.sources import _json_list, _tables
from mmdata.sources._paths import within
from mmdata.sources._tables import json_value
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text


@register("source", "vqa")
class Vqa(SourceSpec):
    """A record for each question: `{"image": "1.jpg", "question": "...", "answer": "..."}`, in JSON lines, a JSON list,
    or under `questions`, `annotations` or `data` of an object (VQAv2, GQA-like, OK-VQA, TextVQA, DocVQA). Of several
    answers (`answers`, texts or objects with an `answer`) the most frequent is the one that is trained, the first of
    those that are alike; all of them travel in `answers`, for metrics. All other keys travel, too."""

    kind: Literal["vqa"] = "vqa"
    questions: InputPath = runtime()
    """The file of questions, or of questions with their answers."""
    annotations: InputPath | None = runtime(None)
    """The file of answers, by `question_id`, where they are apart."""
    images: InputPath = runtime()
    """The folder of the pictures."""
    image_name: str = Field("{image_id}.jpg", min_length=1)
    """What the file of a picture is called where the questions have only an `image_id`, for example
    `COCO_val2014_{image_id:012d}.jpg`."""

    @field_validator("image_name")
    @classmethod
    def _formats(cls, value: str) -> str:
        try:
            made = value.format(image_id=1)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise ValueError("it names {image_id} only, as in COCO_val2014_{image_id:012d}.jpg") from error
        if made == value:
            raise ValueError("it has no {image_id}, so that all pictures would be one")
        return value

    def open(self) -> Source:
        return _Questions(self)


class _Questions:
    def __init__(self, spec: Vqa) -> None:
        self._spec = spec
        (self._file,) = _tables.list_files(spec.questions, ("jsonl",), named=("json",))[:1]
        self._answers: dict[Any, Any] | None = None
        self._annotations = None
        if spec.annotations is not None:
            (self._annotations,) = _tables.list_files(spec.annotations, ("jsonl",), named=("json",))[:1]
        first = next(_rows(self._file, ("questions", "annotations", "data")), None)
        if isinstance(first, dict) and "question" not in first:
            raise SpecError(
                f"source.questions: {self._file.name}: its first item has no question; it has {', '.join(first)}"
            )

    def inputs(self) -> list[dict[str, Any]]:
        files = [self._file, *([self._annotations] if self._annotations else [])]
        return [_tables.fingerprint(file) for file in files]

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        if self._annotations is not None and self._answers is None:
            self._answers = {
                item["question_id"]: {name: item[name] for name in item if name not in ("question_id", "image_id")}
                for item in _rows(self._annotations, ("annotations", "data"))
                if isinstance(item, dict) and isinstance(item.get("question_id"), int | str)
            }
        for row, item in enumerate(_rows(self._file, ("questions", "annotations", "data"))):
            if stop is not None and row >= stop:
                return
            if row >= start:
                yield self._record(row, item)

    def _record(self, row: int, item: Any) -> Record:
        empty = Sample(key=f"{row:09d}", parts=(), origin=Origin(uri=self._file.name, row=row))
        try:
            if not isinstance(item, dict):
                raise _tables.refused(item if isinstance(item, str) else f"a {type(item).__name__}")
            value = json_value(item)
            if self._answers is not None:
                number = value.get("question_id")
                found = self._answers.get(number) if isinstance(number, int | str) else None
                if found is None:
                    raise DataError("no_answer", f"question_id {number} has no annotation")
                value = {**json_value(found), **value}
            return Record(row=row, sample=self._sample(empty, value))
        except (DataError, ValueError) as error:
            reason, detail = (
                (error.reason, error.detail) if isinstance(error, DataError) else ("bad_record", str(error))
            )
            drop = Drop(reason=reason, detail=f"{self._file.name} {row}: {detail}", state="failed_permanent")
            return Record(row=row, sample=empty, drop=drop)

    def _sample(self, empty: Sample, value: dict[str, Any]) -> Sample:
        question = value.get("question")
        if not isinstance(question, str) or not question.strip():
            raise DataError("bad_record", "question: a text is wanted")
        answer, answers = _answered(value)
        used = ("question", "answer", "answers", "multiple_choice_answer", "image")
        meta = {name: item for name, item in value.items() if name not in used and item is not None}
        if answers:
            meta["answers"] = answers
        parts = (
            Media(kind="image", uri=within(self._spec.images.rstrip("/"), self._image(value)), role="user"),
            Text(text=question, role="user"),
            Text(text=answer, role="assistant"),
        )
        return Sample(key=empty.key, parts=parts, meta=meta, origin=empty.origin)

    def _image(self, value: dict[str, Any]) -> str:
        found = value.get("image")
        if isinstance(found, str):
            return found
        number = value.get("image_id")
        if not isinstance(number, int | str):
            raise DataError("bad_record", "neither image nor image_id")
        try:
            return self._spec.image_name.format(image_id=number)
        except ValueError as error:
            raise DataError("bad_record", f"image_id {number!r} in image_name {self._spec.image_name!r}") from error


def _answered(value: dict[str, Any]) -> tuple[str, list[str]]:
    """The answer to be trained, and all of them where there are several."""
    given = value.get("answers")
    listed = (
        [item.get("answer") if isinstance(item, dict) else item for item in given if item is not None]
        if isinstance(given, list)
        else []
    )
    texts = _texts(listed)
    single = next((value[key] for key in ("multiple_choice_answer", "answer") if value.get(key) is not None), None)
    if isinstance(single, list):
        texts, single = _texts(single), None
    if isinstance(single, dict):
        raise DataError("bad_record", "its answer is an object, not a text")
    if single is None and not texts:
        raise DataError("no_answer", "neither answer nor answers")
    counts = Counter(texts)
    best = str(single) if single is not None else max(counts, key=lambda text: (counts[text], -texts.index(text)))
    return best, texts


def _texts(listed: list[Any]) -> list[str]:
    return [str(item) for item in listed if isinstance(item, str | int | float) and str(item).strip()]


def _rows(file: _tables.TableFile, keys: tuple[str, ...]) -> Iterator[Any]:
    """The items of a file in any of its forms; a string for a line that is none. Of an object the first list of those
    that it may be under."""
    with _tables.opened_text(file) as text:
        listed = file.format == "json" and _json_list.begins(text) == "{"
        line = text.readline() if listed else ""
    if not listed or _is_line("{" + line):
        yield from _tables.text_rows(file, strict=True)
        return
    with _tables.opened_text(file) as text:
        items = _json_list.sections(text, file.name)
        first = next((pair for pair in items if pair[0] in keys), None)
        if first is None:
            raise DataError("source_empty", f"{file.name}: an object without {', '.join(keys)}")
        yield from (item for key, item in chain([first], items) if key == first[0])


def _is_line(line: str) -> bool:
    """Whether a line is a whole question: then the file is lines, whatever it is called."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "question" in value
