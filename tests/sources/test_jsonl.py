"""JSON lines: images and text per line, damage that costs its line, paths that stay in their root."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.sources.jsonl import Jsonl, JsonlColumns
from mmdata.spec import Record
from mmdata.types import Origin
from tests.building import build, folder_of_pictures, ledger, picture, write_spec


def write(path: Path, *lines: Any) -> Path:
    """Lines as they are, values as JSON."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def records(path: Path, **spec: Any) -> list[Record]:
    return list(Jsonl(path=str(path), **spec).open().records())


def local(record: Record) -> list[str]:
    """The paths of a record's images."""
    return [(media.uri or "").removeprefix("file://") for media in record.sample.media]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "jsonl.gz"])
def test_lines_are_records(tmp_path: Path, suffix: str) -> None:
    lines = [
        {"image": "a/1.jpg", "text": "one", "id": 7, "tags": ["x", {"y": None}], "none": None},
        {"image": ["a/2.jpg", "https://example.org/3.jpg"], "text": 4},
        {"image": "5.jpg"},
    ]
    found = records(write(tmp_path / f"lines.{suffix}", *lines))
    assert [(record.row, record.sample.key, record.drop) for record in found] == [
        (0, "000000000", None),
        (1, "000000001", None),
        (2, "000000002", None),
    ]
    assert [local(record) for record in found] == [
        [f"{tmp_path}/a/1.jpg"],
        [f"{tmp_path}/a/2.jpg", "https://example.org/3.jpg"],
        [f"{tmp_path}/5.jpg"],
    ]
    assert [[text.text for text in record.sample.texts] for record in found] == [["one"], ["4"], []]
    assert [record.sample.meta for record in found] == [{"id": 7, "tags": ["x", {"y": None}]}, {}, {}]
    assert [record.sample.origin for record in found] == [Origin(uri=f"lines.{suffix}", row=at) for at in range(3)]


@pytest.mark.parametrize("suffix", ["json", "json.gz"])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_file_is_a_list_of_such_lines_or_holds_lines(tmp_path: Path, suffix: str, indent: int | None) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}]
    lines = [{"id": "a", "image": "a/1.JPG", "conversations": talk}, "text", {"id": "b", "image": "2.jpg", "text": "x"}]
    listed = records(write(tmp_path / f"list.{suffix}", json.dumps(lines, indent=indent)))
    lined = records(write(tmp_path / f"lines.{suffix}", *map(json.dumps, lines)))
    for found in (listed, lined):
        assert [record.row for record in found] == [0, 1, 2]
        assert [local(record) for record in found] == [[f"{tmp_path}/a/1.JPG"], [], [f"{tmp_path}/2.jpg"]]
        assert [record.drop.detail if record.drop else "" for record in found][1].endswith("a JSON str, not an object")
        assert found[0].sample.texts[1].text == "A fox."
    broken = tmp_path / f"broken.{suffix}"
    with pytest.raises(DataError, match=r"source_unreadable: broken.*line 2: the file ends in the list"):
        records(write(broken, '[{"image": "1.jpg", "text": "x"}'))


def test_a_folder_is_searched_for_lines_only(tmp_path: Path) -> None:
    write(tmp_path / "a" / "list.json", json.dumps([{"image": "1.jpg", "text": "x"}]))
    with pytest.raises(DataError, match=r"no jsonl file there; a .json file is read if you name it itself"):
        Jsonl(path=str(tmp_path)).open()
    write(tmp_path / "lines.jsonl", {"image": "1.jpg", "text": "y"})
    assert [text.text for found in records(tmp_path) for text in found.sample.texts] == ["y"]
    assert [text.text for found in records(tmp_path / "*" / "*.json") for text in found.sample.texts] == ["x"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_damage_costs_its_line(tmp_path: Path, suffix: str) -> None:
    good = {"image": "1.jpg", "text": "good"}
    lines = (
        good,
        '{"image": "1.jp',
        "[1, 2]",
        "",
        "null",
        good,
        {"text": "none"},
        {"image": 7},
        {"image": ["1.jpg", ""]},
    )
    found = records(write(tmp_path / f"lines.{suffix}", *lines))
    assert [record.row for record in found] == list(range(8)), "an empty line is no row"
    reasons = [record.drop.reason if record.drop else "" for record in found]
    assert reasons == ["", "bad_record", "bad_record", "bad_record", "", "bad_url", "bad_url", "bad_url"]
    details = [record.drop.detail for record in found if record.drop]
    assert details[0].startswith(f"lines.{suffix} row 1: not JSON: ")
    assert details[1] == f"lines.{suffix} row 2: a JSON list, not an object"
    assert {record.drop.state for record in found if record.drop} == {"failed_permanent"}


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "a/../../secret.jpg",
        "..",
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "{root}/../secret.jpg",
        "{root}-neighbour/secret.jpg",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "..\\secret.jpg",
        "a\0b.jpg",
    ],
)
def test_a_path_that_leads_out_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    lines = write(root / "lines.jsonl", {"image": path.replace("{root}", str(root)), "text": "x"}, {"image": "1.jpg"})
    refused, kept = records(lines)
    assert refused.drop
    assert (refused.drop.reason, refused.drop.state) == ("path_escape", "failed_permanent")
    said = "a backslash is no separator" if "\\" in path else "zero byte" if "\0" in path else "out of source.root"
    assert said in refused.drop.detail
    assert kept.drop is None


