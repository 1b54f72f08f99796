"""Conversations in the three forms people write them in, from a line to the batch that is trained on."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata import StreamingDataset
from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.sources._messages import find, parts
from mmdata.stream.spec import StreamSpec
from mmdata.templates import get_template
from mmdata.types import Media, Packed, Text
from tests.building import build, folder_of_pictures, ledger, write_spec
from tests.chat_formats import chat_tokenizer

ELSEWHERE = {"type": "image", "image": {"id": "x"}}


def short(value: dict[str, Any]) -> list[str]:
    """Parts as `role: text` (`-` before one that is not trained) and `role: kind uri`."""
    conversation = find(value)
    assert conversation is not None
    return [
        f"{'' if part.train else '-'}{part.role}: {part.text}"
        if isinstance(part, Text)
        else f"{part.role}: {part.kind} {part.uri or len(part.data or b'')}"
        for part in parts(value, conversation)
    ]


def test_llava() -> None:
    line = {
        "image": ["a.jpg", "b.jpg"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image>\nWhat is this, and\n<image>\nthis?"},
            {"from": "gpt", "value": "Two <video> foxes."},
        ],
    }
    expected = ["system: Be brief.", "user: image a.jpg", "user: What is this, and", "user: image b.jpg", "user: this?"]
    assert short(line) == [*expected, "assistant: Two <video> foxes."]


def test_media_without_tags_come_before_the_first_question() -> None:
    talk = [{"from": "system", "value": "S"}, {"from": "human", "value": "What?"}, {"from": "gpt", "value": "A fox."}]
    found = short({"image": "a.jpg", "audio": "b.wav", "conversations": talk})
    assert found == ["system: S", "user: image a.jpg", "user: audio b.wav", "user: What?", "assistant: A fox."]


def test_openai_parts_tools_reasoning_and_weights() -> None:
    data = base64.b64encode(b"12345").decode()
    line = {
        "messages": [
            {"role": "developer", "content": "D"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look: "},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                    {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
                    {"type": "video", "video": "v.mp4"},
                    {"type": "text", "text": "what"},
                    {"type": "text", "text": " now?"},
                ],
            },
            {
                "role": "assistant",
                "content": "I ask.",
                "reasoning_content": "Hm.",
                "tool_calls": [{"function": {"name": "time", "arguments": '{"zone": "é"}'}}, {"name": "go"}],
                "weight": 0,
            },
            {"role": "tool", "content": "12"},
            {"role": "tool", "content": "went"},
            {"role": "assistant", "content": None},
            {"role": "assistant", "content": "Noon."},
            {"role": "assistant", "content": "Bye."},
        ]
    }
    calls = '<tool_call>\n{"name": "time", "arguments": {"zone": "é"}}\n</tool_call>\n'
    calls += '<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>'
    assert short(line) == [
        "system: D",
        "user: Look: ",
        "user: image https://example.org/a.png",
        "user: image 5",
        "user: audio 5",
        "user: video v.mp4",
        "user: what now?",
        f"-assistant: <think>\nHm.\n</think>\n\nI ask.\n{calls}",
        "tool: 12",
        "tool: went",
        "assistant: Noon.\n\nBye.",
    ]


def test_a_later_turn_refers_to_an_earlier_picture_by_its_id() -> None:
    line = {
        "images": [{"id": "cat", "path": "a.jpg"}, {"id": "dog", "path": "b.jpg"}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "id": "cat"}, {"type": "image", "id": "dog"}, "Which?"]},
            {"role": "assistant", "content": "Both."},
            {"role": "user", "content": ["Is ", {"type": "image", "id": "dog"}, " larger?"]},
            {"role": "assistant", "content": [{"type": "image", "id": "dog"}, " is."]},
        ],
    }
    assert short(line) == [
        "user: Image 1: ",
        "user: image a.jpg",
        "user: Image 2: ",
        "user: image b.jpg",
        "user: Which?",
        "assistant: Both.",
        "user: Is Image 2 larger?",
        "assistant: Image 2 is.",
    ]


def test_a_part_names_a_listed_picture_where_others_hold_its_place() -> None:
    talk = [{"role": "user", "content": [ELSEWHERE, "Which?"]}, {"role": "assistant", "content": "A cat."}]
    line = {"images": [{"id": "x", "path": "a.jpg"}], "messages": talk}
    assert short(line) == ["user: image a.jpg", "user: Which?", "assistant: A cat."]


def test_texts_of_null_say_nothing() -> None:
    nothing = {"type": "text", "text": None}
    talk = [{"role": "user", "content": [nothing, "Hi"]}, {"role": "assistant", "content": [nothing]}]
    assert short({"messages": talk}) == ["user: Hi"]


def test_captions_and_documents_stay_apart_and_their_media_are_nobodys() -> None:
    image = {"type": "image"}
    talk = [
        {"role": "caption", "content": [image, "a"]},
        {"role": "caption", "content": ["b"]},
        {"role": "document", "content": ["c", image, "d", {"type": "text", "text": "e"}]},
    ]
    expected = ["None: image 1", "caption: a", "caption: b", "document: c", "None: image 2", "document: d"]
    assert short({"images": ["1", "2"], "messages": talk}) == [*expected, "document: e"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"messages": [{"role": "narrator", "content": "x"}]}, "narrator"),
        ({"messages": ["x"]}, "object"),
        ({"messages": []}, "without text"),
        ({"image": "a", "messages": [{"role": "user", "content": "<image><image>?"}]}, "more images than the line"),
        ({"image": ["a", "b"], "messages": [{"role": "user", "content": "<image>?"}]}, "more images than its texts"),
        ({"messages": [{"role": "user", "content": ["?", {"type": "image", "id": "x"}]}]}, "reference to 'x'"),
        ({"messages": [{"role": "user", "content": ["?", {"type": "image"}]}]}, "more images than the line"),
        ({"images": [{"id": "y", "path": "a"}], "messages": [{"role": "user", "content": [ELSEWHERE, "?"]}]}, "'x'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "without text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": {"a": 1}}]}]}, "not a dict"),
        ({"image": "", "messages": [{"role": "user", "content": "?"}]}, "image: its place is empty"),
        ({"video": [None], "messages": [{"role": "user", "content": "<video>?"}]}, "video: its place is empty"),
        ({"image": {"bytes": "aa"}, "messages": [{"role": "user", "content": "?"}]}, "image: its place is empty"),
        ({"messages": [{"role": "user", "content": ["?", {"type": "smell", "url": "x"}]}]}, "smell"),
        ({"messages": [{"role": "user", "content": ["?", {"type": "image", "image": "data:,x"}]}]}, "base64"),
        ({"messages": [{"role": "user", "content": [3]}]}, "int"),
        ({"image": 3, "messages": [{"role": "user", "content": "?"}]}, "int"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "without a name"),
    ],
)
def test_what_is_refused(line: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        short(line)
    assert caught.value.reason == "bad_record"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["user", "image", "<image>", "text"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "image", "id", "text", "url", "tool_calls", "reasoning_content"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(messages=st.lists(json_values, max_size=4), image=json_values)
def test_no_line_breaks_the_reader(messages: list[Any], image: Any) -> None:
    reason = ""
    found: tuple[Text | Media, ...] = ()
    try:
        found = parts({"image": image}, messages)
    except DataError as error:
        reason = error.reason
    assert reason in ("", "bad_record")
    assert all(isinstance(part, Text | Media) for part in found)


def test_from_lines_to_packs(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "pictures", 6, captions=False)
    picture = base64.b64encode((tmp_path / "pictures/0005.jpg").read_bytes()).decode()
    lines: list[Any] = [
        {
            "image": f"{number:04d}.jpg",
            "id": number,
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is number {number}?"},
                {"from": "gpt", "value": f"Colours <box>(1,2),(3,4)</box> {number}."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
        }
        for number in range(4)
    ]
    lines.append({"image": "../../secret.jpg", "conversations": lines[0]["conversations"]})
    lines.append({"image": "0004.jpg", "conversations": [{"from": "nobody", "value": "x"}]})
    lines.append(
        {
            "conversations": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": f"data:image/jpeg;base64,{picture}"}, "?"],
                },
                {"role": "assistant", "content": "A field."},
            ]
        }
    )
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "jsonl", "path": "talks.jsonl", "root": "pictures"}
    build(write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}]))
    assert [(row.state, row.reason) for row in ledger(tmp_path / "out")][4:6] == [
        ("failed_permanent", "path_escape"),
        ("failed_permanent", "bad_record"),
    ]
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset) == 5
    assert [getattr(part, "role", "") for part in dataset[0].parts] == [
        "user",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert dataset[0].meta["id"] == 0
    assert dataset[4].media[0].data == (tmp_path / "pictures/0005.jpg").read_bytes()
    tokenizer: Any = chat_tokenizer("llava")
    for template in ("chat", "llava_v1", "chatml", "multi_image"):
        stream = StreamingDataset(
            tmp_path / "out", family="llava", tokenizer=tokenizer, template=template, max_length=8192, shuffle="none"
        )
        (pack,) = stream
        assert isinstance(pack, Packed)
        assert not pack.masked
        assert len(pack.slots) == 5
        trained = tokenizer.decode([token for token in pack.labels.tolist() if token != -100])
        stop = "<|im_end|>" if template == "chatml" else "</s>"
        assert trained.count(stop) == 9, trained
        assert "Sure?" not in trained
        assert "Colours <box>(1,2),(3,4)</box> 3." in trained
    last = StreamingDataset(
        tmp_path / "out",
        family="llava",
        tokenizer=tokenizer,
        template="llava_v1",
        train_on="last_turn",
        max_length=8192,
        shuffle="none",
    )
    (pack,) = last
    assert isinstance(pack, Packed)
    trained = tokenizer.decode([token for token in pack.labels.tolist() if token != -100])
    assert trained.count("</s>") == 5
    assert "Colours" not in trained
    with pytest.raises(SpecError, match="train_on: the template already says it"):
        StreamingDataset(
            StreamSpec(dataset=str(tmp_path / "out"), template="basic", train_on="all", max_length=8192),
            family="llava",
            tokenizer=tokenizer,
            template=get_template("basic"),
        )
    with pytest.raises(SpecError, match="no template is called"):
        StreamingDataset(tmp_path / "out", template="lava_v1")
