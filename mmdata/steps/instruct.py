"""Make conversations of what records say of their media: captions, answers, texts, boxes and transcripts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mmdata.boxes import BoxFormat, format_answer, format_boxes, format_objects, format_phrase, moves_with_size
from mmdata.boxes.points import centre, format_points
from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.rng import generator
from mmdata.spec import Model, StepSpec
from mmdata.steps import _boxes, _negatives
from mmdata.steps._boxes import Box, Size
from mmdata.steps._columns import with_columns
from mmdata.steps._instruct_task import InstructTask, TaskSpec
from mmdata.steps._negatives import Negative, Negatives, Scene
from mmdata.steps._phrasings import MEDIA, SEPARATORS, WITH_BOXES
from mmdata.templates import Message, messages
from mmdata.types import Drop, Media, Sample, Text

if TYPE_CHECKING:
    import numpy as np

    from mmdata.decode.work import Work

MARKUP = frozenset("<>[]{}\n\r\t")
"""What a phrase must not hold: formats would read it as their own."""


class SeenSize(Model):
    """How large the model sees a picture: `smart_resize` of Qwen2.5-VL's processor, as its family is set up."""

    min_pixels: int = Field(56 * 56, ge=1)
    max_pixels: int = Field(14 * 14 * 4 * 16384, ge=1)
    factor: int = Field(28, ge=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What may be asked of a record: values of the question's fields, and the answer."""

    answer: str
    values: dict[str, str]
    about: frozenset[tuple[str, Box]] = frozenset()
    """The boxes that it tells: nothing else is asked about them in the same conversation, for it would be known."""
    reference: str | None = None
    """What the answer is measured by, where that is other than the answer: of a point its box."""
    negative: Negative | None = None


OF_NEGATIVES: dict[Negative, tuple[str, ...]] = {
    "hard": ("grounding", "pointing"),
    "random": ("grounding", "pointing"),
    "background": ("referring",),
}
"""The tasks that can ask for what is not there."""


class _Nothing(Exception):
    """Why a task has nothing to ask of a record: a reason and what was seen."""


@register("step", "instruct")
class Instruct(StepSpec):
    """Replace the texts of a record by a conversation about its media. A task is drawn among those that the record has
    something for, then what is asked (one of its captions, questions, phrases or boxes), then a phrasing: by the seed
    and the record's key, so the same whatever the workers, their order and the other records.

    The media come first, in their order; questions are the user's and not trained, answers the assistant's and trained;
    system texts stay. The column `task` says what the trainer counts the record's losses under, `instruct` which
    phrasing each turn has (`caption/3`; `grounding/1/hard` of one about what is not there). Of a first question that
    wants a point, `answers` is the box that it has to lie in, for evaluation.

    Boxes are read from the columns `boxes` and `labels` (what the source `coco` and the step `boxes` write), in pixels
    of the picture as it is here: steps that resize move them, and stand before this one. A record that no task has
    something for is dropped: `instruct_no_medium`, `instruct_no_column`, `instruct_empty`, `instruct_picture` (boxes,
    and not one picture), `instruct_bad_box` (no four numbers, or no label), `instruct_no_box` (none with an area in
    the picture and a name), `instruct_many_boxes`; of several tasks it is the first one's reason.
    """

    kind: Literal["instruct"] = "instruct"
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    """What may be asked: names of tasks, or objects."""
    turns: int = Field(1, ge=1, le=64)
    """Most questions of a conversation, none of them twice, and none about a box that an earlier one told."""
    coordinates: BoxFormat | None = None
    """How boxes are written, by the family of models: `qwen2_vl`, `qwen2_5_vl`, `qwen3_vl`, `internvl`, `paligemma`,
    `florence2`, `kosmos2`, `shikra`, `llava`, `qwen_vl`. It also says which phrasings are shipped."""
    seen: SeenSize | None = None
    """Of `qwen2_5_vl`, whose boxes are pixels of the picture as the model sees it. Default: the published limits."""
    crowds: Literal["leave_out", "keep"] = "leave_out"
    """What is done with labels of which a box is around a crowd (column `crowds`): nobody counted what is in it."""
    negatives: Negatives | None = None
    """Questions about what is not there, in stated ratios: phrases of grounding and pointing, boxes of referring."""
    place: Literal["before", "after"] = "before"
    """Where the media stand: before or after the first question."""
    system: str | None = None
    """A system text to begin with, in place of the record's own."""
    otherwise: Literal["drop", "keep"] = "drop"
    """What becomes of a record that no task has something for. `keep`: it stays as it is."""
    seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> Instruct:
        if self.writes_points and self.coordinates is None:
            raise ValueError("tasks with boxes need `coordinates`, the format of the model's family")
        if self.seen is not None and (self.coordinates is None or not moves_with_size(self.coordinates)):
            raise ValueError(f"seen: boxes of {self.coordinates} do not depend on how large a picture is seen")
        for kind, ratio in {} if self.negatives is None else self.negatives.ratios.items():
            if ratio and not self._asking(kind):
                raise ValueError(f"negatives: {kind} needs a task {' or '.join(OF_NEGATIVES[kind])}; set it to 0")
        return self

    @property
    def writes_points(self) -> bool:
        """Whether texts will hold coordinates, which no later step moves."""
        return any(task.task in WITH_BOXES for task in self.tasks)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        offered: list[list[_Turn]] = []
        reasons: list[tuple[str, str]] = []
        for task in self.tasks:
            try:
                offered.append(self._offered(task, sample, work))
            except _Nothing as nothing:
                offered.append([])
                reasons.append((nothing.args[0], f"{task.name}: {nothing.args[1]}"))
        if not any(offered):
            if self.otherwise == "keep":
                return sample
            return Drop(reason=reasons[0][0], detail="; ".join(detail for _, detail in reasons))
        scene = None
        if self.negatives is not None:
            try:
                found, size = self._named_boxes(sample, work)
                scene = Scene(found=tuple(found), size=size, **_all_there(sample, size))
            except _Nothing:
                pass  # asked about nothing that it has, it is asked about nothing that it has not
        drawn = self._drawn(offered, generator(self.seed, self.kind, sample.key), scene)
        return self._conversation(sample, drawn)

    def _drawn(
        self, offered: list[list[_Turn]], rng: np.random.Generator, scene: Scene | None
    ) -> list[tuple[InstructTask, int, _Turn]]:
        """Task, number of the phrasing and turn, for each turn of the conversation."""
        left = [list(turns) for turns in offered]
        drawn: list[tuple[InstructTask, int, _Turn]] = []
        used: set[str] = set()
        while any(left) and len(drawn) < self.turns:
            if (made := self._absent(scene, used, rng)) is not None:
                drawn.append(made)
                continue
            open = [at for at, turns in enumerate(left) if turns]
            upto = list(accumulate(self.tasks[at].weight for at in open))
            at = open[min(bisect_right(upto, float(rng.random()) * upto[-1]), len(open) - 1)]
            turn = left[at].pop(int(rng.integers(len(left[at]))))
            left = [[other for other in turns if not other.about & turn.about] for turns in left]
            phrasings = self.tasks[at].phrasings(self.coordinates)
            drawn.append((self.tasks[at], int(rng.integers(len(phrasings))), turn))
        return drawn

    def _conversation(self, sample: Sample, drawn: Sequence[tuple[InstructTask, int, _Turn]]) -> Sample:
        media = [replace(part, role="user") for part in sample.media]
        system = [part for part in sample.texts if part.role == "system"]
        if self.system is not None:
            system = [Text(text=self.system, role="system", train=False)]
        parts: list[Text | Media] = [*system]
        for number, (task, phrasing, turn) in enumerate(drawn):
            template = task.phrasings(self.coordinates)[phrasing]
            question = Text(text=template.user.format(**turn.values), role="user", train=False)
            here = media if number == 0 else []
            parts += [*here, question] if self.place == "before" else [question, *here]
            parts.append(Text(text=template.assistant.format(answer=turn.answer), role="assistant"))
        tags = list(dict.fromkeys(task.name for task, _, _ in drawn))
        how = [f"{task.name}/{at}" + (f"/{turn.negative}" if turn.negative else "") for task, at, turn in drawn]
        told: dict[str, Any] = {"task": "+".join(sorted(tags)), "instruct": how}
        if (reference := drawn[0][2].reference) is not None:
            told["answers"] = [reference]
        return with_columns(replace(sample, parts=tuple(parts)), told)

    def _asking(self, kind: Negative) -> list[InstructTask]:
        """The tasks that ask for such a thing."""
        return [task for task in self.tasks if task.task in OF_NEGATIVES[kind]]

    def _absent(
        self, scene: Scene | None, used: set[str], rng: np.random.Generator
    ) -> tuple[InstructTask, int, _Turn] | None:
        """Perhaps a question about what is not there; its phrase is `used` from now on."""
        if scene is None or self.negatives is None or float(rng.random()) >= self.negatives.share:
            return None
        assert self.coordinates is not None
        wanted = [kind for kind, ratio in self.negatives.ratios.items() if ratio]
        made = _negatives.drawn(self.negatives, scene, wanted, used, rng)
        if made is None:
            return None
        kind, what = made
        tasks = self._asking(kind)
        task = tasks[int(rng.integers(len(tasks)))]
        if isinstance(what, str):
            used.add(what)
            values, answer = {"phrase": format_phrase(what, self.coordinates)}, self.negatives.answer
        else:
            size = scene.size
            values = {"box": format_boxes([what], size, self.coordinates, seen=self._seen(size))}
            answer = self.negatives.nothing
        phrasing = int(rng.integers(len(task.phrasings(self.coordinates))))
        return task, phrasing, _Turn(answer=answer, values=values, negative=kind)

    def _offered(self, task: InstructTask, sample: Sample, work: Work) -> list[_Turn]:
        """All that may be asked of a record. Raises _Nothing."""
        kinds = MEDIA[task.task]
        if not any(media.kind in kinds for media in sample.media):
            raise _Nothing("instruct_no_medium", f"no {' or '.join(kinds)}")
        if task.task in WITH_BOXES:
            return self._with_boxes(task, sample, work)
        if task.task == "vqa":
            pairs = _asked(task, sample)
            return [_Turn(answer=answer, values={"question": question}) for question, answer in pairs]
        return [_Turn(answer=answer, values={}) for answer in _answers(task, sample)]

    def _with_boxes(self, task: InstructTask, sample: Sample, work: Work) -> list[_Turn]:
        assert self.coordinates is not None
        found, size = self._named_boxes(sample, work)
        seen = self._seen(size)
        if task.task == "referring":
            return [
                _Turn(
                    answer=name,
                    values={"box": format_boxes([box], size, self.coordinates, seen=seen)},
                    about=frozenset([(name, box)]),
                )
                for name, box in found
            ]
        by_name: dict[str, list[Box]] = {}
        for name, box in found:
            by_name.setdefault(name, []).append(box)
        if task.task == "detection":
            if len(found) > task.most:
                raise _Nothing("instruct_many_boxes", f"{len(found)} boxes")
            phrases = SEPARATORS.get(self.coordinates, ", ").join(by_name)
            answer = format_objects(list(by_name.items()), size, self.coordinates, seen=seen)
            return [_Turn(answer=answer, values={"phrases": phrases}, about=frozenset(found))]
        asked = {name: boxes for name, boxes in by_name.items() if len(boxes) <= task.most}
        if not asked:
            raise _Nothing("instruct_many_boxes", f"each phrase has more than {task.most}")
        points = task.task == "pointing"
        return [
            _Turn(
                answer=format_points([centre(box) for box in boxes], size)
                if points
                else format_answer(name, boxes, size, self.coordinates, seen=seen),
                values={"phrase": format_phrase(name, self.coordinates)},
                about=frozenset((name, box) for box in boxes),
                reference=format_boxes(boxes, size, self.coordinates, seen=seen) if points else None,
            )
            for name, boxes in asked.items()
        ]

    def _named_boxes(self, sample: Sample, work: Work) -> tuple[list[tuple[str, Box]], Size]:
        """Boxes of the picture with their names, in the order of the column, and the picture's size."""
        pictures = [media for media in sample.media if media.kind != "audio"]
        if len(pictures) != 1:
            raise _Nothing("instruct_picture", f"boxes, and {len(pictures)} pictures or videos: whose are they?")
        columns = (_boxes.COLUMN, _boxes.LABELS)
        if missing := next((name for name in columns if sample.meta.get(name) is None), None):
            raise _Nothing("instruct_no_column", f"no column {missing}")
        try:
            boxes = _boxes.numbers(sample.meta[_boxes.COLUMN])
            names = _boxes.labels(sample.meta[_boxes.LABELS], len(boxes))
        except DataError as error:
            raise _Nothing("instruct_bad_box", error.detail) from None
        size = work.size(pictures[0])
        left_out = self._crowded(sample, names) if self.crowds == "leave_out" else set()
        found = [
            (name, box)
            for name, box in _boxes.within(boxes, names, size)
            if name not in left_out and not MARKUP & set(name)
        ]
        if not found:
            raise _Nothing("instruct_no_box", f"of {len(boxes)} boxes none has an area in the picture and a name")
        return found, size

    def _crowded(self, sample: Sample, names: Sequence[str]) -> set[str]:
        crowds = sample.meta.get(_boxes.CROWDS)
        places = crowds if isinstance(crowds, list) else []
        return {names[at].strip() for at in places if isinstance(at, int) and 0 <= at < len(names)}

    def _seen(self, size: Size) -> Size | None:
        if self.coordinates is None or not moves_with_size(self.coordinates):
            return None
        from mmdata.views.smart_resize import smart_resize

        try:
            return smart_resize(*size, **(self.seen or SeenSize()).model_dump())
        except DataError as error:
            raise _Nothing("instruct_picture", error.detail) from None


def _answers(task: InstructTask, sample: Sample) -> list[str]:
    """The answers of a task that has no question of the record's, each once. Raises _Nothing."""
    if task.answers in sample.meta:
        value = sample.meta[task.answers]
        if task.task == "ocr" and isinstance(value, list):
            value = "\n".join(str(line).strip() for line in value if line is not None)
        given = value if isinstance(value, list) else [value]
    else:
        given = [text.text for text in sample.texts if text.role == task.answers]
        if not given:
            raise _Nothing("instruct_no_column", f"neither column nor text {task.answers}")
    found = list(dict.fromkeys(text for text in map(_said, given) if text))
    if not found:
        raise _Nothing("instruct_empty", f"{task.answers} is empty")
    return found


def _asked(task: InstructTask, sample: Sample) -> list[tuple[str, str]]:
    """Questions with their answers, each once: of two columns, or the record's own. Raises _Nothing."""
    if task.question is None:
        told = [message for message in messages(sample.parts) if message.role in ("user", "assistant")]
        exchanges = [(a, b) for a, b in pairwise(told) if (a.role, b.role) == ("user", "assistant")]
        pairs = [(_whole(a), _whole(b)) for a, b in exchanges]
        if not pairs:
            raise _Nothing("instruct_no_column", "no texts of user and assistant, and no `question` column is named")
    else:
        columns = []
        for name in (task.question, task.answers):
            if sample.meta.get(name) is None:
                raise _Nothing("instruct_no_column", f"no column {name}")
            value = sample.meta[name]
            columns.append(value if isinstance(value, list) else [value])
        if len(columns[0]) != len(columns[1]):
            detail = f"{len(columns[0])} in {task.question}, {len(columns[1])} in {task.answers}"
            raise _Nothing("instruct_empty", f"questions without answers: {detail}")
        pairs = list(zip(*columns, strict=True))
    said = ((_said(question), _said(answer)) for question, answer in pairs)
    found = list(dict.fromkeys((question, answer) for question, answer in said if question and answer))
    if not found:
        raise _Nothing("instruct_empty", "no question has an answer")
    return found


def _whole(message: Message) -> str:
    """The text of a message; nothing where a medium stands within it, for media come to stand in one place."""
    at = [number for number, item in enumerate(message.items) if isinstance(item, Text)]
    if not at or len(at) <= at[-1] - at[0]:
        return ""
    return "\n".join(text.text for text in message.texts)


def _all_there(sample: Sample, size: Size) -> dict[str, Any]:
    """Of a Scene: all names and boxes of a record, also those that nothing is asked about."""
    boxes = _boxes.numbers(sample.meta[_boxes.COLUMN])
    names = _boxes.labels(sample.meta[_boxes.LABELS], len(boxes))
    cut = (_boxes.cut(box, size) for box in boxes)
    return {"names": tuple(names), "taken": tuple(box for box in cut if box is not None)}


def _said(value: Any) -> str:
    """A text as it is used; nothing for what is neither text nor number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""
