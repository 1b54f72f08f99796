"""Folders that Energon has prepared: which shards a split has, and which member of a sample is what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdata.errors import DataError, SpecError
from mmdata.sources import _messages
from mmdata.types import Media, MediaKind, Text

MEDIA: dict[str, MediaKind] = {
    "image": "image",
    "images": "image",
    "video": "video",
    "videos": "video",
    "audio": "audio",
}
ROLES = {
    "caption": "caption",
    "text": "caption",
    "label_name": "caption",
    "context": "user",
    "question": "user",
    "answer": "assistant",
    "answers": "assistant",
}
"""Fields of Energon's sample types that are texts, in the order of their tokens."""
CHOICES, CHOSEN, WEIGHTS = "choices", "correct_choice_idx", "answer_weights"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_ACCESS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")


@dataclass(frozen=True, slots=True)
class FieldMap:
    """`field_map` of a `dataset.yaml`: by field of the sample the places where its value may be, the first that is
    there; a place is a member and the keys into its JSON (`json[caption]`)."""

    fields: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    def parts(self, members: Mapping[str, bytes | None]) -> list[Media | Text]:
        """The parts of a sample in the order of tokens; a medium's `uri` is the extension of its member. Raises
        DataError `missing_field` where a field has no value, `bad_record` where it is none."""
        values = {name: self._value(name, places, members) for name, places in self.fields}
        kinds = {name: MEDIA[name] for name in values if name in MEDIA}
        media = [Media(kind=kind, uri=uri, data=members[uri]) for name, kind in kinds.items() for uri in values[name]]
        texts = [Text(text=_text(name, values), role=ROLES[name]) for name in ROLES if name in values]
        if CHOICES in values:
            texts.append(Text(text=_chosen(values), role="assistant"))
        texts = [text for text in texts if text.text]
        if all(text.role == "caption" for text in texts):
            if not media and not texts:
                raise DataError("no_parts", "no medium and no text in the fields of its dataset.yaml")
            return [*media, *texts]
        talk = [{"role": text.role.replace("caption", "user"), "content": text.text} for text in texts]
        named = {name: list(values[name]) for name in kinds}
        return [
            Media(kind=part.kind, uri=part.uri, data=members[part.uri], role=part.role)
            if isinstance(part, Media) and part.uri is not None
            else part
            for part in _messages.parts(named, talk, kinds)
        ]

    def _value(self, name: str, places: tuple[tuple[str, ...], ...], members: Mapping[str, bytes | None]) -> Any:
        for place in places:
            if place[0] not in members:
                continue
            if name in MEDIA:
                return [place[0]]
            value = _decoded(place[0], members[place[0]] or b"")
            try:
                for key in place[1:]:
                    value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError, ValueError, TypeError):
                continue
            return value
        if name == WEIGHTS:
            return None
        listed = ", ".join(place[0] + "".join(f"[{key}]" for key in place[1:]) for place in places)
        raise DataError("missing_field", f"{name}: {listed} is not among {', '.join(members)}")


def field_map(folder: Path) -> FieldMap | None:
    """What `.nv-meta/dataset.yaml` says plainly of members; None where there is no such file, or where it leaves the
    matter to a program of its own, which is never run: then members are told by their extensions.

    Raises SpecError for a file that is damaged, or maps no field that is known.
    """
    import yaml  # when a folder is there to be told of: most tars have none

    path = folder / ".nv-meta" / "dataset.yaml"
    try:
        value = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: {error}") from error
    mapped = value.get("field_map") if isinstance(value, dict) else None
    if mapped is None:
        if isinstance(value, dict) and value.get("sample_loader"):
            import logging  # as rarely

            log = logging.getLogger(__name__)
            log.warning("%s: its sample_loader is not run; members are told by their extensions", path)
        return None
    if not isinstance(mapped, dict) or not all(isinstance(item, str) for pair in mapped.items() for item in pair):
        raise SpecError(f"{path}: field_map maps names of fields to names of members, as {{image: jpg, caption: txt}}")
    known = {*MEDIA, *ROLES, CHOICES, CHOSEN, WEIGHTS}
    found = tuple((name, tuple(_places(path, said))) for name, said in mapped.items() if name in known)
    if not any(name in MEDIA or name in ROLES or name == CHOICES for name, _ in found):
        raise SpecError(
            f"{path}: none of {', '.join(mapped)} is a field that can be adopted: {', '.join(sorted(known))}; "
            "name the tars instead of the folder, then members are told by their extensions"
        )
    return FieldMap(found)


