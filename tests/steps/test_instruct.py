"""Conversations made of records: what is asked and answered, keyed chance, reasons, and losses by task."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmdata.boxes import FORMATS, BoxFormat, parse_boxes
from mmdata.boxes.points import parse_points
from mmdata.decode.work import Work
from mmdata.errors import SpecError
from mmdata.specfile import load_build
from mmdata.steps._phrasings import MEDIA, SHIPPED, WITH_BOXES
from mmdata.steps.instruct import Instruct
from mmdata.types import Drop, Media, Origin, Sample, Text
from mmdata.views.smart_resize import smart_resize
from mmtrain import sft
from tests.building import content
from tests.decode.pictures import photo, save
from tests.steps.given import Built, apply, build, image, record

PICTURE = Media(kind="image", data=save(photo(320, 240), "JPEG"), height=240, width=320)
SOUND = Media(kind="audio", data=b"wav")
VIDEO = Media(kind="video", data=b"mp4")
CAT, DOG = [32.0, 24.0, 160.0, 120.0], [0.0, 0.0, 64.0, 240.0]
BOXES: dict[str, Any] = {"boxes": [CAT, DOG, [64.0, 0.0, 128.0, 24.0]], "labels": ["cat", "dog", "dog"]}


def told(*parts: Any, key: str = "a", meta: dict[str, Any] | None = None, **options: Any) -> Sample:
    """The sample of a step, which must not drop it."""
    made = [Text(text=part) if isinstance(part, str) else part for part in parts]
    sample = Sample(key=key, parts=tuple(made), meta=meta or {}, origin=Origin(uri="", row=0))
    answer = Instruct(**options).apply(sample, Work())
    assert isinstance(answer, Sample), answer
    return answer


def said(sample: Sample) -> list[str]:
    return [text.text for text in sample.texts]


@pytest.mark.parametrize("task", SHIPPED)
def test_each_task_makes_a_conversation(task: str) -> None:
    media = {"image": PICTURE, "audio": SOUND, "video": VIDEO}
    pair = (Text(text="How many?", role="user"), Text(text="Two.", role="assistant"))
    first = media[MEDIA[task][0]]  # type: ignore[index]
    parts = (first, *pair) if task == "vqa" else (first, " a text ")
    options = {"coordinates": "internvl"} if task in WITH_BOXES else {}
    sample = told(*parts, meta=dict(BOXES), tasks=[task], **options)
    medium, question, answer = sample.parts
    assert isinstance(medium, Media)
    assert medium.role == "user"
    assert isinstance(question, Text)
    assert isinstance(answer, Text)
    assert (question.role, question.train) == ("user", False)
    assert (answer.role, answer.train) == ("assistant", True)
    assert sample.meta["task"] == task
    (phrasing,) = sample.meta["instruct"]
    wanted = SHIPPED[task][int(phrasing.partition("/")[2])]  # type: ignore[index]
    if task not in (*WITH_BOXES, "vqa"):
        assert (question.text, answer.text) == (wanted, "a text")
    elif task == "vqa":
        assert (question.text, answer.text) == (wanted.format(question="How many?"), "Two.")
    elif task == "grounding":
        assert any(
            f"<ref>{name}</ref>" in question.text and f"<ref>{name}</ref>" in answer.text for name in ("cat", "dog")
        )
    elif task == "pointing":
        assert f"<ref>{'dog' if len(parse_points(answer.text, (240, 320))) == 2 else 'cat'}</ref>" in question.text
    elif task == "referring":
        (box,) = parse_boxes(question.text, (240, 320), "internvl")
        assert answer.text == ("cat" if box.box[1] > 20 else "dog")
    else:
        assert [one.phrase for one in parse_boxes(answer.text, (240, 320), "internvl")] == ["cat", "dog", "dog"]


@pytest.mark.parametrize("name", FORMATS)
def test_boxes_are_those_of_the_picture_in_every_format(name: BoxFormat) -> None:
    """What a phrase's answer says, read back, is what the column has; all boxes of the phrase, and only these."""
    limits = {"min_pixels": 3136, "max_pixels": 40_000}
    options: dict[str, Any] = {"seen": limits} if name == "qwen2_5_vl" else {}
    size = (240, 320)
    seen = smart_resize(*size, **limits) if name == "qwen2_5_vl" else None
    asked: Counter[int] = Counter()
    for number in range(8):
        sample = told(PICTURE, key=str(number), meta=BOXES, tasks=["grounding"], coordinates=name, **options)
        found = parse_boxes(said(sample)[1], size, name, seen=seen)
        wanted = [CAT] if len(found) == 1 else BOXES["boxes"][1:]
        asked[len(found)] += 1
        slack = 10.1 if name == "kosmos2" else 2.0
        for one, box in zip(found, wanted, strict=True):
            assert all(abs(a - b) <= slack for a, b in zip(one.box, box, strict=True)), (one, box)
    assert set(asked) == {1, 2}


