"""Conversations as people write them down (LLaVA, ShareGPT, OpenAI messages), read into parts with their roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdata.errors import DataError
from mmdata.sources._paths import inline
from mmdata.types import Media, MediaKind, Text

KEYS = ("messages", "conversations", "conversation")
"""Where a line keeps its conversation: the first of these that it has."""
MEDIA_KEYS: dict[str, MediaKind] = {
    "image": "image",
    "images": "image",
    "video": "video",
    "videos": "video",
    "audio": "audio",
    "audios": "audio",
}
"""Where it lists the media that tags in its texts stand for."""

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    **{name: name for name in ("caption", "document", "chosen", "rejected")},  # which `mmdata.export` writes
}
_BARE = ("caption", "document")
"""Roles of texts that nobody says to anybody; media beside them have none."""
_APART = ("tool", *_BARE)
"""Roles of which each text is one of its own: answers to calls, alternative captions, what stands between pictures."""
_TAGS = re.compile(r"\n?<(image|video|audio)>\n?")
_PLACES = (
    "path",
    "url",
    "uri",
    "image",
    "video",
    "audio",
    "image_url",
    "video_url",
    "audio_url",
    "input_audio",
    "file",
)


@dataclass(frozen=True, slots=True, eq=False)
class _Medium:
    """A medium as a line has it: with a place or bytes of its own, or only the `name` of an earlier one."""

    kind: MediaKind
    uri: str | None = None
    data: bytes | None = None
    name: str | None = None
    role: str = "user"
    train: bool = True

    @property
    def refers(self) -> bool:
        return self.uri is None and self.data is None


def find(value: Mapping[str, Any], key: str | None = None) -> list[Any] | None:
    """The conversation of a line, under `key` or where such lines have it."""
    found = (value.get(name) for name in ((key,) if key else KEYS))
    return next((item for item in found if isinstance(item, list)), None)


def opened(value: Mapping[str, Any], key: str | None = None) -> Mapping[str, Any]:
    """The line with its conversation as a list, where it is JSON of one in a text, or an object of lists; else the line
    as it is. Raises DataError `bad_record` for what is neither.

    >>> opened({"conversation": '[{"role": "user", "content": "Hi"}]'})
    {'conversation': [{'role': 'user', 'content': 'Hi'}]}
    """
    if find(value, key) is not None:
        return value
    for name in (key,) if key else KEYS:
        given = value.get(name)
        # A text that is no JSON may be what a conversation is called, unless somebody says that it is one.
        if isinstance(given, dict) or (isinstance(given, str) and (key or given.lstrip()[:1] in ("[", "{"))):
            found = listed(given)
            if found is not None:
                from mmdata.sources._tables import json_value  # few lines have it so

                try:
                    return {**value, name: json_value(found)}
                except ValueError as error:
                    raise DataError("bad_record", f"its conversation: {error}") from error
    return value


def listed(value: Any) -> list[Any] | None:
    """The messages of a conversation: a list of them, JSON of one, `datasets`' struct of lists, or The Cauldron's
    turns; None where there is none. Raises DataError `bad_record`.

    >>> listed({"from": ["human", "gpt"], "value": ["Hi", "Ho"]})
    [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Ho'}]
    >>> listed([{"user": "Hi", "assistant": "Ho", "source": "x"}])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho'}]
    """
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError("bad_record", f"its conversation is no JSON: {error}") from error
    if isinstance(value, dict):
        columns = {name: of for name, of in value.items() if isinstance(of, list)}
        if len({len(of) for of in columns.values()}) != 1:
            raise DataError("bad_record", "its conversation is neither a list nor lists of one length")
        value = [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        return None
    read: list[Any] = []
    for message in value:
        if isinstance(message, dict) and "user" in message and "assistant" in message:
            read += [{"role": role, "content": message[role]} for role in ("user", "assistant") if message[role]]
        else:
            read.append(message)
    return read


def is_talk(value: Any) -> bool:
    """Whether a value is a list of messages, and not one of anything else.

    >>> is_talk([{"from": "human", "value": "Hi"}]), is_talk([{"bbox": [0, 0, 1, 1]}]), is_talk([])
    (True, False, False)
    """
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, dict) and ("from" in item or "role" in item or {"user", "assistant"} <= item.keys())
            for item in value
        )
    )


def parts(
    value: Mapping[str, Any], conversation: Sequence[Any], keys: Mapping[str, MediaKind] = MEDIA_KEYS
) -> tuple[Text | Media, ...]:
    """The texts and media of a conversation in their order; `uri` of a medium is as the line has it.

    `{"from": "human", "value": "<image>\\nWhat?"}` and `{"role": "user", "content": ...}` are read alike; a content is
    a text or a list of parts (`text`, `image`, `image_url`, `input_audio`, ...). In a text, `<image>`, `<video>` and
    `<audio>` stand for the media of that kind that the line lists under `keys`, in order; if its texts have no tag of
    the kind, they all come before the first question; if it lists none of the kind, the tag is text. A part with the
    `id` of an earlier medium and no place of its own refers to it: it becomes that one's name ("Image 1"), and then
    each medium is introduced by its name. A text of null says nothing. `train: false`, `loss: false` and `weight: 0`
    keep a message out of the loss. Calls of tools become `<tool_call>` texts, reasoning a `<think>` text; messages of
    one role that follow each other are told apart by a blank line (answers of tools are messages of their own).

    Raises DataError `bad_record` for a role nobody knows, another number of tags than of media, a medium without a
    place, a reference to nothing.

    >>> line = {"image": "a.jpg"}
    >>> talk = [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "A fox."}]
    >>> [getattr(part, "text", part.kind if isinstance(part, Media) else "") for part in parts(line, talk)]
    ['image', 'What?', 'A fox.']
    """
    listed: dict[MediaKind, list[Any]] = {}
    for key, kind in keys.items():
        if (given := value.get(key)) is not None:
            listed.setdefault(kind, []).extend(given if isinstance(given, list) else [given])
    read: list[Text | _Medium] = []
    for message in conversation:
        said = list(_message(message, listed))
        if said and read and said[0].role == read[-1].role not in _APART and isinstance(said[0], Text):
            said[0] = replace(said[0], text="\n\n" + said[0].text)
        read += said
    if not any(isinstance(item, Text) for item in read):
        raise DataError("bad_record", "a conversation without text")
    sender = "user" if any(item.role not in _BARE for item in read) else read[0].role
    left = [_medium(kind, place, sender, True) for kind, places in listed.items() for place in places]
    tagged = {item.kind for item in read if isinstance(item, _Medium) and not item.refers}
    if wrong := sorted({medium.kind for medium in left} & tagged):
        raise DataError("bad_record", f"the line lists more {wrong[0]}s than its texts have places (<{wrong[0]}>) for")
    first = next((at for at, item in enumerate(read) if item.role == "user"), 0)
    return tuple(_joined(_named([*read[:first], *left, *read[first:]])))


def _message(message: Any, listed: dict[MediaKind, list[Any]]) -> Iterator[Text | _Medium]:
    if not isinstance(message, dict):
        raise DataError("bad_record", f"a message is an object, not a {type(message).__name__}")
    said = message.get("from", message.get("role"))
    role = _ROLES.get(str(said).lower())
    if role is None:
        raise DataError("bad_record", f"a message from {said!r}; known are {', '.join(_ROLES)}")
    train = not any(message.get(key, True) in (False, 0) for key in ("train", "loss", "weight"))
    content = message.get("value", message.get("content"))
    if thought := message.get("reasoning_content"):
        yield Text(text=f"<think>\n{_words(thought)}\n</think>\n\n", role=role, train=train)
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield from _text(part, role, train, listed)
        elif isinstance(part, dict) and part.get("type", "text") in ("text", "input_text", "output_text"):
            if part.get("text") is not None:
                yield Text(text=_words(part["text"]), role=role, train=train)
        elif isinstance(part, dict):
            yield _part(part, role, train, listed)
        elif part is not None:
            raise DataError("bad_record", f"a part of a message is a text or an object, not a {type(part).__name__}")
    calls = message.get("tool_calls") or []
    for at, call in enumerate(calls if isinstance(calls, list) else [calls]):
        yield Text(text="\n" * bool(at or content) + _call(call), role=role, train=train)


def _words(text: Any) -> str:
    if isinstance(text, dict | list):
        raise DataError("bad_record", f"a text of a message is a text, not a {type(text).__name__}")
    return str(text)


def _text(text: str, role: str, train: bool, listed: dict[MediaKind, list[Any]]) -> Iterator[Text | _Medium]:
    at = 0
    for tag in _TAGS.finditer(text):
        kind: Any = tag[1]
        if kind not in listed:
            continue
        if text[at : tag.start()]:
            yield Text(text=text[at : tag.start()], role=role, train=train)
        yield _medium(kind, _next(listed, kind), role, train)
        at = tag.end()
    if text[at:] or not text:
        yield Text(text=text[at:], role=role, train=train)


def _part(part: dict[str, Any], role: str, train: bool, listed: dict[MediaKind, list[Any]]) -> _Medium:
    kind = MEDIA_KEYS.get(str(part.get("type")).removeprefix("input_").removesuffix("_url"))
    if kind is None:
        raise DataError("bad_record", f"a part of type {part.get('type')!r}")
    medium = _medium(kind, part, role, train)
    if medium.refers and medium.name is None:
        return _medium(kind, _next(listed, kind), role, train)
    if medium.refers:  # the line may list it under that id
        own = next((item for item in listed.get(kind, []) if _unwrapped(item)[0] == medium.name), None)
        if own is not None:
            listed[kind].remove(own)
            return _medium(kind, own, role, train)
    return medium


def _next(listed: dict[MediaKind, list[Any]], kind: MediaKind) -> Any:
    if not listed.get(kind):
        raise DataError("bad_record", f"the texts have places (<{kind}>) for more {kind}s than the line lists")
    return listed[kind].pop(0)


def _medium(kind: MediaKind, given: Any, role: str, train: bool) -> _Medium:
    """A medium from a path, a URL, a `data:` URL, or an object that holds one of them, perhaps with an `id`."""
    name, given = _unwrapped(given)
    if given is not None and not isinstance(given, str):
        raise DataError("bad_record", f"the place of a medium is a text, not a {type(given).__name__}")
    if not (given or "").startswith("data:"):
        return _Medium(kind, given or None, None, name, role, train)
    try:
        return _Medium(kind, None, inline(str(given)), name, role, train)
    except DataError as error:
        raise DataError("bad_record", error.detail) from error


def _unwrapped(given: Any) -> tuple[str | None, Any]:
    """The id of a medium, if it has one, and its place, however deep in objects they lie."""
    name = None
    while isinstance(given, dict):
        name = str(given["id"]) if given.get("id") is not None else name
        if isinstance(given.get("data"), str):  # OpenAI's audio: bytes without the head of a URL
            given = f"data:;base64,{given['data']}"
        else:
            given = next((given[key] for key in _PLACES if given.get(key)), None)
    return name, given


def _call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise DataError("bad_record", "a tool call without a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            pass  # as it is, then
    said = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def _named(read: list[Text | _Medium]) -> Iterator[Text | Media]:
    """Media by their names where something refers to one: "Image 1: " before it, "Image 1" for it."""
    refers = any(isinstance(item, _Medium) and item.refers for item in read)
    counts: dict[str, int] = {}
    names: dict[str | None, str] = {}
    for item in read:
        if isinstance(item, Text):
            yield item
        elif not item.refers:
            counts[item.kind] = counts.get(item.kind, 0) + 1
            name = f"{item.kind.capitalize()} {counts[item.kind]}"
            if item.name is not None and item.name in names:
                raise DataError("bad_record", f"two media with the id {item.name!r}")
            names[item.name] = name
            if refers:
                yield Text(text=f"{name}: ", role=item.role, train=item.train)
            yield Media(kind=item.kind, uri=item.uri, data=item.data, role=None if item.role in _BARE else item.role)
        elif item.name in names:
            yield Text(text=names[item.name], role=item.role, train=item.train)
        elif item.name is None:
            raise DataError("bad_record", f"{item.kind}: its place is empty; a path, a URL or a data: URL is wanted")
        else:
            raise DataError("bad_record", f"a reference to {item.name!r}, the id of no medium before it")


def _joined(read: Iterator[Text | Media]) -> list[Text | Media]:
    """One text for what was said in one breath."""
    result: list[Text | Media] = []
    for item in read:
        last = result[-1] if result else None
        if (
            isinstance(item, Text)
            and isinstance(last, Text)
            and (item.role, item.train) == (last.role, last.train)
            and item.role not in _APART
        ):
            result[-1] = replace(last, text=last.text + item.text)
        else:
            result.append(item)
    return result
