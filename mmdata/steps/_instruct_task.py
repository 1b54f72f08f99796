"""What the step `instruct` is told of each task: where its answers are, and how it is asked for."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from mmdata.boxes import BoxFormat
from mmdata.spec import Model
from mmdata.steps._phrasings import ALLOWED, WANTED, WITH_BOXES, TaskName, shipped

MOST_BOXES = 20


def _task(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


def _template(value: Any) -> Any:
    return {"user": value} if isinstance(value, str) else value


class Template(Model):
    """A question and its answer."""

    user: str = Field(min_length=1)
    """The question: `{question}` of vqa, `{phrase}` of grounding and pointing, `{box}` of referring, `{phrases}` of
    detection stand for what the record says; `{{` and `}}` are braces."""
    assistant: str = "{answer}"
    """The answer around `{answer}`."""


TemplateSpec = Annotated[Template, BeforeValidator(_template, json_schema_input_type=str | Template)]
"""A template, or its question alone."""


class InstructTask(Model):
    """A task, where what it needs is found, and how it is asked for."""

    task: TaskName
    tag: str | None = Field(None, min_length=1)
    """What the trainer counts its losses under. Default: the task's name."""
    weight: float = Field(1.0, gt=0)
    """Its chance among the tasks that a record has something for."""
    templates: tuple[TemplateSpec, ...] = ()
    """Questions, or {user, assistant}. Default: those that come with the task."""
    keep_shipped: bool = False
    """Use those that come with the task besides `templates`."""
    text: str | None = Field(None, min_length=1)
    """The answer: a column (a text, or a list of which each is one; of ocr, of its lines), or the role of the texts
    that are. Default: `caption`. Boxes have none, and vqa without `question` none but its own."""
    question: str | None = None
    """Of vqa: the column of the question, or of the list of questions for the answers in column `text`. Default: the
    record's own texts of user and assistant."""
    max_boxes: int | None = Field(None, ge=1)
    """Of grounding, pointing and detection: most boxes of an answer; a phrase, or a picture, with more is not asked
    about. Default: 20."""

    @model_validator(mode="after")
    def _fits(self) -> InstructTask:
        fits = {
            "question": self.task == "vqa",
            "text": self.task not in WITH_BOXES and (self.task != "vqa" or self.question is not None),
            "max_boxes": self.task in ("grounding", "pointing", "detection"),
        }
        if wrong := [name for name, fit in fits.items() if not fit and getattr(self, name) is not None]:
            raise ValueError(f"task {self.task} has no `{wrong[0]}`")
        if self.question is not None and self.text is None:
            raise ValueError("task vqa with `question` needs `text`, the column of its answers")
        if self.keep_shipped and not self.templates:
            raise ValueError("keep_shipped: there are no `templates` to keep them besides")
        for template in self.templates:
            _check(template.user, ALLOWED.get(self.task, ()), WANTED.get(self.task, ()))
            _check(template.assistant, ("answer",), ("answer",))
        return self

    @property
    def answers(self) -> str:
        """The column, or role, of its answers."""
        return self.text or "caption"

    @property
    def most(self) -> int:
        """Boxes of an answer."""
        return self.max_boxes or MOST_BOXES

    @property
    def name(self) -> str:
        """What it is counted under."""
        return self.tag or self.task

    def phrasings(self, format: BoxFormat | None) -> tuple[Template, ...]:
        """What is drawn from."""
        own = () if self.templates and not self.keep_shipped else _shipped(self.task, format)
        return (*self.templates, *own)


@cache
def _shipped(task: TaskName, format: BoxFormat | None) -> tuple[Template, ...]:
    return tuple(Template(user=user) for user in shipped(task, format))


TaskSpec = Annotated[InstructTask, BeforeValidator(_task, json_schema_input_type=TaskName | InstructTask)]
"""A task, or its name alone."""


def _check(text: str, allowed: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError for a template that names what there is not, or not what it must."""
    try:
        parsed = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise ValueError(f"template {text!r}: {error}; a brace is written twice, as {{{{") from None
    fields = [name for name, _, _ in parsed if name is not None]
    if any(spec or conversion for _, spec, conversion in parsed):
        raise ValueError(f"template {text!r}: only plain fields, as {{answer}}")
    if unknown := [name for name in fields if name not in allowed]:
        known = ", ".join(f"{{{name}}}" for name in allowed) or "none"
        raise ValueError(f"template {text!r}: nothing is called {{{unknown[0]}}} here; known: {known}")
    if missing := [name for name in wanted if name not in fields]:
        raise ValueError(f"template {text!r}: it must hold {{{missing[0]}}}")