def split_shards(folder: Path, split: str) -> Iterator[tuple[str, frozenset[int]]]:
    """The shards of a split as Energon's `prepare` wrote it down in `.nv-meta/split.yaml`, with the numbers of the
    samples in each that it excludes."""
    import yaml

    path = folder / ".nv-meta" / "split.yaml"
    try:
        value = yaml.safe_load(path.read_text())
        parts, excludes = value["split_parts"], value.get("exclude") or []
        shards = [name for pattern in parts[split] or () for name in braces(pattern)]
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; prepare the folder, or name its tars") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: no split {split!r} in it ({error})") from error
    without: dict[str, set[int]] = {}
    for name in (name for pattern in excludes for name in braces(pattern)):
        shard, slash, number = name.rpartition("/")
        if slash and number.isdigit() and not name.endswith(".tar"):
            without.setdefault(shard, set()).add(int(number))
        else:
            without[name] = {-1}
    for shard in shards:
        if -1 not in without.get(shard, ()):
            yield str(folder / shard), frozenset(without.get(shard, ()))


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as shells and webdataset expand it.

    >>> braces("a-{000..002}.tar"), braces("{x,y}/{1..2}")
    (['a-000.tar', 'a-001.tar', 'a-002.tar'], ['x/1', 'x/2', 'y/1', 'y/2'])
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    if span := _RANGE.fullmatch(found[1]):
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        options = [f"{number:0{len(span[1])}d}" for number in range(first, last + step, step)]
    else:
        options = found[1].split(",")
    return [name for option in options for name in braces(pattern[: found.start()] + option + pattern[found.end() :])]


def _places(path: Path, said: str) -> Iterator[tuple[str, ...]]:
    """`jpg,png` is one or the other, `json[a][0]` a value inside."""
    for option in said.split(","):
        read = _ACCESS.fullmatch(option.strip())
        if read is None:
            raise SpecError(f"{path}: field_map: {said!r} is no member, nor a place in one as json[caption]")
        yield read[1].lower(), *re.findall(r"\[([^\[\]]+)\]", read[2])


def _decoded(member: str, data: bytes) -> Any:
    if member.rpartition(".")[2] in ("json", "jsn"):
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError("bad_record", f"{member}: {error}") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError("text_not_utf8", f"{member}: {error}") from error


def _text(name: str, values: Mapping[str, Any]) -> str:
    """The text of a field; of several answers the one of most weight, else the first."""
    value = values[name]
    if isinstance(value, list) and value and name == "answers":
        weights = values.get(WEIGHTS)
        if not isinstance(weights, list) or len(weights) != len(value):
            weights = [0.0] * len(value)
        value = value[weights.index(max(weights))]
    if not isinstance(value, str | int | float):
        raise DataError("bad_record", f"{name}: a {type(value).__name__}, not a text")
    return str(value)


def _chosen(values: Mapping[str, Any]) -> str:
    choices, at = values[CHOICES], values.get(CHOSEN)
    at = int(at) if isinstance(at, str) and at.strip().isdigit() else at
    if not isinstance(choices, list) or not isinstance(at, int) or not 0 <= at < len(choices):
        raise DataError("bad_record", f"{CHOICES}: no choice {at!r}")
    if not isinstance(choices[at], str | int | float):
        raise DataError("bad_record", f"{CHOICES}: choice {at} is a {type(choices[at]).__name__}, not a text")
    return str(choices[at])
