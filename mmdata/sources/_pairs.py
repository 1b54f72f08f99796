"""Two answers to one prompt as people write them down (TRL, LLaMA-Factory, RLAIF-V), read into one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.errors import DataError
from mmdata.sources import _messages
from mmdata.types import Text


def read(
    value: Mapping[str, Any], chosen: str, rejected: str, *, text: str, messages: str | None = None
) -> tuple[list[Any], tuple[Text, Text]]:
    """The messages of the prompt, and the two answers, of a line.

    An answer is a text, a message, or a list of messages of which the last one is the answer; where a list has more, it
    is a whole conversation, and both have the same prompt. Else the prompt is the line's conversation (under
    `messages`, or where such lines have it), or what stands under `text` or `prompt`.

    Raises DataError `bad_record` for what is none of this, `pair_same` for two equal answers.

    >>> line = {"question": "2 + 2?", "chosen": "4", "rejected": "5"}
    >>> read(line, "chosen", "rejected", text="question")[0]
    [{'role': 'user', 'content': '2 + 2?'}]
    """
    whole: list[list[Any]] = []
    answers = []
    for role, name in (("chosen", chosen), ("rejected", rejected)):
        said = value[name]
        if isinstance(said, list):
            if not said:
                raise DataError("bad_record", f"{name}: an empty list")
            whole.append(said[:-1])
            said = said[-1]
        answers.append(Text(text=_said(said, name), role=role))
    if answers[0].text == answers[1].text:
        raise DataError("pair_same", f"{chosen} and {rejected} are the same text")
    if any(whole):
        if len(whole) != 2 or whole[0] != whole[1]:
            raise DataError("bad_record", f"{chosen} and {rejected} are conversations with different prompts")
        return whole[0], (answers[0], answers[1])
    return _prompt(value, text, messages), (answers[0], answers[1])


def _prompt(value: Mapping[str, Any], text: str, messages: str | None) -> list[Any]:
    found = _messages.find(value, messages)
    if found is not None:
        return found
    for name in (text, "prompt"):
        said = value.get(name)
        if isinstance(said, list):
            return said
        if isinstance(said, str | int | float):
            return [{"role": "user", "content": str(said)}]
    raise DataError("bad_record", f"no prompt: neither a conversation nor a text under {text!r}")


def _said(said: Any, name: str) -> str:
    """The text of an answer. Raises DataError for a message of another than the assistant, and for media in it."""
    if isinstance(said, dict):
        parts = _messages.parts({}, [said], {})
        if any(not isinstance(part, Text) or part.role != "assistant" for part in parts):
            raise DataError("bad_record", f"{name}: an answer is a text of the assistant")
        said = "".join(part.text for part in parts if isinstance(part, Text))
    if not isinstance(said, str) or not said.strip():
        raise DataError("bad_record", f"{name}: an answer is a text, not {said!r:.100}")
    return said
