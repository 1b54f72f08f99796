"""Audio and transcripts as speech toolkits list them: NeMo's and Lhotse's manifests, Kaldi's, LibriSpeech's folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import fsspec

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.sources import _tables
from mmdata.sources._paths import within
from mmdata.sources._tables import json_value, printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Clip, Drop, Media, Origin, Sample, Text

Form = Literal["nemo", "lhotse", "kaldi", "librispeech"]
SOUNDS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")


@register("source", "audio")
class Audio(SourceSpec):
    """A record for each utterance: its audio and its transcript; speaker, language and what else a manifest says travel
    in the sample's JSON. Segments are cut out of their recordings, sample for sample, as FLAC of 16 bits. One that
    reaches beyond the end of its recording is shorter, by at most 0.5 s (as Kaldi allows) and at most half of it; else
    it ends as `clip_beyond_end`, since its transcript says more than is heard. Commands that manifests hold in place of
    files (Kaldi's pipes, Lhotse's `command`) are never run: `command`."""

    kind: Literal["audio"] = "audio"
    path: InputPath = runtime()
    """A manifest in JSON lines (`.jsonl`, `.json`, compressed or not), or a folder: Kaldi's, with `wav.scp` and perhaps
    `segments`, `text`, `utt2spk`, or LibriSpeech's, with `*.trans.txt` files somewhere below; local or any fsspec
    URL."""
    form: Literal["auto", "nemo", "lhotse", "kaldi", "librispeech"] = "auto"
    """What `path` is; `auto` looks."""
    root: InputPath | None = runtime(None)
    """What paths of recordings are relative to. Default: the folder of the manifest. A path that leads out of it is
    refused; `/` allows any path of this machine."""
    supervisions: bool = False
    """Lhotse: a record for each supervision of a cut, cut out to its own times, in place of one for each cut."""

    def open(self) -> Source:
        return _Utterances(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Utterance:
    """One record to be: where it is listed, and what is said of it, or what is wrong with it."""

    uri: str
    at: int
    path: str = ""
    text: str | None = None
    clip: Clip | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    error: DataError | None = None


class _Utterances:
    def __init__(self, spec: Audio) -> None:
        self._spec = spec
        self._fs, root = fsspec.core.url_to_fs(spec.path)
        self._place = root.rstrip("/")
        folder = self._fs.isdir(self._place)
        self._form: Form = _form(spec, self._fs, self._place, folder)
        if folder and self._form in ("nemo", "lhotse"):
            raise SpecError(f"source.form: {spec.path} is a folder; {self._form} is a manifest")
        self._manifest = None if folder else _tables.list_files(spec.path, ("jsonl",), named=("json",))[0]
        base = self._place if folder else self._place.rpartition("/")[0]
        self._root = (spec.root or self._fs.unstrip_protocol(base).removeprefix("file://")).rstrip("/") or "/"
        self._listed = self._lists() if folder else []

    def _lists(self) -> list[str]:
        if self._form == "kaldi":
            return [
                name
                for name in ("wav.scp", "segments", "text", "utt2spk", "utt2lang")
                if self._fs.exists(f"{self._place}/{name}")
            ]
        found = self._fs.find(self._place)
        return sorted(name[len(self._place) + 1 :] for name in found if name.endswith(".trans.txt"))

    def inputs(self) -> list[dict[str, Any]]:
        if self._manifest is not None:
            return [_tables.fingerprint(self._manifest)]
        digest = hashlib.sha256()
        for name in self._listed:
            digest.update(f"{name}\n".encode("utf-8", "surrogateescape") + self._fs.cat_file(f"{self._place}/{name}"))
        return [{"name": ".", "lists": len(self._listed), "sha256": digest.hexdigest()}]

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        read = {"nemo": self._nemo, "lhotse": self._lhotse, "kaldi": self._kaldi, "librispeech": self._librispeech}
        for row, utterance in enumerate(read[self._form]()):
            if stop is not None and row >= stop:
                return
            if row >= start:
                yield self._record(row, utterance)

    def _record(self, row: int, said: _Utterance) -> Record:
        key, origin = f"{row:09d}", Origin(uri=printable(said.uri), row=said.at)
        try:
            if said.error is not None:
                raise said.error
            path = within(self._root, printable(said.path))
        except DataError as error:
            detail = f"{said.uri} row {said.at}: {error.detail}"
            if error.reason == "path_escape":
                detail += "; source.root says what is allowed"
            drop = Drop(reason=error.reason, detail=printable(detail), state="failed_permanent")
            return Record(row=row, sample=Sample(key=key, parts=(), origin=origin), drop=drop)
        media = Media(kind="audio", uri=path, excerpt=said.clip)
        parts = (media,) if said.text is None else (media, Text(text=printable(said.text)))
        meta = {name: value for name, value in said.meta.items() if value is not None}
        return Record(row=row, sample=Sample(key=key, parts=parts, meta=json_value(meta), origin=origin))

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
        assert self._manifest is not None
        for at, value in _tables.rows_from(self._manifest):
            yield at, _tables.refused(value) if isinstance(value, str) else value

    def _nemo(self) -> Iterator[_Utterance]:
        assert self._manifest is not None
        name = self._manifest.name
        for at, value in self._rows():
            if isinstance(value, DataError):
                yield _Utterance(uri=name, at=at, error=value)
                continue
            try:
                path = value.get("audio_filepath")
                if not isinstance(path, str):
                    raise DataError("bad_record", "audio_filepath: a path is wanted")
                clip = _segment(value.get("offset"), value.get("duration"))
                text = value.get("text")
                meta = {key: item for key, item in value.items() if key not in ("audio_filepath", "text")}
                yield _Utterance(
                    uri=name, at=at, path=path, clip=clip, text=None if text is None else str(text), meta=meta
                )
            except DataError as error:
                yield _Utterance(uri=name, at=at, error=error)

    def _lhotse(self) -> Iterator[_Utterance]:
        assert self._manifest is not None
        name = self._manifest.name
        for at, value in self._rows():
            try:
                if isinstance(value, DataError):
                    raise value
                yield from _cut(value, name, at, each=self._spec.supervisions)
            except DataError as error:
                yield _Utterance(uri=name, at=at, error=error)

    def _kaldi(self) -> Iterator[_Utterance]:
        recordings = dict(self._pairs("wav.scp"))
        texts, speakers, languages = (dict(self._pairs(name)) for name in ("text", "utt2spk", "utt2lang"))
        cut = "segments" in self._listed
        for at, (utterance, rest) in enumerate(self._pairs("segments" if cut else "wav.scp")):
            uri = "segments" if cut else "wav.scp"
            try:
                recording, clip = utterance, None
                if cut:
                    fields = rest.split()
                    if len(fields) not in (3, 4):
                        raise DataError("bad_record", f"{utterance}: recording, start and end are wanted, not {rest!r}")
                    recording = fields[0]
                    clip = _span(fields[1], fields[2])
                path = recordings.get(recording)
                if path is None:
                    raise DataError("no_recording", f"{utterance}: wav.scp has no {recording}")
                if path.endswith("|"):
                    raise DataError("command", f"{utterance}: {path[:100]!r} is a command, which is not run")
                meta = {"id": utterance, "speaker": speakers.get(utterance), "language": languages.get(utterance)}
                yield _Utterance(uri=uri, at=at, path=path, clip=clip, text=texts.pop(utterance, None), meta=meta)
            except DataError as error:
                texts.pop(utterance, None)
                yield _Utterance(uri=uri, at=at, error=error)
        for at, utterance in enumerate(texts):
            lost = DataError("no_recording", f"{utterance}: it has a text, but no audio")
            yield _Utterance(uri="text", at=at, error=lost)

    def _librispeech(self) -> Iterator[_Utterance]:
        for name in self._listed:
            folder = name.rpartition("/")[0]
            beside = {path.rpartition("/")[2] for path in self._fs.ls(f"{self._place}/{folder}", detail=False)}
            for at, (utterance, text) in enumerate(self._pairs(name)):
                file = next((utterance + suffix for suffix in SOUNDS if utterance + suffix in beside), None)
                if file is None:
                    error = DataError("no_recording", f"{utterance}: no audio file of that name beside {name}")
                    yield _Utterance(uri=name, at=at, error=error)
                    continue
                ids = utterance.split("-")
                told = {"speaker": ids[0], "chapter": ids[1]} if len(ids) == 3 else {}
                path = f"{self._place}/{folder}/{file}".replace("//", "/")
                yield _Utterance(uri=name, at=at, path=path, text=text, meta={"id": utterance, **told})

    def _pairs(self, name: str) -> Iterator[tuple[str, str]]:
        """First word and rest of each line of a list; nothing where there is no such list."""
        if name not in self._listed:
            return
        for line in _tables.decoded(self._fs.cat_file(f"{self._place}/{name}")).split("\n"):
            if words := line.split(None, 1):
                yield words[0], "".join(words[1:]).strip()


def _form(spec: Audio, fs: Any, place: str, folder: bool) -> Form:
    if spec.form != "auto":
        return spec.form
    if folder:
        if fs.exists(f"{place}/wav.scp"):
            return "kaldi"
        if any(name.endswith(".trans.txt") for name in fs.find(place)):
            return "librispeech"
        raise SpecError(f"source.path: {spec.path} holds neither wav.scp (Kaldi) nor *.trans.txt files (LibriSpeech)")
    names = _tables.columns(_tables.list_files(spec.path, ("jsonl",), named=("json",))[0])
    if "audio_filepath" in names:
        return "nemo"
    if "recording" in names or "supervisions" in names or "tracks" in names:
        return "lhotse"
    raise SpecError(
        f"source.form: {spec.path} has neither audio_filepath (NeMo) nor recording (Lhotse cuts) in its first lines; "
        f"they have {', '.join(names) or 'nothing'}"
    )


def _cut(value: dict[str, Any], name: str, at: int, *, each: bool) -> Iterator[_Utterance]:
    """The utterances of a cut of Lhotse's."""
    recording = value.get("recording")
    if not isinstance(recording, dict):
        raise DataError("bad_record", f"{value.get('type', 'a cut')} without a recording; only MonoCut is read")
    changes = recording.get("transforms") or []
    for transform in changes if isinstance(changes, list) else [changes]:
        called = transform.get("name") if isinstance(transform, dict) else transform
        if called != "Resample":  # that changes nothing that is heard, nor a time
            raise DataError("bad_record", f"its recording is to be changed by {str(called)[:40]!r}, which is not done")
    listed, custom = value.get("supervisions") or [], value.get("custom") or {}
    if not isinstance(listed, list) or not isinstance(custom, dict):
        raise DataError("bad_record", "supervisions are to be a list, and custom an object")
    supervisions = [item for item in listed if isinstance(item, dict)]
    supervisions.sort(key=lambda item: _number(item.get("start", 0.0), "supervision.start"))
    begin = _number(value.get("start", 0.0), "start")
    whole = begin == 0 and value.get("duration") in (None, recording.get("duration"))
    clip = None if whole else _clip(begin, value.get("duration"), "start and duration")
    common = {"id": value.get("id"), "recording": recording.get("id"), **custom}
    channels = _channels(value.get("channel"))
    if not each or not supervisions:
        path, clip = _heard(recording, channels, clip)
    if each:
        for item in supervisions:
            start = begin + _number(item.get("start", 0.0), "supervision.start")
            said = _clip(max(0.0, start), item.get("duration"), "a supervision's start and duration")
            own = _channels(item.get("channel"))
            path, clip = _heard(recording, own if own and set(own) < set(channels) else channels, said)
            yield _Utterance(
                uri=name,
                at=at,
                path=path,
                clip=clip,
                text=None if item.get("text") is None else str(item["text"]),
                meta={**common, "id": item.get("id"), "speaker": item.get("speaker"), "language": item.get("language")},
            )
        return
    texts = [str(item["text"]) for item in supervisions if item.get("text")]
    told = {key: [item.get(key) for item in supervisions if item.get(key)] for key in ("speaker", "language")}
    single = {key: found[0] if found[1:] == found[:-1] and found else found or None for key, found in told.items()}
    yield _Utterance(
        uri=name, at=at, path=path, clip=clip, text=" ".join(texts) if texts else None, meta={**common, **single}
    )