def test_chance_is_keyed_and_weighed() -> None:
    """The same for a seed and key, another for another seed; tasks by their weights, phrasings alike."""
    options: dict[str, Any] = {"tasks": ["caption", {"task": "ocr", "weight": 3, "text": "ocr"}]}
    first = {key: said(told(PICTURE, "a", key=str(key), meta={"ocr": "b"}, **options)) for key in range(400)}
    again = {key: said(told(PICTURE, "a", key=str(key), meta={"ocr": "b"}, **options)) for key in reversed(range(400))}
    other = {key: said(told(PICTURE, "a", key=str(key), meta={"ocr": "b"}, seed=1, **options)) for key in range(400)}
    assert first == again != other
    answers = Counter(answer for _, answer in first.values())
    assert abs(answers["b"] - 300) < 45  # five standard deviations
    questions = Counter(question for question, answer in first.values() if answer == "b")
    assert set(questions) == set(SHIPPED["ocr"])
    assert min(questions.values()) > 30


def test_several_turns_tell_nothing_twice() -> None:
    """Each caption, phrase and box at most once; no box that an earlier turn told is asked for."""
    tasks = ["caption", "grounding", "referring"]
    seen: Counter[str] = Counter()
    for number in range(60):
        sample = told(PICTURE, "one", "two", key=str(number), meta=BOXES, tasks=tasks, turns=9, coordinates="qwen2_vl")
        texts = said(sample)
        turns = [entry.partition("/")[0] for entry in sample.meta["instruct"]]
        assert len(texts) == 2 * len(turns)
        assert turns.count("caption") == 2
        assert [part for part in sample.parts if isinstance(part, Media)] == [sample.parts[0]]
        boxes = Counter(
            one.box
            for question, answer in zip(texts[::2], texts[1::2], strict=True)
            for one in parse_boxes(question + answer, (240, 320), "qwen2_vl")
        )
        assert len(boxes) == 3
        assert set(boxes.values()) == {1}, texts
        seen[sample.meta["task"]] += 1
    assert set(seen) == {"caption+grounding", "caption+referring", "caption+grounding+referring"}
    assert len(told(PICTURE, "one", "two", tasks=["caption"], turns=1).texts) == 2


def test_templates_of_the_user() -> None:
    own = {"user": "Say it {{briefly}}.", "assistant": "Gladly: {answer}"}
    sample = told(PICTURE, "a {brace}", tasks=[{"task": "caption", "tag": "short", "templates": [own]}])
    assert said(sample) == ["Say it {briefly}.", "Gladly: a {brace}"]
    assert (sample.meta["task"], sample.meta["instruct"]) == ("short", ["short/0"])
    both = {"task": "caption", "templates": ["Hm?"], "keep_shipped": True}
    found = {said(told(PICTURE, "a", key=str(key), tasks=[both]))[0] for key in range(99)}
    assert found == {"Hm?", *SHIPPED["caption"]}
    system = Text(text="Be kind.", role="system")
    assert said(told(system, PICTURE, "a", tasks=["caption"]))[0] == "Be kind."
    sample = told(system, PICTURE, "a", tasks=["caption"], system="Be brief.", place="after")
    assert [part.role for part in sample.parts] == ["system", "user", "user", "assistant"]
    assert isinstance(sample.parts[2], Media)
    assert said(sample)[0] == "Be brief."


