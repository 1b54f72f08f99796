"""Evaluation questions and pictures, found exactly and nearly; against looking for each run of words in each text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.errors import SpecError
from mmdata.steps._minhash import words
from mmdata.steps.decontaminate import Decontaminate
from mmdata.types import Drop
from tests.building import picture
from tests.decode.pictures import save
from tests.steps.given import apply, build, image, record

QUESTION = "How many sheep stand on the left side of the old stone wall in front of the farm house?"


def test_a_build(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation" / "pictures"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(save(picture(1), "PNG"))
    lines = [{"question": QUESTION, "answers": ["three", "There are three sheep."], "id": 7}]
    (tmp_path / "evaluation" / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = [
        record(image(save(picture(1), "PNG")), "x"),
        record(image(save(picture(1), "JPEG", quality=60)), "x"),
        record(image(save(picture(2), "PNG")), "three"),
        record("We asked: HOW MANY sheep stand -- on the left side of the old stone wall? I do not know."),
        record("How many sheep stand on the left side of the road?"),
        record("there are three sheep"),
        record("there are three goats"),
    ]
    built = build(tmp_path, records, [{"kind": "decontaminate", "against": "evaluation"}])
    assert built.reasons == [
        "decontaminate_image",
        "decontaminate_image",
        "",
        "decontaminate_text",
        "",
        "decontaminate_text",
        "",
    ]
    assert built.details[0] == "same bytes as pictures/a.png"
    assert built.details[1].startswith("distance ")
    assert built.details[3] == "1 of 7 runs of q.jsonl text 1"
    exact = [{"kind": "decontaminate", "against": "evaluation", "radius": -1, "min_share": 0.5}]
    assert build(tmp_path, records, exact, name="exact").reasons == [
        "decontaminate_image",
        *[""] * 4,
        "decontaminate_text",
        "",
    ]


alphabet = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=14).map(" ".join)


@given(st.lists(alphabet, min_size=1, max_size=4), alphabet, st.integers(1, 5), st.integers(1, 5))
def test_brute_force(
    tmp_path_factory: pytest.TempPathFactory, evaluation: list[str], text: str, ngram: int, least: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "brute"
    folder.mkdir(exist_ok=True)
    (folder / "list.txt").write_text("\n".join(evaluation))
    step = Decontaminate(against=str(folder / "list.txt"), ngram=ngram, min_words=least)
    padded = f" {text} "
    expected = any(
        f" {' '.join(found[at : at + length])} " in padded
        for found in map(words, evaluation)
        if len(found) >= least
        for length in [min(ngram, len(found))]
        for at in range(len(found) - length + 1)
    )
    assert isinstance(apply(step, text), Drop) == expected


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no \.txt"):
        Decontaminate(against=str(tmp_path))
    (tmp_path / "a.jsonl").write_text("{broken")
    with pytest.raises(ValidationError, match=r"against: a\.jsonl: "):
        Decontaminate(against=str(tmp_path))
    (tmp_path / "a.jsonl").write_text('"x"')
    with pytest.raises(ValidationError, match="digest"):
        Decontaminate(against=str(tmp_path), digest="00")


def test_a_line_of_json_ends_where_the_file_says(tmp_path: Path) -> None:
    """Not at a U+2028 in a text; a mark at the beginning is no part of it."""
    line = json.dumps({"question": QUESTION.replace(" of ", "\u2028of\u0085 ")}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_text(f"\ufeff{line}\r\n{line}\n", encoding="utf-8")
    step = Decontaminate(against=str(tmp_path / "q.jsonl"))
    assert isinstance(apply(step, QUESTION), Drop)


def test_annotation_files_are_read_whole(tmp_path: Path) -> None:
    """Most evaluation sets of questions about pictures are one JSON file; its texts were left out without a word."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "val.json").write_text(json.dumps({"data": [{"id": 1, "question": QUESTION}]}, indent=1))
    (tmp_path / "set" / "a.txt").write_text("nothing of the kind is said here\n")
    dropped = apply(Decontaminate(against=str(tmp_path / "set")), QUESTION)
    assert isinstance(dropped, Drop)
    assert "val.json" in dropped.detail
    (tmp_path / "set" / "val.json").write_text("{broken")
    with pytest.raises(ValidationError, match=r"against: val\.json: "):
        Decontaminate(against=str(tmp_path / "set"))


def test_a_damaged_picture_of_the_evaluation_set_is_its_own_fault(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    data = save(picture(1), "JPEG")
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "bytes").mkdir()
    records = [record(image(data), "x")]
    with pytest.raises(SpecError, match=r"decontaminate: against: .*cut\.jpg: truncated_image.*radius: -1"):
        build(tmp_path, records, [{"kind": "decontaminate", "against": "evaluation"}])
    step = {"kind": "decontaminate", "against": str(folder), "radius": -1}
    assert build(tmp_path / "bytes", records, [step]).reasons == [""]