def _heard(recording: dict[str, Any], wanted: list[int], clip: Clip | None) -> tuple[str, Clip | None]:
    """The file of a recording that holds these channels, any for none, and the clip that is meant of it: of one channel
    of several these alone."""
    sources = recording.get("sources")
    listed = [source for source in sources if isinstance(source, dict)] if isinstance(sources, list) else []
    told = [(source, _channels(source.get("channels"))) for source in listed]
    holding = [(source, own) for source, own in told if not wanted or not own or set(own) & set(wanted)]
    if told and not holding:
        raise DataError("bad_record", f"none of its sources holds channel {wanted[0]}")
    if len(holding) > 1:
        raise DataError("bad_record", f"it lies in {len(holding)} files; a channel, or several of one file, are read")
    source, own = holding[0] if holding else ({}, [])
    path = source.get("source")
    if source.get("type") == "command":
        raise DataError("command", f"{str(path)[:100]!r} is a command, which is not run")
    if source.get("type") not in ("file", "url") or not isinstance(path, str):
        raise DataError("bad_record", f"a source of type {source.get('type')!r}; file and url are read")
    if not own or not wanted or set(wanted) == set(own):
        return path, clip
    if len(wanted) > 1:
        raise DataError("bad_record", f"channels {wanted} of a file of {own}: one of them or all are read")
    return path, replace(clip or Clip(start=0.0), channel=own.index(wanted[0]))