def test_paths_that_stay_are_allowed(tmp_path: Path) -> None:
    inside = ["a/../1.jpg", "./1.jpg", f"{tmp_path}/1.jpg", "a b/ü?#.jpg", "..1.jpg"]
    (found,) = records(write(tmp_path / "lines.jsonl", {"image": inside, "text": "x"}))
    assert found.drop is None
    assert local(found) == [f"{tmp_path}/{name}" for name in ("1.jpg", "1.jpg", "1.jpg", "a b/ü?#.jpg", "..1.jpg")]


SEGMENTS = st.lists(st.sampled_from(["a", "..", ".", "", "b.jpg", "...", "c d"]), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=SEGMENTS, absolute=st.booleans())
def test_whatever_the_path_it_is_inside_or_refused(tmp_path: Path, segments: list[str], absolute: bool) -> None:
    """Judged by pathlib's resolve, which follows the real file system."""
    path = ("/" if absolute else "") + "/".join(segments)
    (found,) = records(write(tmp_path / "lines.jsonl", {"image": path, "text": "x"}))
    if found.drop is None:
        (place,) = local(found)
        assert Path(place).resolve().is_relative_to(tmp_path.resolve())
        assert Path(place).resolve() == (tmp_path / path).resolve()
    elif found.drop.reason == "path_escape":
        assert not (tmp_path / path).resolve().is_relative_to(tmp_path.resolve()) or absolute


def test_root_and_columns_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    lines = write(tmp_path / "lists" / "lines.jsonl", {"img": "1.jpg", "alt": "one", "text": "other"})
    found = records(lines, root=str(tmp_path / "pictures"), columns=JsonlColumns(image="img", text="alt"))
    assert [local(record) for record in found] == [[f"{tmp_path}/pictures/1.jpg"]]
    assert found[0].sample.texts[0].text == "one"
    assert found[0].sample.meta == {"text": "other"}


def test_a_missing_key_is_told_with_the_nearest(tmp_path: Path) -> None:
    lines = write(tmp_path / "lines.jsonl", {"images": "1.jpg", "caption": "one"})
    with pytest.raises(SpecError, match=r"source\.columns\.image: .*no key 'image'; did you mean 'images'\?"):
        Jsonl(path=str(lines)).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="source_empty"):
        Jsonl(path=str(tmp_path / "empty")).open()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    row = 0
    for name, count in (("0.jsonl", 7), ("a/1.jsonl.gz", 12), ("b.jsonl", 1), ("c.jsonl", 20)):
        lines: list[Any] = []
        for _ in range(count):
            lines.append({"image": f"{row}.jpg", "text": f"{row}"} if row % 6 != 5 else '{"image": ')
            row += 1
        write(folder / name, *lines)
    return folder


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 45), stop=st.one_of(st.none(), st.integers(0, 45)))
def test_start_and_stop_cut_the_full_listing(files: Path, start: int, stop: int | None) -> None:
    source = Jsonl(path=str(files)).open()
    full = list(source.records())
    assert [record.row for record in full] == list(range(40))
    assert [text.text for record in full for text in record.sample.texts] == [str(n) for n in range(40) if n % 6 != 5]
    assert list(source.records(start, stop)) == full[start:stop]


def test_inputs_follow_the_files_not_their_place(files: Path, tmp_path: Path) -> None:
    before = Jsonl(path=str(files)).open().inputs()
    assert [entry["name"] for entry in before] == ["0.jsonl", "a/1.jsonl.gz", "b.jsonl", "c.jsonl"]
    shutil.copytree(files, tmp_path / "copy")
    assert Jsonl(path=str(tmp_path / "copy")).open().inputs() == before
    text = (tmp_path / "copy" / "c.jsonl").read_text()
    (tmp_path / "copy" / "c.jsonl").write_text(text.replace("39.jpg", "38.jpg"))
    after = Jsonl(path=str(tmp_path / "copy")).open().inputs()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, True, False]