def test_models_with_words_of_their_own() -> None:
    def questions(task: Any, name: BoxFormat) -> set[str]:
        made = (told(PICTURE, "a", key=str(key), meta=BOXES, tasks=[task], coordinates=name) for key in range(30))
        return {said(sample)[0] for sample in made}

    assert questions("grounding", "paligemma") == {"detect cat", "detect dog"}
    assert questions("detection", "paligemma") == {"detect cat ; dog"}
    assert questions("caption", "paligemma") == {"caption en", "describe en"}
    assert questions("detection", "florence2") == {"Locate the objects with category name in the image."}
    assert "Locate <phrase> cat</phrase> in the image." in questions("grounding", "kosmos2")


def test_columns_of_questions_and_lines() -> None:
    vqa = {"task": "vqa", "question": "q", "text": "a", "templates": ["{question}"]}
    sample = told(PICTURE, meta={"q": ["one?", "two?", "no?"], "a": ["1", 2, None]}, tasks=[vqa], turns=5)
    texts = said(sample)
    assert {(texts[0], texts[1]), (texts[2], texts[3])} == {("one?", "1"), ("two?", "2")}
    ocr = told(PICTURE, meta={"words": ["STOP ", None, "sign"]}, tasks=[{"task": "ocr", "text": "words"}])
    assert said(ocr)[1] == "STOP\nsign"
    captions = {"task": "caption", "text": "captions"}
    found = {said(told(PICTURE, key=str(k), meta={"captions": ["x", "y"]}, tasks=[captions]))[1] for k in range(20)}
    assert found == {"x", "y"}


def test_a_question_is_all_that_was_asked() -> None:
    user = [Text(text=text, role="user", train=False) for text in ("Look.", "What is it?", "Compare", "with", "?")]
    answer = Text(text="A cat.", role="assistant")
    vqa = {"task": "vqa", "templates": ["{question}"]}
    assert said(told(PICTURE, *user[:2], answer, tasks=[vqa])) == ["Look.\nWhat is it?", "A cat."]
    parts = (user[2], PICTURE, user[3], PICTURE, user[4], answer)  # says nothing without its pictures' places
    dropped = Instruct(tasks=[vqa]).apply(Sample(key="a", parts=parts, meta={}, origin=Origin(uri="", row=0)), Work())
    assert isinstance(dropped, Drop)
    assert dropped.reason == "instruct_empty"


CROWDED = {"boxes": [CAT, DOG], "labels": ["cat", "cat"], "crowds": [1]}


