"""`llava_instruct.yaml` on photographs, with LLaVA's conversations and the damage that such lists have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.decode.pictures import SKIMAGE
from tests.pipelines.running import conversation, run

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]


def lines(images: Path) -> list[dict[str, Any]]:
    images.mkdir()
    for name in PHOTOGRAPHS:
        Image.open(SKIMAGE / name).convert("RGB").save(images / name.replace("png", "jpg"), quality=90)
    whole = (images / "coffee.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.open(SKIMAGE / "coffee.png").resize((32, 32)).save(images / "icon.png")
    return [
        {"id": "a", "image": "astronaut.jpg", "conversations": turns("<image>\nWho is this?", "An astronaut.")},
        {
            "id": "b",
            "image": "chelsea.jpg",
            "conversations": turns("<image>\nWhat is it?", "A cat.", "And its fur?", "Orange."),
        },
        {"id": "c", "image": "chelsea.jpg", "conversations": turns("What animal?\n<image>", "A cat.")},
        {"id": "d", "image": "coffee.jpg", "text": "a cup of coffee on a wooden table"},
        {"id": "e", "image": "rocket.jpg", "text": "a rocket before its launch at night"},
        {"id": "f", "image": "gone.jpg", "conversations": turns("<image>\nWhat?", "Nothing.")},
        {"id": "g", "image": "cut.jpg", "conversations": turns("<image>\nWhat?", "Half a cup.")},
        {"id": "h", "image": "icon.png", "conversations": turns("<image>\nWhat?", "An icon.")},
        {"id": "i", "image": "rocket.jpg", "conversations": turns("<image>\n<image>\nWhich?", "The first.")},
        {"id": "j", "image": "chelsea.jpg", "conversations": turns("What animal?\n<image>", "A cat.")},
        {"id": "k", "image": "astronaut.jpg", "conversations": turns("<image>\nWhat is worn?", "A suit of orange.")},
        {"id": "l", "image": "coffee.jpg", "conversations": turns("<image>\nIs it full?", "Yes, to the brim.")},
        {"id": "m", "conversations": turns("What is 2 + 2?", "4.")},
        {"id": "n", "image": ["coffee.jpg", "rocket.jpg"], "conversations": turns("<image><image>\nAlike?", "No.")},
    ]


def test_conversations_and_captions_are_built(tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text(json.dumps(lines(tmp_path / "images")))
    made = run(
        "llava_instruct.yaml", tmp_path / "out", f"source.path={tmp_path}/mix.json", f"source.root={tmp_path}/images"
    )
    assert made.reasons == [
        *([""] * 5),
        *("not_found", "truncated_image", "min_side", "bad_record", "exact_dup"),
        *([""] * 2),
        "",
        "",
    ]
    by_id = {sample.meta["id"]: sample for sample in made.samples}
    assert [text.text for text in by_id["b"].texts] == ["What is it?", "A cat.", "And its fur?", "Orange."]
    assert made.tasks == {None: 7, "caption": 2}
    (role, question, trained), answer = conversation(by_id["d"])
    assert (role, trained, answer) == ("user", False, ("assistant", "a cup of coffee on a wooden table", True))
    assert question
    sets = {
        name: {sample.meta["split"] for sample in made.samples if sample.meta["id"] in name} for name in ("bc", "ak")
    }
    assert all(len(found) == 1 for found in sets.values()), "all questions about a picture are in one set"