def _channels(value: Any) -> list[int]:
    """The channels that a cut, a supervision or a source names."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(channel, int) and channel >= 0 for channel in listed):
        raise DataError("bad_record", f"channel: a number from 0 is wanted, not {str(value)[:40]!r}")
    return listed


def _segment(offset: Any, seconds: Any) -> Clip | None:
    """What NeMo means: without an offset the first seconds, which most often are all that there are."""
    if offset is not None:
        return _clip(offset, seconds, "offset and duration")
    if seconds is None or (stop := _number(seconds, "duration")) <= 0:
        return None
    return Clip(start=0.0, stop=stop, claimed=True)


def _clip(start: Any, seconds: Any, what: str) -> Clip:
    begin = _number(start, what)
    if seconds is None:
        return Clip(start=begin)
    return _span(begin, begin + _number(seconds, what))


def _span(start: Any, stop: Any) -> Clip:
    clip = Clip(start=_number(start, "start"), stop=_number(stop, "end"))
    if clip.stop is not None and clip.stop < 0:  # Kaldi: to the end
        clip = Clip(start=clip.start)
    if clip.start < 0 or (clip.stop is not None and clip.stop <= clip.start):
        raise DataError("bad_clip", f"from {clip.start:g} s to {clip.stop} s")
    return clip


def _number(value: Any, what: str) -> float:
    try:
        found = float(value)
        if found - found != 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError("bad_record", f"{what}: seconds are wanted, not {str(value)[:40]!r}") from None
    return found