@pytest.mark.parametrize(
    ("task", "parts", "meta", "reason"),
    [
        ("caption", (SOUND, "a"), {}, "instruct_no_medium"),
        ("asr", (PICTURE, "a"), {}, "instruct_no_medium"),
        ("caption", (PICTURE,), {}, "instruct_no_column"),
        ("caption", (PICTURE, " \n "), {}, "instruct_empty"),
        ("caption", (PICTURE,), {"caption": None}, "instruct_empty"),
        ("vqa", (PICTURE, "a"), {}, "instruct_no_column"),
        ({"task": "vqa", "question": "q", "text": "a"}, (PICTURE,), {"q": "x"}, "instruct_no_column"),
        ({"task": "vqa", "question": "q", "text": "a"}, (PICTURE,), {"q": ["x"], "a": []}, "instruct_empty"),
        ({"task": "vqa", "question": "q", "text": "a"}, (PICTURE,), {"q": "x", "a": " "}, "instruct_empty"),
        ("grounding", (PICTURE,), {}, "instruct_no_column"),
        ("grounding", (PICTURE,), {"boxes": [CAT]}, "instruct_no_column"),
        ("grounding", (PICTURE, PICTURE), BOXES, "instruct_picture"),
        ("grounding", (PICTURE,), {"boxes": [[1, 2, 3]], "labels": ["a"]}, "instruct_bad_box"),
        ("grounding", (PICTURE,), {"boxes": [[1, 2, 3, None]], "labels": ["a"]}, "instruct_bad_box"),
        ("grounding", (PICTURE,), {"boxes": [[1, 2, 3, float("nan")]], "labels": ["a"]}, "instruct_bad_box"),
        ("grounding", (PICTURE,), {"boxes": [CAT], "labels": []}, "instruct_bad_box"),
        ("grounding", (PICTURE,), {"boxes": [CAT], "labels": [7]}, "instruct_bad_box"),
        ("referring", (PICTURE,), {"boxes": [[5, 5, 5, 9]], "labels": ["a"]}, "instruct_no_box"),
        ("referring", (PICTURE,), {"boxes": [[9, 9, 5, 5]], "labels": ["a"]}, "instruct_no_box"),
        ("referring", (PICTURE,), {"boxes": [[400, 5, 500, 9]], "labels": ["a"]}, "instruct_no_box"),
        ("detection", (PICTURE,), {"boxes": [CAT], "labels": [" "]}, "instruct_no_box"),
        ("detection", (PICTURE,), {"boxes": [CAT], "labels": ["</ref>"]}, "instruct_no_box"),
        ("detection", (PICTURE,), {"boxes": [], "labels": []}, "instruct_no_box"),
        ("detection", (PICTURE,), CROWDED, "instruct_no_box"),
        ({"task": "detection", "max_boxes": 2}, (PICTURE,), BOXES, "instruct_many_boxes"),
        (
            {"task": "grounding", "max_boxes": 1},
            (PICTURE,),
            {"boxes": [CAT, DOG], "labels": "cat"},
            "instruct_many_boxes",
        ),
    ],
)
def test_reasons(task: Any, parts: tuple[Any, ...], meta: dict[str, Any], reason: str) -> None:
    answer = apply(Instruct(tasks=(task,), coordinates="qwen3_vl"), *parts, **meta)
    assert isinstance(answer, Drop)
    assert (answer.reason, answer.state) == (reason, "filtered")
    assert answer.detail
    kept = apply(Instruct(tasks=(task,), coordinates="qwen3_vl", otherwise="keep"), *parts, **meta)
    assert isinstance(kept, Sample)
    assert "task" not in kept.meta


