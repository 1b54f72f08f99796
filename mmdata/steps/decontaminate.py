"""Drop samples that overlap with an evaluation set, in text or pictures, exactly or nearly."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mmdata.errors import DataError, SpecError
from mmdata.hamming import HammingIndex
from mmdata.registry import register
from mmdata.spec import InputPath, StepSpec
from mmdata.steps._minhash import words
from mmdata.steps._texts import Roles, chosen
from mmdata.steps.near_dup import PREVIEW, phash
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

TEXTS = (".txt", ".jsonl", ".json")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@register("step", "decontaminate")
class Decontaminate(StepSpec):
    """Drop samples that hold something of an evaluation set: a picture with the same bytes or one that looks alike
    (`decontaminate_image`), or a text with a run of words that stands in one of its texts, the rule of GPT-3 (Brown et
    al. 2020, appendix C) (`decontaminate_text`). Words are compared in any case and without punctuation. An evaluation
    text of fewer words than a run must be found whole. The detail names the file of the evaluation set.

    Each worker holds the set's runs of words: about 100 bytes for each word of it.
    """

    needs_preview: ClassVar[bool] = True
    kind: Literal["decontaminate"] = "decontaminate"
    against: InputPath
    """A file or folder (with all below it): `.txt` (a text a line), `.jsonl` and `.json` (every text in their
    values), and pictures. Other files of a folder are left out."""
    ngram: int = Field(13, ge=1)
    """Words of a run. Longer runs find less by chance; 8 to 13 are usual."""
    min_words: int = Field(4, ge=1)
    """Evaluation texts of fewer words are left out: `yes` would be found everywhere."""
    min_share: float = Field(0.0, ge=0, le=1)
    """Least share of an evaluation text's runs that must be found. 0: any one."""
    radius: int = Field(6, ge=-1, le=16)
    """Greatest number of differing bits at which pictures look alike (see `near_dup`); -1: only equal bytes count."""
    roles: Roles = ()
    """The texts of a sample that are compared, by role. Default: all."""
    digest: str | None = None
    """SHA-256 over the evaluation set's names and bytes. Filled in: a build is bound to it."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        found = _digest(self.against)
        if self.digest not in (None, found):
            raise ValueError(f"digest: {self.against} has {found}, not {self.digest}")
        object.__setattr__(self, "digest", found)
        return self

    def prepare(self) -> None:
        self._held()

    def _held(self) -> _Held:
        return _held(self.against, self.digest or "", self.ngram, self.min_words, self.radius)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        held = self._held()
        for media in sample.media:
            if media.kind == "image" and (found := held.picture(media, work, self.radius)) is not None:
                return Drop(reason="decontaminate_image", detail=found)
        for text in chosen(sample, self.roles):
            if (found := held.text(text, self.min_share)) is not None:
                return Drop(reason="decontaminate_text", detail=found)
        return sample


class _Held(NamedTuple):
    """The evaluation set: `runs` of words by their length, each with the texts (by number) that it stands in; the
    number of distinct runs of each text and its name; pictures by digest and by hash."""

    runs: dict[int, dict[bytes, tuple[int, ...]]]
    sizes: list[int]
    names: list[str]
    digests: dict[bytes, str]
    hashes: HammingIndex
    pictures: list[str]

    def text(self, text: str, min_share: float) -> str | None:
        """Which evaluation text this one holds."""
        found = words(text)
        hits: dict[int, int] = {}
        for length, runs in self.runs.items():
            for run in {_run(found, at, length) for at in range(len(found) - length + 1)}:
                for number in runs.get(run, ()):
                    hits[number] = hits.get(number, 0) + 1
        for number in sorted(hits):
            if hits[number] >= min_share * self.sizes[number]:
                return f"{hits[number]} of {self.sizes[number]} runs of {self.names[number]}"
        return None

    def picture(self, media: Media, work: Work, radius: int) -> str | None:
        """Which picture of the evaluation set this one is."""
        digest = bytes.fromhex(media.sha256) if media.sha256 else hashlib.sha256(media.data or b"").digest()
        if digest in self.digests:
            return f"same bytes as {self.digests[digest]}"
        if radius < 0 or not self.pictures:
            return None
        hashed = phash(work.preview(media, PREVIEW))
        near = None if hashed is None else self.hashes.nearest(hashed)
        return None if near is None else f"distance {near[0]} from {self.pictures[near[1]]}"


@lru_cache(maxsize=2)
def _held(path: str, digest: str, ngram: int, min_words: int, radius: int) -> _Held:
    from mmdata.decode.work import Work

    held = _Held({}, [], [], {}, HammingIndex(radius=max(radius, 0)), [])
    work = Work()
    for name, file in _files(path):
        data = file.read_bytes()
        if file.suffix.lower() in PICTURES:
            held.digests.setdefault(hashlib.sha256(data).digest(), name)
            if radius >= 0:
                try:
                    hashed = phash(work.preview(Media(kind="image", data=data), PREVIEW))
                except DataError as error:  # of the evaluation set, and not of the record at hand
                    remedy = "repair it, take it out, or compare bytes (radius: -1)"
                    raise SpecError(f"decontaminate: against: {file}: {error}; {remedy}") from error
                if hashed is not None:
                    held.hashes.add(hashed, len(held.pictures))
                    held.pictures.append(name)
            work.clear()
            continue
        for line, text in enumerate(_texts_of(name, file, data), start=1):
            found = words(text)
            if len(found) < min_words:
                continue
            length = min(ngram, len(found))
            distinct = {_run(found, at, length) for at in range(len(found) - length + 1)}
            runs = held.runs.setdefault(length, {})
            for run in distinct:
                runs[run] = (*runs.get(run, ()), len(held.names))
            held.sizes.append(len(distinct))
            held.names.append(f"{name} text {line}")
    return held


def _run(found: list[str], at: int, length: int) -> bytes:
    return hashlib.blake2b(" ".join(found[at : at + length]).encode(), digest_size=12).digest()


def _texts_of(name: str, file: Path, data: bytes) -> list[str]:
    try:
        whole = data.decode("utf-8-sig")
        if file.suffix.lower() == ".txt":
            return whole.splitlines()
        if file.suffix.lower() == ".json":
            return _strings(json.loads(whole))
        lines = whole.split("\n")  # Strings of JSON may hold what Python takes for the end of a line (U+2028).
        return [text for line in lines if line.strip() for text in _strings(json.loads(line))]
    except (ValueError, RecursionError) as error:
        raise DataError("decontaminate_list", f"{name}: {error}") from error


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _strings(item)]


def _files(path: str) -> list[tuple[str, Path]]:
    root = Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return [
        (str(file.relative_to(root)) if root.is_dir() else file.name, file)
        for file in files
        if file.suffix.lower() in TEXTS + PICTURES
    ]


def _digest(path: str) -> str:
    """Raises ValueError for a set that holds nothing, or cannot be read."""
    files = _files(path)
    if not files:
        raise ValueError(f"against: {path}: no {', '.join(TEXTS)} or picture in it")
    whole = hashlib.sha256()
    for name, file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(f"against: {file}: {error.strerror}") from error
        if file.suffix.lower() in TEXTS:
            try:
                _texts_of(name, file, data)
            except DataError as error:
                raise ValueError(f"against: {error.detail}") from error
        whole.update(f"{name}\0{len(data)}\0".encode())
        whole.update(data)
    return whole.hexdigest()
