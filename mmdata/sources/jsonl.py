"""JSON lines, or a JSON list: images, videos or audio, and a text or a conversation in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator

from mmdata.errors import DataError, SpecError
from mmdata.registry import nearest, register
from mmdata.sources import _growth, _messages, _pairs, _tables, _texts
from mmdata.sources._paths import inline, within
from mmdata.spec import InputPath, Model, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, MediaKind, Origin, Sample, State, Text

KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
OUTSIDE = " leads out of source.root (by default the folder of source.path)"


class JsonlColumns(Model):
    """Which keys of a line hold what."""

    image: str = "image"
    """A path or URL (`data:` with base64 is read, too), or a list of them. An empty list says that there is none, and
    the line is text alone; a line whose key is null or not there ends as `bad_url`, as it may have lost its picture."""
    video: str = "video"
    """The same for videos; they come after the images."""
    audio: str = "audio"
    """The same for audio, which comes last."""
    text: str = "text"
    """A text, or a list of several."""
    messages: str | None = None
    """A conversation in LLaVA's, ShareGPT's or OpenAI's form, in place of a text: a list of messages, JSON of one in a
    text, or an object of lists; null: `messages`, `conversations` or `conversation`, in lines that
    have no text or one of null."""
    chosen: str | None = None
    """The better of two answers to the text (which is the user's, then) or conversation,"""
    rejected: str | None = None
    """and the worse one: texts, messages, or lists that end with one, as whole conversations do that need no other
    prompt. Of lines with both a sample gets two texts, `chosen` and `rejected` (`data.pairs`, `preference`)."""

    @model_validator(mode="after")
    def _two_answers(self) -> JsonlColumns:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected: a pair has both; name the other one too")
        return self


@register("source", "jsonl")
class Jsonl(SourceSpec):
    """Lines such as `{"image": "a/1.jpg", "text": "A cat."}` or `{"video": "b/2.mp4", "text": "A cat jumps."}`, or
    conversations: `{"image": "a/1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}`; all
    other keys travel in the sample's JSON. A .json file holds a list of such, as LLaVA's does, or lines too."""

    kind: Literal["jsonl"] = "jsonl"
    path: InputPath = runtime()
    """A .jsonl or .json file (compressed or not), a folder of .jsonl files, or a glob; local or any fsspec URL."""
    root: InputPath | None = runtime(None)
    """What paths of media are relative to. Default: the folder of `path`. A path that leads out of it is refused;
    `/` allows every one."""
    columns: JsonlColumns = JsonlColumns()

    def open(self) -> Source:
        return _JsonLines(self)


class _JsonLines:
    def __init__(self, spec: Jsonl) -> None:
        self._spec = spec
        self._files = _tables.list_files(spec.path, ("jsonl",), named=("json",))
        first = self._files[0]
        self._root = (spec.root or first.url[: len(first.url) - len(first.name)]).rstrip("/")
        # Files without a readable line say nothing about the keys.
        first, names = next(((file, names) for file in self._files if (names := _tables.columns(file))), (first, []))
        media = {field: getattr(spec.columns, field) for field in KINDS}
        given: list[str] = [field for field in KINDS if field in spec.columns.model_fields_set]
        wanted = given or ([] if set(media.values()) & set(names) else ["image"])
        if spec.columns.chosen is not None:
            own = [field for field in ("text", "messages") if field in spec.columns.model_fields_set]
            wanted, text = [*given, *own, "chosen"], "rejected"
        elif spec.columns.messages is not None:
            wanted, text = given, "messages"
        elif spec.columns.text in names or not set(_messages.KEYS) & set(names):
            text = "text"
        else:
            wanted, text = given, ""
        for field in (*wanted, text) if text else wanted:
            name = getattr(spec.columns, field)
            if names and name not in names:
                raise SpecError(
                    f"source.columns.{field}: the first lines of {first.name} have no key {name!r}; "
                    + nearest(name, names)
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
            for at, value in enumerate(_tables.text_rows(file, strict=True)):
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield self._record(row, Origin(uri=file.name, row=at), value)
                row += 1

    def _record(self, row: int, origin: Origin, value: dict[str, Any] | str) -> Record:
        key = f"{row:09d}"
        if isinstance(value, str):
            reason, detail = _tables.refused(value).reason, f"{origin.uri} row {origin.row}: {value}"
            drop = Drop(reason=reason, detail=detail, state="failed_permanent")
            return Record(row=row, sample=Sample(key=key, parts=(), origin=origin), drop=drop)
        columns = self._spec.columns
        pair = columns.chosen is not None and None not in (value.get(columns.chosen), value.get(columns.rejected or ""))
        spoken = columns.messages is not None or value.get(columns.text) is None
        if pair or spoken:
            try:
                value = dict(_messages.opened(value, columns.messages))
            except DataError as error:
                drop = Drop(reason=error.reason, detail=_named(value, error.detail), state="failed_permanent")
                return Record(row=row, sample=Sample(key=key, parts=(), origin=origin), drop=drop)
        if pair:
            return self._pair(row, origin, value)
        if spoken:
            conversation = _messages.find(value, columns.messages)
            if conversation is not None:
                return self._conversation(row, origin, value, conversation)
        used = [getattr(columns, field) for field in (*KINDS, "text")]
        meta = {name: item for name, item in value.items() if item is not None and name not in used}
        text = value.get(columns.text)
        refused: Drop | None = None
        texts: tuple[Text, ...] = ()
        try:
            texts = _texts.captions(text, columns.text)
        except ValueError as error:
            refused = Drop(reason="bad_record", detail=_named(value, str(error)), state="failed_permanent")
        media = []
        named = [(kind, column, value[column]) for kind, column in zip(KINDS, used, strict=False) if value.get(column)]
        for kind, column, found in named or [("image", columns.image, value.get(columns.image))]:
            for path in found if isinstance(found, list) else [found]:
                try:
                    media.append(self._medium(kind, column, path))
                except DataError as error:
                    refused = Drop(reason=error.reason, detail=_named(value, error.detail), state="failed_permanent")
                    if not str(path).startswith("data:"):
                        media.append(Media(kind=kind, uri=str(path or "")))
        return Record(row=row, sample=Sample(key=key, parts=(*media, *texts), meta=meta, origin=origin), drop=refused)

    def _pair(self, row: int, origin: Origin, value: dict[str, Any]) -> Record:
        """A conversation that ends with two answers."""
        columns = self._spec.columns
        assert columns.chosen is not None
        assert columns.rejected is not None
        used = (columns.chosen, columns.rejected, columns.text, "prompt")
        meta = {name: item for name, item in value.items() if name not in used}
        try:
            prompt, answers = _pairs.read(
                value, columns.chosen, columns.rejected, text=columns.text, messages=columns.messages
            )
        except DataError as error:
            sample = Sample(key=f"{row:09d}", parts=(), origin=origin)
            state: State = "filtered" if error.reason == "pair_same" else "failed_permanent"
            return Record(
                row=row, sample=sample, drop=Drop(reason=error.reason, detail=_named(value, error.detail), state=state)
            )
        record = self._conversation(row, origin, meta, prompt)
        if record.drop is not None:
            return record
        return replace(record, sample=replace(record.sample, parts=(*record.sample.parts, *answers)))

    def _conversation(self, row: int, origin: Origin, value: dict[str, Any], conversation: list[Any]) -> Record:
        columns = self._spec.columns
        keys = {**_messages.MEDIA_KEYS, **{getattr(columns, kind): kind for kind in KINDS}}
        meta = {
            name: item
            for name, item in value.items()
            if item is not None and name not in keys and value[name] is not conversation
        }
        empty = Sample(key=f"{row:09d}", parts=(), meta=meta, origin=origin)
        parts: list[Text | Media] = []
        try:
            for part in _messages.parts(value, conversation, keys):
                if isinstance(part, Media) and part.uri is not None:
                    part = replace(part, uri=self._uri(part.kind, part.uri))
                parts.append(part)
        except DataError as error:
            drop = Drop(reason=error.reason, detail=_named(value, error.detail), state="failed_permanent")
            return Record(row=row, sample=empty, drop=drop)
        return Record(row=row, sample=replace(empty, parts=tuple(parts)))

    def _medium(self, kind: MediaKind, name: str, path: Any) -> Media:
        """What one field of media names. Raises DataError, which names it."""
        if not isinstance(path, str) or not path.strip():
            raise DataError("bad_url", f"{name}: {path!r}")
        if not path.startswith("data:"):
            return Media(kind=kind, uri=self._uri(name, path))
        try:
            return Media(kind=kind, data=inline(path))
        except DataError as error:
            raise DataError(error.reason, f"{name}: {error.detail}") from error

    def _uri(self, name: str, path: str) -> str:
        """The place of a medium. Raises DataError, which names it: `path_escape` for one that leads out of the root."""
        try:
            return within(self._root, path)
        except DataError as error:
            leads_out = error.reason == "path_escape" and "\\" not in path and "\0" not in path
            detail = f"{path!r}{OUTSIDE}" if leads_out else error.detail
            raise DataError(error.reason, f"{name}: {detail}") from error


def _named(value: dict[str, Any], detail: str) -> str:
    """What is wrong with a line, under the id that its owner knows it by."""
    name = value.get("id")
    return detail if name is None or isinstance(name, dict | list) else f"id {str(name)[:100]}: {detail}"
