"""Energon's folders: field maps are what Energon's own field access gives, programs are never run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from mmdata.errors import DataError, SpecError
from mmdata.index import index_tars
from mmdata.shards.dataset import open_dataset
from mmdata.sources._energon import field_map
from mmdata.types import Text
from tests.dataset_fixture import jpeg
from tests.test_index import fates


def prepared(folder: Path, dataset: str, samples: list[dict[str, bytes]]) -> Path:
    (folder / ".nv-meta").mkdir(parents=True)
    (folder / ".nv-meta" / "split.yaml").write_text("split_parts: {train: [set-000.tar], val: []}\nexclude: []\n")
    (folder / ".nv-meta" / "dataset.yaml").write_text(dataset)
    with tarfile.open(folder / "set-000.tar", "w") as tar:
        for number, members in enumerate(samples):
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{number:03d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def adopted(folder: Path) -> list[list[tuple[str, str]]]:
    index_tars([str(folder)], folder / "d", quiet=True)
    return [
        [(part.role, part.text) if isinstance(part, Text) else (part.kind, "") for part in sample.parts]
        for sample in open_dataset(folder / "d")
    ]


PICTURE, OTHER = jpeg(0)[0], jpeg(1)[0]


def test_a_caption_may_lie_in_json_and_the_picture_in_one_of_two_members(tmp_path: Path) -> None:
    said = json.dumps({"texts": [{"en": "a fox"}], "caption": "not this"}).encode()
    folder = prepared(
        tmp_path,
        "sample_type: {__module__: megatron.energon, __class__: CaptioningSample}\n"
        "field_map: {image: 'left.jpg,right.jpg', caption: 'json[texts][0][en]'}\n",
        [{"right.jpg": PICTURE, "json": said, "txt": b"not this"}, {"thumb.jpg": OTHER, "json": said}],
    )
    assert adopted(folder) == [[("image", ""), ("caption", "a fox")]]
    assert [fate[2] for fate in fates(folder / "d")] == ["", "missing_field"]


def test_questions_and_answers_are_turns_and_the_heaviest_answer_is_taken(tmp_path: Path) -> None:
    said = {"q": "What <image> is it?", "a": ["cat", "fox"], "w": [0.2, 0.8]}
    folder = prepared(
        tmp_path,
        "__module__: megatron.energon\n__class__: VQAWebdataset\n"
        "field_map: {image: jpg, context: 'json[q]', answers: 'json[a]', answer_weights: 'json[w]'}\n",
        [{"jpg": PICTURE, "json": json.dumps(said).encode()}],
    )
    assert adopted(folder) == [[("user", "What "), ("image", ""), ("user", " is it?"), ("assistant", "fox")]]


def test_the_right_choice_is_the_answer(tmp_path: Path) -> None:
    folder = prepared(
        tmp_path,
        "sample_type: {__module__: megatron.energon, __class__: MultiChoiceVQASample}\n"
        "field_map: {image: jpg, context: txt, choices: 'json[c]', correct_choice_idx: 'json[i]'}\n",
        [
            {"jpg": PICTURE, "txt": b"Which?", "json": json.dumps({"c": ["cat", "fox", None], "i": i}).encode()}
            for i in (1, 2, 5)
        ],
    )
    assert adopted(folder) == [[("image", ""), ("user", "Which?"), ("assistant", "fox")]]
    assert [fate[2] for fate in fates(folder / "d")[1:]] == ["bad_record", "bad_record"]


def test_a_sample_loader_is_not_run(tmp_path: Path) -> None:
    folder = prepared(
        tmp_path,
        "sample_type: {__class__: CaptioningSample}\nsample_loader: sample_loader.py:sample_loader\n",
        [{"jpg": PICTURE, "txt": b"a fox"}],
    )
    (folder / ".nv-meta" / "sample_loader.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert adopted(folder) == [[("image", ""), ("caption", "a fox")]]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("field_map: {words_boxes: json}", "none of words_boxes is a field"),
        ("field_map: {image: '[jpg'}", "is no member"),
        ("field_map: [jpg]", "maps names of fields"),
        ("{", "dataset.yaml"),
    ],
)
def test_a_damaged_field_map_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        field_map(prepared(tmp_path, text, []))


def test_another_map_is_another_dataset(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "field_map: {image: jpg, caption: txt}", [{"jpg": PICTURE, "txt": b"a", "text": b"b"}])
    assert adopted(folder)[0][1] == ("caption", "a")
    (folder / ".nv-meta" / "dataset.yaml").write_text("field_map: {image: jpg, caption: text}")
    with pytest.raises(SpecError, match=r"fields.caption"):
        adopted(folder)


def test_bytes_that_are_no_text_are_told() -> None:
    from mmdata.sources._energon import FieldMap

    with pytest.raises(DataError, match="text_not_utf8"):
        FieldMap((("caption", (("txt",),)),)).parts({"txt": b"\xff"})
