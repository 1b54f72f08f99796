"""Questions and answers as a source, in one file or two, whatever form they are written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmdata.errors import SpecError
from mmdata.sources.vqa import Vqa
from tests.dataset_fixture import jpeg
from tests.sources.run import built, records, states


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        (folder / f"COCO_val2014_{number:012d}.jpg").write_bytes(jpeg(number)[0])
    return folder


def test_vqav2s_two_files(tmp_path: Path) -> None:
    questions = [{"image_id": at % 3, "question": f"what {at}?", "question_id": at} for at in range(5)]
    answers = [{"answer": text, "answer_id": n, "answer_confidence": "yes"} for n, text in enumerate(["a", "b", "b"])]
    notes: list[dict[str, Any]] = [
        {"question_id": at, "image_id": at % 3, "answer_type": "other", "answers": answers} for at in (4, 0, 1, 2)
    ]
    notes[1]["multiple_choice_answer"] = "the one"
    (tmp_path / "q.json").write_text(json.dumps({"info": {"version": "2.0"}, "questions": [*questions, {"x": 1}]}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": notes, "license": {}}))
    source = {
        "kind": "vqa",
        "questions": str(tmp_path / "q.json"),
        "annotations": str(tmp_path / "a.json"),
        "images": str(pictures(tmp_path / "val")),
        "image_name": "COCO_val2014_{image_id:012d}.jpg",
    }
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == [
        *("ok", "ok", "failed_permanent:not_found", "failed_permanent:no_answer", "ok"),
        "failed_permanent:no_answer",
    ]
    assert [[(text.role, text.text) for text in sample.texts] for sample in dataset] == [
        [("user", "what 0?"), ("assistant", "the one")],
        [("user", "what 1?"), ("assistant", "b")],
        [("user", "what 4?"), ("assistant", "b")],
    ]
    assert dataset[0].meta["answers"] == ["a", "b", "b"]
    assert dataset[0].meta["question_id"] == 0
    assert dataset[1].media[0].data == jpeg(1)[0]
    assert len(records(source)) == 6


LINES = [
    {"image": "1.jpg", "question": "how many?", "answer": 3, "id": "x"},
    {"image": "../1.jpg", "question": "where?", "answer": "there"},
    {"image_id": 1, "question": "who?", "answers": ["me", "you", "you"]},
    {"image_id": 1, "question": "why?"},
    {"image_id": [1], "question": "why?", "answer": "so"},
    {"image_id": 1, "question": 3, "answer": "so"},
    {"image_id": 1, "question": "why?", "answer": [None]},
    {"image_id": 1, "question": "why?", "multiple_choice_answer": None, "answer": "so"},
    {"image_id": 1, "question": "why?", "answer": {"a": "so"}},
]


@pytest.mark.parametrize("form", ["jsonl", "list", "data", "lines called json"])
def test_every_form_gives_the_same_records(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("q.jsonl" if form == "jsonl" else "q.json")
    lines = "\n".join(json.dumps(line) for line in LINES)
    text = {"list": json.dumps(LINES), "data": json.dumps({"data": LINES, "more": []}, indent=1)}.get(form, lines)
    path.write_text(text)
    found = records({"kind": "vqa", "questions": str(path), "images": str(tmp_path)})
    assert [record.drop.reason if record.drop else "" for record in found] == [
        *("", "path_escape", "", "no_answer", "bad_record", "bad_record", "no_answer", "", "bad_record"),
    ]
    assert [text.text for text in found[0].sample.texts] == ["how many?", "3"]
    assert found[0].sample.meta == {"id": "x"}
    assert found[2].sample.media[0].uri == f"{tmp_path}/1.jpg"
    assert found[2].sample.texts[1].text == "you"
    assert found[7].sample.texts[1].text == "so"


def test_mistakes_are_told_with_their_field(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(SpecError, match=r"source\.questions: q\.jsonl: its first item has no question; it has prompt"):
        Vqa(questions=str(tmp_path / "q.jsonl"), images=str(tmp_path)).open()
    for name in ("COCO.jpg", "{number}.jpg", "{image_id:q}.jpg"):
        with pytest.raises(ValueError, match="image_id"):
            Vqa(questions="q", images="i", image_name=name)


def test_question_ids_of_odd_types_cost_their_own_record(tmp_path: Path) -> None:
    questions = [
        {"question_id": [1], "image_id": 1, "question": "a?"},
        {"question_id": 2, "image_id": 1, "question": "b?"},
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"question_id": 2, "answer": "yes"}]}))
    source = {"kind": "vqa", "questions": str(tmp_path / "q.json"), "annotations": str(tmp_path / "a.json")}
    found = records({**source, "images": str(tmp_path)})
    assert [record.drop.reason if record.drop else "" for record in found] == ["no_answer", ""]