def test_the_command_accounts_for_every_line(tmp_path: Path) -> None:
    pictures = folder_of_pictures(tmp_path / "data" / "pictures", 4, captions=False)
    picture(99).save(tmp_path / "secret.jpg")
    lines = [
        {"image": "pictures/0000.jpg", "text": "the first picture", "id": "a"},
        {"image": "../secret.jpg", "text": "not ours to read"},
        "{broken",
        {"image": ["pictures/0001.jpg", "pictures/0002.jpg"], "text": "two pictures"},
        {"image": "pictures/9999.jpg", "text": "not there"},
        {"image": str(pictures / "0003.jpg"), "text": "an absolute path"},
    ]
    write(tmp_path / "data" / "lines.jsonl", *lines)
    source = {"kind": "jsonl", "path": "data/lines.jsonl"}
    spec = write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}], engine={"workers": 1})
    build(spec)
    assert [(row.row, row.state, row.reason) for row in ledger(tmp_path / "out")] == [
        (0, "ok", ""),
        (1, "failed_permanent", "path_escape"),
        (2, "failed_permanent", "bad_record"),
        (3, "ok", ""),
        (4, "failed_permanent", "not_found"),
        (5, "ok", ""),
    ]
    dataset = open_dataset(tmp_path / "out")
    assert list(dataset.keys()) == ["000000000", "000000003", "000000005"]
    assert dataset["000000000"].media[0].data == (pictures / "0000.jpg").read_bytes()
    assert dataset["000000000"].meta["id"] == "a"
    assert [media.data for media in dataset["000000003"].media] == [
        (pictures / "0001.jpg").read_bytes(),
        (pictures / "0002.jpg").read_bytes(),
    ]


def test_a_text_alone_is_said_to_be_alone(tmp_path: Path) -> None:
    """An empty list is the word for it: a picture that is null or has no key may have been lost."""
    lines = [
        {"image": [], "text": "alone"},
        {"image": None, "text": "lost"},
        {"text": "lost"},
        {"image": [None], "text": "lost"},
        {"video": [], "image": [], "text": "alone"},
    ]
    found = records(write(tmp_path / "lines.jsonl", *lines))
    assert [record.drop and record.drop.reason for record in found] == [None, "bad_url", "bad_url", "bad_url", None]
    assert [[text.text for text in record.sample.texts] for record in found if not record.drop] == [["alone"]] * 2


def test_a_conversation_may_be_json_in_a_text_or_an_object_of_lists(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A \\ud800."}]
    columns = {"from": ["human", "gpt"], "value": ["<image>What?", "A fox."]}
    lines = write(
        tmp_path / "lines.jsonl",
        {"image": "1.jpg", "conversations": json.dumps(talk).replace("\\\\", "\\"), "n": 1},
        {"image": "1.jpg", "conversations": columns},
        {"image": "1.jpg", "conversations": json.dumps(talk)[:-1]},
        {"image": "1.jpg", "messages": {"role": "user"}},
        {"image": "1.jpg", "conversation": "dialogue 7"},
        {"image": "1.jpg", "conversations": json.dumps(talk), "text": "a caption"},
        {"image": "1.jpg", "conversations": columns, "text": None},
    )
    found = records(lines)
    reasons = [record.drop.reason if record.drop else "" for record in found]
    assert reasons == ["", "", "bad_record", "bad_record", "", "", ""]
    said = [[(text.role, text.text) for text in record.sample.texts] for record in found]
    assert said[:2] == [[("user", "What?"), ("assistant", answer)] for answer in ("A ?.", "A fox.")]
    assert said[4:] == [[], [("caption", "a caption")], said[1]]
    assert [dict(record.sample.meta) for record in found[:2]] == [{"n": 1}, {}]


def test_media_within_a_line_are_read_and_other_data_urls_told(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 1, captions=False)
    data = (tmp_path / "in" / "0000.jpg").read_bytes()
    written = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    long = "x" * 300 + ".jpg"
    write(
        tmp_path / "in" / "a.jsonl",
        {"image": written, "text": "one"},
        {"image": ["0000.jpg", written], "text": "two"},
        {"image": "data:image/jpeg,abc", "text": "not base64"},
        {"image": "data:image/jpeg;base64,a", "text": "cut", "id": "me"},
        {"image": long, "text": "a name that no file can have"},
    )
    build(write_spec(tmp_path / "s.yaml", {"kind": "jsonl", "path": "in/a.jsonl"}, [{"kind": "probe"}]))
    assert [(row.state, row.reason) for row in ledger(tmp_path / "out")] == [
        *[("ok", "")] * 2,
        *[("failed_permanent", "bad_url")] * 2,
        ("failed_permanent", "not_found"),
    ]
    assert [[media.data for media in sample.media] for sample in open_dataset(tmp_path / "out")] == [[data], [data] * 2]
    assert "id me: image: a data: URL" in ledger(tmp_path / "out")[3].detail


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_line_that_is_not_utf8_costs_itself(tmp_path: Path, suffix: str) -> None:
    texts = ["a caf\u00e9", "a caf\ufffd", "un caf\u00e9", "half \ud800"]
    lines = [json.dumps({"image": "1.jpg", "text": text}, ensure_ascii=text.startswith("half")) for text in texts]
    encoded = [line.encode("latin-1" if line.count("un ") else "utf-8") for line in lines]
    path = tmp_path / f"lines.{suffix}"
    path.write_bytes(b"\n".join(encoded) if suffix == "jsonl" else b"[" + b",\n".join(encoded) + b"]")
    found = records(path)
    assert [record.drop.reason if record.drop else "" for record in found] == ["", "", "text_not_utf8", ""]
    assert found[2].drop
    assert "byte 0xe9 behind" in found[2].drop.detail
    assert [record.sample.texts[0].text for record in found if not record.drop] == [*texts[:2], "half ?"]