def test_crowds_may_be_kept() -> None:
    sample = told(PICTURE, meta=CROWDED, tasks=["detection"], coordinates="qwen3_vl", crowds="keep")
    assert said(sample)[1].count("bbox_2d") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["grounding"]}, "need `coordinates`"),
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": ["captions"]}, "'caption', 'vqa'"),
        ({"tasks": [{"task": "caption", "max_boxes": 3}]}, "task caption has no `max_boxes`"),
        ({"tasks": [{"task": "referring", "text": "a"}], "coordinates": "llava"}, "task referring has no `text`"),
        ({"tasks": [{"task": "vqa", "question": "q"}]}, "needs `text`"),
        ({"tasks": [{"task": "caption", "keep_shipped": True}]}, "there are no `templates`"),
        ({"tasks": [{"task": "vqa", "templates": ["What?"]}]}, "it must hold {question}"),
        (
            {"tasks": [{"task": "caption", "templates": ["{question}"]}]},
            "nothing is called {question} here; known: none",
        ),
        ({"tasks": [{"task": "caption", "templates": ["a { b"]}]}, "a brace is written twice"),
        ({"tasks": [{"task": "caption", "templates": [{"user": "a", "assistant": "b"}]}]}, "it must hold {answer}"),
        ({"tasks": [{"task": "vqa", "templates": ["{question!r}"]}]}, "only plain fields"),
        ({"tasks": ["caption"], "coordinates": "llava", "seen": {"factor": 32}}, "do not depend on"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Instruct(**options)
    assert message in str(caught.value)


def test_steps_that_move_pictures_stand_before(tmp_path: Path) -> None:
    """Coordinates in texts are not moved, so nothing may move the picture after them."""
    path = tmp_path / "spec.yaml"

    def load(*steps: str) -> None:
        listed = "".join(f"  - {step}\n" for step in steps)
        path.write_text(f"source: {{kind: folder, path: .}}\noutput: {{path: out}}\nsteps:\n{listed}")
        load_build(str(path))

    boxes = "{kind: instruct, tasks: [caption, grounding], coordinates: qwen2_vl}"
    resize = "{kind: resize, size: 100}"
    load(resize, boxes)
    load("{kind: instruct, tasks: [caption]}", resize)
    load(boxes, "{kind: resize, mode: keep, format: jpeg}", "{kind: aspect_bucket}")
    for moving in (resize, "{kind: aspect_bucket, fit: crop}"):
        with pytest.raises(SpecError, match="after instruct, which writes coordinates of the picture: put it before"):
            load(boxes, moving)


def mixed(count: int) -> list[dict[str, Any]]:
    """Pictures with boxes and pictures with captions, in turns."""
    picture = image(PICTURE.data or b"")
    return [
        record(picture, boxes=[CAT], labels=[f"cat {at}"]) if at % 2 else record(picture, f"a rocket, number {at}")
        for at in range(count)
    ]


STEPS = [
    {"kind": "probe"},
    {"kind": "resize", "size": 60},
    {"kind": "instruct", "tasks": ["caption", "grounding", "referring"], "coordinates": "internvl", "seed": 3},
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    folder = tmp_path_factory.mktemp("instruct")
    records = [*mixed(16), record(image(PICTURE.data or b"")), record("a text alone")]
    return folder, build(folder, records, STEPS, name="one", unit_rows=5)


def test_a_build_makes_the_same_bytes_with_more_workers(built: tuple[Path, Built]) -> None:
    folder, one = built
    assert one.reasons == [""] * 16 + ["instruct_no_column", "instruct_no_medium"]
    assert one.column("task")[::2] == ["caption"] * 8
    assert set(one.column("task")[1::2]) == {"grounding", "referring"}
    records = [json.loads(line) for line in (folder / "given.jsonl").read_text().splitlines()]
    build(folder, records, STEPS, name="two", unit_rows=5, workers=2)
    assert content(folder / "one") == content(folder / "two")


def test_boxes_are_those_of_the_picture_as_it_is_written(built: tuple[Path, Built]) -> None:
    """`resize` comes first and moves them; shares of the sides stay."""
    grounded = [sample for sample in built[1].samples if sample.meta["task"] == "grounding"]
    assert grounded
    for sample in grounded:
        (media,) = sample.media
        assert (media.height, media.width) == (60, 80)
        assert sample.meta["boxes"] == [[value / 4 for value in CAT]]
        assert "<box>[[100, 100, 500, 500]]</box>" in sample.texts[1].text


def test_the_trainer_counts_losses_by_task(built: tuple[Path, Built], tmp_path: Path) -> None:
    """Tags reach the trainer: a loss for each, and their mean (by what they weigh) is the loss of the step."""
    tasks = {"caption", "grounding", "referring"}
    small = ["steps=3", "global_batch=4", "data.template=basic", "data.max_length=160", "tokenizer.vocab_size=400"]
    small += ["model.vision.hidden=32", "model.language.hidden=64", f"data.dataset={built[0] / 'one'}"]
    config = Path(__file__).parents[2] / "pipelines" / "sft_tiny.yaml"
    assert sft.main(["--config", str(config), "--set", *small, f"output={tmp_path / 'run'}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    by_task = [
        {name.removeprefix("loss/"): value for name, value in line.items() if name.startswith("loss/")}
        for line in lines
    ]
    assert {task for found in by_task for task in found} == tasks
    for line, found in zip(lines, by_task, strict=True):
        assert min(found.values()) - 1e-4 <= line["loss"] <= max(found.values()) + 1e-4
